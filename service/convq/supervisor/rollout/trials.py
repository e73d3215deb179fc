"""Trials of versions, each in a process and a thread of its own: nobody waits for one, least of all another model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convq.host.procfs import usage_of
from convq.importer.dry_run import DryRun, dry_run
from convq.supervisor.slots import Slot
from convq.threads import Watch

MOST_AT_ONCE = 3
"""Trials of one model: a newer version does not wait for older ones, which may hang until their time is over."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How the trial of a version went; `stamp` says of which files."""

    version: int
    stamp: Any
    tried: DryRun


class Trials:
    """Asked by the thread that keeps the versions. What a trial found is kept until it is taken, whatever came meanwhile."""

    def __init__(
        self, device: str, within_s: float, slots: Sequence[Slot], limit_bytes: int | None, watch: Watch
    ) -> None:
        """The workers of `slots` will load what passes, beside what they have, within `limit_bytes` of memory each, if any."""
        self._device, self._within_s = device, within_s
        self._slots, self._limit_bytes = slots, limit_bytes
        self._watch = watch
        self._lock = threading.Lock()
        self._running: dict[str, list[tuple[int, Any]]] = {}
        self._over: dict[str, list[Verdict]] = {}

    def begin(self, folder: Path, version: int, stamp_of: Callable[[int], Any]) -> bool:
        """Try a version; False where there are trials of its model that this one waits for.

        Those are one of the same version or of a newer one, unless that has changed since or is gone: then `stamp_of`, which
        says what lies under a number now, says something else than when it began. Or there are too many, or it is over, and
        its verdict has not been taken yet.
        """
        stamp = stamp_of(version)
        with self._lock:
            running = self._running.setdefault(folder.name, [])
            newest = max((one for one, with_stamp in running if with_stamp == stamp_of(one)), default=0)
            is_over = any((one.version, one.stamp) == (version, stamp) for one in self._over.get(folder.name, ()))
            if version <= newest or len(running) >= MOST_AT_ONCE or is_over:
                return False
            running.append((version, stamp))
        self._watch.start(f"trial-{folder.name}-{version}", self._try, folder, version, stamp)
        return True

    def under_way(self, model: str) -> list[int]:
        """The versions of a model that are tried now."""
        with self._lock:
            return sorted({version for version, _ in self._running.get(model, ())})

    def take(self, model: str) -> list[Verdict]:
        """What was found since this was last asked."""
        with self._lock:
            return self._over.pop(model, [])

    def _try(self, folder: Path, version: int, stamp: Any) -> None:
        tried = dry_run(
            folder,
            version,
            device=self._device,
            within_s=self._within_s,
            workers=len(self._slots),
            most_bytes=self._room_bytes(),
        )
        with self._lock:
            self._running[folder.name].remove((version, stamp))
            self._over.setdefault(folder.name, []).append(Verdict(version, stamp, tried))

    def _room_bytes(self) -> int | None:
        """What a worker may take besides what it has: pictures that it works on now are no part of that, hence the smallest."""
        if self._limit_bytes is None:
            return None
        usages = [usage_of(slot.pid) for slot in self._slots if slot.pid is not None]
        has = min((usage.resident_bytes for usage in usages if usage is not None), default=0)
        return max(1, self._limit_bytes - has)
