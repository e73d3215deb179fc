"""The strips and tiles of a TIFF file, unpacked, joined and read as samples."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL.TiffImagePlugin import TiffImageFile

from convq.engine.codecs import jpeg
from convq.engine.codecs import tiff_tags as names
from convq.engine.codecs.raster import STRIPE_PIXELS, Pixels
from convq.engine.codecs.tiff_tags import Directory
from convq.errors import BadImage

Samples = NDArray[np.unsignedinteger]

PLAIN, JPEG, FAX = frozenset({1}), frozenset({7}), frozenset({2, 3, 4})
PREDICTED = frozenset({5, 8, 32946, 34925, 50000})
"""LZW, deflate (two numbers), LZMA, Zstandard."""
PACKED = PREDICTED | {32773}
"""PackBits besides."""

_MAX_JPEGS = 20_000
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_OVERLAP = "the TIFF image has strips or tiles that lie over each other"


@dataclass(frozen=True, slots=True)
class Grid:
    """How segments, which are strips or tiles, lie over the picture."""

    width: int
    height: int
    wide: int
    high: int
    """Sides of a segment in pixels; the last strip may be lower, tiles are whole."""
    tiled: bool
    samples: int
    bits: int
    separate: bool
    """Every sample has segments of its own."""
    offsets: Sequence[int]
    counts: Sequence[int]
    subsampling: tuple[int, int]
    """Columns and rows that share a colour."""

    @property
    def across(self) -> int:
        """Segments side by side."""
        return -(-self.width // self.wide)

    @property
    def down(self) -> int:
        """Bands of segments."""
        return -(-self.height // self.high)

    @property
    def planes(self) -> int:
        """How often the picture is covered with segments."""
        return self.samples if self.separate else 1

    @property
    def together(self) -> int:
        """Samples of a pixel in one segment."""
        return 1 if self.separate else self.samples

    @property
    def line_bytes(self) -> int:
        """A line of a segment is a row of it, or the rows that share colours."""
        across, down = self.subsampling
        if (across, down) != (1, 1):
            return -(-self.wide // across) * (across * down + 2)
        return (self.wide * self.together * self.bits + 7) // 8

    def lines(self, bands: range) -> int:
        """Lines of one column of segments in these bands."""
        rows = (
            len(bands) * self.high if self.tiled else min(bands.stop * self.high, self.height) - bands.start * self.high
        )
        return -(-rows // self.subsampling[1])


def samples_of(
    header: Directory, grid: Grid, packing: int, photometric: int
) -> tuple[Callable[[int, int], Samples], bool]:
    """From rows, first and one after the last, to [rows, width, samples]; and whether these are RGB already."""
    needed = grid.across * grid.down * grid.planes
    if len(grid.offsets) < needed or (len(grid.counts) < needed and (grid.counts or packing not in PLAIN)):
        raise BadImage(names.TRUNCATED)
    if sum(grid.counts[:needed]) > 4 * len(header.file) + 4096:
        raise BadImage(_OVERLAP)
    if grid.subsampling[1] > 1 and not grid.tiled and grid.down > 1 and grid.high % grid.subsampling[1]:
        raise BadImage("the TIFF image has strips that end between rows that share a colour")
    coloured = packing in JPEG and not grid.separate and grid.samples > 1
    if packing in JPEG:
        _check_jpeg(grid, photometric, needed)
    if packing in FAX and (grid.bits, grid.samples) != (1, 1):
        raise BadImage("the TIFF image has CCITT codes for more than one bit a pixel")
    reader = _Reader(header, grid, packing, photometric)
    return reader.rows, coloured


def _check_jpeg(grid: Grid, photometric: int, needed: int) -> None:
    if grid.bits != 8 or not (grid.separate or grid.samples == {2: 3, 5: 4, 6: 3}.get(photometric, 1)):  # noqa: PLR2004
        raise BadImage(f"the TIFF image has JPEG with {grid.samples} samples of {grid.bits} bits, which is not read")
    if grid.separate and photometric in (5, 6):
        raise BadImage("the TIFF image has inks or YCbCr as JPEG in separate planes, which is not read")
    if needed > _MAX_JPEGS:
        raise BadImage(f"the TIFF image holds {needed} JPEG images; at most {_MAX_JPEGS} are read")


@dataclass(slots=True)
class _Reader:
    """Reads bands as they are asked for, and keeps the last ones."""

    header: Directory
    grid: Grid
    packing: int
    photometric: int
    bands: range = range(0)
    held: Callable[[int, int], Samples] | None = None

    def rows(self, top: int, bottom: int) -> Samples:
        grid, parts = self.grid, []
        each = max(1, STRIPE_PIXELS // (grid.wide * grid.across * grid.high))
        while top < bottom:
            band = top // grid.high
            if band not in self.bands or self.held is None:
                self.held = None
                self.bands = range(band, min(band + each, grid.down))
                self.held = self._open(self.bands)
            first = self.bands.start * grid.high
            last = min(bottom, self.bands.stop * grid.high)
            parts.append(self.held(top - first, last - first))
            top = last
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _open(self, bands: range) -> Callable[[int, int], Samples]:
        if self.packing in JPEG:
            planes = [_joined(self._jpegs(bands, plane), self.grid) for plane in range(self.grid.planes)]
            whole = np.concatenate(planes, axis=-1)
            return lambda top, bottom: whole[top:bottom]
        planes_of_lines = [self._plane(bands, plane) for plane in range(self.grid.planes)]
        if self.grid.subsampling == (1, 1) and self.grid.across == 1:
            return lambda top, bottom: np.concatenate(
                [self._samples(lines(top, bottom))[:, : self.grid.width] for lines in planes_of_lines], axis=-1
            )
        planes = []
        for lines in planes_of_lines:
            count = self.grid.lines(bands)
            planes.append(_beside(self._samples(lines(0, count * self.grid.across)), len(bands), self.grid))
        whole = np.concatenate(planes, axis=-1)
        return lambda top, bottom: whole[top:bottom]

    def _segments(self, bands: range, plane: int) -> Iterator[memoryview]:
        grid, content = self.grid, memoryview(self.header.file)
        for band in bands:
            full = grid.line_bytes * grid.lines(range(band, band + 1))
            for column in range(grid.across):
                index = (plane * grid.down + band) * grid.across + column
                start = grid.offsets[index]
                count = grid.counts[index] if grid.counts else full
                if self.packing in PLAIN:
                    count = min(count, full)
                if start + count > len(content) or (self.packing in PLAIN and count < full):
                    raise BadImage(names.TRUNCATED)
                yield content[start : start + count]

    def _plane(self, bands: range, plane: int) -> Callable[[int, int], Pixels]:
        """Lines of bytes, segment after segment; of CCITT codes one byte a pixel."""
        grid, parts = self.grid, list(self._segments(bands, plane))
        reverse = self.header.one(names.FILL_ORDER, 1) == 2  # noqa: PLR2004
        if self.packing in PLAIN:
            joined = parts[0] if len(parts) == 1 else b"".join(parts)
            lines = np.frombuffer(joined, dtype=np.uint8).reshape(-1, grid.line_bytes)
            table = np.frombuffer(_REVERSED, dtype=np.uint8)
            return (lambda top, bottom: table[lines[top:bottom]]) if reverse else lambda top, bottom: lines[top:bottom]
        if reverse and self.packing not in FAX:
            parts = [memoryview(bytes(part).translate(_REVERSED)) for part in parts]
        total = grid.lines(bands) * grid.across
        high = -(-grid.high // grid.subsampling[1]) if grid.tiled or grid.down > 1 else total
        image = TiffImageFile(BytesIO(self._spare(parts, total, high)))
        image.load()

        def taken(top: int, bottom: int) -> Pixels:
            return np.asarray(image.crop((0, top, image.width, bottom))).astype(np.uint8, copy=False)

        return taken

    def _spare(self, parts: list[memoryview], total: int, high: int) -> bytes:
        """A TIFF file of these segments as strips of bytes, so that whoever reads it unpacks and nothing else."""
        fax = self.packing in FAX
        tags = [(names.WIDTH, self.grid.wide if fax else self.grid.line_bytes), (names.LENGTH, total)]
        tags += [(names.BITS, 1 if fax else 8), (names.COMPRESSION, self.packing), (names.PHOTOMETRIC, 1)]
        if fax:
            tags.append((names.FILL_ORDER, self.header.one(names.FILL_ORDER, 1)))
        tags += [(names.STRIP_OFFSETS, 0), (names.SAMPLES, 1), (names.STRIP_ROWS, high), (names.STRIP_COUNTS, 0)]
        if fax:
            tags += [(name, self.header.one(name, 0)) for name in (names.T4_OPTIONS, names.T6_OPTIONS)]
        many = len(parts)
        behind = 8 + 2 + 12 * len(tags) + 4
        sizes = np.array([len(part) for part in parts], dtype="<u4")
        starts = np.zeros(many, dtype="<u4")
        starts[1:] = np.cumsum(sizes[:-1])
        starts += behind + (8 * many if many > 1 else 0)
        lists = {names.STRIP_OFFSETS: (starts, behind), names.STRIP_COUNTS: (sizes, behind + 4 * many)}
        entries = [struct.pack("<4sIH", b"II*\0", 8, len(tags))]
        for name, value in tags:
            if name in lists:
                values, place = lists[name]
                entries.append(struct.pack("<HHII", name, 4, many, place if many > 1 else int(values[0])))
            else:
                entries.append(struct.pack("<HHII", name, 4, 1, value))
        tables = [starts.tobytes(), sizes.tobytes()] if many > 1 else []
        return b"".join([*entries, bytes(4), *tables, *parts])

    def _samples(self, lines: Pixels) -> Samples:
        """[lines, width of a segment, samples] of lines of bytes; with shared colours [rows, ...]."""
        grid = self.grid
        if self.packing in FAX:
            return lines[..., None]
        if grid.subsampling != (1, 1):
            return _unshared(lines, grid)
        shape = (len(lines), grid.wide, grid.together)
        values: Samples = _unpacked(lines, grid.bits, self.header.order)[:, : grid.wide * grid.together].reshape(shape)
        if self.packing in PREDICTED and self.header.one(names.PREDICTOR, 1) == 2:  # noqa: PLR2004
            values = np.cumsum(values, axis=1, dtype=np.uint8 if grid.bits == 8 else np.uint16)  # noqa: PLR2004
        return values

    def _jpegs(self, bands: range, plane: int) -> Iterator[Pixels]:
        tables = bytes(self.header.tags.get(names.JPEG_TABLES, ()))
        grid, transform = self.grid, {6: 1}.get(self.photometric, 0)
        for index, part in enumerate(self._segments(bands, plane)):
            band = bands.start + index // grid.across
            rows = grid.lines(range(band, band + 1))
            found = jpeg.header(bytes(part), transform=transform, tables=tables)
            if found.width != grid.wide or not rows <= found.height <= grid.high:
                raise BadImage("the TIFF image is damaged: a JPEG image in it has another size than its strip or tile")
            if len(found.factors) != grid.together:
                raise BadImage(
                    "the TIFF image is damaged: a JPEG image in it has other components than its strip or tile"
                )
            yield found.raster().rows(0, found.height)[:rows]


def _joined(parts: Iterator[Pixels], grid: Grid) -> Pixels:
    """Segments of whole bands, put together: [rows, width, ...]."""
    listed = list(parts)
    bands = [np.concatenate(listed[at : at + grid.across], axis=1) for at in range(0, len(listed), grid.across)]
    return np.concatenate(bands)[:, : grid.width]


def _beside(values: Samples, bands: int, grid: Grid) -> Samples:
    """Segments that come one below the other, put side by side: [rows, width, samples]."""
    if grid.across == 1:
        return values[:, : grid.width]
    order = values.reshape(bands, grid.across, -1, grid.wide, values.shape[-1]).swapaxes(1, 2)
    return order.reshape(-1, grid.across * grid.wide, values.shape[-1])[:, : grid.width]


def _unpacked(lines: Pixels, bits: int, order: str) -> Samples:
    """Samples of `bits` bits, the first in the highest bits: [lines, samples, and what fills the last byte]."""
    if bits == 8:  # noqa: PLR2004
        return lines
    if bits == 16:  # noqa: PLR2004
        return np.ascontiguousarray(lines).view(f"{order}u2").astype(np.uint16, copy=False)
    if bits == 12:  # noqa: PLR2004
        filled = np.pad(lines, ((0, 0), (0, -lines.shape[1] % 3))).astype(np.uint16).reshape(len(lines), -1, 3)
        pair = (filled[..., 0] << 4 | filled[..., 1] >> 4, (filled[..., 1] & 15) << 8 | filled[..., 2])
        return np.stack(pair, axis=-1).reshape(len(lines), -1)
    shifts = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
    return ((lines[..., None] >> shifts) & np.uint8(2**bits - 1)).reshape(len(lines), -1)


def _unshared(lines: Pixels, grid: Grid) -> Samples:
    """YCbCr whose colours several pixels share, [rows, width of a segment, 3]: every pixel gets its own."""
    across, down = grid.subsampling
    units = lines.reshape(len(lines), -1, across * down + 2)
    luma = (
        units[..., : across * down].reshape(len(lines), -1, down, across).swapaxes(1, 2).reshape(len(lines) * down, -1)
    )
    colours = [units[..., place].repeat(down, axis=0).repeat(across, axis=1) for place in (-2, -1)]
    return np.stack([luma, *colours], axis=-1)[:, : grid.wide]
