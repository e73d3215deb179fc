"""From pixels of a network's input back to pixels of the picture.

Pixels are squares: x runs right, y down, (0, 0) is the top left corner of the top left pixel, and the centre of pixel
(i, j) is (i + 0.5, j + 0.5). Every resize rule is an affine map along the axes, `x_input = x_picture * sx + dx`.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

DECIMALS: Final = 2
"""Of coordinates in a result."""


class Placement(NamedTuple):
    """How a picture lies in a network's input, made of the whole numbers of pixels that were really used.

    A side that became `scaled` pixels long has the factor scaled / side; both sides are rounded, so the factors differ.
    What was filled before it is added by the offset, what was cut off there is taken from it.
    """

    width: int
    """Of the picture as people see it, in pixels."""
    height: int
    sx: float = 1.0
    sy: float = 1.0
    dx: float = 0.0
    dy: float = 0.0

    def points_back(self, points: NDArray[Any]) -> NDArray[np.float64]:
        """Points [..., 2] of x and y in pixels of the input, as float64 in pixels of the picture; not cut to it."""
        return np.asarray((points - np.array([self.dx, self.dy])) / np.array([self.sx, self.sy]))

    def boxes_back(self, boxes: NDArray[Any]) -> NDArray[np.float64]:
        """Boxes [..., 4] as x1, y1, x2, y2 in pixels of the input, as float64 in pixels of the picture; not cut to it."""
        shift, scale = np.array([self.dx, self.dy] * 2), np.array([self.sx, self.sy] * 2)
        return np.asarray((boxes - shift) / scale)

    def cut(self, coordinates: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points [..., 2] or boxes [..., 4] in pixels of the picture, moved to its border where they lie outside."""
        most = np.array([self.width, self.height] * (coordinates.shape[-1] // 2), dtype=np.float64)
        return np.clip(coordinates, 0.0, most)


def rounded(values: NDArray[np.float64], decimals: int = DECIMALS) -> NDArray[np.float64]:
    """The nearest numbers with so many decimals, as float64, whose shortest text has no more; never -0.0."""
    return np.asarray(np.round(values, decimals) + 0.0)
