"""What was found against what is there."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Found(NamedTuple):
    """What was found in one picture, best first."""

    boxes: Floats
    """[k, 4]: x1, y1, x2, y2 in pixels."""
    labels: NDArray[np.int64]
    """[k]."""


def overlaps(some: Floats, others: Floats) -> Floats:
    """Intersection over union of each with each: [a, 4] and [b, 4] to [a, b]."""
    low = np.maximum(some[:, None, :2], others[None, :, :2])
    high = np.minimum(some[:, None, 2:], others[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (some, others)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    return np.asarray(shared / np.maximum(union, 1e-9))


def matched(found: Found, boxes: Floats, labels: NDArray[np.int64], least: float = 0.5) -> list[tuple[int, int, float]]:
    """Which of what was found is which of the truth, [t, 4] and [t], and by which overlap; each belongs to one other.

    The surest has the first choice, among those of its label that it overlaps by at least `least`: what is left over on
    one side was imagined, what is left over on the other was missed.
    """
    over = overlaps(found.boxes, boxes)
    over[found.labels[:, None] != labels[None, :]] = 0
    pairs = []
    for one in range(len(found.labels)):
        best = int(over[one].argmax()) if over.shape[1] else 0
        if over.shape[1] and over[one, best] >= least:
            pairs.append((one, best, float(over[one, best])))
            over[:, best] = 0
    return pairs
