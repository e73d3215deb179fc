"""Which picture format some bytes are, told from the bytes alone, and how large they say the picture is.

Nothing is decoded here. Only the seven formats of the protocol exist: whatever else Pillow could open (PostScript that
starts a program, movies, fonts) is never tried on bytes from strangers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from convq.engine.codecs import avif, bmp, gif, jpeg, png, tiff, webp
from convq.engine.codecs.raster import Header
from convq.errors import BadImage

SHOWN_BYTES = 12
"""How much of something that is no image is quoted: enough to see "<html", too little to leak a payload into logs."""

_HEADERS: dict[str, Callable[[bytes], Header]] = {
    "PNG": png.header,
    "JPEG": jpeg.header,
    "WebP": webp.header,
    "BMP": bmp.header,
    "GIF": gif.header,
    "TIFF": tiff.header,
    "AVIF": avif.header,
}

_SIGNATURES = (
    (png.SIGNATURE, "PNG"),
    (jpeg.SIGNATURE, "JPEG"),
    (b"BM", "BMP"),
    *((signature, "GIF") for signature in gif.SIGNATURES),
    *((signature, "TIFF") for signature in tiff.SIGNATURES),
)

_UNREAD = (
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x01\x00", "ICO"),
    (b"\x00\x00\x02\x00", "CUR"),
    (b"8BPS", "PSD"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"II\xbc\x01", "JPEG XR"),
    (b"v/1\x01", "OpenEXR"),
    (b"qoif", "QOI"),
    (b"DDS ", "DDS"),
    (b"gimp xcf", "XCF"),
    (b"\x8aMNG\r\n\x1a\n", "MNG"),
    (b"FLIF", "FLIF"),
    (b"BPG\xfb", "BPG"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"\x59\xa6\x6a\x95", "Sun raster"),
    (b"icns", "ICNS"),
    (b"PK\x03\x04", "ZIP"),
    (b"\x1f\x8b", "gzip"),
    (b"\x1aE\xdf\xa3", "Matroska or WebM video"),
    *((b"P%d" % kind, "Netpbm") for kind in range(1, 8)),
)
"""What people send that is not read, by name. Netpbm needs white space behind, see `_foreign`."""

_HEIF_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}
_NETPBM_BYTES = 2


@dataclass(frozen=True, slots=True)
class Estimate:
    """What decoding a picture will take, as its header claims."""

    pixels: int
    """Width times height; 0 where the bytes do not say."""
    peak_bytes: int
    """Memory at the highest point, the encoded bytes themselves left out; about, and rather too high."""


def estimate(data: bytes) -> Estimate:
    """How large a picture is and how much memory its decoding takes, from the header alone; never raises."""
    try:
        header = read_header(data, recognise(data))
        if header.width < 1 or header.height < 1:
            return Estimate(0, 0)
        return Estimate(header.width * header.height, header.peak_bytes)
    except Exception:  # noqa: BLE001
        return Estimate(0, 0)  # whatever the bytes are, `decode` will say so


def recognise(data: bytes) -> str:
    """The format's name; raises BadImage, with what it is or with the first bytes, where it is none of the seven."""
    for signature, name in _SIGNATURES:
        if data.startswith(signature):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if avif.recognised(data):
        return "AVIF"
    known = ", ".join(_HEADERS)
    if foreign := _foreign(data):
        raise BadImage(f"the bytes are {foreign}, which convq does not read; it reads {known}")
    shown = data[:SHOWN_BYTES].decode("latin-1")
    text = "".join(char if " " <= char <= "~" else f"\\x{ord(char):02x}" for char in shown)
    raise BadImage(f"not an image in a format that convq reads ({known})", quote=f"; the bytes begin with '{text}'")


def read_header(data: bytes, name: str) -> Header:
    """What the file says about its first picture; raises BadImage where it says nothing that can be."""
    return _HEADERS[name](data)


def _foreign(data: bytes) -> str | None:
    """The name of a format that is known and not read."""
    if data[4:8] == b"ftyp":
        return "HEIC or HEIF" if data[8:12] in _HEIF_BRANDS else "video or another kind of ISO media"
    for signature, name in _UNREAD:
        if data.startswith(signature) and (name != "Netpbm" or data[_NETPBM_BYTES : _NETPBM_BYTES + 1].isspace()):
            return name
    start = data[:256].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"<svg") or (
        start.startswith((b"<?xml", b"<!--", b"<!doctype svg")) and b"<svg" in data[:2048].lower()
    ):
        return "SVG"
    return None
