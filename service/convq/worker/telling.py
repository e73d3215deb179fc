"""What the jobs of one batch are told besides predictions and the outputs that they name: detections, maps, text and the like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, cast

from numpy.typing import NDArray

from convq.answers.detections import Detections, Wanted
from convq.answers.embedding import EmbeddingFormat
from convq.engine.answering.detector import Detector
from convq.engine.answering.frame import NOWHERE, Frame
from convq.engine.answering.meaning import MasksAsked, Told, Wish
from convq.engine.engine import Engine
from convq.errors import JobError, ModelFault, NonFinite
from convq.worker.ticket import Ticket


class Telling:
    """For one batch, whose `outputs` came of inputs of `shape`. What a job is told depends on it alone."""

    def __init__(
        self, engine: Engine, outputs: Mapping[str, NDArray[Any]], tickets: Sequence[Ticket], shape: tuple[int, ...]
    ) -> None:
        self._engine, self._outputs, self._tickets, self._shape = engine, outputs, tickets, shape
        self.is_needed = engine.detector is not None or bool(engine.meanings.each)
        """Whether there is anything to tell."""
        self._wishes = [_wish_of(ticket) for ticket in tickets] if self.is_needed else []
        self._shapes = {name: outputs[name].shape[1:] for name in engine.meanings.reads}

    def is_slow(self, row: int) -> bool:
        """Whether telling that job takes its time, as masks or maps are drawn for it."""
        detector = self._engine.detector
        draws = detector is not None and detector.draws(self._wishes[row].masks)
        return draws or self._engine.meanings.is_drawn

    def most_bytes(self, row: int) -> int:
        """At most what of its document that job is told; masks are counted as they usually are."""
        detector, wish = self._engine.detector, self._wishes[row]
        meant = self.meant_bytes(row)
        return meant if detector is None else meant + detector.most_bytes(self._asked_detections(row), wish.masks)

    def meant_bytes(self, row: int) -> int:
        """At most what of its document outputs take that mean something."""
        meanings = self._engine.meanings
        return meanings.most_bytes(self._shapes, self._frame(row), self._wishes[row]) if meanings.each else 0

    def tell(self, row: int) -> Told | JobError:
        """What the job of that row is told, or what it is to be answered with."""
        frame, told = self._frame(row), Told()
        if self._engine.is_placed:
            told.keys["image"] = {"width": frame.placement.width, "height": frame.placement.height}
        try:
            if self._engine.detector is not None:
                self._tell_detections(self._engine.detector, row, frame, told)
            return self._engine.meanings.tell(self._outputs, row, frame, self._wishes[row], told)
        except (ModelFault, NonFinite) as error:
            return error.at_rest()

    def _tell_detections(self, detector: Detector, row: int, frame: Frame, told: Told) -> None:
        found = self._found[row]
        if isinstance(found, JobError):
            raise found
        written = detector.written(found, self._outputs, row, *frame, self._wishes[row].masks)
        told.keys["detections"] = written.detections
        if written.truncated:
            told.keys["truncated"] = True

    def _frame(self, row: int) -> Frame:
        return self._engine.frame_of(self._shape, self._tickets[row].placement) if self._engine.is_placed else NOWHERE

    def _asked_detections(self, row: int) -> int | None:
        return self._tickets[row].job.asked.max_detections

    @cached_property
    def _found(self) -> Sequence[Detections | JobError]:
        """What was detected for each job, by what it asks for, or what it is answered with."""
        detector = self._engine.detector
        if detector is None:
            return ()
        wanted = []
        for ticket in self._tickets:
            asked = ticket.job.asked
            only = detector.numbers_of(asked.labels) if asked.labels else None
            wanted.append(Wanted(ticket.placed, asked.min_score, asked.iou, asked.max_detections, only))
        try:
            return detector.detect(self._outputs, wanted, detector.size_of(self._shape))
        except ModelFault as error:
            return [error.at_rest()] * len(wanted)


def _wish_of(ticket: Ticket) -> Wish:
    """How a job wants to be told."""
    asked = ticket.job.asked
    if not asked.format:
        return _PLAIN
    masks, embedding = cast("MasksAsked", asked.form_of("masks")), cast("EmbeddingFormat", asked.form_of("embedding"))
    return Wish(masks, embedding, asked.form_of("maps") == "network")


_PLAIN = Wish()
