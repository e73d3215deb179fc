"""The last phase of a job before it is published: what the network said is ranked, told and written down."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from weakref import WeakKeyDictionary

import numpy as np

from convq.engine.answering.meaning import Told
from convq.engine.engine import Engine, Prepared
from convq.engine.postprocess import answer_bytes, finite, rank, too_large
from convq.errors import JobError, NonFinite, NoRoom
from convq.ipc.crash_marks import CrashMark, listed
from convq.protocol import PREPARED, Status
from convq.queue import PORTION_BYTES, Completion
from convq.worker.admission.batcher import Batch
from convq.worker.loaded_model import Role
from convq.worker.results import ResultEncoder
from convq.worker.telling import Telling
from convq.worker.ticket import Ticket

Ranked = tuple[list[list[int]], list[list[float]]]
"""Indices and scores of the best classes of each job, best first."""
OUTPUT_BYTES = 1024
"""Of a document, for what is said of an output besides its data."""


@dataclass(slots=True)
class BatchResult:
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
    shape: tuple[int, ...] = ()
    """Of one input, where the network ran."""
    completions: list[Completion] | None = None
    """Where they were made already: those of a job that ran alone."""
    names: bytes = b""
    """The jobs as the board marks them, where the network ran."""
    size: int = 0
    """How many ran together; more than there are tickets where this is a portion of them."""
    held_bytes: int = 0
    """What the outputs and their documents hold of the worker's memory, until they are published."""
    ended_s: float = field(default_factory=time.perf_counter)
    """The moment, of `time.perf_counter`, at which the network was done with them, or it was clear that they do not run."""


class Postprocessor:
    """The last phase before publishing: rank what the network said and write the documents."""

    def __init__(self, model: str, worker: str, mark: CrashMark) -> None:
        self._model, self._worker = model, worker
        self._mark = mark
        self._documents: WeakKeyDictionary[Engine, ResultEncoder] = WeakKeyDictionary()
        self._refusals = ResultEncoder(model, 0, (), worker)

    def _documents_of(self, engine: Engine) -> ResultEncoder:
        """The writer for one version; gone with it."""
        found = self._documents.get(engine)
        if found is None:
            found = ResultEncoder(
                self._model, engine.version, engine.labels, self._worker, engine.pictures, engine.heads
            )
            self._documents[engine] = found
        return found

    def portions(self, answers: BatchResult) -> Iterator[BatchResult]:
        """The same in parts, in order, whose documents have at most `PORTION_BYTES` together; a larger one is by itself."""
        tickets, sizes = answers.tickets, self._sizes(answers)
        first, portion_bytes = 0, 0
        for i, size in enumerate(sizes):
            if i > first and portion_bytes + size > PORTION_BYTES:
                yield _part(answers, first, i)
                first, portion_bytes = i, 0
            portion_bytes += size
        yield answers if first == 0 else _part(answers, first, len(tickets))

    def _sizes(self, answers: BatchResult) -> Sequence[int]:
        """At most how long the document of each job will be, in bytes; nothing where all of them are short."""
        outputs, engine, tickets = answers.outputs, answers.engine, answers.tickets
        if outputs is None or engine is None:
            return ()
        documents, telling = self._documents_of(engine), Telling(engine, outputs, tickets, answers.shape)
        text_bytes = {
            name: size * 4 // 3 + OUTPUT_BYTES for name, size in answer_bytes(outputs, engine.pictures).items()
        }
        job_bytes = sum(text_bytes.values()) + documents.ranked_bytes(max(one.job.top_k for one in tickets))
        if not telling.is_needed and job_bytes * len(tickets) <= PORTION_BYTES:
            return ()
        sizes = []
        for row, ticket in enumerate(tickets):
            names = ticket.job.outputs or engine.default_outputs
            size = sum(text_bytes[name] for name in names) + documents.ranked_bytes(ticket.job.top_k)
            sizes.append(size + telling.most_bytes(row) if telling.is_needed else size)
        return sizes

    def answer(self, answers: BatchResult) -> list[Completion]:
        """One completion per ticket, in order. While the outputs of a network are looked at, the board says so."""
        if answers.outputs is None or answers.engine is None:
            return [self.refusal(ticket) for ticket in answers.tickets]
        self._mark.set(answers.names)
        completions = self._answer(answers, answers.outputs, answers.engine)
        self._mark.clear()
        return completions

    def _answer(self, answers: BatchResult, outputs: dict[str, np.ndarray], engine: Engine) -> list[Completion]:
        size, documents = answers.size or len(answers.tickets), self._documents_of(engine)
        usable = finite(
            _made(outputs, engine), engine.feature_maps, [one.job.outputs for one in answers.tickets]
        ).tolist()
        ranked = self._rank(answers.tickets, engine, outputs)
        telling = Telling(engine, outputs, answers.tickets, answers.shape)
        output_bytes, completions = answer_bytes(outputs, engine.pictures), []
        now_s = time.perf_counter()
        for row, ticket in enumerate(answers.tickets):
            if usable and not usable[row]:
                completions.append(
                    self._failed(ticket, NonFinite("the network produced NaN or infinity for this input"))
                )
                continue
            told: Told | None = None
            names = ticket.job.outputs or engine.default_outputs
            named_bytes = sum([output_bytes[name] for name in names]) if names else 0
            if problem := too_large(named_bytes + (telling.meant_bytes(row) * 3 // 4 if telling.is_needed else 0)):
                completions.append(self._not_for_it(ticket, problem))
                continue
            if telling.is_needed:
                made = self._tell(telling, row, ticket, answers)
                if isinstance(made, JobError):
                    completions.append(self._failed(ticket, made))
                    continue
                told, now_s = made, time.perf_counter()
            ticket.total_s = ticket.queue_s + now_s - ticket.arrived_s
            ticket.answer_s = now_s - answers.ended_s
            wanted = {name: outputs[name][row] for name in names} if names else None
            best = [_best_of(ticket, indices[row], scores[row]) for indices, scores in ranked]
            document = documents.ok(ticket, size, best[0] if best else None, wanted, told, best[1:])
            completions.append(Completion(ticket.job, document))
        return completions

    def _tell(self, telling: Telling, row: int, ticket: Ticket, answers: BatchResult) -> Told | JobError:
        """What a job is told; where that takes its time, the board names this job alone, so that no other is late by it."""
        if not telling.is_slow(row):
            return telling.tell(row)
        self._mark.set(listed([ticket.name]))
        told = telling.tell(row)
        self._mark.set(answers.names)
        return told

    def _rank(self, tickets: Sequence[Ticket], engine: Engine, outputs: dict[str, np.ndarray]) -> list[Ranked]:
        """Of each head, indices and scores of the best classes of each job, as many as the one that wants most of them."""
        if not engine.heads:
            return []
        most = max(ticket.job.top_k for ticket in tickets)
        rankings = [rank(outputs[head.output], head.activation, most) for head in engine.heads]
        # Seven digits are what float32 holds; as float64 they would be written with seventeen.
        return [(one.indices.tolist(), one.scores.astype(np.float64).round(7).tolist()) for one in rankings]

    def _failed(self, ticket: Ticket, problem: JobError) -> Completion:
        """The completion of a job whose answer is a fault of the network."""
        ticket.fail(problem)
        return self.refusal(ticket)

    def _not_for_it(self, ticket: Ticket, problem: JobError) -> Completion:
        """The completion of a job that was computed and cannot be told; no version is to blame for that."""
        ticket.blameless = True
        ticket.refuse(problem)
        return self.refusal(ticket)

    def without_room(self, ticket: Ticket) -> Completion:
        """The completion of a job whose answer the server has no room for."""
        why = "the server has no room for this answer now: submit it again later with another id, or ask for less"
        return self._not_for_it(ticket, NoRoom(why))

    def refusal(self, ticket: Ticket) -> Completion:
        """The completion of a job that was not computed."""
        ticket.total_s = ticket.queue_s + time.perf_counter() - ticket.arrived_s
        document = self._refusals.refused(ticket, ticket.job.problem)
        failed = ticket.status is Status.ERROR
        return Completion(ticket.job, document, cancelled=ticket.cancelled, failed=failed)


def _made(outputs: dict[str, np.ndarray], engine: Engine) -> dict[str, np.ndarray]:
    """What the network made that must be finite throughout, and that nobody else looks at.

    Its input, where somebody asked for it, may hold NaN without being to blame; what detections are made of may hold
    anything in rows that are none; whoever tells what an output means looks at it himself.
    """
    read = engine.meanings.reads if engine.detector is None else engine.meanings.reads | engine.detector.reads
    if not read and (PREPARED not in outputs or PREPARED in engine.outputs):
        return outputs
    is_input = PREPARED not in engine.outputs
    return {name: raw for name, raw in outputs.items() if name not in read and not (is_input and name == PREPARED)}


def _best_of(ticket: Ticket, indices: list[int], scores: list[float]) -> tuple[list[int], list[float]]:
    """Those of the ranked classes that a job asks for."""
    job = ticket.job
    indices, scores = indices[: job.top_k], scores[: job.top_k]
    if job.asked.min_score is None:
        return indices, scores
    least = job.asked.min_score
    count = sum(score >= least for score in scores)
    return indices[:count], scores[:count]


def _part(answers: BatchResult, first: int, end: int) -> BatchResult:
    """These of its tickets, and what the network said of them."""
    tickets = answers.tickets[first:end]
    outputs = {name: raw[first:end] for name, raw in (answers.outputs or {}).items()}
    return replace(answers, tickets=tickets, outputs=outputs, names=listed([one.name for one in tickets]))
