"""Masks as COCO's compressed run lengths: far shorter than a PNG, and what tools for annotations read.

The runs go down the columns of the picture, from left to right, and alternate, zeros first; the first may be empty. Each
length from the fourth on is written as its difference to the one two before it, in groups of five bits, lowest first: bit
5 of a character says that another follows, bit 4 of the last is the sign, and 48 makes it printable. Source of both:
`rleEncode` and `rleToString` in pycocotools' `maskApi.c`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

MAX_PIXELS: Final = 2**31 - 1
"""Of a mask that is decoded, unless the caller says otherwise: what a manifest may allow of a picture."""
_GROUP_BITS, _MORE, _SIGN, _PRINTABLE = 5, 0x20, 0x10, 48
_MAX_GROUPS = 7
"""Characters of one length: 35 bits, more than the difference of any two runs of `MAX_PIXELS`."""
_RAW = 3
"""The first lengths are written as they are."""


def encode(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A mask [height, width] of bool as `{"size": [height, width], "counts": str}`; equal to what pycocotools makes."""
    height, width = mask.shape
    return encode_columns(mask.T, 0, 0, height, width)


def encode_columns(columns: NDArray[np.bool_], left: int, top: int, height: int, width: int) -> dict[str, Any]:
    """The same of a picture that is empty but for a box.

    `columns` is the box turned on its side: [box width, box height] of bool, column by column; its first pixel is at
    (`left`, `top`) of a picture of `height` x `width` pixels, in which it must lie. Costs time and memory for the pixels
    of the box alone.
    """
    return {"size": [int(height), int(width)], "counts": compress(_counts(columns, left, top, height, width))}


def decode(rle: Mapping[str, Any], *, max_pixels: int = MAX_PIXELS) -> NDArray[np.bool_]:
    """The mask [height, width] of bool that `encode` was given, or pycocotools.

    Raises:
        ValueError: no such object, more than `max_pixels`, or run lengths that do not add up to its size. Nothing of the
            mask's size has been allocated then.
    """
    size, counts = rle.get("size"), rle.get("counts")
    if not (isinstance(size, list | tuple) and len(size) == 2 and all(type(side) is int for side in size)):  # noqa: PLR2004
        raise ValueError("a mask has a size of two whole numbers: height and width")
    height, width = size
    if min(height, width) < 0 or height * width > max_pixels:
        raise ValueError(f"the mask is {width} x {height} pixels; at most {max_pixels} are accepted")
    if not isinstance(counts, str | bytes):
        raise ValueError("a mask has counts: the compressed string")  # noqa: TRY004
    runs = decompress(counts)
    if (runs < 0).any() or (runs > height * width).any() or int(runs.sum()) != height * width:
        raise ValueError(f"the run lengths do not add up to the {height * width} pixels of the mask")
    filled = np.arange(len(runs)) % 2 == 1
    return np.repeat(filled, runs).reshape(width, height).T


def compress(counts: NDArray[np.int64]) -> str:
    """Run lengths [n] as the printable string."""
    values = counts.astype(np.int64)
    values[_RAW:] -= counts[1 : max(1, len(counts) - 2)]
    groups = np.empty((len(values), _MAX_GROUPS), dtype=np.uint8)
    written = np.zeros(groups.shape, dtype=np.bool_)
    goes_on = np.ones(len(values), dtype=np.bool_)
    for i in range(_MAX_GROUPS):
        group = values & (_MORE - 1)
        values >>= _GROUP_BITS
        written[:, i] = goes_on
        goes_on = goes_on & np.where(group & _SIGN, values != -1, values != 0)
        groups[:, i] = group + _PRINTABLE + _MORE * goes_on
        if not goes_on.any():
            break
    return groups[written].tobytes().decode("ascii")


def decompress(counts: str | bytes) -> NDArray[np.int64]:
    """The run lengths [n] of a printable string; they may be negative where it is none of `compress`.

    Raises ValueError for characters that have no place in it, and where it ends in the middle of a length.
    """
    raw = counts.encode("utf-8", "surrogatepass") if isinstance(counts, str) else counts
    groups = np.frombuffer(raw, dtype=np.uint8).astype(np.int64) - _PRINTABLE
    if (groups < 0).any() or (groups >= 2 * _MORE).any() or (len(groups) and groups[-1] & _MORE):
        raise ValueError("the counts are no compressed run lengths")
    ends = np.flatnonzero((groups & _MORE) == 0)
    firsts = np.concatenate(([0], ends[:-1] + 1)) if len(ends) else ends
    lengths = ends - firsts + 1
    if (lengths > _MAX_GROUPS).any():
        raise ValueError(f"a run length of the counts has more than {_MAX_GROUPS} characters")
    shifts = _GROUP_BITS * (np.arange(len(groups)) - np.repeat(firsts, lengths))
    values = np.add.reduceat((groups & (_MORE - 1)) << shifts, firsts) if len(firsts) else groups
    values -= np.where(groups[ends] & _SIGN, np.int64(1) << _GROUP_BITS * lengths, 0)
    # The second and third are absolute, as the first is; those after them follow in two chains, odd and even.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def _counts(columns: NDArray[np.bool_], left: int, top: int, height: int, width: int) -> NDArray[np.int64]:
    """The run lengths of the picture, int64 [n]; a picture without pixels has one of 0."""
    box_width, box_height = columns.shape
    # A zero after each column ends its last run: so runs are found in one piece of memory, whatever lies around the box.
    ended = np.zeros(1 + box_width * (box_height + 1), dtype=np.bool_)
    ended[1:].reshape(box_width, box_height + 1)[:, :box_height] = columns
    changes = np.flatnonzero(ended[1:] != ended[:-1])
    column, row = np.divmod(changes, box_height + 1)
    changes = (column + left) * height + row + top
    if box_height == height and len(changes):
        # A run that reached the bottom goes on at the top of the next column.
        goes_on = np.flatnonzero(changes[1:-1:2] == changes[2::2])
        changes = np.delete(changes, np.concatenate((2 * goes_on + 1, 2 * goes_on + 2)))
    borders = np.concatenate(([0], changes, [height * width]))
    counts = np.diff(borders)
    return counts[:-1] if len(counts) > 1 and counts[-1] == 0 else counts
