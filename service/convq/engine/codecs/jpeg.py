"""JPEG: sequential, progressive and lossless by Huffman codes, 8 bits, gray, YCbCr, RGB, CMYK and YCCK.

Two things are looked at here because libjpeg lets them pass. A progressive file may hold any number of scans, each of a
few bytes and each as slow as a whole picture: they are counted. And where bytes lack, libjpeg makes gray of the rest
without a word: a scan must be whole, while the mark of the end behind it may be missing, as some cameras leave it out.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO

from PIL import ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from convq.engine.codecs import orientation
from convq.engine.codecs.raster import STRIPE_PIXELS, Raster, of_image, peak
from convq.errors import BadImage

SIGNATURE = b"\xff\xd8\xff"
MAX_SCANS = 200
"""Encoders write about ten. One that says nothing takes libjpeg 20 ms for 50 megapixels."""

MAX_SEGMENTS = 100_000
"""Before the first scan, and again from there on. The longest profile has 255; each takes us some microseconds."""

TRUNCATED = "the JPEG image is truncated: the bytes end before the picture does"

_SOI, _EOI, _SOS, _SOF0, _PROGRESSIVE = 0xD8, 0xD9, 0xDA, 0xC0, 0xC2
_END = b"\xff\xd9"
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)
"""In coded data a byte 0xff is followed by 0 or is a restart; whatever else follows is a marker."""
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_READ = frozenset({0xC0, 0xC1, 0xC2, 0xC3})
_KEPT = frozenset({0xC4, 0xDB, 0xDD})
"""Huffman tables, quantisation, restart interval."""
_APP0, _APP1, _APP14 = 0xE0, 0xE1, 0xEE
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_LOOK_AHEAD = bytes(8)
"""libjpeg reads on until it holds 57 bits: it gets these behind a scan, and asks for more where the scan is not whole."""
_NOISE = random.Random(1).randbytes(1024).replace(b"\xff", b"\xfe")  # noqa: S311
_COEFFICIENT_BYTES = 2


@dataclass(slots=True)
class JpegHeader:
    """What stands before the first scan."""

    file: bytes
    width: int = 0
    height: int = 0
    frame: int = 0
    """The marker of the frame, 0xc0 to 0xcf."""
    bits: int = 0
    factors: list[int] = field(default_factory=list)
    """Of each component, the product of its sampling factors."""
    parts: list[bytes] = field(default_factory=list)
    """The segments that the decoder needs."""
    start: int = 0
    """Where the first scan begins."""
    turn: int | None = None
    """The orientation that EXIF names."""
    xmp_turn: int | None = None
    plain_cmyk: bool = False
    """Four components are not inverted, as they are in files of JPEG's own."""

    @property
    def peak_bytes(self) -> int:
        """Coefficients of progressive files are kept until the last scan."""
        pixels, most = self.width * self.height, max(self.factors, default=1)
        kept = _COEFFICIENT_BYTES * sum(self.factors) / most if self.frame == _PROGRESSIVE else 0
        return peak(pixels, 1 if len(self.factors) == 1 else 4, kept)

    def raster(self) -> Raster:
        """The picture, if every scan of it is whole."""
        if self.frame not in _READ or self.bits != 8:  # noqa: PLR2004
            raise BadImage(
                f"the JPEG image is {_kind(self.frame)} with {self.bits} bits; expected Huffman codes and 8 bits"
            )
        if len(self.factors) not in (1, 3, 4):
            raise BadImage(f"the JPEG image has {len(self.factors)} components; expected 1, 3 or 4")
        if not self.start:
            raise BadImage(TRUNCATED)
        scans, end, ended = _scans(self.file, self.start)
        if not scans:
            raise BadImage(TRUNCATED)
        if len(scans) > MAX_SCANS:
            raise BadImage(f"the JPEG image has more than {MAX_SCANS} scans; encoders write about ten")
        body = memoryview(self.file)[self.start : end]
        image = self._whole(scans, body, ended=ended)
        turn = self.turn or self.xmp_turn or 1
        return Raster(self.width, self.height, 1 if len(self.factors) == 1 else 3, of_image(image), turn)

    def _whole(self, scans: list[_Scan], body: memoryview, *, ended: bool) -> ImageFile.ImageFile:
        one = self.frame != _PROGRESSIVE and len(scans) == 1 and len(scans[0].components) == len(self.factors)
        if one and ended:
            # Pillow calls the file truncated if libjpeg wants more than this.
            return self._image(body, _LOOK_AHEAD)
        complete = self.frame != _PROGRESSIVE or _is_complete(scans, len(self.factors))
        if complete and ended and scans[-1].refines:
            return self._image(body, _END)
        if not complete and not ended:
            raise BadImage(TRUNCATED)
        # What lacks is made up of what follows: if other bits make no other picture, nothing lacks.
        if len(scans) > MAX_SCANS // 2:
            raise BadImage(TRUNCATED)
        first, second = self._image(body, bytes(len(_NOISE)), _END), self._image(body, _NOISE, _END)
        expected = _checksum(first)
        if _checksum(second) != expected:
            raise BadImage(TRUNCATED)
        return first

    def _image(self, body: memoryview, *tail: bytes) -> ImageFile.ImageFile:
        image = JpegImageFile(BytesIO(b"".join((b"\xff\xd8", *self.parts, body, *tail))))
        if self.plain_cmyk and image.mode == "CMYK":
            tile = image.tile[0]
            image.tile = [ImageFile._Tile(tile[0], tile[1], tile[2], ("CMYK", ""))]  # noqa: SLF001
        return image


@dataclass(frozen=True, slots=True)
class _Scan:
    components: bytes
    """Their names."""
    first: int
    last: int
    """Coefficients of a block, 0 to 63."""
    refines: bool
    """Adds a bit to coefficients that are there already: without it the picture is a little coarser."""
    left: int
    """Low bits that later scans bring."""


def _is_complete(scans: list[_Scan], components: int) -> bool:
    """Whether the scans bring every coefficient of every component down to its last bit."""
    left: dict[int, list[int]] = {}
    for scan in scans:
        for component in scan.components:
            bits = left.setdefault(component, [1] * 64)
            bits[scan.first : scan.last + 1] = [scan.left] * len(bits[scan.first : scan.last + 1])
    return len(left) == components and not any(any(bits) for bits in left.values())


def header(data: bytes, *, transform: int | None = None, tables: bytes = b"") -> JpegHeader:
    """What stands before the first scan.

    `tables`: an abbreviated file (SOI, tables, EOI) that belongs to this one. `transform`: what the components are
    where the container of the file says so: 0 RGB or CMYK, 1 YCbCr, 2 YCCK.
    """
    found = JpegHeader(data, plain_cmyk=transform is not None)
    if transform is not None:
        found.parts.append(b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform]))
    for source in (tables, data):
        for marker, at, end in _segments(source, 2):
            if marker == _SOS:
                found.start = at - 2 if source is data else 0
                break
            _note(found, marker, source[at:end], source[at - 2 : end], named=transform is not None)
    if not found.frame:
        raise BadImage(TRUNCATED)
    return found


def _note(found: JpegHeader, marker: int, body: bytes, segment: bytes, *, named: bool) -> None:
    """One segment: kept, read or passed over. `body` begins with the segment's length."""
    if marker in _FRAMES:
        if found.frame:
            raise BadImage("the JPEG image has two frames; expected one")
        if len(body) < 8 or len(body) < 8 + 3 * body[7]:  # noqa: PLR2004
            raise BadImage(TRUNCATED)
        found.frame, found.bits = marker, body[2]
        found.height, found.width = int.from_bytes(body[3:5], "big"), int.from_bytes(body[5:7], "big")
        found.factors = [(factor >> 4) * (factor & 15) for factor in body[9 : 9 + 3 * body[7] : 3]]
        found.parts.append(segment)
    elif marker in _KEPT:
        found.parts.append(segment)
    elif (marker == _APP0 and body[2:6] == b"JFIF") or (marker == _APP14 and body[2:7] == b"Adobe"):
        if not named:
            found.parts.append(segment)
    elif marker == _APP1 and body[2:6] == b"Exif":
        found.turn = found.turn or orientation.of_exif(body[2:])
    elif marker == _APP1 and body[2:].startswith(_XMP):
        found.xmp_turn = found.xmp_turn or orientation.of_xmp(body)


def _segments(data: bytes, at: int) -> Iterator[tuple[int, int, int]]:
    """Marker, where its length stands, and where it ends, up to the first scan or the end."""
    count = 0
    while match := _MARKER.search(data, at):
        marker, at = match[1][0], match.end()
        if marker == _EOI:
            return
        count = _counted(count)
        if marker in _ALONE:
            continue
        end = at + int.from_bytes(data[at : at + 2], "big")
        if end < at + 2 or end > len(data):
            return
        yield marker, at, end
        at = end


def _scans(data: bytes, start: int) -> tuple[list[_Scan], int, bool]:
    """The scans, as far as they may count; where the last one ends; and whether the mark of the end follows there."""
    scans: list[_Scan] = []
    at, count = start, 0
    while match := _MARKER.search(data, at):
        marker, begin = match[1][0], match.end()
        count = _counted(count)
        if marker == _EOI or len(scans) > MAX_SCANS:
            return scans, _without_fill(data, match.start()), True
        at = begin
        if marker not in _ALONE:
            at += int.from_bytes(data[begin : begin + 2], "big")
        if marker == _SOS and len(segment := data[begin:at]) > 3 and len(segment) >= 6 + 2 * segment[2]:  # noqa: PLR2004
            count = segment[2]
            first, last, bits = segment[3 + 2 * count : 6 + 2 * count]
            scans.append(_Scan(segment[3 : 3 + 2 * count : 2], first, last, bits >> 4 > 0, bits & 15))
    return scans, _without_fill(data, len(data)), False


def _counted(segments: int) -> int:
    """One more. Raises BadImage for more than any encoder writes."""
    if segments >= MAX_SEGMENTS:
        raise BadImage(f"the JPEG image has more than {MAX_SEGMENTS} segments; encoders write some hundred at most")
    return segments + 1


def _without_fill(data: bytes, end: int) -> int:
    """Any number of bytes 0xff may stand before a marker; in coded data none is the last."""
    while data[end - 1] == 0xFF:  # noqa: PLR2004
        end -= 1
    return end


def _kind(frame: int) -> str:
    if frame > 0xC8:  # noqa: PLR2004
        return "arithmetically coded"
    return "lossless" if frame == 0xC3 else "hierarchical" if frame > 0xC3 else "of the ordinary kind"  # noqa: PLR2004


def _checksum(image: ImageFile.ImageFile) -> int:
    """Of all pixels, a few rows at a time."""
    rows, checksum = of_image(image), 0
    step = max(1, STRIPE_PIXELS // image.width)
    for top in range(0, image.height, step):
        checksum = zlib.crc32(rows(top, min(top + step, image.height)).tobytes(), checksum)
    return checksum
