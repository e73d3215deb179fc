"""TIFF 6.0 and BigTIFF: the first picture of the file.

Pillow is asked for nothing but unpacking: strips and tiles go through it as plain bytes. What the samples mean, their
bits, byte order, planes, predictor, inks and alpha, is read here; what stands in none of these tables is refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence

from convq.engine.codecs import tiff_tags as names
from convq.engine.codecs.raster import STRIPE_PIXELS, Raster, peak
from convq.engine.codecs.tiff_colours import Meaning, converter
from convq.engine.codecs.tiff_segments import FAX, JPEG, PACKED, PLAIN, PREDICTED, Grid, samples_of
from convq.engine.codecs.tiff_tags import Directory, read_tags
from convq.errors import BadImage, ImageTooLarge

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_PACKINGS = {6: "old-style JPEG", 34661: "JBIG", 34676: "LogLuv", 34677: "LogLuv", 34712: "JPEG 2000", 34887: "LERC"}
_PACKINGS |= {32771: "CCITT codes in words", 32809: "ThunderScan", 33003: "JPEG 2000", 33005: "JPEG 2000"}
_PACKINGS |= {50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL"}
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _INKS, _YCBCR = 0, 1, 2, 3, 5, 6
_BASE = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1, _INKS: 4, _YCBCR: 3}
"""Photometric interpretation -> samples of a pixel besides extra ones."""
_COLOURS = {
    4: "mask",
    8: "CIELAB",
    9: "ICCLAB",
    10: "ITULAB",
    32803: "raw sensor",
    34892: "raw sensor",
    32844: "LogL",
    32845: "LogLuv",
}
_GRAY_BITS = (1, 2, 4, 8, 12, 16)
_BITS = {_WHITE_IS_ZERO: _GRAY_BITS, _BLACK_IS_ZERO: _GRAY_BITS, _RGB: (8, 16), _PALETTE: (1, 2, 4, 8), _INKS: (8, 16)}
_BITS |= {_YCBCR: (8,)}
_NAMED = {"gray": _BLACK_IS_ZERO, "palette": _PALETTE, "RGB": _RGB, "CMYK": _INKS, "YCbCr": _YCBCR}
READ = ", ".join(f"{name} of {'/'.join(map(str, _BITS[kind]))}" for name, kind in _NAMED.items()) + " bits"
"""Colours, each with the bits of a channel that are read."""
_EXPECTED = f"expected {READ} a channel"
_ASSOCIATED, _UNASSOCIATED, _COREL = 1, 2, 999
_MAX_SAMPLES = 16
_FLOAT_BYTES, _SPREAD_BYTES = 100, 9
_SEGMENT_BYTES = 320
"""What a strip or tile takes besides its pixels: its place, its length, a view of its bytes."""
_MAX_PADDING = 1 << 24
"""Pixels that tiles may have beside the picture."""


class TiffHeader(Directory):
    """The first directory, and the picture that it describes."""

    __slots__ = ()

    @property
    def peak_bytes(self) -> int:
        """A strip may be as large as the picture: unpacked by Pillow, and taken from there a few rows at a time."""
        each = self.one(names.SAMPLES, 1) * max(self.tags.get(names.BITS, [1]), default=1) / 8
        segments = len(self.tags.get(names.STRIP_OFFSETS, ())) + len(self.tags.get(names.TILE_OFFSETS, ()))
        pixels, stripe = self.width * self.height, 0
        if self.one(names.PHOTOMETRIC, 0) == _YCBCR and self.one(names.COMPRESSION, 1) not in JPEG:
            # Made into colours in floating point; where pixels share a colour, all of them are spread out first.
            stripe = _FLOAT_BYTES * min(pixels, STRIPE_PIXELS)
            each += 0 if tuple(self.tags.get(names.SUBSAMPLING, (2, 2))) == (1, 1) else _SPREAD_BYTES
        return peak(pixels, max(4, each)) + _SEGMENT_BYTES * segments + stripe

    def raster(self) -> Raster:
        """The pixels, where the combination of tags is one that is known."""
        packing = self.one(names.COMPRESSION, 1)
        if packing not in PLAIN | PACKED | FAX | JPEG:
            raise BadImage(f"the TIFF image is packed as {_PACKINGS.get(packing, packing)}, which is not read")
        self._check_copy()
        photometric, bits = self._photometric(), self._bits()
        extra = self._extra(_BASE[photometric])
        grid = self._grid(_BASE[photometric] + len(extra), bits, photometric)
        self._check_predictor(packing, bits, grid)
        meaning = Meaning.of(self, photometric, bits, extra)
        source, coloured = samples_of(self, grid, packing, photometric)
        if coloured:
            meaning = Meaning.of(self, _RGB, bits, extra)
        convert, channels = converter(meaning)
        turn = self.one(names.ORIENTATION, 1)
        return Raster(
            self.width,
            self.height,
            channels,
            lambda top, bottom: convert(source(top, bottom)),
            turn if 1 <= turn <= 8 else 1,  # noqa: PLR2004
            meaning.premultiplied,
        )

    def _check_copy(self) -> None:
        if names.DNG in self.tags or self.one(names.SUBFILE, 0) & 1:
            raise BadImage(
                "the TIFF image begins with a reduced copy, as raw photographs do; the picture itself is not read"
            )

    def _check_predictor(self, packing: int, bits: int, grid: Grid) -> None:
        """What no specification combines is refused: some readers undo a predictor there, others leave it out."""
        predictor = self.one(names.PREDICTOR, 1)
        if predictor == 1:
            return
        if packing not in PREDICTED:
            raise BadImage(f"the TIFF image has predictor {predictor} with a packing that has none, which is not read")
        if grid.subsampling != (1, 1):
            raise BadImage(
                f"the TIFF image has predictor {predictor} and pixels that share a colour, which is not read"
            )
        if predictor != 2 or bits not in (8, 16):  # noqa: PLR2004
            raise BadImage(f"the TIFF image has predictor {predictor} with {bits} bits, which is not read")

    def _photometric(self) -> int:
        value = self.one(names.PHOTOMETRIC, -1)
        if value not in _BASE:
            name = _COLOURS.get(value, f"kind {value}" if value >= 0 else "unnamed")
            raise BadImage(f"the TIFF image has {name} pixels; {_EXPECTED}")
        return value

    def _bits(self) -> int:
        """Of every sample."""
        bits, formats = set(self.tags.get(names.BITS, [1])), set(self.tags.get(names.FORMAT, [1])) - {1, 4}
        if 3 in formats:  # noqa: PLR2004
            raise BadImage(f"the TIFF image has floating point pixels; {_EXPECTED}")
        if len(bits) != 1 or formats - {2}:
            raise BadImage(f"the TIFF image has samples of several kinds; {_EXPECTED}")
        (each,) = bits
        if formats or each not in _BITS[self._photometric()]:
            sign = "signed " if formats and each < 32 else ""  # noqa: PLR2004
            raise BadImage(f"the TIFF image has {sign}{each}-bit integer pixels; {_EXPECTED}")
        return each

    def _extra(self, base: int) -> Sequence[int]:
        """What the samples after the colour are: 0 anything, 1 alpha that the colours are multiplied by, 2 alpha."""
        samples = self.one(names.SAMPLES, 1)
        if not base <= samples <= _MAX_SAMPLES:
            raise BadImage(f"the TIFF image has {samples} samples a pixel; expected {base} to {_MAX_SAMPLES}")
        extra = [_UNASSOCIATED if kind == _COREL else kind for kind in self.tags.get(names.EXTRA, [])]
        if not extra and (base, samples) == (3, 4):
            return [_UNASSOCIATED]  # what writers mean that leave out the tag
        if len(extra) != samples - base or set(extra) - {0, _ASSOCIATED, _UNASSOCIATED}:
            raise BadImage(f"the TIFF image has {samples} samples a pixel and does not say what they are")
        return extra

    def _grid(self, samples: int, bits: int, photometric: int) -> Grid:
        """How strips or tiles lie over the picture."""
        planar = self.one(names.PLANAR, 1)
        if planar not in (1, 2) or self.one(names.FILL_ORDER, 1) not in (1, 2):
            raise BadImage("the TIFF image has a planar configuration or an order of bits that there is not")
        tiled = names.TILE_WIDTH in self.tags
        if tiled:
            wide, high = self.one(names.TILE_WIDTH, 0), self.one(names.TILE_LENGTH, 0)
            offsets, counts = self.tags.get(names.TILE_OFFSETS, ()), self.tags.get(names.TILE_COUNTS, ())
        else:
            wide, high = self.width, min(self.one(names.STRIP_ROWS, self.height), self.height)
            offsets, counts = self.tags.get(names.STRIP_OFFSETS, ()), self.tags.get(names.STRIP_COUNTS, ())
        if wide < 1 or high < 1:
            raise BadImage("the TIFF image has strips or tiles without pixels")
        grid = Grid(
            self.width, self.height, wide, high, tiled, samples, bits, planar == 2, offsets, counts,  # noqa: PLR2004
            self._subsampling(photometric, planar),
        )  # fmt: skip
        if grid.across * wide * grid.down * high > 2 * self.width * self.height + _MAX_PADDING:
            raise ImageTooLarge(f"the TIFF image has tiles of {wide} x {high} pixels, far larger than the picture")
        return grid

    def _subsampling(self, photometric: int, planar: int) -> tuple[int, int]:
        """How many columns and rows share a colour, where the container and not JPEG says so."""
        if photometric != _YCBCR or self.one(names.COMPRESSION, 1) in JPEG:
            return 1, 1
        across, down = [*self.tags.get(names.SUBSAMPLING, (2, 2)), 1, 1][:2]
        if across not in (1, 2, 4) or down not in (1, 2, 4) or (planar == 2 and (across, down) != (1, 1)):  # noqa: PLR2004
            raise BadImage(f"the TIFF image shares colours of {across} x {down} pixels in a way that is not read")
        return across, down


def header(data: bytes) -> TiffHeader:
    """The first directory; BadImage where it is cut off or names no size."""
    tags, order = read_tags(data)
    width, height = (tags.get(name, (0,))[:1] or (0,) for name in (names.WIDTH, names.LENGTH))
    return TiffHeader(data, width[0], height[0], tags, order)
