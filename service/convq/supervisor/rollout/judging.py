"""Whether a candidate is taken back, and how every worker learns of it at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from convq.ipc.shared_memory import Row
from convq.supervisor.rollout.served_models import ServedModel


def verdict(model: ServedModel, rows: Iterable[Row]) -> str:
    """Why the candidate of a model is taken back, by what its workers' rows say; empty where it is not."""
    rollout, candidate = model.manifest.rollout, model.plan.candidate
    if rollout is None or candidate is None or model.is_refused(candidate):
        return ""
    jobs, failed = (now - then for now, then in zip(tried_jobs(rows), model.counted, strict=True))
    if jobs >= rollout.min_jobs and failed > rollout.max_failure_ratio * jobs:
        return f"taken back: {failed:.0f} of {jobs:.0f} jobs failed"
    return ""


def tried_jobs(rows: Iterable[Row]) -> tuple[float, float]:
    """Jobs that candidates and shadows have run, as the rows of all workers say, and how many of them failed."""
    failed = fine = 0.0
    for row in rows:
        for role in ("candidate", "shadow"):
            failed += row.get("convq_version_jobs", role, "failed")
            fine += sum(row.get("convq_version_jobs", role, how) for how in ("ok", "differs"))
    return fine + failed, failed


def bar(rows: Sequence[Row], version: int) -> None:
    """No worker runs this candidate from now on; they need not have followed for that."""
    for row in rows:
        row.set("pulse_barred_version", version)


def unbar(rows: Sequence[Row], version: int | None) -> None:
    """It is a candidate again."""
    for row in rows:
        if version is not None and row.get("pulse_barred_version") == version:
            row.set("pulse_barred_version", 0.0)
