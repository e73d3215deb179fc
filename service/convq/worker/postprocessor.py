"""The last phase of a job before it is published: what the network said is ranked and written down."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import cast
from weakref import WeakKeyDictionary

import numpy as np

from convq.answers.detections import Detections, Wanted
from convq.engine.answering.detector import Answer, Detector, MasksAsked
from convq.engine.engine import Engine, Prepared
from convq.engine.postprocess import answer_bytes, finite, rank, too_large
from convq.errors import JobError, ModelFault, NonFinite, NoRoom
from convq.ipc.crash_marks import CrashMark, listed
from convq.protocol import PREPARED, Status
from convq.queue import PORTION_BYTES, Completion
from convq.worker.admission.batcher import Batch
from convq.worker.loaded_model import Role
from convq.worker.results import ResultEncoder
from convq.worker.ticket import Ticket

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
            found = ResultEncoder(self._model, engine.version, engine.labels, self._worker, engine.pictures)
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
        row_bytes = self._documents_of(engine).prediction_bytes if engine.classes is not None else 0
        text_bytes = {
            name: size * 4 // 3 + OUTPUT_BYTES for name, size in answer_bytes(outputs, engine.pictures).items()
        }
        job_bytes = sum(text_bytes.values()) + len(engine.labels) * row_bytes
        if engine.detector is None and job_bytes * len(tickets) <= PORTION_BYTES:
            return ()
        sizes = []
        for ticket in tickets:
            names, asked = ticket.job.outputs or engine.default_outputs, ticket.job.asked
            size = sum(text_bytes[name] for name in names) + min(ticket.job.top_k, len(engine.labels)) * row_bytes
            if engine.detector is not None:
                size += engine.detector.most_bytes(asked.max_detections, _masks_of(ticket))
            sizes.append(size)
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
        asked = [ticket.job.outputs for ticket in answers.tickets]
        usable = finite(_made(outputs, engine), engine.feature_maps, asked).tolist()
        ranked = self._rank(answers.tickets, engine, outputs)
        found = None if engine.detector is None else _found(answers, outputs, engine.detector)
        output_bytes = answer_bytes(outputs, engine.pictures)
        now_s = time.perf_counter()
        answer_s, completions = now_s - answers.ended_s, []
        for i, ticket in enumerate(answers.tickets):
            answer: Answer | JobError | None = None
            if usable and not usable[i]:
                answer = NonFinite("the network produced NaN or infinity for this input")
            elif found is not None and engine.detector is not None:
                if engine.detector.draws(_masks_of(ticket)):  # that takes its time: only this job is late then
                    self._mark.set(listed([ticket.name]))
                answer = _written(found[i], answers, i, outputs, engine.detector)
                now_s = time.perf_counter()
                answer_s = now_s - answers.ended_s
            if answer is not None and isinstance(answer, JobError):
                ticket.fail(answer)
                completions.append(self.refusal(ticket))
                continue
            job = ticket.job
            ticket.total_s = ticket.queue_s + now_s - ticket.arrived_s
            ticket.answer_s = answer_s
            names = job.outputs or engine.default_outputs
            if names and (problem := too_large(sum([output_bytes[name] for name in names]))):
                completions.append(self._not_for_it(ticket, problem))
                continue
            wanted = {name: outputs[name][i] for name in names} if names else None
            predictions = None if ranked is None else (ranked[0][i][: job.top_k], ranked[1][i][: job.top_k])
            if predictions is not None and job.asked.min_score is not None:
                predictions = _above(job.asked.min_score, *predictions)
            completions.append(Completion(job, documents.ok(ticket, size, predictions, wanted, answer)))
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
    """What the network made that must be finite throughout.

    Its input, where somebody asked for it, may hold NaN without being to blame; what detections are made of may hold
    anything in rows that are none.
    """
    read = frozenset[str]() if engine.detector is None else engine.detector.reads
    if not read and (PREPARED not in outputs or PREPARED in engine.outputs):
        return outputs
    is_input = PREPARED not in engine.outputs
    return {name: raw for name, raw in outputs.items() if name not in read and not (is_input and name == PREPARED)}


def _above(least: float, indices: list[int], scores: list[float]) -> tuple[list[int], list[float]]:
    """Those of the ranked classes that have this score at least."""
    count = sum(score >= least for score in scores)
    return indices[:count], scores[:count]


def _found(answers: BatchResult, outputs: dict[str, np.ndarray], detector: Detector) -> Sequence[Detections | JobError]:
    """What was found for each ticket, by what it asks for, or what it is answered with."""
    wanted = []
    for ticket in answers.tickets:
        asked = ticket.job.asked
        only = detector.numbers_of(asked.labels) if asked.labels else None
        wanted.append(Wanted(ticket.placed, asked.min_score, asked.iou, asked.max_detections, only))
    try:
        return detector.detect(outputs, wanted, detector.size_of(answers.shape))
    except ModelFault as error:
        return [error.at_rest()] * len(wanted)


def _written(
    found: Detections | JobError, answers: BatchResult, row: int, outputs: dict[str, np.ndarray], detector: Detector
) -> Answer | JobError:
    """The detections of one job as its result has them, masks drawn; `row` is its place in the batch."""
    if isinstance(found, JobError):
        return found
    ticket, size = answers.tickets[row], detector.size_of(answers.shape)
    try:
        return detector.written(found, outputs, row, ticket.placed, size, _masks_of(ticket))
    except (ModelFault, NonFinite) as error:
        return error.at_rest()


def _masks_of(ticket: Ticket) -> MasksAsked:
    """How a job wants masks."""
    return cast("MasksAsked", ticket.job.asked.form_of("masks"))


def _part(answers: BatchResult, first: int, end: int) -> BatchResult:
    """These of its tickets, and what the network said of them."""
    tickets = answers.tickets[first:end]
    outputs = {name: raw[first:end] for name, raw in (answers.outputs or {}).items()}
    return replace(answers, tickets=tickets, outputs=outputs, names=listed([one.name for one in tickets]))
