"""Whether a candidate is taken back, and how every worker learns of it at once."""

from __future__ import annotations

from collections.abc import Sequence

from convq.ipc.shared_memory import StatsRow
from convq.supervisor.rollout.records import records
from convq.supervisor.rollout.served_models import ServedModel

EVERY = 100.0
"""Percent."""
FEW = 5
"""Jobs of the version that serves that are enough to compare with."""
PATIENCE = 10
"""Where they do not come, a candidate is judged by itself once it has run so many times `min_jobs`."""


def verdict(model: ServedModel, rows: Sequence[StatsRow]) -> str:
    """Why the candidate of a model is taken back, by what its workers' rows say; empty where it is not.

    Its failed share must be above that of the version that serves by more than `max_failure_ratio`, in the same time: jobs
    that fail under both are no fault of the candidate. One that gets every job is compared with nothing.
    """
    rollout, candidate = model.manifest.rollout, model.plan.candidate
    if rollout is None or candidate is None or model.is_refused(candidate):
        return ""
    tried, serving = (now.since(then) for now, then in zip(records(rows), model.counted, strict=True))
    beside = serving.jobs >= min(FEW, rollout.min_jobs)
    by_itself = model.plan.percent >= EVERY or tried.jobs >= PATIENCE * rollout.min_jobs
    most = rollout.max_failure_ratio + (serving.failed_share if beside else 0.0)
    if tried.jobs < rollout.min_jobs or not (beside or by_itself) or tried.failed <= most * tried.jobs:
        return ""
    said = f"taken back: {tried.failed:.0f} of {tried.jobs:.0f} jobs failed"
    return said + (f", of version {model.plan.serve} {serving.failed:.0f} of {serving.jobs:.0f}" if beside else "")


def bar(rows: Sequence[StatsRow], version: int) -> None:
    """No worker runs this candidate from now on; they need not have followed for that."""
    for row in rows:
        row.set("pulse_barred_version", version)


def unbar(rows: Sequence[StatsRow], version: int | None) -> None:
    """It is a candidate again."""
    for row in rows:
        if version is not None and row.get("pulse_barred_version") == version:
            row.set("pulse_barred_version", 0.0)
