"""The language of columns: what the numbers of a candidate's row mean, in order, as `cx cy w h objectness classes`.

| word | meaning |
|---|---|
| `x1 y1 x2 y2`, `cx cy w h`, `x y w h`, `l t r b` | a box: corners, centre, top left, or distances from a cell; in any order |
| `score`, `classes`, `class` | one score; one for each class; the number of the class |
| `objectness` | multiplies the scores |
| `keypoints:17x3` | x, y and perhaps a score each |
| `masks:32` | weights of the prototypes |
| `angle` | radians, turns the box about its centre |
| `batch` | the number of the job in its batch |
| `_`, `_:4` | not used |
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from numpy.typing import NDArray

BOX_WORDS: Final = {
    "corners": ("x1", "y1", "x2", "y2"),
    "centre": ("cx", "cy", "w", "h"),
    "top_left": ("x", "y", "w", "h"),
    "distances": ("l", "t", "r", "b"),
}
"""How a box may be given -> its words, in the order in which they are read."""

_COORDINATES: Final = {word for words in BOX_WORDS.values() for word in words}
_DISTANCES: Final = frozenset(BOX_WORDS["distances"])
_SINGLE: Final = _COORDINATES | {"score", "class", "objectness", "angle", "batch"}
_WORD: Final = re.compile(r"([a-z_]+[12]?)(?::([1-9]\d{0,4})(?:x([1-9]))?)?")
_KEYPOINT_NUMBERS: Final = (2, 3)
_ROW_AXES: Final = (1, 2)


@dataclass(frozen=True, slots=True)
class Column:
    """One word: numbers `first` to `first + width` of a row."""

    word: str
    first: int
    width: int
    each: int = 1
    """Of keypoints: 2 for x and y, 3 with a score."""

    def of(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Its part [rows, width] of a table [rows, columns]; nothing is copied."""
        return rows[:, self.first : self.first + self.width]


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of one table, as parsed from `text`."""

    text: str
    named: tuple[Column, ...]
    """Those that are used, in order."""
    width: int
    """Numbers a row, with those that are not used."""

    @property
    def words(self) -> tuple[str, ...]:
        """The words of the columns that are used, in order."""
        return tuple(column.word for column in self.named)

    @classmethod
    def parse(cls, text: str, classes: int, bins: int = 1) -> Columns:
        """What `text` says for a network that gives scores for `classes` classes, background included.

        Distances take `bins` columns each. Raises ValueError, which names the word and what was expected.
        """
        named: list[Column] = []
        width = 0
        for item in text.split():
            word, count, each = _read(item, classes, bins)
            if word in {column.word for column in named}:
                raise ValueError(f"columns {text!r}: {word} stands there twice")
            if word != "_":
                named.append(Column(word, width, count * each, each))
            width += count * each
        if not named:
            raise ValueError(f"columns {text!r}: expected words such as 'cx cy w h classes'")
        return cls(text, tuple(named), width)

    def axis_of(self, output: str, shape: Sequence[int | None], given: int | None = None) -> int:
        """Along which axis, 1 or 2, of an output [n, a, b] the columns run; sides may be None where the graph's are free.

        A side that has just as many is preferred to one that is free. Raises ValueError, naming both sides, where neither
        or either could be it, or where the one that was `given` has another length.
        """
        wanted = (given,) if given in _ROW_AXES else _ROW_AXES
        exact = [axis for axis in wanted if shape[axis] == self.width]
        found = exact or [axis for axis in wanted if shape[axis] is None]
        shown = f"[{', '.join('?' if side is None else str(side) for side in shape)}]"
        if not found:
            where = f"along axis {' or '.join(map(str, wanted))}"
            raise ValueError(f"output {output} has shape {shown}; expected {self.width} columns {where}: {self.text}")
        if len(found) > 1 and exact and self.width == 1:
            return 2  # [n, 1, 1] reads the same either way
        if len(found) > 1:
            raise ValueError(
                f"output {output} has shape {shown}, and both axes fit {self.width} columns: give axis, 1 or 2"
            )
        return found[0]


def _read(item: str, classes: int, bins: int) -> tuple[str, int, int]:
    """(word, how many, numbers each) of one item such as `keypoints:17x3`."""
    match = _WORD.fullmatch(item)
    word, count, each = match.groups() if match else ("", None, None)
    number = int(count or 1)
    if word == "keypoints":
        if not each or int(each) not in _KEYPOINT_NUMBERS:
            raise ValueError(f"column {item!r}: expected keypoints:17x3, or x2 where they have no score")
        return word, number, int(each)
    if each or (count and word not in ("masks", "classes", "_")):
        raise ValueError(f"column {item!r}: only masks, classes and _ have a number of columns")
    if word == "classes":
        return word, _class_columns(item, count, classes), 1
    if word == "masks" and not count:
        raise ValueError("column 'masks': expected how many, as in masks:32")
    if word in _DISTANCES:
        return word, bins, 1
    if word not in _SINGLE and word not in ("masks", "_"):
        raise ValueError(
            f"column {item!r} is not known; expected one of {', '.join(sorted(_SINGLE))}, classes, keypoints, masks, _"
        )
    return word, number, 1


def _class_columns(item: str, count: str | None, classes: int) -> int:
    if count and classes and int(count) != classes:
        raise ValueError(f"column {item!r}: there are {classes} classes by the labels, background included")
    if not (classes or count):
        raise ValueError(
            "column 'classes': the model has no labels, so that nobody knows how many; expected labels, or classes:80"
        )
    return int(count or classes)
