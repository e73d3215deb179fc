"""Boxes of networks that leave the decoding to others: a row belongs to a cell of a grid, and its numbers are relative to it.

Rows run over the strides, then over rows of cells, then over the cells of a row, then over what is in one cell. With
g = (i, j) the cell, s its stride, p = (g + point) * s, all in pixels of the input:

| `decode` | box |
|---|---|
| `exp` | centre = (g + c) * s, size = exp(w, h) * s; keypoints = (g + k) * s |
| `distance` | x1 = px - l * s, y1 = py - t * s, x2 = px + r * s, y2 = py + b * s; keypoints = p + k * s |
| `dfl` | as `distance`, each side the expectation of a softmax over `bins` columns |
| `prior` | centre = p + c * v0 * size, size = prior * exp(w * v1, h * v1); keypoints = p + k * v0 * size; `variances` v0, v1 |
| `offset` | centre = p + c, size = w, h; keypoints = p + k |

A cell is computed from the number of its row, for the few rows that are candidates: no grid is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convq.answers.detections.columns import BOX_WORDS

Decode = Literal["exp", "distance", "dfl", "prior", "offset"]
_SIZES_KNOWN: Final = 64
"""Input sizes whose levels are remembered: clients choose them where sides are free."""


@dataclass(frozen=True, slots=True)
class GridSpec:
    """`[detections.grid]`: how rows follow from cells, and boxes from rows."""

    decode: Decode
    strides: tuple[int, ...] = (8, 16, 32)
    """Pixels of the input a cell. Equal ones that follow one another are one level with as many times `per_cell` rows."""
    per_cell: int = 1
    point: float = 0.0
    """Where in its cell a row's point lies: 0 at the top left corner, 0.5 in the middle."""
    bins: int = 1
    """With `dfl`: columns a side."""
    variances: tuple[float, float] = (0.1, 0.2)
    min_sizes: tuple[tuple[float, ...], ...] = ()
    """With `prior`: for each stride the sides of its square priors, in pixels of the input; as many are in one cell."""

    @property
    def words(self) -> tuple[str, ...]:
        """The columns that a box is made of."""
        return BOX_WORDS["distances" if self.decode in ("distance", "dfl") else "centre"]

    def check(self) -> None:
        """Raise ValueError for what contradicts itself."""
        if not self.strides or min(self.strides) < 1:
            raise ValueError("grid: strides are whole numbers of pixels, as [8, 16, 32]")
        if (self.decode == "prior") != bool(self.min_sizes):
            raise ValueError("grid: min_sizes and decode = 'prior' need each other")
        if self.min_sizes and len(self.min_sizes) != len(self.strides):
            raise ValueError(f"grid: {len(self.strides)} strides, but min_sizes for {len(self.min_sizes)}")
        if self.decode == "dfl" and self.bins < 2:  # noqa: PLR2004 - an expectation of one value is that value
            raise ValueError("grid: decode = 'dfl' needs bins, the columns a side, as 16")


class _Levels(NamedTuple):
    """One number a stride."""

    starts: NDArray[np.int64]
    """The first row of each, and in the end how many rows there are."""
    strides: NDArray[np.int64]
    wide: NDArray[np.int64]
    """Cells a row of cells."""
    per_cell: NDArray[np.int64]


@lru_cache(maxsize=_SIZES_KNOWN)
def _levels(spec: GridSpec, height: int, width: int) -> _Levels:
    if spec.min_sizes:
        levels = [(stride, len(sizes)) for stride, sizes in zip(spec.strides, spec.min_sizes, strict=True)]
    else:
        levels = [(stride, spec.per_cell * len(list(same))) for stride, same in groupby(spec.strides)]
    strides, per_cell = np.array(levels, dtype=np.int64).T
    wide, high = -(-width // strides), -(-height // strides)
    starts = np.concatenate([[0], np.cumsum(wide * high * per_cell)])
    return _Levels(starts, strides, wide, per_cell)


def rows_expected(spec: GridSpec, height: int, width: int) -> int:
    """How many rows a graph has for an input of that size, in pixels."""
    return int(_levels(spec, height, width).starts[-1])


class Cells(NamedTuple):
    """Where some rows lie."""

    cell: NDArray[np.float64]
    """[k, 2]: i to the right, j down."""
    stride: NDArray[np.float64]
    """[k, 1], in pixels of the input."""
    prior: NDArray[np.float64]
    """[k, 1]: the side of the prior in pixels of the input; 1 without priors."""


def cells_of(spec: GridSpec, rows: NDArray[np.intp], height: int, width: int) -> Cells:
    """The cells of these rows [k] of an output, for an input of that size, in pixels."""
    levels = _levels(spec, height, width)
    level = np.searchsorted(levels.starts, rows, side="right") - 1
    within, each = np.divmod(rows - levels.starts[level], levels.per_cell[level])
    j, i = np.divmod(within, levels.wide[level])
    stride = levels.strides[level].astype(np.float64)[:, None]
    prior = np.ones_like(stride)
    if spec.min_sizes:
        sides = np.array([side for sizes in spec.min_sizes for side in sizes])
        first = np.cumsum([0, *(len(sizes) for sizes in spec.min_sizes[:-1])])
        prior = sides[first[level] + each][:, None]
    return Cells(np.stack([i, j], axis=1).astype(np.float64), stride, prior)


def boxes_on(spec: GridSpec, cells: Cells, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Boxes [k, 4] as x1, y1, x2, y2 in pixels of the input, of the columns `spec.words`: [k, 4], or [k, 4, bins]."""
    point = (cells.cell + spec.point) * cells.stride
    if spec.decode in ("distance", "dfl"):
        sides = (_expectation(values) if spec.decode == "dfl" else values) * cells.stride
        return np.concatenate([point - sides[:, :2], point + sides[:, 2:]], axis=1)
    centre, size = values[:, :2], values[:, 2:]
    if spec.decode == "exp":
        centre, size = (cells.cell + centre) * cells.stride, np.exp(size) * cells.stride
    elif spec.decode == "prior":
        place, growth = spec.variances
        centre, size = point + centre * place * cells.prior, cells.prior * np.exp(size * growth)
    else:
        centre = point + centre
    return np.concatenate([centre - size / 2, centre + size / 2], axis=1)


def keypoints_on(spec: GridSpec, cells: Cells, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points [k, K, 2] in pixels of the input, of the numbers that the graph gives for them."""
    cell, stride = cells.cell[:, None], cells.stride[:, None]
    if spec.decode == "exp":
        return (cell + points) * stride
    unit: NDArray[Any] = stride
    if spec.decode == "prior":
        unit = spec.variances[0] * cells.prior[:, None]
    elif spec.decode == "offset":
        unit = np.ones(1)
    return np.asarray((cell + spec.point) * stride + points * unit)


def _expectation(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """[k, 4] from [k, 4, bins]: the mean of the bins' numbers, weighted by a softmax."""
    weights = np.exp(values - values.max(axis=2, keepdims=True))
    return np.asarray((weights @ np.arange(values.shape[2])) / weights.sum(axis=2))
