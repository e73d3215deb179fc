"""`[detections]` of one version: read, held against its graph, and the detections of its batches."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from convq.answers.coordinates import Placement
from convq.answers.detections import Detections, DetectionsSpec, Size, Wanted, describe, detections_of
from convq.answers.detections.candidates import MOST_CLASSES
from convq.answers.detections.nms import Suppress, suppress
from convq.answers.masks import MAX_MASK_BYTES, instance_masks
from convq.engine.answering.frame import Layout, frame_of, size_of
from convq.engine.answering.meaning import LONGEST_ESCAPE, MasksAsked
from convq.engine.answering.meanings import fitting
from convq.errors import BadField, ModelBroken, NonFinite
from convq.printable import brief_list, excerpt
from convq.repository.manifest import Manifest

_DETECTION_BYTES: Final = 160
"""Of a document: the names, numbers and punctuation of one detection with a box."""
_NUMBER_BYTES: Final = 12
_USUAL_MASKS_BYTES: Final = MAX_MASK_BYTES // 8
"""Masks of a job are counted so before they are made: what is usual is a hundredth of it."""


class Answer(NamedTuple):
    """The detections of one job, as a result has them, and the size of the picture that they lie in."""

    detections: list[dict[str, Any]]
    truncated: bool
    width: int
    height: int


@dataclass(frozen=True)
class Detector:
    """How one version makes detections. Threads may use it at the same time."""

    spec: DetectionsSpec
    labels: tuple[str, ...]
    """By number of the class; empty where there is no file of labels."""
    layout: Layout
    suppress: Suppress = suppress
    """What compares boxes."""

    @classmethod
    def of(cls, manifest: Manifest, labels: Sequence[str], file: Path) -> Self | None:
        """What the manifest says; None where it says nothing. Raises ModelBroken, beginning with `file`."""
        if manifest.detections is None:
            return None
        try:
            spec = describe(manifest.detections.given(), len(labels))
        except ValueError as err:
            raise ModelBroken(f"{file}: the manifest's detections cannot be made: {err}") from None
        return cls(spec, tuple(labels), manifest.input.layout)

    def bound(self, shapes: Mapping[str, Sequence[int | None]], file: Path) -> Self:
        """The same for a graph whose outputs have these shapes, batch axis included. Raises ModelBroken where they do not fit."""
        try:
            return replace(self, spec=self.spec.bound(shapes))
        except ValueError as err:
            raise ModelBroken(f"{file}: does not fit the manifest's detections: {err}") from None

    @cached_property
    def reads(self) -> frozenset[str]:
        """The outputs that detections are made of."""
        return frozenset(self.spec.outputs)

    @property
    def is_batched(self) -> bool:
        """Whether the first axis of those outputs is the batch; otherwise jobs run one by one."""
        return self.spec.batch == "first"

    def size_of(self, shape: Sequence[int]) -> Size:
        """Of an input of that shape, without the batch axis."""
        return size_of(shape, self.layout)

    def placement_of(self, shape: Sequence[int]) -> Placement:
        """Where the picture is the network's input itself."""
        return frame_of(shape, self.layout, None).placement

    def numbers_of(self, names: Sequence[str]) -> NDArray[np.int64]:
        """The classes that have these labels, in order; "#91" is the class 91 where that has none.

        `names` is a text cut at its commas, which labels may hold, too: the longest label is meant that the next names make.
        Raises BadField for one that is none.
        """
        numbers: set[int] = set()
        rest = list(names)
        while rest:
            for count in range(min(len(rest), self._most_parts), 0, -1):
                if classes := self._classes_of(rest[:count]):
                    numbers.update(classes)
                    del rest[:count]
                    break
            else:
                there = brief_list(self.labels) or "none"
                raise BadField(f"labels: this model detects no {excerpt(rest[0], 40)!r}; it has {there}")
        return np.array(sorted(numbers), dtype=np.int64)

    def _classes_of(self, parts: Sequence[str]) -> Sequence[int]:
        """The classes whose label has these parts between its commas."""
        unlabelled = re.fullmatch("#([0-9]{1,5})", parts[0]) if len(parts) == 1 else None
        if unlabelled and len(self.labels) <= int(unlabelled[1]) < MOST_CLASSES:
            return [int(unlabelled[1])]
        return self._by_parts.get(tuple(parts), [])

    @cached_property
    def _by_parts(self) -> dict[tuple[str, ...], list[int]]:
        found: dict[tuple[str, ...], list[int]] = {}
        for number, label in enumerate(self.labels):
            found.setdefault(tuple(part.strip() for part in label.split(",")), []).append(number)
        return found

    @cached_property
    def _most_parts(self) -> int:
        return max(map(len, self._by_parts), default=1)

    def detect(
        self, outputs: Mapping[str, NDArray[Any]], jobs: Sequence[Wanted], size: Size
    ) -> list[Detections | NonFinite]:
        """What was found for each job of a batch, or what it is to be answered with.

        Raises ModelFault where an output has another shape than the manifest says.
        """
        return detections_of(self.spec, outputs, jobs, size, self.suppress)

    def labels_found(
        self,
        outputs: Mapping[str, NDArray[Any]],
        shape: Sequence[int],
        placements: Sequence[Placement | None],
        masks: MasksAsked = "none",
    ) -> list[list[str] | None]:
        """The labels of what is found for each job of a batch, best first; None where that is not finite.

        `placements` has one for each, None where the picture is the input of that `shape`. What `masks` says is drawn, too, as
        for results. Raises ModelFault where the outputs have other shapes than the manifest says.
        """
        size = self.size_of(shape)
        placed = [self.placement_of(shape) if one is None else one for one in placements]
        labels: list[list[str] | None] = []
        for i, found in enumerate(self.detect(outputs, [Wanted(one) for one in placed], size)):
            if isinstance(found, NonFinite):
                labels.append(None)
                continue
            try:
                written = self.written(found, outputs, i, placed[i], size, masks)
            except NonFinite:
                labels.append(None)
                continue
            labels.append([one["label"] for one in written.detections])
        return labels

    def label(self, number: int) -> str:
        """The name of a class; `#91` for one that has none."""
        return self.labels[number] if number < len(self.labels) else f"#{number}"

    def written(
        self,
        found: Detections,
        outputs: Mapping[str, NDArray[Any]],
        row: int,
        placement: Placement,
        size: Size,
        masks: MasksAsked,
    ) -> Answer:
        """The detections of one job as its result has them; `row` is its place in the batch of `outputs`.

        Raises ModelFault where weights and prototypes of masks do not belong together, NonFinite where a mask is not finite.
        """
        entries: list[dict[str, Any]] = [
            {"label": self.label(number), "index": number, "score": score, "box": box}
            for number, score, box in zip(
                found.classes.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True
            )
        ]
        for key, values in (("corners", found.corners), ("keypoints", found.keypoints)):
            if values is not None:
                for entry, value in zip(entries, values.tolist(), strict=True):
                    entry[key] = value
        truncated = found.truncated
        if masks != "none" and found.masks is not None and self.spec.prototypes is not None:
            prototypes = outputs[self.spec.prototypes][row]
            drawn = instance_masks(found.masks, prototypes, found.boxes, placement, (size.height, size.width), masks)
            for entry, mask in zip(entries, drawn.entries, strict=True):
                entry.update(mask)
            truncated = truncated or drawn.truncated
        return Answer(entries, truncated, placement.width, placement.height)

    def draws(self, masks: MasksAsked) -> bool:
        """Whether a job that wants masks so gets any."""
        return masks != "none" and self.spec.prototypes is not None

    def most_bytes(self, max_detections: int | None, masks: MasksAsked) -> int:
        """About how much of a document the detections of one job may take, and rather too much."""
        most = self.spec.max_detections if max_detections is None else max_detections
        return most * self._bytes_each + (_USUAL_MASKS_BYTES if self.draws(masks) else 0)

    @cached_property
    def _bytes_each(self) -> int:
        columns = [column for table in self.spec.tables for column in table.columns.named]
        numbers = sum(column.width for column in columns if column.word == "keypoints")
        longest = max(map(len, self.labels), default=0)
        return _DETECTION_BYTES + LONGEST_ESCAPE * longest + _NUMBER_BYTES * numbers

    def describe(self) -> dict[str, Any]:
        """What clients may want to know, as JSON-able values: enough to draw what they get."""
        spec = self.spec
        return {
            "family": spec.family,
            "labels": fitting(self.labels),
            "keypoints": list(spec.keypoints),
            "skeleton": [list(line) for line in spec.skeleton],
            "min_score": spec.min_score,
            "iou": spec.iou,
            "nms": spec.nms,
            "masks": spec.prototypes is not None,
        }
