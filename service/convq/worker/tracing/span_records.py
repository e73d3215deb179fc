"""What traced jobs leave behind when they are answered: numbers and names, no payload. Knows nothing of OpenTelemetry."""

from __future__ import annotations

from dataclasses import dataclass

from convq.protocol import Status
from convq.worker.ticket import Ticket
from convq.worker.tracing.trace_context import TraceContext


@dataclass(slots=True)
class SpanRecord:
    """One traced job: what its ticket said when it was answered. Moments are of `time.perf_counter`, all in seconds."""

    job: str
    entry: str
    lane: int
    attempt: int
    status: Status
    version: int | None
    error: tuple[str, str] | None
    """Code and message."""
    arrived_s: float
    queue_s: float
    decode_s: float
    wait_s: float
    infer_s: float
    context: TraceContext | None
    """The trace that it continues; None: it has one of its own."""

    @classmethod
    def of(cls, ticket: Ticket, context: TraceContext | None) -> SpanRecord:
        """What is worth keeping of a ticket; not its payload."""
        job, problem = ticket.job, ticket.job.problem
        error = None if problem is None else (problem.code, problem.public)
        if ticket.lease.lost:
            error = ("lease_lost", "this worker was taken for dead; another one answers the job")
        elif problem is not None and ticket.status is Status.POISONED:
            error = ("poisoned", problem.public)
        return cls(
            job.id, job.entry, job.lane, job.attempt, ticket.status, ticket.engine.version if ticket.engine else None,
            error, ticket.arrived_s, ticket.queue_s, ticket.decode_s + ticket.prepare_s, ticket.wait_s, ticket.infer_s,
            context,
        )  # fmt: skip


@dataclass(slots=True)
class SpanBatch:
    """The traced jobs of one batch, or of several that ended together without one."""

    model: str
    trails: list[SpanRecord]
    reason: str | None
    """Why the batch was closed; None: the network did not run."""
    size: int
    """Jobs of the batch, the traced and the others."""
    began_s: float
    """When publishing began, and when it was done."""
    done_s: float
    epoch_s: float
    """What to add to a moment of `time.perf_counter` to get one of the wall clock."""
