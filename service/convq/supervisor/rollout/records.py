"""How many jobs the versions of a model have run, and how many of them failed, as the rows of its workers say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from convq.ipc.shared_memory import StatsRow

TRIED, SERVING = ("candidate", "shadow"), ("serving",)


@dataclass(frozen=True, slots=True)
class Record:
    """How many jobs versions of these roles have run, and how many of them failed."""

    jobs: float = 0.0
    failed: float = 0.0

    @classmethod
    def of(cls, rows: Iterable[StatsRow], roles: Sequence[str]) -> Record:
        """What the rows of all workers say."""
        failed = fine = 0.0
        for row in rows:
            for role in roles:
                failed += row.get("convq_version_jobs", role, "failed")
                fine += sum(row.get("convq_version_jobs", role, how) for how in ("ok", "differs"))
        return cls(fine + failed, failed)

    def since(self, then: Record) -> Record:
        """What came after an earlier record."""
        return Record(self.jobs - then.jobs, self.failed - then.failed)

    @property
    def failed_share(self) -> float:
        """From 0 to 1."""
        return self.failed / self.jobs if self.jobs else 0.0


def records(rows: Sequence[StatsRow]) -> tuple[Record, Record]:
    """Of candidates and shadows, and of what served beside them, since the service began."""
    return Record.of(rows, TRIED), Record.of(rows, SERVING)
