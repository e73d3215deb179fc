"""BMP of Windows and OS/2: 1, 2, 4, 8, 16, 24 and 32 bits, any bit fields, run lengths; read without Pillow."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from convq.engine.codecs.raster import Pixels, Raster, narrow, peak
from convq.engine.codecs.runs import unpack_runs
from convq.errors import BadImage

_OS2_BYTES, _SHORT_BYTES, _MASKED_BYTES, _ALPHA_BYTES = 12, 16, 52, 56
_PLAIN, _RLE8, _RLE4, _FIELDS, _JPEG, _PNG, _ALPHA_FIELDS = 0, 1, 2, 3, 4, 5, 6
_NAMES = {_JPEG: "JPEG", _PNG: "PNG"}
_FILE_BYTES = 14
_MAX_TABLE = 8
_TRUNCATED = "the BMP image is truncated: the bytes end before the picture does"


@dataclass(frozen=True, slots=True)
class BmpHeader:
    """The two headers."""

    file: bytes
    width: int
    height: int
    downwards: bool
    """The first row stored is the top one."""
    bits: int
    packing: int
    header_bytes: int
    colours: int
    start: int
    """Where the pixels begin."""

    @property
    def peak_bytes(self) -> int:
        """Pixels are taken from the file as they stand, but for runs."""
        return peak(self.width * self.height, 2 if self.packing in (_RLE8, _RLE4) else 0)

    def raster(self) -> Raster:
        """The picture; alpha only where the header gives it a mask."""
        if self.bits not in (1, 2, 4, 8, 16, 24, 32):
            raise BadImage(f"the BMP image has {self.bits} bits a pixel; expected 1, 2, 4, 8, 16, 24 or 32")
        if self.bits <= _MAX_TABLE:
            return Raster(self.width, self.height, 3, self._of_table())
        if self.packing not in (_PLAIN, _FIELDS, _ALPHA_FIELDS):
            raise self._odd()
        masks = self._masks()
        if self.bits == 24 or (self.bits == 32 and masks == (0xFF0000, 0xFF00, 0xFF, 0)):  # noqa: PLR2004
            return Raster(self.width, self.height, 3, self._of_bytes())
        return Raster(self.width, self.height, 4 if masks[3] else 3, self._of_fields(masks))

    def _odd(self) -> BadImage:
        name = _NAMES.get(self.packing, f"packing {self.packing}")
        return BadImage(f"the BMP image of {self.bits} bits holds {name}; expected plain pixels, bit fields or runs")

    def _stored(self) -> Callable[[int, int], Pixels]:
        """Rows as bytes, [rows, bytes of a row]; a row fills up to 4 bytes."""
        stride = (self.width * self.bits + 31) // 32 * 4
        used = (self.width * self.bits + 7) // 8
        # The fill of the last row may be missing, as some writers leave it out.
        if len(self.file) - self.start < stride * (self.height - 1) + used:
            raise BadImage(_TRUNCATED)
        content = np.frombuffer(self.file, dtype=np.uint8)
        shape, strides = (self.height, used), (stride, 1)
        grid = np.lib.stride_tricks.as_strided(content[self.start :], shape, strides, writeable=False)
        return self._ordered(grid)

    def _ordered(self, grid: Pixels) -> Callable[[int, int], Pixels]:
        upright = grid if self.downwards else grid[::-1]
        return lambda top, bottom: upright[top:bottom]

    def _of_table(self) -> Callable[[int, int], Pixels]:
        size = 3 if self.header_bytes == _OS2_BYTES else 4
        first = _FILE_BYTES + self.header_bytes
        most = min(self.colours or 2**self.bits, 256)
        room = self.file[first : max(first, min(first + size * most, self.start or first + size * most))]
        table = np.zeros((256, 3), dtype=np.uint8)
        entries = np.frombuffer(room[: len(room) // size * size], dtype=np.uint8).reshape(-1, size)
        table[: len(entries)] = entries[:, 2::-1]
        if (self.packing, self.bits) in ((_RLE8, 8), (_RLE4, 4)):
            small = self.bits == 4  # noqa: PLR2004
            grid = unpack_runs(self.file, self.start, self.width, self.height, small=small)
            if grid is None:
                raise BadImage(_TRUNCATED)
            indices = self._ordered(grid)
            return lambda top, bottom: table[indices(top, bottom)]
        if self.packing != _PLAIN:
            raise self._odd()
        stored, each, width = self._stored(), 8 // self.bits, self.width
        shifts = np.arange(8 - self.bits, -1, -self.bits, dtype=np.uint8)

        def rows(top: int, bottom: int) -> Pixels:
            packed = stored(top, bottom)
            if each > 1:
                spread = (packed[..., None] >> shifts) & np.uint8(2**self.bits - 1)
                packed = spread.reshape(bottom - top, -1)[:, :width]
            return table[packed]

        return rows

    def _of_bytes(self) -> Callable[[int, int], Pixels]:
        stored, size, width = self._stored(), self.bits // 8, self.width
        return lambda top, bottom: stored(top, bottom).reshape(bottom - top, width, size)[..., 2::-1]

    def _masks(self) -> tuple[int, int, int, int]:
        """Which bits are red, green, blue and alpha."""
        if self.packing == _PLAIN:
            return (0x7C00, 0x3E0, 0x1F, 0) if self.bits == 16 else (0xFF0000, 0xFF00, 0xFF, 0)  # noqa: PLR2004
        has_alpha = self.header_bytes >= _ALPHA_BYTES or self.packing == _ALPHA_FIELDS
        given = self.file[54 : 54 + (16 if has_alpha else 12)]
        masks = [*struct.unpack(f"<{len(given) // 4}I", given[: len(given) // 4 * 4]), 0, 0, 0, 0][:4]
        red, green, blue, alpha = masks
        overlap = red & green | red & blue | green & blue | alpha & (red | green | blue)
        if not all((red, green, blue)) or overlap or any(mask >> self.bits for mask in masks):
            raise BadImage("the BMP image has bit fields that overlap, are empty or lie outside its pixels")
        return red, green, blue, alpha

    def _of_fields(self, masks: tuple[int, int, int, int]) -> Callable[[int, int], Pixels]:
        fields = []
        for mask in masks[: 4 if masks[3] else 3]:
            shift = (mask & -mask).bit_length() - 1
            top = mask >> shift
            if top & (top + 1):
                raise BadImage("the BMP image has a bit field with a gap")
            more = max(0, top.bit_length() - 16)
            fields.append((np.uint32(shift + more), np.uint32(top >> more)))
        stored, kind = self._stored(), "<u2" if self.bits == 16 else "<u4"  # noqa: PLR2004

        def rows(top: int, bottom: int) -> Pixels:
            values = np.ascontiguousarray(stored(top, bottom)).view(kind).astype(np.uint32)
            return np.stack([narrow(values >> shift & most, int(most)) for shift, most in fields], axis=-1)

        return rows


def header(data: bytes) -> BmpHeader:
    """What the two headers say; BadImage where they are of no known size."""
    if len(data) < _FILE_BYTES + _OS2_BYTES:
        raise BadImage(_TRUNCATED)
    start, size = struct.unpack_from("<II", data, 10)
    if size == _OS2_BYTES:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        return BmpHeader(data, width, height, False, bits, _PLAIN, size, 0, start or _behind_table(size, bits, 0))
    if not _SHORT_BYTES <= size <= 124:  # noqa: PLR2004
        raise BadImage(f"the BMP image has a header of {size} bytes; expected 12 to 124")
    fields = data[18 : _FILE_BYTES + size].ljust(36, b"\0")
    width, height, _, bits, packing = struct.unpack_from("<iiHHI", fields)
    (colours,) = struct.unpack_from("<I", fields, 28)
    os2 = size not in (40, 52, 56, 108, 124)
    if os2 and packing in (_FIELDS, _JPEG):
        # OS/2 2.x counts 3 as Huffman coding and 4 as run lengths of 24 bits.
        raise BadImage("the BMP image of OS/2 holds Huffman codes or runs of 24 bits; expected plain pixels or runs")
    return BmpHeader(
        data, width, abs(height), height < 0, bits, packing, size, colours, start or _behind_table(size, bits, colours)
    )


def _behind_table(size: int, bits: int, colours: int) -> int:
    """Where pixels begin if the file does not say."""
    entries = colours or (2**bits if bits <= _MAX_TABLE else 0)
    return _FILE_BYTES + size + entries * (3 if size == _OS2_BYTES else 4)
