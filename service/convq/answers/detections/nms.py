"""Of boxes that overlap, the best one: non-maximum suppression, by class or over all, and its weighted variant.

What compares boxes is a function of the caller's, because onnxruntime's own is the fastest there is, and not everybody has
it; `suppress` is the one of numpy alone. Both compare in float32 and keep the same boxes.
"""

from __future__ import annotations

import math
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

_BLOCK: Final = 128
"""Boxes that are compared with each other at once: what that takes stays in the processor's cache."""


class Suppress(Protocol):
    """Which boxes to keep."""

    def __call__(
        self, boxes: NDArray[np.float32], scores: NDArray[np.float32], iou: float, most: int
    ) -> NDArray[np.intp]:
        """The numbers of the boxes to keep, best first: at most `most`, none overlapping a better one by more than `iou`.

        `boxes` [k, 4] are x1 <= x2 and y1 <= y2 (x1, y1, x2, y2), finite, best first by `scores` [k]; of equal scores the
        first is the best. Overlap is the intersection's area by the union's; a box without area overlaps nothing.
        """


def suppress(boxes: NDArray[np.float32], scores: NDArray[np.float32], iou: float, most: int) -> NDArray[np.intp]:
    """`Suppress` in numpy alone: block by block, each against what is kept and then within itself."""
    del scores  # the boxes come best first
    kept = np.empty(0, dtype=np.intp)
    for start in range(0, len(boxes), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(boxes)))
        if len(kept):
            block = block[~overlap(boxes[kept], boxes[block], iou).any(axis=0)]
        if len(block):
            kept = np.concatenate([kept, block[_kept_within(boxes[block], iou)]])
        if len(kept) >= most:
            break
    return kept[:most]


def _kept_within(boxes: NDArray[np.float32], iou: float) -> NDArray[np.bool_]:
    """Which boxes of one block are kept: those that no kept one before them covers.

    Asked for all at once and again until nothing changes: each round settles at least the next link of every chain of
    boxes that cover each other, and chains are short.
    """
    covers = np.triu(overlap(boxes, boxes, iou), k=1)
    kept = ~np.asarray(covers.any(axis=0))
    while True:
        again = ~np.asarray(covers[kept].any(axis=0))
        if (again == kept).all():
            return kept
        kept = again


def overlap(first: NDArray[np.float32], second: NDArray[np.float32], iou: float) -> NDArray[np.bool_]:
    """[a, b]: which boxes of [a, 4] and [b, 4] have more than `iou` of their union in common; none without an area does."""
    (left, top, right, bottom), (lefts, tops, rights, bottoms) = first.T[:, :, None], second.T[:, None]
    common = np.minimum(right, rights)
    common -= np.maximum(left, lefts)
    np.maximum(common, 0, out=common)
    tall = np.minimum(bottom, bottoms)
    tall -= np.maximum(top, tops)
    common *= np.maximum(tall, 0, out=tall)
    union = _areas(first)[:, None] + _areas(second)
    union -= common
    with np.errstate(invalid="ignore"):  # two boxes without area: 0 / 0 is not above any number
        return np.asarray(np.divide(common, union, out=common) > iou)


def _areas(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def set_apart(boxes: NDArray[np.float32], classes: NDArray[np.int64]) -> NDArray[np.float32]:
    """Boxes [k, 4], moved so that those of different classes [k] cannot overlap.

    Each class that is there gets a field of its own, laid out as a square: so coordinates stay small, and float32 exact
    enough, with hundreds of classes. Classes are at least 0.
    """
    present = np.bincount(classes) > 0
    count = int(np.count_nonzero(present))
    if count <= 1:
        return boxes
    down, right = np.divmod(np.cumsum(present) - 1, math.isqrt(count - 1) + 1)
    low = boxes[:, :2].min(axis=0)
    field = boxes[:, 2:].max(axis=0) - low + 1
    shift = np.stack([right, down]) * field[:, None] - low[:, None]
    return np.asarray(boxes + np.tile(shift.astype(np.float32), (2, 1))[:, classes].T)


def groups(boxes: NDArray[np.float32], kept: NDArray[np.intp], iou: float) -> NDArray[np.intp]:
    """[k]: the place in `kept` of the first kept box that a box overlaps by more than `iou`, or -1 for none.

    A kept box is in its own group.
    """
    owner = np.full(len(boxes), -1, dtype=np.intp)
    for start in range(0, len(boxes), _BLOCK):
        covered = overlap(boxes[kept], boxes[start : start + _BLOCK], iou)
        owner[start : start + _BLOCK] = np.where(covered.any(axis=0), covered.argmax(axis=0), -1)
    owner[kept] = np.arange(len(kept))
    return owner


def averaged(
    values: NDArray[np.float64], scores: NDArray[np.float32], owner: NDArray[np.intp], kept: NDArray[np.intp]
) -> NDArray[np.float64]:
    """[m, d]: for each kept row the mean of `values` [k, d] over its group (see `groups`), weighted by `scores` [k].

    A group whose scores sum to nothing is as its kept row is.
    """
    members = np.flatnonzero(owner >= 0)
    weights = scores[members].astype(np.float64)
    total = np.bincount(owner[members], weights, minlength=len(kept))
    sums = np.zeros((len(kept), values.shape[1]))
    np.add.at(sums, owner[members], values[members] * weights[:, None])
    return np.where(total[:, None] > 0, sums / np.where(total > 0, total, 1)[:, None], values[kept])
