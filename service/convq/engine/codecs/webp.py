"""WebP: lossy, lossless, with alpha; of an animation the first picture on its canvas."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

from PIL.WebPImagePlugin import WebPImageFile

from convq.engine.codecs import orientation
from convq.engine.codecs.raster import Raster, of_image, peak
from convq.errors import BadImage

_LARGEST_HEAD = 30
"""RIFF header, chunk header, and the longest of the three image headers."""


@dataclass(frozen=True, slots=True)
class WebPHeader:
    """The first chunk of the three kinds of WebP (RFC 9649, sections 2.5 to 2.7)."""

    file: bytes
    width: int
    height: int

    @property
    def peak_bytes(self) -> int:
        """The decoder has two canvases of four bytes a pixel and hands out a third; a little for what it keeps besides."""
        return peak(self.width * self.height, 13)

    def raster(self) -> Raster:
        """The canvas after the first picture."""
        # What follows the RIFF container is no part of it.
        image = WebPImageFile(BytesIO(self.file[: 8 + int.from_bytes(self.file[4:8], "little")]))
        exif, xmp = image.info.get("exif", b""), image.info.get("xmp", b"")
        turn = orientation.of_exif(exif) or orientation.of_xmp(xmp) or 1
        return Raster(self.width, self.height, 4 if image.mode == "RGBA" else 3, of_image(image), turn)


def header(data: bytes) -> WebPHeader:
    """What the first chunk says; BadImage where it is none of the three."""
    chunk = data[12:16]
    if len(data) >= _LARGEST_HEAD:
        if chunk == b"VP8X":
            width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
            return WebPHeader(data, width, height)
        if chunk == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
            width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28))
            return WebPHeader(data, width, height)
    if chunk == b"VP8L" and len(data) >= 25 and data[20] == 0x2F:  # noqa: PLR2004
        bits = int.from_bytes(data[21:25], "little")
        return WebPHeader(data, (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1)
    raise BadImage("the WebP image has no complete header")
