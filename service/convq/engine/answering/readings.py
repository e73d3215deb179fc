"""Outputs that are no maps of the picture: a vector, a line of text, named points, a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, Self

from numpy.typing import NDArray

from convq.answers.embedding import embedding
from convq.answers.heatmaps import keypoints, rows_of
from convq.answers.text import characters, text
from convq.answers.value import value
from convq.engine.answering.frame import Frame
from convq.engine.answering.meaning import ENTRY_BYTES, LONGEST_ESCAPE, Meaning, Sides, Told, Wish, fits, said
from convq.repository.manifest import Output

_FLOAT_BYTES: Final = 20
"""Of a document: a number of nine digits with sign, exponent and comma."""
_COORDINATE_BYTES: Final = 12
_MAP_AXES: Final = 3


@dataclass(frozen=True)
class Embedding(Meaning):
    """What a picture is like, as a vector."""

    normalize: bool

    key: ClassVar[str] = "embedding"

    @classmethod
    def of(cls, output: Output, labels: Sequence[str]) -> Self:  # noqa: ARG003 - it has none
        """See `Meaning.of`."""
        return cls(output.name, output.normalize)

    def misfit(self, shape: Sides, dtype: str) -> str:
        """See `Meaning.misfit`."""
        if len(shape) in (1, 3) and fits(shape[1:], (1,) * (len(shape) - 1)):
            return ""
        return f"is {dtype} {said(shape)}; an output that means embedding is [n, numbers] or [n, numbers, 1, 1]"

    def tell(self, values: NDArray[Any], frame: Frame, wish: Wish, told: Told) -> None:  # noqa: ARG002 - of the whole picture
        """See `Meaning.tell`."""
        told.keys["embedding"] = embedding(values, normalize=self.normalize, form=wish.embedding)

    def most_bytes(self, shape: Sequence[int], frame: Frame, wish: Wish) -> int:  # noqa: ARG002 - as above
        """See `Meaning.most_bytes`."""
        count = shape[0] if shape else 0
        return ENTRY_BYTES + count * (_FLOAT_BYTES if wish.embedding == "list" else 4 * 4 // 3 + 1)

    def describe(self, shape: Sides) -> dict[str, Any]:
        """See `Meaning.describe`."""
        return {"size": shape[0] if shape else None, "normalized": self.normalize}


@dataclass(frozen=True)
class Text(Meaning):
    """What a line of text reads."""

    read: tuple[str, ...]
    """What each class reads; the empty text for the blank."""
    alphabet: int
    """Characters that the file of labels has."""
    collapse: bool

    key: ClassVar[str] = "text"

    @classmethod
    def of(cls, output: Output, labels: Sequence[str]) -> Self:
        """See `Meaning.of`."""
        read = characters(labels, blank=output.blank, space=output.space)
        return cls(output.name, tuple(read), len(labels), output.collapse)

    def misfit(self, shape: Sides, dtype: str) -> str:
        """See `Meaning.misfit`."""
        if len(shape) != 2:  # noqa: PLR2004 - steps and classes
            return f"is {dtype} {said(shape)}; an output that means text is [n, steps, classes] or [steps, n, classes]"
        if shape[1] not in (None, len(self.read)):
            more = "a blank and a space" if len(self.read) - self.alphabet > 1 else "a blank"
            wanted = f"{self.alphabet} characters in labels, and {more}, make {len(self.read)}"
            return f"is {said(shape)}, with {shape[1]} classes; {wanted}"
        return ""

    def tell(self, values: NDArray[Any], frame: Frame, wish: Wish, told: Told) -> None:  # noqa: ARG002 - of the whole picture
        """See `Meaning.tell`."""
        found = text(values, self.read, collapse=self.collapse)
        told.keys["text"], told.keys["text_score"] = found.text, found.score

    def most_bytes(self, shape: Sequence[int], frame: Frame, wish: Wish) -> int:  # noqa: ARG002 - as above
        """See `Meaning.most_bytes`."""
        return ENTRY_BYTES + (shape[0] if shape else 0) * LONGEST_ESCAPE * max(map(len, self.read))

    def describe(self, shape: Sides) -> dict[str, Any]:  # noqa: ARG002 - the alphabet says how many classes
        """See `Meaning.describe`."""
        return {"characters": self.alphabet}


@dataclass(frozen=True)
class Keypoints(Meaning):
    """Where the named points of a picture are."""

    names: tuple[str, ...]
    units: Literal["pixels", "unit"]
    activation: Literal["none", "sigmoid"]
    skeleton: tuple[tuple[int, int], ...]

    key: ClassVar[str] = "keypoints"
    is_placed: ClassVar[bool] = True

    @classmethod
    def of(cls, output: Output, labels: Sequence[str]) -> Self:  # noqa: ARG003 - it has names
        """See `Meaning.of`."""
        activation: Literal["none", "sigmoid"] = "sigmoid" if output.applied == "sigmoid" else "none"
        return cls(output.name, output.names, output.units, activation, output.skeleton)

    def misfit(self, shape: Sides, dtype: str) -> str:
        """See `Meaning.misfit`."""
        count, sides = len(self.names), [side for side in shape if side != 1]
        maps = len(shape) == _MAP_AXES and shape[0] in (None, count) and 1 not in shape[1:]
        if maps or any(fits(sides, row) for row in rows_of(count)):
            return ""
        expected = f"[n, {count * 2}], [n, {count * 3}], [n, {count}, 2], [n, {count}, 3] or maps [n, {count}, h, w]"
        return f"is {dtype} {said(shape)}; an output that means keypoints, with {count} names, is {expected}"

    def tell(self, values: NDArray[Any], frame: Frame, wish: Wish, told: Told) -> None:  # noqa: ARG002 - there is one form
        """See `Meaning.tell`."""
        told.keys["keypoints"] = keypoints(
            values, len(self.names), *frame, units=self.units, activation=self.activation
        )

    def most_bytes(self, shape: Sequence[int], frame: Frame, wish: Wish) -> int:  # noqa: ARG002 - the names say how many
        """See `Meaning.most_bytes`."""
        return ENTRY_BYTES + len(self.names) * 3 * _COORDINATE_BYTES

    def describe(self, shape: Sides) -> dict[str, Any]:  # noqa: ARG002 - as above
        """See `Meaning.describe`."""
        return {"names": list(self.names), "skeleton": [list(line) for line in self.skeleton]}


@dataclass(frozen=True)
class Value(Meaning):
    """A number, or the expectation over classes."""

    expectation: bool
    activation: Literal["softmax", "sigmoid", "none"]
    scale: float
    offset: float

    key: ClassVar[str] = "values"
    is_alone: ClassVar[bool] = False

    @classmethod
    def of(cls, output: Output, labels: Sequence[str]) -> Self:  # noqa: ARG003 - it has none
        """See `Meaning.of`."""
        return cls(output.name, output.expectation, output.applied, output.scale, output.offset)

    def misfit(self, shape: Sides, dtype: str) -> str:
        """See `Meaning.misfit`."""
        sides = [side for side in shape if side != 1]
        if self.expectation:
            found = len([side for side in sides if side is not None]) <= 1 and bool(sides)
            expected = "[n, classes], with two or more, as expectation is true"
        else:
            found, expected = set(sides) <= {None}, "[n] or [n, 1]"
        return "" if found else f"is {dtype} {said(shape)}; an output that means value is {expected}"

    def tell(self, values: NDArray[Any], frame: Frame, wish: Wish, told: Told) -> None:  # noqa: ARG002 - of the whole picture
        """See `Meaning.tell`."""
        number = value(
            values, expectation=self.expectation, activation=self.activation, scale=self.scale, offset=self.offset
        )
        told.keys.setdefault("values", {})[self.output] = number

    def most_bytes(self, shape: Sequence[int], frame: Frame, wish: Wish) -> int:  # noqa: ARG002 - it is one number
        """See `Meaning.most_bytes`."""
        return ENTRY_BYTES + LONGEST_ESCAPE * len(self.output)

    def describe(self, shape: Sides) -> dict[str, Any]:  # noqa: ARG002 - as above
        """See `Meaning.describe`."""
        return {}
