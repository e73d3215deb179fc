"""Draws the pictures that models warm up with, so that none of them is somebody else's photograph.

python models/samples.py         writes them all again; the pixels are the same every time
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HERE = Path(__file__).resolve().parent

Canvas = NDArray[np.float64]
"""Levels 0 to 255, [height, width, 3]."""
Mask = NDArray[np.float64]
"""How much of each pixel is covered, 0 to 1, [height, width, 1]."""


def shapes() -> NDArray[np.uint8]:
    """A disc, a square and stripes on a slope of colour: uint8 [96, 128, 3]. Edges, corners, flat parts."""
    height, width = 96, 128
    down, right = np.mgrid[0:height, 0:width].astype(np.float64)
    picture = np.stack([60 + 120 * right / width, 90 + 100 * down / height, 200 - 90 * right / width], axis=-1)
    picture = painted(picture, disc(picture, 40, 36, 24), (236, 196, 64))
    picture = painted(picture, box(picture, 24, 72, 60, 108), (180, 40, 48))
    for stripe in range(6):
        picture = painted(picture, box(picture, 72, 12 + 16 * stripe, 88, 20 + 16 * stripe), (250, 250, 250))
    return levels(picture)


def crossword() -> NDArray[np.uint8]:
    """A crossword puzzle's grid on paper: uint8 [272, 340, 3]. ImageNet has that class, and it is only lines."""
    cells, side = 13, 18
    top, left, line = 19, 53, 1
    picture = np.full((272, 340, 3), 255.0)
    black = np.random.default_rng(1).random((cells, cells)) < 0.25  # noqa: PLR2004 - about what a puzzle has
    for row, column in np.argwhere(black | black[::-1, ::-1]):
        y, x = top + side * row, left + side * column
        picture = painted(picture, box(picture, y, x, y + side, x + side), (0, 0, 0))
    for step in range(0, cells * side + 1, side):
        across = box(picture, top + step - line, left, top + step + line, left + cells * side)
        along = box(picture, top, left + step - line, top + cells * side, left + step + line)
        picture = painted(picture, np.maximum(across, along), (0, 0, 0))
    return levels(picture)


def disc(picture: Canvas, y: float, x: float, radius: float) -> Mask:
    """A disc with a soft rim of one pixel."""
    down, right = np.indices(picture.shape[:2])
    covered: Mask = np.clip(radius - np.hypot(down - y, right - x) + 0.5, 0, 1)[..., None]
    return covered


def box(picture: Canvas, top: int, left: int, bottom: int, right: int) -> Mask:
    """A rectangle without its last row and column."""
    covered = np.zeros((*picture.shape[:2], 1))
    covered[top:bottom, left:right] = 1
    return covered


def painted(picture: Canvas, mask: Mask, colour: tuple[int, int, int]) -> Canvas:
    """The picture with `colour` where the mask is."""
    result: Canvas = picture * (1 - mask) + np.array(colour) * mask
    return result


def levels(picture: Canvas) -> NDArray[np.uint8]:
    """Rounded."""
    return np.rint(picture).astype(np.uint8)


PICTURES: dict[str, Any] = {
    "gaussian_blur/sample/shapes.png": shapes,
    "edges/sample/shapes.png": shapes,
    "efficientnet_lite0/sample/crossword.png": crossword,
}
"""File under models/ -> what draws it."""


if __name__ == "__main__":
    for name, draw in PICTURES.items():
        Image.fromarray(draw()).save(HERE / name, optimize=True)
        print(f"wrote {HERE / name}")
