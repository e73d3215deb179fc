"""Stored pixels, taken a few rows at a time, and how they become the upright gray or RGB array that a model gets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

Pixels = NDArray[np.uint8]

STRIPE_PIXELS = 1 << 20
"""Rows are worked on in portions of about as many pixels: what stands beside the picture itself stays small."""

_COLOURS = 3
_STRIPE_BYTES = 24
_REST = 1.03


class Header(Protocol):
    """What a file says about its first picture before anything is unpacked."""

    @property
    def width(self) -> int:
        """Columns as stored; with an orientation of 5 to 8 the upright picture has as many rows."""

    @property
    def height(self) -> int:
        """Rows as stored."""

    @property
    def peak_bytes(self) -> int:
        """Memory at the highest point of decoding, the encoded bytes left out; about, and rather too high."""

    def raster(self) -> Raster:
        """The pixels; raises BadImage, or whatever Pillow raises, where the bytes hold none."""


@dataclass(frozen=True, slots=True)
class Raster:
    """A picture as it is stored, of 8 bits a channel."""

    width: int
    height: int
    channels: int
    """1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha."""
    rows: Callable[[int, int], Pixels]
    """From the first row and the one after the last to [rows, width, channels]. Asked for in order, each row once."""
    orientation: int = 1
    """1 to 8, as EXIF counts: how the stored picture is to be turned."""
    premultiplied: bool = False
    """The colours are multiplied by alpha already."""


def peak(pixels: int, stored: float, extra: float = 0) -> int:
    """Bytes for pixels that are held with `stored` bytes each beside the array that is handed out."""
    return int(pixels * (stored + _COLOURS + extra) * _REST) + _STRIPE_BYTES * min(pixels, STRIPE_PIXELS)


def paint(raster: Raster, background: tuple[int, ...], *, gray: bool) -> Pixels:
    """The upright picture over `background` (one level, or red, green, blue): [height, width], or [height, width, 3]."""
    turned = raster.orientation >= 5  # noqa: PLR2004
    sides = (raster.width, raster.height) if turned else (raster.height, raster.width)
    upright = np.empty(sides if gray else (*sides, _COLOURS), dtype=np.uint8)
    stored = _as_stored(upright, raster.orientation)
    step = max(1, STRIPE_PIXELS // raster.width)
    for top in range(0, raster.height, step):
        bottom = min(top + step, raster.height)
        part = raster.rows(top, bottom)
        if raster.channels in (2, 4):
            part = _over(part, background, premultiplied=raster.premultiplied)
        if gray:
            stored[top:bottom] = part[..., 0] if part.shape[2] == 1 else np.asarray(Image.fromarray(part).convert("L"))
        else:
            stored[top:bottom] = part
    return upright


def _as_stored(upright: Pixels, orientation: int) -> Pixels:
    """The same memory, seen as the file stores it."""
    if orientation in (5, 7):
        upright = upright.swapaxes(0, 1)
    if orientation in (6, 8):
        return np.rot90(upright, 1 if orientation == 6 else -1)  # noqa: PLR2004
    rows = -1 if orientation in (3, 4, 7) else 1
    columns = -1 if orientation in (2, 3, 7) else 1
    return upright[::rows, ::columns]


def _over(part: Pixels, background: tuple[int, ...], *, premultiplied: bool) -> Pixels:
    """Pixels with alpha over the background, rounded: [rows, width, 1] where all is gray, else [rows, width, 3]."""
    alpha = part[..., -1:].astype(np.uint16)
    colour = part[..., :-1].astype(np.uint16)
    ground = np.array(background, dtype=np.uint16)
    behind = (255 - alpha) * ground
    if premultiplied:
        return np.minimum(colour + (behind + 127) // 255, 255).astype(np.uint8)
    return ((colour * alpha + behind + 127) // 255).astype(np.uint8)


def narrow(wide: NDArray[np.unsignedinteger], top: int) -> Pixels:
    """Samples of up to 16 bits as 8 bits, rounded; `top` is the largest sample there can be."""
    scaled = wide.astype(np.uint32)
    scaled *= 255
    scaled += top // 2
    scaled //= top
    return scaled.astype(np.uint8)


def of_image(image: ImageFile.ImageFile) -> Callable[[int, int], Pixels]:
    """`rows` of a picture that Pillow unpacks: of gray, RGB or alpha as it is, of a palette the indices, CMYK as RGB."""
    image.load()

    def rows(top: int, bottom: int) -> Pixels:
        whole = (top, bottom) == (0, image.height)
        part = image if whole else image.crop((0, top, image.width, bottom))
        if part.mode in ("CMYK", "YCbCr"):
            part = part.convert("RGB")
        elif part.mode == "1":
            part = part.convert("L")
        levels = np.asarray(part)
        return levels if levels.ndim > 2 else levels[..., None]  # noqa: PLR2004

    return rows
