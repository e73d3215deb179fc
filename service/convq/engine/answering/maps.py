"""Outputs that are maps of the picture: classes of its pixels, what belongs to the foreground, how far away it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, Self

from numpy.typing import NDArray

from convq.answers.depth import depth
from convq.answers.maps import shown
from convq.answers.matte import matte
from convq.answers.segments import segments
from convq.engine.answering.frame import Frame
from convq.engine.answering.meaning import ENTRY_BYTES, LONGEST_ESCAPE, Meaning, Sides, Told, Wish, is_whole, said
from convq.errors import ModelFault
from convq.repository.manifest import Output

_CLASSES_OF_8_BITS: Final = 255
_PACKED: Final = 64
"""Of so many bytes of pixels, a PNG file takes one more at most."""
_ROW_BYTES: Final = 4
_FEWEST_AXES, _MOST_AXES = 2, 3
"""Of one job's map: height and width, and perhaps channels before them."""


class Map(Meaning):
    """A map that goes out as a PNG file."""

    is_placed = True
    is_drawn = True

    @property
    def level_bytes(self) -> int:
        """Of one pixel."""
        return 1

    def most_bytes(self, shape: Sequence[int], frame: Frame, wish: Wish) -> int:
        """See `Meaning.most_bytes`."""
        if len(shape) < _FEWEST_AXES or 0 in shape:
            return 0
        height, width = shape[-2:]
        part = shown((height, width), frame.placement, frame.size, network_size=wish.network_size)
        pixels_bytes = part.width * part.height * self.level_bytes
        return (pixels_bytes + pixels_bytes // _PACKED + part.height * _ROW_BYTES) * 4 // 3 + ENTRY_BYTES


@dataclass(frozen=True)
class Segments(Map):
    """Which class each pixel belongs to: a number for each class, or its number."""

    labels: tuple[str, ...]
    ignore: int | None

    key: ClassVar[str] = "segments"

    @classmethod
    def of(cls, output: Output, labels: Sequence[str]) -> Self:
        """See `Meaning.of`."""
        return cls(output.name, tuple(labels), output.ignore)

    def misfit(self, shape: Sides, dtype: str) -> str:
        """See `Meaning.misfit`."""
        if is_whole(dtype) and _is_single(shape):
            return ""
        if len(shape) != _MOST_AXES:
            expected = "[n, classes, height, width], or [n, height, width] of whole numbers"
            return f"is {dtype} {said(shape)}; an output that means segments is {expected}"
        if shape[0] == 1:
            return (
                f"is {dtype} {said(shape)}, which has one channel; an output that means segments has one for each of its"
                f" {len(self.labels)} labels. One number a pixel is meaning = 'matte'"
            )
        if shape[0] not in (None, len(self.labels)):
            return f"is {said(shape)}, with {shape[0]} classes; there are {len(self.labels)} labels"
        return ""

    @property
    def level_bytes(self) -> int:
        """See `Map.level_bytes`."""
        return 1 if len(self.labels) <= _CLASSES_OF_8_BITS else 2

    def tell(self, values: NDArray[Any], frame: Frame, wish: Wish, told: Told) -> None:
        """See `Meaning.tell`."""
        numbered = is_whole(values.dtype) and _is_single(values.shape)
        if values.ndim == _MOST_AXES and not numbered and len(values) != len(self.labels):
            there = f"has the shape {list(values.shape)}; there are {len(self.labels)} labels"
            raise ModelFault(f"output {self.output}, which means segments, {there}")
        told.keys["segments"] = segments(
            values, self.labels, *frame, ignore=self.ignore, network_size=wish.network_size
        )

    def most_bytes(self, shape: Sequence[int], frame: Frame, wish: Wish) -> int:
        """See `Meaning.most_bytes`: the file, and a row for each class."""
        longest = max(map(len, self.labels), default=0)
        return super().most_bytes(shape, frame, wish) + len(self.labels) * (ENTRY_BYTES + LONGEST_ESCAPE * longest)

    def describe(self, shape: Sides) -> dict[str, Any]:  # noqa: ARG002 - the number of labels says how many classes
        """See `Meaning.describe`."""
        return {"labels": list(self.labels), "ignore": self.ignore}


@dataclass(frozen=True)
class Matte(Map):
    """How much each pixel belongs to the foreground."""

    activation: Literal["none", "sigmoid"]
    stretch: bool

    key: ClassVar[str] = "matte"
    is_alone: ClassVar[bool] = False

    @classmethod
    def of(cls, output: Output, labels: Sequence[str]) -> Self:  # noqa: ARG003 - it has none
        """See `Meaning.of`."""
        return cls(output.name, "sigmoid" if output.applied == "sigmoid" else "none", output.stretch)

    def misfit(self, shape: Sides, dtype: str) -> str:
        """See `Meaning.misfit`."""
        return _no_single(shape, dtype, self.key)

    def tell(self, values: NDArray[Any], frame: Frame, wish: Wish, told: Told) -> None:
        """See `Meaning.tell`."""
        drawn = matte(values, *frame, activation=self.activation, stretch=self.stretch, network_size=wish.network_size)
        told.pictures.append({"name": self.output, **drawn})

    def describe(self, shape: Sides) -> dict[str, Any]:  # noqa: ARG002 - a map has the picture's size
        """See `Meaning.describe`."""
        return {}


@dataclass(frozen=True)
class Depth(Map):
    """How far away each pixel is."""

    scale: float
    inverse: bool

    key: ClassVar[str] = "depth"
    is_alone: ClassVar[bool] = False

    @classmethod
    def of(cls, output: Output, labels: Sequence[str]) -> Self:  # noqa: ARG003 - it has none
        """See `Meaning.of`."""
        return cls(output.name, output.scale, output.inverse)

    @property
    def level_bytes(self) -> int:
        """See `Map.level_bytes`."""
        return 2

    def misfit(self, shape: Sides, dtype: str) -> str:
        """See `Meaning.misfit`."""
        return _no_single(shape, dtype, self.key)

    def tell(self, values: NDArray[Any], frame: Frame, wish: Wish, told: Told) -> None:
        """See `Meaning.tell`."""
        drawn = depth(values, *frame, scale=self.scale, inverse=self.inverse, network_size=wish.network_size)
        told.pictures.append({"name": self.output, **drawn})

    def describe(self, shape: Sides) -> dict[str, Any]:  # noqa: ARG002 - as of a matte
        """See `Meaning.describe`."""
        return {"scale": self.scale, "inverse": self.inverse}


def _is_single(shape: Sides) -> bool:
    """Whether there is one number a pixel: [h, w] or [1, h, w]."""
    return len(shape) == _FEWEST_AXES or (len(shape) == _MOST_AXES and shape[0] in (None, 1))


def _no_single(shape: Sides, dtype: str, meaning: str) -> str:
    if _is_single(shape):
        return ""
    expected = "[n, height, width] or [n, 1, height, width]"
    return f"is {dtype} {said(shape)}; an output that means {meaning} is {expected}"
