"""How a map of a network goes out: which part of it shows the picture, and at which size.

Class maps, mattes and depth share this. A map covers the network's input, padding included; what goes out covers the
picture, or what a crop has left of it.
"""

from __future__ import annotations

import base64
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convq.answers.coordinates import Placement, rounded
from convq.answers.png import png
from convq.answers.resampling import Floats, Span, bilinear_bands
from convq.errors import ModelFault

MAX_PICTURE_PIXELS: Final = 4_194_304
"""Of a map that has the picture's size; for a larger picture it has the network's."""

_FUZZ_DECIMALS = 6
"""Borders of the picture are whole pixels of the input, but for the rounding of floating point numbers."""


class Shown(NamedTuple):
    """The part of a map that shows the picture, and what becomes of it."""

    across: Span
    """In cells of the network's map, from left to right."""
    down: Span
    width: int
    """Of the map that goes out."""
    height: int
    box: list[float] | None
    """The part of the picture that it covers, as x1, y1, x2, y2 in its pixels; None for all of it."""

    def cells(self) -> tuple[slice, slice]:
        """Rows and columns of the network's map that have a part in it."""
        rows, columns = (
            slice(int(first), max(int(first) + 1, int(np.ceil(last)))) for first, last in (self.down, self.across)
        )
        return rows, columns


def shown(
    map_size: tuple[int, int], placement: Placement, input_size: tuple[int, int], *, network_size: bool = False
) -> Shown:
    """For a map of `map_size` over an input of `input_size`, both height and width, into which a picture was placed.

    What goes out is as large as the picture, or as its part that the input shows, if that is at most `MAX_PICTURE_PIXELS`;
    else, and with `network_size`, as large as that part of the network's map. Raises ModelFault for a map without cells.
    """
    if min(map_size) < 1:
        raise ModelFault(f"a map has the size {list(map_size)} and so no cells")
    x, across = _visible(placement.width, placement.sx, placement.dx, input_size[1], map_size[1])
    y, down = _visible(placement.height, placement.sy, placement.dy, input_size[0], map_size[0])
    box = rounded(placement.cut(np.array([x[0], y[0], x[1], y[1]]))).tolist()
    width, height = _cells(x), _cells(y)
    if network_size or width * height > MAX_PICTURE_PIXELS:
        width, height = _cells(across), _cells(down)
    whole = box == [0.0, 0.0, placement.width, placement.height]
    return Shown(across, down, width, height, None if whole else box)


def resized_levels(values: Floats, part: Shown, levels: NDArray[Any]) -> NDArray[Any]:
    """Write the shown part of a map [h, w] into `levels`, [part.height, part.width] of unsigned integers, rounded.

    `values` are levels already, plus a half: a mixture of such is one, so that nothing but the cast remains to be done for
    each pixel. They must lie from 0 to below the next level after the highest. Cells that show nothing of the picture are left
    out first, so that nothing of the padding is mixed into its border.
    """
    down, across = part.cells()
    spans = _within(part.across, across), _within(part.down, down)
    for rows, band in bilinear_bands(values[down, across], *spans, part.height, part.width):
        np.copyto(levels[rows], band, casting="unsafe")
    return levels


def as_png(levels: NDArray[Any], part: Shown) -> dict[str, Any]:
    """What a result says of a map [h, w] of uint8 or uint16 levels: `format`, `data`, and `box` for a crop."""
    said: dict[str, Any] = {"format": "png", "data": base64.b64encode(png(levels)).decode("ascii")}
    if part.box is not None:
        said["box"] = part.box
    return said


def single(values: NDArray[Any], meaning: str) -> NDArray[Any]:
    """One job's map, [h, w] or [1, h, w], as [h, w]. Raises ModelFault for every other shape."""
    if values.ndim == 3 and len(values) == 1:  # noqa: PLR2004
        values = values[0]
    if values.ndim != 2:  # noqa: PLR2004
        raise ModelFault(
            f"an output that means {meaning} has the shape {list(values.shape)}; expected [h, w] or [1, h, w]"
        )
    return values


def _visible(side: int, scale: float, offset: float, input_side: int, cells: int) -> tuple[Span, Span]:
    """Along one axis, what the input shows of a picture: in its pixels, and in cells of a map."""
    first, last = max(offset, 0.0), min(side * scale + offset, float(input_side))
    first, last = round(first, _FUZZ_DECIMALS), round(last, _FUZZ_DECIMALS)
    a_pixel = cells / input_side
    return ((first - offset) / scale, (last - offset) / scale), (first * a_pixel, last * a_pixel)


def _within(span: Span, cells: slice) -> Span:
    """A span in a map that has these cells alone."""
    return span[0] - cells.start, span[1] - cells.start


def _cells(span: Span) -> int:
    return max(1, round(span[1] - span[0]))
