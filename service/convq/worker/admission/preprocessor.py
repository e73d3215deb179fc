"""The first phases of a job inside one worker: who may run, and how; decode and prepare it. Needs neither Redis nor a thread."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

from convq.engine.formats import estimate
from convq.engine.postprocess import MAX_ANSWER_BYTES
from convq.errors import BadField, InternalFault, JobError, UnknownOutput
from convq.ipc.crash_marks import CrashMark, is_condemned, runs_alone
from convq.logs import Limit, defect
from convq.protocol import PREPARED, Status
from convq.queue import Delivery, Lease
from convq.worker.admission.memory import Memory
from convq.worker.loaded_model import LoadedModel
from convq.worker.ticket import Ticket

log = logging.getLogger("convq.worker")

TRACEBACKS_PER_S = 1
"""A defect that meets every job must not fill the log; each job's end is logged besides."""
EXPENSIVE_BYTES, EXPENSIVE_PIXELS = 256 << 10, 1 << 20
"""A picture above either is decoded beside the others, which do not wait for it: from about 10 ms on."""
MARKED_BYTES = 1 << 16
"""Smaller tensors go to the network as they are, or after microseconds."""
PIXELS_ALIKE = 1 << 16
"""Within a delivery pictures are decoded in the order of so many pixels, else in that of the delivery."""


@dataclass(slots=True)
class Admitted:
    """What becomes of the jobs of one delivery."""

    quick: list[Ticket] = field(default_factory=list)
    """To be prepared at once, cheap ones first; tensors are."""
    slow: list[Ticket] = field(default_factory=list)
    """Expensive pictures, and those that were over their time before."""
    suspects: list[Ticket] = field(default_factory=list)
    """To be run alone."""
    ended: list[Ticket] = field(default_factory=list)


class Preprocessor:
    """The first phase: decode and prepare each job, or say why it cannot run. One bad job never reaches a batch."""

    def __init__(self, serving: LoadedModel, memory: Memory) -> None:
        self.serving = serving
        """What new jobs are admitted for; may be replaced by another thread at any time."""
        self._memory = memory
        self._tracebacks = Limit(TRACEBACKS_PER_S)

    def admit(self, lease: Lease, delivery: Delivery) -> Admitted:
        """Who may run, and how. Looks at headers; decodes nothing."""
        admitted = Admitted()
        quick, sizes = admitted.quick, 0
        fetch_s = time.perf_counter() - delivery.arrived_s
        for job in delivery.jobs:
            # A clock that went back can make an entry younger than now; nothing waits for less than no time.
            queue_s = max(0.0, delivery.server_ms - job.submitted_ms) / 1e3
            ticket = Ticket(job, lease, delivery.arrived_s, queue_s, fetch_s=fetch_s)
            if job.id in delivery.cancelled:
                ticket.status, ticket.cancelled = Status.CANCELLED, True
                admitted.ended.append(ticket)
                continue
            if job.problem is not None:
                ticket.status = Status.ERROR
                admitted.ended.append(ticket)
                continue
            if job.ttl_ms is not None:
                ticket.expires_s = delivery.arrived_s + job.ttl_ms / 1e3 - queue_s
            if (job.attempt > 1 or job.suspicion or job.slow) and self._suspected(ticket, admitted):
                continue
            if job.image is None:
                quick.append(ticket)
            elif job.slow or (pixels := _pixels_of(job.image)) is None:
                admitted.slow.append(ticket)
            else:
                ticket.pixels = pixels
                sizes |= pixels // PIXELS_ALIKE
                quick.append(ticket)
        if sizes:
            quick.sort(key=lambda ticket: ticket.pixels // PIXELS_ALIKE)
        return admitted

    def _suspected(self, ticket: Ticket, admitted: Admitted) -> bool:
        """Whether this job is condemned, or has to run alone; then it is among `admitted`."""
        job = ticket.job
        if is_condemned(job.suspicion, job.slow):
            ticket.condemn()
            admitted.ended.append(ticket)
            return True
        ticket.alone = runs_alone(job.suspicion, job.attempt) and not job.slow
        if ticket.alone:
            admitted.suspects.append(ticket)
        return ticket.alone

    def prepare(self, ticket: Ticket, mark: CrashMark) -> None:
        """Decode and prepare one job, or refuse it; `mark` says so on the board. Never raises: the neighbours go on."""
        if ticket.expires_s <= time.perf_counter():
            ticket.status = Status.EXPIRED
            return
        try:
            self._prepare(ticket, mark)
            if ticket.job.outputs:
                _check_answer(ticket)
        except JobError as error:
            mark.clear()
            ticket.refuse(error)
        except Exception as error:  # noqa: BLE001 - around one job: a defect here must not take the neighbours with it
            mark.clear()
            if self._tracebacks.take():
                facts = {"model": self.serving.engine.name, **ticket.names()}
                defect(log, "a job could not be prepared", error, **facts)
            ticket.refuse(InternalFault("the service failed on this job; its log says why"))

    def _prepare(self, ticket: Ticket, mark: CrashMark) -> None:
        job = ticket.job
        ticket.engine = engine = self.serving.engine_for(job)
        for name in job.outputs:
            if name not in engine.outputs and name != PREPARED:
                raise UnknownOutput(f"{engine.name} has no output {name[:64]!r}; it has {', '.join(engine.outputs)}")
        if job.asked.labels and engine.detector is not None:
            engine.detector.numbers_of(job.asked.labels)  # refuses those that there are not
        if job.tensor is not None:
            if len(job.tensor) > MARKED_BYTES:
                mark.set(ticket.name.encode())
            ticket.prepared = engine.admit(job.tensor, job.dtype, job.shape)
            if len(job.tensor) > MARKED_BYTES:
                mark.clear()
            return
        image = job.image or b""
        with self._memory.decoding(image):
            began = time.perf_counter()
            mark.set(ticket.name.encode())
            try:
                decoded = engine.decode(image)
            finally:  # what cannot be decoded takes its time too
                middle = time.perf_counter()
                ticket.decode_s = middle - began
            ticket.prepared = engine.prepare(decoded)
        mark.clear()
        ticket.prepare_s = time.perf_counter() - middle
        job.image = None  # decoded: the bytes need not wait for the batch


def _check_answer(ticket: Ticket) -> None:
    """Raise BadField where the input that a job wants back is more than a result holds: no version is to blame for that."""
    wants = PREPARED in ticket.job.outputs and ticket.engine is not None and PREPARED not in ticket.engine.outputs
    if wants and ticket.input_bytes > MAX_ANSWER_BYTES:
        most = f"a result holds at most {MAX_ANSWER_BYTES:,}"
        raise BadField(f"outputs: the {PREPARED} input has {ticket.input_bytes:,} bytes; {most}")


def _pixels_of(image: bytes) -> int | None:
    """How many pixels a picture says it has; None for one that is expensive to decode."""
    if len(image) > EXPENSIVE_BYTES:  # not even its header may be cheap
        return None
    pixels = estimate(image).pixels
    return None if pixels > EXPENSIVE_PIXELS else pixels
