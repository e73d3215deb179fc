"""The first directory of a TIFF file, classic or BigTIFF: the tags that pixels depend on, and no others."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from convq.errors import BadImage

SUBFILE, WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC = 254, 256, 257, 258, 259, 262
FILL_ORDER, STRIP_OFFSETS, ORIENTATION, SAMPLES, STRIP_ROWS, STRIP_COUNTS = 266, 273, 274, 277, 278, 279
PLANAR, T4_OPTIONS, T6_OPTIONS, PREDICTOR, COLOURS = 284, 292, 293, 317, 320
TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_COUNTS = 322, 323, 324, 325
INK_SET, EXTRA, FORMAT, JPEG_TABLES = 332, 338, 339, 347
WEIGHTS, SUBSAMPLING, REFERENCE, DNG = 529, 530, 532, 50706
_WANTED = frozenset(
    {SUBFILE, WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, STRIP_OFFSETS, ORIENTATION, SAMPLES}
    | {STRIP_ROWS, STRIP_COUNTS, PLANAR, T4_OPTIONS, T6_OPTIONS, PREDICTOR, COLOURS, TILE_WIDTH, TILE_LENGTH}
    | {TILE_OFFSETS, TILE_COUNTS, INK_SET, EXTRA, FORMAT, JPEG_TABLES, WEIGHTS, SUBSAMPLING, REFERENCE, DNG}
)
_KINDS = {
    1: "u1",
    2: "u1",
    3: "u2",
    4: "u4",
    6: "i1",
    7: "u1",
    8: "i2",
    9: "i4",
    13: "u4",
    16: "u8",
    17: "i8",
    18: "u8",
}
_RATIONAL = 5
TRUNCATED = "the TIFF image is truncated: the bytes end before the picture does"

Tags = dict[int, Sequence[int]]


@dataclass(frozen=True, slots=True)
class Directory:
    """What a file says of one picture in it."""

    file: bytes
    width: int
    height: int
    tags: Tags
    order: str
    """The byte order as numpy writes it."""

    def one(self, tag: int, default: int) -> int:
        """A tag's first value."""
        values = self.tags.get(tag)
        return values[0] if values else default


def read_tags(data: bytes) -> tuple[Tags, str]:
    """The tags with their values, and the byte order as numpy writes it; BadImage where the directory is cut off."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    try:
        (first,) = struct.unpack_from(f"{order}Q" if big else f"{order}I", data, 8 if big else 4)
        (count,) = struct.unpack_from(f"{order}Q" if big else f"{order}H", data, first)
        at, step = (first + 8, 20) if big else (first + 2, 12)
        if count > (len(data) - at) // step:
            raise BadImage(TRUNCATED)
        shape = f"{order}HH{'Q' if big else 'I'}"
        tags: Tags = {}
        for index in range(min(count, 1 << 16)):
            tag, kind, many = struct.unpack_from(shape, data, at + index * step)
            if tag in _WANTED and tag not in tags:
                tags[tag] = _values(data, at + index * step + (12 if big else 8), (kind, many), order, big=big)
    except (struct.error, OverflowError):
        raise BadImage(TRUNCATED) from None
    return tags, order


def _values(data: bytes, at: int, form: tuple[int, int], order: str, *, big: bool) -> Sequence[int]:
    kind, many = form
    if kind == _RATIONAL:
        kind, many = 4, 2 * many
    if kind not in _KINDS:
        return ()
    dtype = np.dtype(f"{order}{_KINDS[kind]}")
    if many * dtype.itemsize > (8 if big else 4):
        (at,) = struct.unpack_from(f"{order}Q" if big else f"{order}I", data, at)
    if many * dtype.itemsize > len(data) - at:
        raise BadImage(TRUNCATED)
    values: list[int] = np.frombuffer(data, dtype, many, at).tolist()
    return values
