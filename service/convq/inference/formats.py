"""Which image format some bytes are, told from the bytes alone, and how large they say the image is.

Nothing is decoded here. Only the six formats of the protocol exist: whatever else Pillow could open (PostScript that
starts a program, movies, fonts) is never tried on bytes from strangers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO

from PIL import ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from convq.errors import BadImage

SHOWN_BYTES = 12
"""How much of something that is no image is quoted: enough to see "<html", too little to leak a payload into logs."""

Opener = Callable[[BytesIO], ImageFile.ImageFile]

# Each format's own class instead of Image.open: no search through the plugins, no limit from a process-wide variable.
_OPENERS: dict[str, Opener] = {
    "PNG": PngImageFile,
    "JPEG": JpegImageFile,
    "WebP": WebPImageFile,
    "BMP": BmpImageFile,
    "GIF": GifImageFile,
    "TIFF": TiffImageFile,
}

_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"BM", "BMP"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),  # BigTIFF
    (b"MM\x00+", "TIFF"),
)


def recognise(data: bytes) -> str:
    """The format's name; raises BadImage with the first bytes where it is none of the six."""
    for signature, name in _SIGNATURES:
        if data.startswith(signature):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    shown = data[:SHOWN_BYTES].decode("latin-1")
    text = "".join(char if " " <= char <= "~" else f"\\x{ord(char):02x}" for char in shown)
    known = ", ".join(_OPENERS)
    raise BadImage(f"not an image in a format that convq reads ({known})", quote=f"; the bytes begin with '{text}'")


def claimed_size(data: bytes, name: str) -> tuple[int, int] | None:
    """(width, height) in pixels as the header says, where the size must be known before Pillow opens the file.

    That is WebP, whose decoder allocates the whole canvas on opening, and PNG and GIF, where it stands at a fixed
    place. None for the other formats: opening them reads headers only, and the size is looked at before loading.
    """
    if name == "PNG":
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if name == "GIF":
        return int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")
    return _webp_size(data) if name == "WebP" else None


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height of the first chunk, for the three kinds of WebP (RFC 9649, sections 2.5 to 2.7)."""
    chunk = data[12:16]
    if len(data) >= 30:  # noqa: PLR2004  (RIFF header, chunk header, and the longest of the three image headers)
        if chunk == b"VP8X":
            return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
        if chunk == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
            return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    if chunk == b"VP8L" and len(data) >= 25 and data[20] == 0x2F:  # noqa: PLR2004
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1
    raise BadImage("the WebP image has no complete header")


def open_lazily(data: bytes, name: str) -> ImageFile.ImageFile:
    """Pillow's image with its header read and its pixels not yet; raises whatever Pillow raises."""
    return _OPENERS[name](BytesIO(data))


@dataclass(frozen=True, slots=True)
class Estimate:
    """What decoding a picture will take, as its header claims."""

    pixels: int
    """Width times height; 0 where the bytes do not say."""
    peak_bytes: int
    """Memory at the highest point, the encoded bytes themselves left out. Never too low by more than a tenth."""


_FRAME = re.compile(rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf]..[\x08\x0c]", re.DOTALL)
_BYTES_A_PIXEL = {"PNG": 7, "JPEG": 13, "WebP": 20, "BMP": 8, "GIF": 8, "TIFF": 20}


def estimate(data: bytes) -> Estimate:
    """How large a picture is and how much memory its decoding takes, from the header alone; never raises."""
    try:
        name = recognise(data)
        width, height = claimed_size(data, name) or _size_by_opening(data, name)
    except Exception:  # noqa: BLE001  (whatever the bytes are, `decode` will say so)
        return Estimate(0, 0)
    return Estimate(width * height, width * height * _BYTES_A_PIXEL[name])


def _size_by_opening(data: bytes, name: str) -> tuple[int, int]:
    if name == "JPEG" and (found := _FRAME.search(data)):
        at = found.start() + 5
        return int.from_bytes(data[at + 2 : at + 4], "big"), int.from_bytes(data[at : at + 2], "big")
    return open_lazily(data, name).size
