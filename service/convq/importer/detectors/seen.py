"""What the outputs of a graph were on noise: the shapes that a run has, and the values of a few runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from convq.engine.graph_io.nodes import Node, sides_of
from convq.importer.metadata.told import NOTHING, Told

Array = NDArray[Any]

CLOSE: Final = 1e-3
STRIDES: Final = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32))
"""Pixels a cell of the levels that detectors have: most have the first ones."""
ANCHORS: Final = 3
"""Rows a cell of YOLOv5 and v7."""


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """One output of a graph and what it said about noise."""

    node: Node
    made: list[Array]
    """One array a run, [1, ...] where it counts jobs."""

    @property
    def name(self) -> str:
        """As the graph has it."""
        return self.node.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first run."""
        return tuple(self.made[0].shape)

    @property
    def declared(self) -> list[int | None]:
        """As the graph declares it, None for a free side; as it was seen where nothing is declared."""
        said = sides_of(self.node)
        return said if len(said) == len(self.shape) else [None] * len(self.shape)

    @property
    def is_whole(self) -> bool:
        """Whether its type is that of whole numbers."""
        return self.made[0].dtype.kind in "iu"

    def rows(self, columns_axis: int = -1) -> Array:
        """Its rows in all runs, float64 [k, columns]: everything but the axis of the columns counts rows.

        Without those that hold NaN or infinity, as rows do that are filled up; one of zeros where none is left.
        """
        columns = self.shape[columns_axis]
        same = [one for one in self.made if one.size and one.shape[columns_axis] == columns]
        moved = [np.moveaxis(one, columns_axis, -1).reshape(-1, columns) for one in same]
        rows = np.concatenate([np.zeros((0, columns)), *moved]).astype(np.float64)
        finite = rows[np.isfinite(rows).all(axis=1)]
        return finite if len(finite) else np.zeros((1, columns))

    def values(self) -> Array:
        """All its finite numbers, float64 [k]."""
        flat = np.concatenate([one.ravel() for one in self.made]).astype(np.float64)
        return flat[np.isfinite(flat)]

    def shown(self) -> str:
        """Its name and shape, for a message."""
        return f"{self.name} is [{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a graph that takes pictures, for whoever guesses what its outputs mean."""

    seen: Sequence[Seen]
    height: int
    """Of the input that the outputs belong to, in pixels."""
    width: int
    labels: int | None = None
    """How many names of classes there are, where that is known."""
    told: Told = field(default=NOTHING)
    like: str | None = None
    """The family that somebody says it is."""

    def cells(self, strides: Sequence[int] = STRIDES[0]) -> list[int]:
        """How many cells each level has; the last row or column of cells may stand over."""
        return [math.ceil(self.height / stride) * math.ceil(self.width / stride) for stride in strides]

    def rows_a_cell(self, rows: int, known: Sequence[Sequence[int]] = STRIDES) -> int:
        """1 or 3 where a dense detector with levels of `known` strides would have so many rows for this input, else 0."""
        for strides in known:
            cells = sum(self.cells(strides))
            if rows in (cells, ANCHORS * cells):
                return rows // cells
        return 0

    def of_rank(self, rank: int) -> list[Seen]:
        """The outputs that have so many axes, the first one that of the batch."""
        return [one for one in self.seen if len(one.shape) == rank and one.shape[0] == 1]

    def prototypes(self) -> Seen | None:
        """An output [1, m, h, w] with a quarter of the input's sides, which masks may be made of."""
        quarter = (math.ceil(self.height / 4), math.ceil(self.width / 4))
        fitting = [one for one in self.of_rank(4) if one.shape[2:] == quarter and one.shape[1] > 1]
        return fitting[0] if fitting else None


def are_whole(values: Array) -> bool:
    """Whether all of them are whole numbers from -1 on, as those of classes."""
    return bool(values.size) and bool(
        np.isfinite(values).all() and (values == np.rint(values)).all() and values.min() >= -1
    )


def are_shares(values: Array) -> bool:
    """Whether all of them lie between 0 and 1, as scores do."""
    return bool(values.size) and bool(values.min() >= -CLOSE and values.max() <= 1 + CLOSE)


def are_corners(boxes: Array) -> bool:
    """Whether boxes [k, 4] may be x1 y1 x2 y2: the second corner is never before the first, and sometimes behind it."""
    filled = boxes[np.isfinite(boxes).all(axis=1)]
    sizes = filled[:, 2:] - filled[:, :2]
    return bool(len(sizes)) and bool((sizes >= 0).all() and (sizes > 0).any())


def units_of(boxes: Array) -> str:
    """`unit` where the numbers of boxes never come far beyond 1, else `pixels`."""
    finite = boxes[np.isfinite(boxes)]
    return "unit" if finite.size and 0 < finite.max(initial=0.0) <= 2 else "pixels"  # noqa: PLR2004


def sums_to_one(rows: Array) -> bool:
    """Whether each of the rows [k, columns] is a share of 1 for each column, as after a softmax."""
    return bool(len(rows)) and bool((rows >= 0).all() and (np.abs(rows.sum(axis=1) - 1) < CLOSE).all())
