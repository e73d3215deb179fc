"""How a picture is to be turned: the one tag that is read from EXIF and XMP, whatever else stands there."""

from __future__ import annotations

import re
import zlib

_TAG = b"\x01\x12"
_SHORT, _LONG = 3, 4
_ENTRY_BYTES = 12
_MAX_ENTRIES = 1000
"""A camera writes some dozens into the first directory."""
_MAX_TEXT = 1 << 16
_XMP = re.compile(rb"tiff:Orientation(?:\s*=\s*[\"']|\s*>)\s*([1-8])\b")
_HEX = re.compile(rb"[0-9a-fA-F]{2}")


def of_exif(block: bytes) -> int | None:
    """1 to 8, or None where the block is damaged or says nothing. With or without "Exif" before its TIFF header."""
    if block.startswith(b"Exif\0\0"):
        block = block[6:]
    order = {b"II*\0": "little", b"MM\0*": "big"}.get(block[:4])
    if order is None:
        return None

    def number(at: int, size: int) -> int:
        return int.from_bytes(block[at : at + size], "little" if order == "little" else "big")

    first = number(4, 4)
    tag = _TAG if order == "big" else _TAG[::-1]
    for index in range(min(number(first, 2), _MAX_ENTRIES)):
        at = first + 2 + index * _ENTRY_BYTES
        if block[at : at + 2] == tag:
            size = {_SHORT: 2, _LONG: 4}.get(number(at + 2, 2), 0)
            value = number(at + 8, size)
            return value if 1 <= value <= 8 else None  # noqa: PLR2004
    return None


def of_xmp(packet: bytes) -> int | None:
    """The same of an XMP packet, as far as its first 64 KiB say."""
    found = _XMP.search(packet, 0, _MAX_TEXT)
    return int(found[1]) if found else None


def of_raw_profile(text: bytes, *, compressed: bool) -> int | None:
    """The same of an EXIF block in hexadecimal digits, which ImageMagick writes into a text chunk of PNG."""
    if compressed:
        try:
            text = zlib.decompressobj().decompress(text, _MAX_TEXT)
        except zlib.error:
            return None
    lines = text[:_MAX_TEXT].split(b"\n", 3)
    return of_exif(bytes.fromhex(b"".join(_HEX.findall(lines[3])).decode("ascii"))) if len(lines) > 3 else None  # noqa: PLR2004
