"""One picture of all the maps that a convolution layer made of an image: a grid of gray tiles, each with its number.

For people who look at what a network sees; nothing of the service uses it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from convq.answers.png import png

MOST_TILES = 4096

_TILE_PX = 112
"""About the longer side of a tile: small maps are enlarged by a whole factor, so that their pixels stay squares."""
_LARGEST_TILE_PX = 384
_LARGEST_GRID_PX = 16_000_000
_WIDE = 1.5
"""Of the grid: its width to its height."""
_MARGIN_PX = 8
_LABEL_PX = 14
_PAPER, _INK = 24, 230


def mosaic(maps: NDArray[Any], title: str) -> bytes:
    """A PNG file with every map of `maps`, an array [maps, height, width] of finite numbers, under a title.

    Each tile goes from black at the map's own minimum to white at its maximum, so that faint maps are seen as well; one
    that is the same everywhere is black. Raises ValueError for an array that has other axes, or no or too many maps.
    """
    if maps.ndim != 3 or 0 in maps.shape:  # noqa: PLR2004
        raise ValueError(f"shape {'x'.join(map(str, maps.shape))} is no set of maps; expected maps x height x width")
    if len(maps) > MOST_TILES:
        raise ValueError(f"{len(maps)} maps are more than one picture can show; at most {MOST_TILES}")
    height, width = _tile_size(*maps.shape)
    columns = _columns(len(maps), _WIDE * height / width)
    rows = math.ceil(len(maps) / columns)
    title = title.encode("ascii", "replace").decode()  # all that the built-in font is sure to have
    font = ImageFont.load_default()
    step_x, step_y = width + _MARGIN_PX, height + _LABEL_PX + _MARGIN_PX
    across = max(columns * step_x, math.ceil(font.getlength(title)) + _MARGIN_PX) + _MARGIN_PX
    grid = Image.new("L", (across, _MARGIN_PX + _LABEL_PX + _MARGIN_PX + rows * step_y), _PAPER)
    pen = ImageDraw.Draw(grid)
    pen.text((_MARGIN_PX, _MARGIN_PX), title, fill=_INK, font=font)
    for number, one in enumerate(maps):
        x = _MARGIN_PX + number % columns * step_x
        y = _MARGIN_PX + _LABEL_PX + _MARGIN_PX + number // columns * step_y
        pen.text((x, y), str(number), fill=_INK, font=font)
        grid.paste(_tile(one, height, width), (x, y + _LABEL_PX))
    return png(np.asarray(grid))


def _columns(count: int, columns_to_rows: float) -> int:
    """How many tiles stand side by side: about in that proportion, with as few gaps in the last row as may be."""
    ideal = math.sqrt(count * columns_to_rows)
    near = range(max(1, math.floor(ideal * 0.75)), max(1, math.ceil(ideal * 1.35)) + 1)
    return min(count, min(near, key=lambda columns: (-count % columns, abs(columns - ideal))))


def _tile_size(count: int, height: int, width: int) -> tuple[int, int]:
    """Height and width of one tile, in pixels."""
    longer = max(height, width)
    most = min(_LARGEST_TILE_PX, max(1.0, math.sqrt(_LARGEST_GRID_PX / count)))
    if longer > most:
        return max(1, round(height * most / longer)), max(1, round(width * most / longer))
    factor = max(1, min(_TILE_PX // longer, int(most) // longer))
    return height * factor, width * factor


def _tile(one: NDArray[Any], height: int, width: int) -> Image.Image:
    """One map, stretched over all levels of gray, in the size of a tile."""
    values = one.astype(np.float64)
    values -= values.min()
    span = values.max()
    levels = np.rint(values * (255.0 / span) if span > 0 else values).astype(np.uint8)
    enlarge = height >= one.shape[0]
    return Image.fromarray(levels).resize(
        (width, height), Image.Resampling.NEAREST if enlarge else Image.Resampling.BOX
    )
