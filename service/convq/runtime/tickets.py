"""One job inside one worker, and the phases that need neither Redis nor a thread: admit it, answer it, count it."""

from __future__ import annotations

import logging
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from convq.errors import ConvqError, InternalFault, JobError, LeaseLost, NonFinite, UnknownOutput, UnknownVersion
from convq.inference.outputs import finite, rank
from convq.inference.session import Engine, Prepared
from convq.protocol import Status
from convq.queue import Completion, Delivery, Lease, Received
from convq.runtime.batcher import Batch
from convq.runtime.board import Row
from convq.runtime.documents import Documents
from convq.runtime.metrics import LANE_NAMES
from convq.runtime.native import ALONE_FROM_ATTEMPT, POISON_FROM_ATTEMPT, POISON_POINTS, Mark

log = logging.getLogger("convq.worker")

NEVER_S = float("inf")


@dataclass(slots=True, eq=False)
class Ticket:
    """One job on its way through this worker.

    `arrived_s` and `expires_s` are moments of `time.perf_counter`, the others durations, all in seconds.
    """

    job: Received
    lease: Lease
    arrived_s: float
    queue_s: float
    prepared: Prepared | None = None
    expires_s: float = NEVER_S
    cancelled: bool = False
    alone: bool = False
    """A suspect: prepared and run with nobody else in native code."""
    status: Status = Status.OK
    decode_s: float = 0.0
    prepare_s: float = 0.0
    wait_s: float = 0.0
    infer_s: float = 0.0
    total_s: float = 0.0

    def refuse(self, problem: JobError) -> None:
        """This job ends as an error."""
        self.job.problem, self.status = problem.at_rest(), Status.ERROR

    def condemn(self) -> None:
        """This job has killed its workers and is not run again."""
        times = self.job.attempt - 1
        self.job.problem = InternalFault(
            f"this job ended its worker {times} times, the last time alone; it is a dead letter"
        )
        self.status = Status.POISONED

    @property
    def name(self) -> str:
        """What suspicion calls this job."""
        return f"{self.job.lane}:{self.job.entry}"

    @property
    def batch_key(self) -> Hashable:
        """Only tickets of one key share a batch: those whose inputs have one shape, a suspect nobody."""
        return self.name if self.alone or self.prepared is None else self.prepared.shape


@dataclass(slots=True)
class Answers:
    """Tickets that end now, and what the network said where it ran."""

    tickets: list[Ticket]
    outputs: dict[str, np.ndarray] | None = None
    batch: Batch[Ticket] | None = None


class Admission:
    """The first phase: decode and prepare each job, or say why it cannot run. One bad job never reaches a batch."""

    def __init__(self, engine: Engine, decoding: Mark) -> None:
        self._engine = engine
        self._decoding = decoding

    def admit(self, lease: Lease, delivery: Delivery) -> tuple[list[Ticket], list[Ticket]]:
        """The tickets that may run, and those that end here."""
        runnable: list[Ticket] = []
        ended: list[Ticket] = []
        for job in delivery.jobs:
            # A clock that went back can make an entry younger than now; nothing waits for less than no time.
            queue_s = max(0.0, delivery.server_ms - job.submitted_ms) / 1e3
            ticket = Ticket(job, lease, delivery.arrived_s, queue_s)
            if job.id in delivery.cancelled:
                ticket.status, ticket.cancelled = Status.CANCELLED, True
            elif job.problem is not None:
                ticket.status = Status.ERROR
            elif job.suspicion >= POISON_POINTS or job.attempt >= POISON_FROM_ATTEMPT:
                ticket.condemn()
            else:
                if job.ttl_ms is not None:
                    ticket.expires_s = delivery.arrived_s + job.ttl_ms / 1e3 - queue_s
                ticket.alone = job.suspicion > 0 or job.attempt >= ALONE_FROM_ATTEMPT
                if not ticket.alone:
                    self.prepare(ticket)
            (runnable if ticket.status is Status.OK else ended).append(ticket)
        return runnable, ended

    def prepare(self, ticket: Ticket) -> None:
        """Decode and prepare one job, or refuse it. Never raises: the neighbours go on."""
        if ticket.expires_s <= time.perf_counter():
            ticket.status = Status.EXPIRED
            return
        try:
            self._prepare(ticket)
        except JobError as error:
            self._decoding.clear()
            ticket.refuse(error)
        except Exception:  # around one job: a defect here must not take the neighbours with it
            log.exception("job %s could not be prepared", ticket.job.id)
            ticket.refuse(InternalFault("the service failed on this job; its log says why"))

    def _prepare(self, ticket: Ticket) -> None:
        job, engine = ticket.job, self._engine
        if job.version is not None and job.version != engine.version:
            raise UnknownVersion(f"version {job.version} of {engine.name} is not served; version {engine.version} is")
        for name in job.outputs:
            if name not in engine.outputs:
                raise UnknownOutput(f"{engine.name} has no output {name[:64]!r}; it has {', '.join(engine.outputs)}")
        if job.tensor is not None:
            ticket.prepared = engine.admit(job.tensor, job.dtype, job.shape)
            return
        began = time.perf_counter()
        self._decoding.set([ticket.name])
        decoded = engine.decode(job.image or b"")
        middle = time.perf_counter()
        ticket.prepared = engine.prepare(decoded)
        self._decoding.clear()
        ticket.decode_s, ticket.prepare_s = middle - began, time.perf_counter() - middle
        job.image = None  # decoded: the bytes need not wait for the batch


class Answerer:
    """The last phase before publishing: rank what the network said and write the documents."""

    def __init__(self, engine: Engine, worker: str) -> None:
        self._engine = engine
        self._documents = Documents(engine.name, engine.version, engine.labels, worker)

    def answer(self, answers: Answers) -> list[Completion]:
        """One completion per ticket, in order."""
        if answers.outputs is None:
            return [self.refusal(ticket) for ticket in answers.tickets]
        outputs, size, now_s = answers.outputs, len(answers.tickets), time.perf_counter()
        usable = finite(outputs).tolist()
        ranked = self._rank(answers, outputs)
        completions = []
        for i, ticket in enumerate(answers.tickets):
            if not usable[i]:
                ticket.refuse(NonFinite("the network produced NaN or infinity for this input"))
                completions.append(self.refusal(ticket))
                continue
            job = ticket.job
            ticket.total_s = ticket.queue_s + now_s - ticket.arrived_s
            names = job.outputs or self._engine.default_outputs
            wanted = {name: outputs[name][i] for name in names} if names else None
            predictions = None if ranked is None else (ranked[0][i][: job.top_k], ranked[1][i][: job.top_k])
            completions.append(Completion(job, self._documents.ok(ticket, size, predictions, wanted)))
        return completions

    def _rank(
        self, answers: Answers, outputs: dict[str, np.ndarray]
    ) -> tuple[list[list[int]], list[list[float]]] | None:
        """Indices and scores of the best classes of each job, as many as the one that wants most of them."""
        if self._engine.classes is None:
            return None
        most = max(ticket.job.top_k for ticket in answers.tickets)
        ranking = rank(outputs[self._engine.classes], self._engine.activation, most)
        # Seven digits are what float32 holds; as float64 they would be written with seventeen.
        return ranking.indices.tolist(), ranking.scores.astype(np.float64).round(7).tolist()

    def refusal(self, ticket: Ticket) -> Completion:
        """The completion of a job that was not computed."""
        ticket.total_s = ticket.queue_s + time.perf_counter() - ticket.arrived_s
        return Completion(ticket.job, self._documents.refused(ticket, ticket.job.problem), cancelled=ticket.cancelled)


class Tally:
    """Counts, once per batch."""

    STAGE = "convq_job_stage_duration_seconds"

    def __init__(self, row: Row) -> None:
        self._row = row
        self._reconnects = 0

    def delivered(self, delivery: Delivery) -> None:
        """Jobs have arrived."""
        count = len(delivery.jobs)
        self._row.observe_alike(self.STAGE, time.perf_counter() - delivery.arrived_s, count, "fetch")
        self._row.observe("convq_image_bytes", [len(job.image or job.tensor or b"") for job in delivery.jobs])

    def expired(self, per_lane: Sequence[int]) -> None:
        """Jobs were answered as expired inside the server."""
        for lane, count in zip(LANE_NAMES, per_lane, strict=True):
            if count:
                self._row.add("convq_jobs", count, lane, "expired")

    def redelivered(self, delivery: Delivery) -> None:
        """Jobs of a dead worker were taken over."""
        for job in delivery.jobs:
            self._row.add("convq_redeliveries", 1, LANE_NAMES[job.lane])

    def answered(self, answers: Answers, completions: Sequence[Completion], rank_s: float, commit_s: float) -> None:
        """A batch is published."""
        row, tickets = self._row, answers.tickets
        now = time.perf_counter()
        outcomes: dict[tuple[int, str], int] = {}
        for ticket in tickets:
            key = ticket.job.lane, outcome_of(ticket)
            outcomes[key] = outcomes.get(key, 0) + 1
            if (
                ticket.status is Status.ERROR
                and ticket.job.problem is not None
                and ticket.job.problem.fault == "client"
            ):
                row.add("convq_rejected", 1, ticket.job.problem.code)
        for (lane, outcome), count in outcomes.items():
            row.add("convq_jobs", count, LANE_NAMES[lane], outcome)
        row.add("convq_result_bytes", sum(len(done.document) for done in completions))
        queued = np.array([ticket.queue_s for ticket in tickets])
        row.observe(self.STAGE, queued, "queue")
        row.observe("convq_job_e2e_duration_seconds", queued + now - np.array([ticket.arrived_s for ticket in tickets]))
        row.observe_alike(self.STAGE, commit_s, len(tickets), "publish")
        if answers.batch is not None:
            self._batch_answered(answers, rank_s)

    def _batch_answered(self, answers: Answers, rank_s: float) -> None:
        row, tickets = self._row, answers.tickets
        row.observe_alike("convq_batch_size", len(tickets), 1)
        row.add("convq_batches", 1, str(answers.batch.reason) if answers.batch else "")
        row.observe(self.STAGE, [ticket.wait_s for ticket in tickets], "batch_wait")
        row.observe_alike(self.STAGE, tickets[0].infer_s, len(tickets), "inference")
        row.observe_alike(self.STAGE, rank_s, len(tickets), "postprocess")
        images = [ticket for ticket in tickets if ticket.decode_s]
        if images:
            row.observe(self.STAGE, [ticket.decode_s for ticket in images], "decode")
            row.observe(self.STAGE, [ticket.prepare_s for ticket in images], "preprocess")

    def trouble(self, error: ConvqError) -> None:
        """Redis did not carry out a command."""
        kind = "lease_lost" if isinstance(error, LeaseLost) else "unavailable" if error.retry else "refused"
        self._row.add("convq_redis_command_errors", 1, kind)

    def reconnected(self, times: int) -> None:
        """How often this worker has connected again so far."""
        self._row.add("convq_redis_reconnects", times - self._reconnects)
        self._reconnects = times

    def buried(self, ticket: Ticket) -> None:
        """A job became a dead letter."""
        self._row.add("convq_dead_letters", 1, LANE_NAMES[ticket.job.lane], "poisoned")

    def lost(self, count: int) -> None:
        """Results that somebody else has published, or will."""
        if count:
            self._row.add("convq_lost_commits", count)


def outcome_of(ticket: Ticket) -> str:
    """The label `outcome` of convq_jobs_total."""
    if ticket.status is Status.POISONED:
        return "dead_letter"
    if ticket.status is not Status.ERROR:
        return str(ticket.status)
    return "invalid" if ticket.job.problem is not None and ticket.job.problem.fault == "client" else "error"
