"""GIF: the first picture on its canvas; what lies beside it is transparent, as browsers have it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL.GifImagePlugin import GifImageFile

from convq.engine.codecs.raster import Pixels, Raster, of_image, peak
from convq.errors import BadImage

SIGNATURES = (b"GIF87a", b"GIF89a")

_EXTENSION, _PICTURE = 0x21, 0x2C
_CONTROL = 0xF9
_HAS_TABLE, _INTERLACED = 0x80, 0x40
_SCREEN_BYTES, _PICTURE_BYTES = 13, 10


@dataclass(frozen=True, slots=True)
class GifHeader:
    """The canvas, and the place of the first picture on it."""

    file: bytes
    width: int
    height: int
    box: tuple[int, int, int, int]
    """Left, top, width, height."""
    interlaced: int
    table: bytes
    """Red, green, blue of every index; empty where the file has no table, and indices are levels of gray."""
    clear: int | None
    """The transparent index."""
    start: int
    """Where the packed indices begin; 0 where there is no picture."""

    @property
    def peak_bytes(self) -> int:
        """One byte an index."""
        return peak(self.width * self.height, 1)

    def raster(self) -> Raster:
        """The canvas with the first picture on it."""
        left, top, width, height = self.box
        if not self.start:
            raise BadImage("the GIF image holds no picture")
        if not width or not height:
            raise BadImage(f"the GIF image's first picture is {width} x {height} pixels; expected at least 1 x 1")
        head = struct.pack("<6sHHBBB", b"GIF89a", width, height, 0, 0, 0)
        place = struct.pack("<BHHHHB", _PICTURE, 0, 0, width, height, self.interlaced)
        indices = of_image(GifImageFile(BytesIO(b"".join((head, place, memoryview(self.file)[self.start :])))))
        colours = self._colours()
        whole = self.box == (0, 0, self.width, self.height)
        opaque = whole and self.clear is None
        table = np.ascontiguousarray(colours[:, :3]) if opaque else colours

        def rows(first: int, last: int) -> Pixels:
            if whole:
                return table[indices(first, last)[..., 0]]
            part = np.zeros((last - first, self.width, 4), dtype=np.uint8)
            begin, end = max(first, top), min(last, top + height)
            if begin < end:
                part[begin - first : end - first, left : left + width] = table[indices(begin - top, end - top)[..., 0]]
            return part

        return Raster(self.width, self.height, table.shape[1], rows)

    def _colours(self) -> Pixels:
        """[256, 4]; an index beyond the table is black."""
        colours = np.zeros((256, 4), dtype=np.uint8)
        colours[:, 3] = 255
        if self.table:
            entries = np.frombuffer(self.table, dtype=np.uint8).reshape(-1, 3)
            colours[: len(entries), :3] = entries
        else:
            colours[:, :3] = np.arange(256)[:, None]
        if self.clear is not None:
            colours[self.clear, 3] = 0
        return colours


def header(data: bytes) -> GifHeader:
    """Reads as far as the first picture; without one, `start` is 0."""
    if len(data) < _SCREEN_BYTES:
        raise BadImage("the GIF image is truncated: the bytes end before the picture does")
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    table, at = _table(data, _SCREEN_BYTES, flags)
    clear = None
    while at + _PICTURE_BYTES <= len(data):
        if data[at] == _PICTURE:
            left, top, wide, high, flags = struct.unpack_from("<HHHHB", data, at + 1)
            own, start = _table(data, at + _PICTURE_BYTES, flags)
            canvas = max(width, left + wide), max(height, top + high)
            return GifHeader(data, *canvas, (left, top, wide, high), flags & _INTERLACED, own or table, clear, start)
        if data[at] != _EXTENSION:
            break
        if data[at + 1] == _CONTROL and data[at + 2] >= 4:  # noqa: PLR2004
            clear = data[at + 6] if data[at + 3] & 1 else None
        at = _behind_blocks(data, at + 2)
    return GifHeader(data, width, height, (0, 0, 0, 0), 0, b"", None, 0)


def _table(data: bytes, at: int, flags: int) -> tuple[bytes, int]:
    """A table of colours, empty if the flags name none, and where it ends."""
    size = 3 * 2 ** ((flags & 7) + 1) if flags & _HAS_TABLE else 0
    table = data[at : at + size]
    if len(table) < size:
        raise BadImage("the GIF image is truncated: the bytes end before the picture does")
    return table, at + size


def _behind_blocks(data: bytes, at: int) -> int:
    size = len(data)
    while at < size and data[at]:
        at += 1 + data[at]
    return at + 1
