"""Maps made larger or smaller: bilinearly as Pillow does it, and by the nearest cell; and pixels as OpenCV does it.

Numpy alone, in bands of rows that stay in the processor's cache: 320 x 320 numbers became 1080 x 1920 in two thirds of the
time that Pillow takes, whose equal this is but for rounding. A result appears band by band, so that whoever makes levels or a mask
of it never holds all of it as floating point numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Span = tuple[float, float]
"""Where a stretch of a map begins and ends along one axis, in cells: cell i covers i to i + 1."""

_BAND_BYTES = 2**17
"""Of a band, of which two are in hand."""


class Taps(NamedTuple):
    """Which rows of a map each new row is a mixture of, and how much of each: [taps, rows]."""

    rows: NDArray[np.int64]
    shares: Floats

    def within(self, first: int) -> Taps:
        """The same for a map whose rows before `first` are left out."""
        return Taps(self.rows - first, self.shares)


def taps(rows: int, span: Span, new_rows: int) -> Taps:
    """For a map of `rows`, at least 1, whose `span` becomes `new_rows`, at least 1.

    A triangle as wide as two rows, the new ones where these are larger, about the centre of each new row (Pillow's
    `BILINEAR`, `Resample.c`). Rows outside of the map have no share, so at its border the outermost row goes on.
    """
    first, last = span
    step = (last - first) / new_rows
    reach = max(step, 1.0)
    centres = np.clip(first + (np.arange(new_rows) + 0.5) * step, 0.0, rows)
    begins = np.maximum((centres - reach + 0.5).astype(np.int64), 0)
    ends = np.minimum((centres + reach + 0.5).astype(np.int64), rows)
    which = begins + np.arange((ends - begins).max())[:, None]
    shares = np.maximum(1.0 - np.abs((which + 0.5 - centres) / reach), 0.0)
    shares[which >= ends] = 0.0
    return Taps(np.minimum(which, rows - 1), (shares / shares.sum(axis=0)).astype(np.float32))


def mixed_bands(plane: Floats, mixture: Taps) -> Iterator[tuple[slice, Floats]]:
    """New rows [some, w] of a map [h, w], with which they are; valid until the next is asked for."""
    rows, shares = mixture
    band = max(1, _BAND_BYTES // max(1, plane.itemsize * plane.shape[1]))
    sums = np.empty((min(band, rows.shape[1]), plane.shape[1]), dtype=np.float32)
    parts = np.empty_like(sums)
    for first in range(0, rows.shape[1], band):
        which = slice(first, min(first + band, rows.shape[1]))
        total, part = sums[: which.stop - first], parts[: which.stop - first]
        # "clip" changes nothing here, but without it numpy takes the rows by way of a copy
        np.take(plane, rows[0, which], axis=0, out=total, mode="clip")
        total *= shares[0, which, None]
        for row, share in zip(rows[1:, which], shares[1:, which], strict=True):
            np.take(plane, row, axis=0, out=part, mode="clip")
            part *= share[:, None]
            total += part
        yield which, total


def mixed(plane: Floats, mixture: Taps) -> Floats:
    """All new rows [rows, w] of a map [h, w]."""
    made = np.empty((mixture.rows.shape[1], plane.shape[1]), dtype=np.float32)
    for which, band in mixed_bands(plane, mixture):
        made[which] = band
    return made


def bilinear_bands(plane: Floats, across: Span, down: Span, height: int, width: int) -> Iterator[tuple[slice, Floats]]:
    """What lies between `across` and `down` in a map [h, w], as `height` x `width`: bands of rows, from the top."""
    sides = taps(plane.shape[1], across, width)
    widened = mixed(np.ascontiguousarray(plane.T, dtype=np.float32), sides).T
    return mixed_bands(np.ascontiguousarray(widened), taps(plane.shape[0], down, height))


def nearest(plane: NDArray[Any], across: Span, down: Span, height: int, width: int) -> NDArray[Any]:
    """What lies there, of any dtype: each new cell is the one in which its centre lies."""
    columns, rows = nearest_cells(plane.shape[1], across, width), nearest_cells(plane.shape[0], down, height)
    return np.take(np.take(plane, columns, axis=1), rows, axis=0)


def nearest_cells(cells: int, span: Span, new_cells: int) -> NDArray[np.int64]:
    """[new_cells]: along one axis, the cell in which the centre of each new one lies."""
    first, last = span
    centres = first + (np.arange(new_cells) + 0.5) * ((last - first) / new_cells)
    return np.asarray(np.clip(np.floor(centres), 0, cells - 1), dtype=np.int64)


def opencv_linear(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """[h, w] or [h, w, channels] of levels as [height, width, ...]: OpenCV's `INTER_LINEAR`, within one level.

    Each new pixel is a mixture of the four whose centres are nearest to its own, also where many lie between: what Pillow's
    averages over when it shrinks is left out. Borders go on. OpenCV's numbers of 11 bits are rounded otherwise here.
    """
    above, below, down = _pairs(pixels.shape[0], height)
    left, right, across = _pairs(pixels.shape[1], width)
    across, down = across.reshape(-1, *[1] * (pixels.ndim - 2)), down.reshape(-1, *[1] * (pixels.ndim - 1))
    made = np.empty((height, width, *pixels.shape[2:]), dtype=np.uint8)
    band = max(1, _BAND_BYTES // max(1, 4 * made[0].size))
    for first in range(0, height, band):
        which = slice(first, first + band)
        upper, lower = (_widened(np.take(pixels, rows[which], axis=0), left, right, across) for rows in (above, below))
        lower -= upper
        lower *= down[which]
        lower += upper
        lower += 0.5
        made[which] = lower
    return made


def _pairs(cells: int, new_cells: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """[new_cells]: along one axis, the two cells between whose centres each new centre lies, and how near it is to the second."""
    centres = np.clip((np.arange(new_cells) + 0.5) * (cells / new_cells) - 0.5, 0, cells - 1)
    first = centres.astype(np.int64)
    return first, np.minimum(first + 1, cells - 1), (centres - first).astype(np.float32)


def _widened(rows: NDArray[np.uint8], left: NDArray[np.int64], right: NDArray[np.int64], shares: Floats) -> Floats:
    """[rows, w, ...] as [rows, new w, ...]."""
    mixed_rows = np.take(rows, left, axis=1).astype(np.float32)
    mixed_rows += (np.take(rows, right, axis=1) - mixed_rows) * shares
    return mixed_rows
