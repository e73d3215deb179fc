"""Rectangles that are turned, and their corners."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_SIGNS = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
"""Of the half sides along both axes: corners in the order in which they are seen clockwise, as y runs down."""


class Rectangles(NamedTuple):
    """Some rectangles."""

    centre: NDArray[np.float64]
    """[k, 2]."""
    axis: NDArray[np.float64]
    """[k, 2]: the direction of the first side, of length 1; the second one is a quarter turn from x towards y."""
    half: NDArray[np.float64]
    """[k, 2]: half of both sides."""

    def corners(self) -> NDArray[np.float64]:
        """[k, 4, 2], clockwise as seen."""
        second = np.stack([-self.axis[:, 1], self.axis[:, 0]], axis=1)
        along, across = self.half[:, 0, None] * self.axis, self.half[:, 1, None] * second
        steps = _SIGNS[:, 0, None] * along[:, None] + _SIGNS[:, 1, None] * across[:, None]
        return np.asarray(self.centre[:, None] + steps)


def turned(boxes: NDArray[np.float64], angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Corners [k, 4, 2] of boxes [k, 4], x1 y1 x2 y2, turned about their centres by radians [k], from x towards y."""
    axis = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    first, second = boxes[:, :2], boxes[:, 2:]
    return Rectangles((first + second) / 2, axis, (second - first) / 2).corners()


def around(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Boxes [k, 4] as x1, y1, x2, y2 around corners [k, 4, 2]."""
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def ordered(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Corners [k, 4, 2] in the same direction, beginning with the one whose x + y is the smallest."""
    first = corners.sum(axis=2).argmin(axis=1)
    order = (first[:, None] + np.arange(4)) % 4
    return np.take_along_axis(corners, order[:, :, None], axis=1)
