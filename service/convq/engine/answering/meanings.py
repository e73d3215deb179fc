"""What the outputs of one version mean, as `[[outputs]]` of its manifest says: read, held against its graph, and told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, takewhile
from typing import Any, Final, Self

from numpy.typing import NDArray

from convq.engine.answering.frame import NOWHERE, Frame, Layout, size_of
from convq.engine.answering.maps import Depth, Map, Matte, Segments
from convq.engine.answering.meaning import LONGEST_ESCAPE, Meaning, Sides, Told, Wish
from convq.engine.answering.readings import Embedding, Keypoints, Text, Value
from convq.errors import NonFinite
from convq.repository.bounds import MOST_DESCRIBED_BYTES
from convq.repository.manifest import Manifest, Output

LabelsOf = Callable[[Output], Sequence[str]]
KINDS: Final[Mapping[str, type[Meaning]]] = {
    "segments": Segments,
    "matte": Matte,
    "depth": Depth,
    "embedding": Embedding,
    "text": Text,
    "keypoints": Keypoints,
    "value": Value,
}
"""The manifest's word -> what tells it. Classes, images and tensors have places of their own."""
_MAP_AXES: Final = 3


@dataclass(frozen=True)
class Meanings:
    """Those of one version. Threads may use them at the same time."""

    each: tuple[Meaning, ...]
    layout: Layout

    @classmethod
    def of(cls, manifest: Manifest, labels_of: LabelsOf) -> Self:
        """What the manifest says; `labels_of` reads the labels of an output. Raises ModelBroken as that does."""
        said = [output for output in manifest.outputs if output.meaning in KINDS]
        return cls(tuple(KINDS[one.meaning].of(one, labels_of(one)) for one in said), manifest.input.layout)

    @cached_property
    def reads(self) -> frozenset[str]:
        """The outputs that mean something here."""
        return frozenset(one.output for one in self.each)

    @cached_property
    def is_placed(self) -> bool:
        """Whether any says something of places in a picture."""
        return any(one.is_placed for one in self.each)

    @cached_property
    def is_drawn(self) -> bool:
        """Whether any takes its time, as a picture is drawn."""
        return any(one.is_drawn for one in self.each)

    def named(self, output: str) -> str | None:
        """What that output means, in the manifest's word; None where it is none of these."""
        kinds = {kind: meaning for meaning, kind in KINDS.items()}
        return next((kinds[type(one)] for one in self.each if one.output == output), None)

    def misfits(self, shapes: Mapping[str, tuple[Sides, str]]) -> dict[str, str]:
        """Output -> what keeps it from meaning what it is said to, in words that go on after its name.

        `shapes` has shape without the batch axis and type of those whose shape is known before a run.
        """
        found = {}
        for one in self.each:
            if one.output in shapes:
                shape, dtype = shapes[one.output]
                found[one.output] = one.misfit(self._channels_first(one, shape), dtype)
        return {name: why for name, why in found.items() if why}

    def tell(
        self, outputs: Mapping[str, NDArray[Any]], row: int, frame: Frame, wish: Wish, told: Told | None = None
    ) -> Told:
        """What is told of one job of a batch, added to what is `told` already. Raises ModelFault, NonFinite."""
        told = Told() if told is None else told
        for one in self.each:
            values = outputs[one.output][row]
            if self._is_turned(one, values.ndim):
                values = values.transpose(2, 0, 1)
            one.tell(values, frame, wish, told)
        return told

    def texts(self, outputs: Mapping[str, NDArray[Any]]) -> list[str | None] | None:
        """What each job of a batch reads, None where that is not finite; None for what reads no text. Raises ModelFault."""
        reader = next((one for one in self.each if isinstance(one, Text)), None)
        if reader is None or reader.output not in outputs:
            return None
        found: list[str | None] = []
        for values in outputs[reader.output]:
            try:
                told = Told()
                reader.tell(values, NOWHERE, Wish(), told)
                found.append(told.keys["text"])
            except NonFinite:
                found.append(None)
        return found

    def most_bytes(self, shapes: Mapping[str, Sequence[int]], frame: Frame, wish: Wish) -> int:
        """At most what all of it takes in the document of a job whose outputs have these shapes, batch axis left out."""
        parts = []
        for one in self.each:
            shape: Any = self._channels_first(one, shapes[one.output])
            parts.append(one.most_bytes(shape, frame, wish))
        return sum(parts)

    def usual_bytes(self, shape: Sequence[int]) -> int:
        """What maps take of pictures that are as large as an input of that shape, before they are written in base64."""
        size = size_of(shape, self.layout)
        return sum(one.level_bytes * size.height * size.width for one in self.each if isinstance(one, Map))

    def describe(self, shapes: Mapping[str, Sides]) -> dict[str, Any]:
        """What clients may want to know, as JSON-able values: by key of an answer, enough to draw what they get."""
        said: dict[str, Any] = {}
        for one in self.each:
            shape = self._channels_first(one, shapes[one.output])
            about = one.describe(shape)
            if "labels" in about:
                about["labels"] = fitting(about["labels"])
            if one.is_alone:
                said[one.key] = {"output": one.output, **about}
            else:
                said.setdefault(one.key, {})[one.output] = about
        return said

    def _channels_first(self, one: Meaning, shape: Sides) -> Sides:
        return (shape[2], *shape[:2]) if self._is_turned(one, len(shape)) else shape

    def _is_turned(self, one: Meaning, axes: int) -> bool:
        """Whether channels come last: of maps, where the input has them last."""
        return self.layout == "NHWC" and axes == _MAP_AXES and isinstance(one, Map | Keypoints)


def fitting(labels: Sequence[str], most_bytes: int = MOST_DESCRIBED_BYTES) -> list[str]:
    """The first of them that have room: services repeat them to Redis every few seconds."""
    taken = accumulate(LONGEST_ESCAPE * len(label) + 4 for label in labels)
    return [label for label, _ in takewhile(lambda one: one[1] <= most_bytes, zip(labels, taken, strict=True))]
