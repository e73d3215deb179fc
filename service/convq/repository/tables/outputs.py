"""`[[outputs]]` of a manifest: which outputs of a graph are fetched for every batch, and what each of them means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, PlainValidator, model_validator

from convq.repository.bounds import (
    InnerPath,
    NodeName,
    Number,
    PointName,
    PointNumber,
    Table,
    as_tuples,
)

LAST_AXIS: Final = 7
MOST_CLASS: Final = 65_534
"""The largest number of a class that a map of 16 bits holds beside the one for nothing."""

Meaning = Literal["classes", "image", "tensor", "segments", "matte", "depth", "embedding", "text", "keypoints", "value"]
OF_PICTURES: Final = ("segments", "matte", "depth", "keypoints")
"""Meanings that say something of places in a picture."""
ONCE: Final = ("segments", "embedding", "text", "keypoints")
"""Meanings that have one place in an answer."""

_BELONGS: Final[dict[str, tuple[Meaning, ...]]] = {
    "activation": ("classes", "matte", "keypoints", "value"),
    "labels": ("classes", "segments", "text"),
    "scale": ("image", "depth", "value"),
    "offset": ("image", "value"),
    "ignore": ("segments",),
    "stretch": ("matte",),
    "inverse": ("depth",),
    "normalize": ("embedding",),
    "blank": ("text",),
    "space": ("text",),
    "time_first": ("text",),
    "collapse": ("text",),
    "names": ("keypoints",),
    "units": ("keypoints",),
    "skeleton": ("keypoints",),
    "expectation": ("value",),
}
"""Key -> the meanings that it says something of."""
FIRST_KEYS: Final = frozenset(("name", "meaning", "activation", "labels", "scale", "offset", "batch_axis"))
"""Keys that there were before there were more meanings: see `Output.lasting`."""


def _axis(value: Any) -> int | str:
    """In words of its own, which a union of two types would not have."""
    if value == "none" or (type(value) is int and 0 <= value <= LAST_AXIS):
        return value  # type: ignore[no-any-return]
    raise ValueError(f"a number from 0 to {LAST_AXIS}, or 'none'")


def _any_of(words: Sequence[str]) -> str:
    """`'a', 'b' or 'c'`."""
    *before, last = [f"'{word}'" for word in words]
    return f"{', '.join(before)} or {last}" if before else last


BatchAxis = Annotated[int | Literal["none"], PlainValidator(_axis)]


class Output(Table):
    """One of `[[outputs]]`: an output of the graph that is fetched for every batch, and what it means."""

    name: NodeName
    meaning: Meaning = "tensor"
    """image: [n, channels, height, width], or channels last where the input has them last, with 1 or 3 channels in the
    input's order of colours. A job gets it as a PNG. The others are told in `convq.answers`, each in a module of its own."""
    activation: Literal["softmax", "sigmoid", "none"] | None = None
    """What turns raw values into scores. classes: softmax unless said. matte, keypoints, value: none unless said, or sigmoid.
    value with `expectation`: softmax unless said, or none."""
    labels: InnerPath | None = None
    """For classes and segments: the file with one name a line, in the order of the output. For text: the alphabet, one
    character a line."""
    scale: Number = 1.0
    offset: Number = 0.0
    """image: level = value * scale + offset, rounded and cut to 0 to 255. value: the same, as it is. depth: value * scale."""
    batch_axis: BatchAxis = 0
    """Which axis counts the jobs of a batch. none: no axis does, so that jobs run one by one."""
    ignore: Annotated[int, Field(ge=0, le=MOST_CLASS)] | None = None
    """segments: the number of the class that means nothing."""
    stretch: bool = False
    """matte: the smallest value within the picture becomes 0 and the largest 1."""
    inverse: bool = False
    """depth: the network gives 1 / depth."""
    normalize: bool = True
    """embedding: divided by its length."""
    blank: Literal["first", "last"] = "first"
    """text: where among the classes the one that reads nothing is."""
    space: bool = False
    """text: one more class follows the alphabet, and reads a space."""
    time_first: bool | None = None
    """text: true: [time, batch, classes]. Left out: as `batch_axis` says."""
    collapse: bool = True
    """text: equal classes of steps that follow each other are one character."""
    names: Annotated[tuple[PointName, ...], BeforeValidator(as_tuples), Field(max_length=1000)] = ()
    """keypoints: of the points, in the order of the output."""
    units: Literal["pixels", "unit"] = "pixels"
    """keypoints: of coordinates: pixels of the network's input, or its sides."""
    skeleton: Annotated[tuple[tuple[PointNumber, PointNumber], ...], BeforeValidator(as_tuples)] = ()
    """keypoints: pairs of their numbers that lines join."""
    expectation: bool = False
    """value: the output has a number for each class; the value is the mean of their indices, weighted with their scores."""

    @model_validator(mode="after")
    def _has_what_its_meaning_needs(self) -> Self:
        for key in _BELONGS:
            if key in self.model_fields_set and self.meaning not in _BELONGS[key]:
                raise ValueError(f"{key} only together with meaning = {_any_of(_BELONGS[key])}")
        if self.labels is None and self.meaning in _BELONGS["labels"]:
            raise ValueError(f"a labels file, as meaning is '{self.meaning}'")
        if self.meaning == "keypoints" and not self.names:
            raise ValueError("the names of the points, as meaning is 'keypoints'")
        if any(max(line) >= len(self.names) for line in self.skeleton):
            raise ValueError(f"a skeleton of numbers below {len(self.names)}, as there are so many names")
        if self.scale == 0 and self.meaning in ("depth", "value"):
            raise ValueError("a scale other than 0, as values are multiplied by it")
        return self

    @model_validator(mode="after")
    def _has_an_activation_of_its_meaning(self) -> Self:
        known = self._activations
        if self.activation is not None and self.activation not in known:
            which = " with expectation" if self.expectation else ""
            raise ValueError(f"activation {_any_of(known)}, as meaning is '{self.meaning}'{which}")
        return self

    @model_validator(mode="after")
    def _has_one_batch_axis(self) -> Self:
        if self.time_first is not None and "batch_axis" in self.model_fields_set:
            expected = 1 if self.time_first else 0
            if self.batch_axis != expected:
                told = str(self.time_first).lower()
                raise ValueError(f"batch_axis = {expected}, or none, as time_first is {told}")
        return self

    @property
    def _activations(self) -> tuple[str, ...]:
        """Those that go with its meaning, first the one that goes without saying."""
        if self.meaning == "classes":
            return ("softmax", "sigmoid", "none")
        return ("softmax", "none") if self.expectation else ("none", "sigmoid")

    @property
    def applied(self) -> Literal["softmax", "sigmoid", "none"]:
        """The activation, said or not."""
        return self.activation or self._activations[0]  # type: ignore[return-value]

    @property
    def jobs_axis(self) -> int | Literal["none"]:
        """Which axis counts the jobs of a batch, however that was said."""
        return 1 if self.time_first else self.batch_axis

    def lasting(self) -> dict[str, Any]:
        """All of it as JSON-able values; of keys that came later only those that say something.

        So a manifest that knows nothing of them looks the same to all releases: see `VersionFiles.answers`.
        """
        fields = type(self).model_fields
        return {
            key: value
            for key, value in self.model_dump(mode="json").items()
            if key in FIRST_KEYS or getattr(self, key) != fields[key].default
        }
