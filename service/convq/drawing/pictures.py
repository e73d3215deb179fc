"""What a caller calls a picture, as the upright picture that an answer's coordinates belong to."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from PIL import Image, ImageOps

from convq.errors import BadImage

READ: Final = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
"""What the service reads, and nothing else that Pillow could open: PostScript would start a program."""
ORIENTATION: Final = 274
"""The EXIF tag that says how a picture is to be turned."""
_ALPHA: Final = ("LA", "PA", "RGBA", "La", "RGBa")
_WIDE: Final = ("I;16", "I;16L", "I;16B", "I;16N")
_NARROWED: Final = [(value + 128) // 257 for value in range(1 << 16)]
"""Level of 16 bits -> level of 8, rounded, as the service does."""
_CHANNELS: Final = (1, 3)
_SHOWN: Final = 80


def upright(picture: Any, size: tuple[int, int] | None = None) -> Image.Image:
    """The first frame of a picture, turned by its orientation: a new image of mode RGB, transparency over white.

    `picture` is what `Client.submit` takes: the bytes of a file, a path, a PIL image, or an array of uint8, [h, w],
    [h, w, 1 or 3] or [1 or 3, h, w]. `size` is the width and height that it must have.

    Raises BadImage for what Pillow does not decode, which is less than the service does, and for another size.
    """
    image = _of_array(picture, size) if _is_array(picture) else _decoded(picture)
    if size is not None and image.size != size:
        raise BadImage(
            f"the picture is {image.width} x {image.height} pixels, and the answer is of one of {size[0]} x {size[1]}"
        )
    return image


def is_turned(picture: bytes | Path) -> bool:
    """Whether a file says that its picture is to be turned before people look at it; False for what is no picture."""
    try:
        with Image.open(BytesIO(picture) if isinstance(picture, bytes) else picture, formats=READ) as image:
            return image.getexif().get(ORIENTATION, 1) in range(2, 9)
    except Exception:  # noqa: BLE001 - Pillow raises nearly every built-in exception on a damaged file
        return False


def _decoded(picture: Any) -> Image.Image:
    """Bytes, a path or a PIL image, upright and in colours."""
    try:
        image = picture if isinstance(picture, Image.Image) else Image.open(BytesIO(_bytes(picture)), formats=READ)
        image.load()  # turns a TIFF by itself, and finds the EXIF block that stands behind the pixels of a PNG
        return _coloured(ImageOps.exif_transpose(image))
    except BadImage:
        raise
    except MemoryError:
        raise BadImage("the picture needs more memory to decode than there is") from None
    except Exception as error:  # noqa: BLE001 - Pillow raises nearly every built-in exception on a damaged file
        why = str(error) if str(error) and "object at" not in str(error) else type(error).__name__
        raise BadImage(f"Pillow cannot decode the picture: {why[:_SHOWN]}") from None


def _bytes(picture: Any) -> bytes:
    if isinstance(picture, str | os.PathLike):
        path = Path(picture)
        if not path.is_file():  # reading a pipe may take for ever
            raise BadImage(f"cannot read {str(path)[:_SHOWN]!r}: it is no file")
        try:
            return path.read_bytes()
        except OSError as error:
            raise BadImage(f"cannot read {str(path)[:_SHOWN]!r}: {error.strerror}") from None
    try:
        return bytes(memoryview(picture))
    except TypeError:
        raise BadImage(
            f"a picture is bytes, a path, a PIL image or an array of uint8, not {type(picture).__name__}"
        ) from None


def _coloured(image: Image.Image) -> Image.Image:
    """The same as RGB."""
    if image.mode in ("I", "F"):
        raise BadImage(f"the picture has PIL mode {image.mode}: nobody knows which values are black and white")
    if image.mode in _WIDE:
        image = image.convert("I").point(_NARROWED, "L")
    if image.mode in _ALPHA or "transparency" in image.info:
        clear = image.convert("RGBA")
        ground = Image.new("RGBA", clear.size, "white")
        return Image.alpha_composite(ground, clear).convert("RGB")
    return image.convert("RGB") if image.mode != "RGB" else image.copy()


def _is_array(picture: Any) -> bool:
    return hasattr(picture, "dtype") and hasattr(picture, "shape") and hasattr(picture, "tobytes")


def _of_array(array: Any, size: tuple[int, int] | None) -> Image.Image:
    """Of uint8 as a picture; where the first and the last axis may both be channels, `size` decides, or the last."""
    shape = tuple(int(side) for side in array.shape)
    if getattr(array.dtype, "name", "") != "uint8" or 0 in shape:
        raise BadImage(f"an array to draw on is of uint8, [h, w], [h, w, 3] or [3, h, w], not {array.dtype} {shape}")
    last = len(shape) == 3 and shape[2] in _CHANNELS  # noqa: PLR2004
    first = len(shape) == 3 and shape[0] in _CHANNELS  # noqa: PLR2004
    if len(shape) != 2 and not (last or first):  # noqa: PLR2004
        raise BadImage(f"an array of shape {shape} is no picture: expected [h, w], [h, w, 3] or [3, h, w]")
    if first and (not last or (size is not None and size != (shape[1], shape[0]))):
        planes = [Image.frombytes("L", (shape[2], shape[1]), array[channel].tobytes()) for channel in range(shape[0])]
        return planes[0].convert("RGB") if len(planes) == 1 else Image.merge("RGB", planes)
    mode = "RGB" if last and shape[2] == _CHANNELS[1] else "L"
    return Image.frombytes(mode, (shape[1], shape[0]), array.tobytes()).convert("RGB")
