"""A PIL image as the bytes of a PNG file that shows the service what the file of the image would have shown it.

Pillow is not imported: an image that a caller hands over brings it along.
"""

from __future__ import annotations

import io
import threading
from typing import Any

from convq.errors import BadImage

COMPRESS_LEVEL = 1
"""zlib's fastest. For a photograph of 12 megapixels it takes half the time of level 6 and 9 % more bytes."""
ORIENTATION = 274
"""The EXIF tag that says how a picture is to be turned."""
TURNED = range(2, 9)

REFUSED = {"I": "32-bit integer", "F": "floating point", "LAB": "CIELAB"}
"""What the service refuses in a file as well: nobody knows which values are black and white."""
CONVERTED = {
    "CMYK": "RGB",
    "YCbCr": "RGB",
    "HSV": "RGB",
    "RGBX": "RGB",
    "RGBa": "RGBA",
    "PA": "RGBA",
    "La": "LA",
}
"""Modes that no PNG file can hold -> the one that shows the same."""
AS_THEY_ARE = frozenset({"1", "L", "LA", "P", "RGB", "RGBA"})
WIDE = ("I;16", "I;16L", "I;16B", "I;16N")

_DEPTHS = {"L;2": 3, "L;4": 15}
_BITS_PER_SAMPLE = 258
_TWELVE_BIT = 4095

_one_at_a_time = threading.Lock()
"""Pillow reads the file of an image when its pixels are first wanted; two threads must not do that to one image."""


def png_of(image: Any) -> bytes:
    """The PNG file of a PIL image: its pixels, transparency and EXIF orientation, and no other metadata.

    May run in a thread of its own. Raises BadImage for modes that the service refuses as well, and for an image that
    Pillow cannot read to its end.
    """
    _check(image)
    try:
        with _one_at_a_time:
            bare, exif = _bare(image)
        buffer = io.BytesIO()
        bare.save(buffer, "PNG", compress_level=COMPRESS_LEVEL, exif=exif)
    except Exception as error:  # noqa: BLE001 - Pillow raises nearly every built-in exception on a damaged file
        raise BadImage(f"the PIL image cannot be read: {str(error) or type(error).__name__}") from None
    return buffer.getvalue()


def _check(image: Any) -> None:
    if image.mode in REFUSED:
        raise BadImage(
            f"the image has {REFUSED[image.mode]} pixels (PIL mode {image.mode}); "
            "expected gray of 1/2/4/8/12/16, palette of 1/2/4/8, RGB of 8/16, CMYK of 8/16, YCbCr of 8 bits a channel"
        )
    if image.mode not in AS_THEY_ARE and image.mode not in CONVERTED and image.mode not in WIDE:
        raise BadImage(f"the image has PIL mode {image.mode}, which no PNG file holds; convert it to RGB")
    if 0 in image.size:
        raise BadImage(f"the image is {image.width} x {image.height} pixels; expected at least 1 x 1")


def _bare(image: Any) -> tuple[Any, bytes | None]:
    """A copy in a mode that a PNG file can hold, with nothing in its `info` but transparency; and its EXIF block."""
    clear = _clear_value(image)
    image.load()  # turns a TIFF by itself, and finds the EXIF block that stands behind the pixels of a PNG
    exif = _orientation(image)
    if image.mode in WIDE:
        bare = _wide(image)
    elif image.mode in CONVERTED:
        bare = image.convert(CONVERTED[image.mode])
    else:
        bare = image.copy()
    if bare.mode == "P":
        palette = bytes(bare.getpalette() or ())
        if bare.getextrema()[1] >= len(palette) // 3:  # pixels beyond a short palette are black, and need their bits
            bare.putpalette(palette.ljust(256 * 3, b"\0"))
    bare.info = {} if clear is None else {"transparency": clear}
    return bare, exif


def _wide(image: Any) -> Any:
    """A gray image of 16 bits, of which a TIFF may use 12: those are scaled to 8, with the service's own rounding."""
    if getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE) == (12,):
        narrowed = [(min(value, _TWELVE_BIT) * 255 + _TWELVE_BIT // 2) // _TWELVE_BIT for value in range(1 << 16)]
        return image.convert("I").point(narrowed, "L")
    return image.copy() if image.mode == "I;16" else image.convert("I").convert("I;16")


def _clear_value(image: Any) -> Any:
    """The colour that is transparent, for pixels as Pillow gives them: in a PNG file it stands at the file's own depth."""
    clear = image.info.get("transparency")
    if clear is None or image.mode not in ("1", "L", "P", "RGB", *WIDE):
        return None
    if image.mode == "RGB" and any(part >> 8 for part in clear):
        return tuple(part >> 8 for part in clear)
    tiles = getattr(image, "tile", None)
    depth = _DEPTHS.get(str(tiles[0][3])) if tiles else None  # Pillow knows it only until the pixels are loaded
    return clear * 255 // depth if depth and isinstance(clear, int) else clear


def _orientation(image: Any) -> bytes | None:
    """An EXIF block that holds the orientation alone; None where the picture stands as it is stored."""
    try:
        exif = image.getexif()
        turn = exif.get(ORIENTATION)
    except Exception:  # noqa: BLE001 - a photograph whose EXIF block is damaged stands as it is stored, as in the service
        return None
    if turn not in TURNED:
        return None
    alone = type(exif)()
    alone[ORIENTATION] = turn
    return bytes(alone.tobytes())
