"""One job inside one worker, and the phases that need neither Redis nor a thread: admit it, answer it."""

from __future__ import annotations

import logging
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np

from convq.errors import BadField, InternalFault, JobError, NonFinite, UnknownOutput
from convq.inference.formats import estimate
from convq.inference.outputs import MAX_ANSWER_BYTES, finite, rank
from convq.inference.session import Engine, Prepared
from convq.inference.tensors import is_finite
from convq.protocol import PREPARED, Status
from convq.queue import Completion, Delivery, Lease, Received
from convq.runtime.batcher import Batch, Batcher
from convq.runtime.documents import Documents
from convq.runtime.logs import Limit, defect
from convq.runtime.memory import Memory
from convq.runtime.native import CRASH_POINTS, SLOW_DECODES, Mark, is_condemned, runs_alone
from convq.runtime.serving import Role, Serving
from convq.runtime.trace_context import trace_context

log = logging.getLogger("convq.worker")

NEVER_S = float("inf")
TRACEBACKS_PER_S = 1
"""A defect that meets every job must not fill the log; each job's end is logged besides."""
EXPENSIVE_BYTES, EXPENSIVE_PIXELS = 256 << 10, 1 << 20
"""A picture above either is decoded beside the others, which do not wait for it: from about 10 ms on."""
MARKED_BYTES = 1 << 16
"""Smaller tensors go to the network as they are, or after microseconds."""
PIXELS_ALIKE = 1 << 16
"""Within a delivery pictures are decoded in the order of so many pixels, else in that of the delivery."""


@dataclass(slots=True, eq=False)
class Ticket:
    """One job on its way through this worker.

    `arrived_s` and `expires_s` are moments of `time.perf_counter`, the others durations, all in seconds.
    """

    job: Received
    lease: Lease
    arrived_s: float
    queue_s: float
    engine: Engine | None = None
    """The version that answers it, once that is known."""
    prepared: Prepared | None = None
    expires_s: float = NEVER_S
    cancelled: bool = False
    pixels: int = 0
    """As the picture's header says, where that was asked."""
    alone: bool = False
    """A suspect: prepared and run with nobody else in native code."""
    status: Status = Status.OK
    blameless: bool = False
    """It failed, and its own tensor held NaN or infinity: no version is to blame."""
    fetch_s: float = 0.0
    decode_s: float = 0.0
    prepare_s: float = 0.0
    wait_s: float = 0.0
    infer_s: float = 0.0
    total_s: float = 0.0

    def refuse(self, problem: JobError) -> None:
        """This job ends as an error; nobody needs its payload any more."""
        self.job.problem, self.status = problem.at_rest(), Status.ERROR
        self.job.image = self.job.tensor = None

    def fail(self, problem: JobError) -> None:
        """The network failed on this job. Looks at its tensor, which nobody did before: most are sound."""
        tensor = self.job.tensor
        self.blameless = tensor is not None and not is_finite(tensor, self.job.dtype)
        self.refuse(problem)

    def condemn(self) -> None:
        """This job has killed its workers and is not run again."""
        job = self.job
        if job.slow >= SLOW_DECODES:
            why = f"decoding this job took too long {job.slow} times, and ended its worker; it is a dead letter"
        else:  # no death counts more than a crash
            times = -(-job.suspicion // CRASH_POINTS)
            why = f"this job ended its worker {times} times or more, the last time alone; it is a dead letter"
        job.problem, self.status = InternalFault(why), Status.POISONED

    @property
    def name(self) -> str:
        """What suspicion calls this job."""
        return f"{self.job.lane}:{self.job.entry}"

    def names(self) -> dict[str, str]:
        """What people look for this job by in a log: its id, and its trace where the client is in one."""
        context = trace_context(self.job.traceparent)
        return {"job": self.job.id} if context is None else {"job": self.job.id, "trace_id": context.trace_id}

    @property
    def payload_bytes(self) -> int:
        """What it holds until it is decoded."""
        return len(self.job.image or self.job.tensor or b"")

    @property
    def input_bytes(self) -> int:
        """What it holds while it waits for its batch."""
        data = b"" if self.prepared is None else self.prepared.data
        return data.nbytes if isinstance(data, np.ndarray) else len(data)

    @property
    def batch_key(self) -> Hashable:
        """Only tickets of one key share a batch: one version, inputs of one shape; a suspect shares with nobody."""
        return self.name if self.alone or self.prepared is None else (self.engine, self.prepared.shape)


def batcher_for(serving: Serving, memory: Memory) -> Batcher[Ticket]:
    """Where tickets of a model wait for their batch, within what the worker's memory has room for."""
    return Batcher(
        serving.max_batch,
        serving.engine.manifest.batching.max_wait_ms / 1e3,
        key=lambda ticket: ticket.batch_key,
        weight=lambda ticket: ticket.input_bytes,
        max_bytes=memory.waiting_bytes,
    )


@dataclass(slots=True)
class Answers:
    """Tickets that end now, and what the network said where it ran."""

    tickets: list[Ticket]
    outputs: dict[str, np.ndarray] | None = None
    batch: Batch[Ticket] | None = None
    engine: Engine | None = None
    """What ran, or was to run, where it came that far."""
    role: Role | None = None
    """What that engine was for, when it ran."""
    inputs: list[Prepared] | None = None
    """What it ran on, where a shadow is to run on the same."""
    completions: list[Completion] | None = None
    """Where they were made already: those of a job that ran alone."""
    names: bytes = b""
    """The jobs as the board marks them, where the network ran."""
    ended_s: float = field(default_factory=time.perf_counter)
    """The moment, of `time.perf_counter`, at which the network was done with them, or it was clear that they do not run."""


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


class Admission:
    """The first phase: decode and prepare each job, or say why it cannot run. One bad job never reaches a batch."""

    def __init__(self, serving: Serving, memory: Memory) -> None:
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

    def prepare(self, ticket: Ticket, mark: Mark) -> None:
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

    def _prepare(self, ticket: Ticket, mark: Mark) -> None:
        job = ticket.job
        ticket.engine = engine = self.serving.engine_for(job)
        for name in job.outputs:
            if name not in engine.outputs and name != PREPARED:
                raise UnknownOutput(f"{engine.name} has no output {name[:64]!r}; it has {', '.join(engine.outputs)}")
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


class Answerer:
    """The last phase before publishing: rank what the network said and write the documents."""

    def __init__(self, model: str, worker: str, mark: Mark) -> None:
        self._model, self._worker = model, worker
        self._mark = mark
        self._documents: WeakKeyDictionary[Engine, Documents] = WeakKeyDictionary()
        self._refusals = Documents(model, 0, (), worker)

    def _documents_of(self, engine: Engine) -> Documents:
        """The writer for one version; gone with it."""
        found = self._documents.get(engine)
        if found is None:
            found = Documents(self._model, engine.version, engine.labels, self._worker, engine.pictures)
            self._documents[engine] = found
        return found

    def answer(self, answers: Answers) -> list[Completion]:
        """One completion per ticket, in order. While the outputs of a network are looked at, the board says so."""
        if answers.outputs is None or answers.engine is None:
            return [self.refusal(ticket) for ticket in answers.tickets]
        self._mark.set(answers.names)
        completions = self._answer(answers, answers.outputs, answers.engine)
        self._mark.clear()
        return completions

    def _answer(self, answers: Answers, outputs: dict[str, np.ndarray], engine: Engine) -> list[Completion]:
        size, now_s, documents = len(answers.tickets), time.perf_counter(), self._documents_of(engine)
        asked = [ticket.job.outputs for ticket in answers.tickets]
        usable = finite(_made(outputs, engine), engine.feature_maps, asked).tolist()
        ranked = self._rank(answers.tickets, engine, outputs)
        completions = []
        for i, ticket in enumerate(answers.tickets):
            if not usable[i]:
                ticket.fail(NonFinite("the network produced NaN or infinity for this input"))
                completions.append(self.refusal(ticket))
                continue
            job = ticket.job
            ticket.total_s = ticket.queue_s + now_s - ticket.arrived_s
            names = job.outputs or engine.default_outputs
            wanted = {name: outputs[name][i] for name in names} if names else None
            predictions = None if ranked is None else (ranked[0][i][: job.top_k], ranked[1][i][: job.top_k])
            completions.append(Completion(job, documents.ok(ticket, size, predictions, wanted)))
        return completions

    def _rank(
        self, tickets: Sequence[Ticket], engine: Engine, outputs: dict[str, np.ndarray]
    ) -> tuple[list[list[int]], list[list[float]]] | None:
        """Indices and scores of the best classes of each job, as many as the one that wants most of them."""
        if engine.classes is None:
            return None
        most = max(ticket.job.top_k for ticket in tickets)
        ranking = rank(outputs[engine.classes], engine.activation, most)
        # Seven digits are what float32 holds; as float64 they would be written with seventeen.
        return ranking.indices.tolist(), ranking.scores.astype(np.float64).round(7).tolist()

    def refusal(self, ticket: Ticket) -> Completion:
        """The completion of a job that was not computed."""
        ticket.total_s = ticket.queue_s + time.perf_counter() - ticket.arrived_s
        document = self._refusals.refused(ticket, ticket.job.problem)
        failed = ticket.status is Status.ERROR
        return Completion(ticket.job, document, cancelled=ticket.cancelled, failed=failed)


def _made(outputs: dict[str, np.ndarray], engine: Engine) -> dict[str, np.ndarray]:
    """What the network made: its input, where somebody asked for it, may hold NaN without being to blame."""
    if PREPARED not in outputs or PREPARED in engine.outputs:
        return outputs
    return {name: raw for name, raw in outputs.items() if name != PREPARED}


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
