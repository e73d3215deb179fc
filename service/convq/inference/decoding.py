"""From encoded bytes to the pixels that people see: the first half of the path that `image` describes."""

from __future__ import annotations

import re
import threading
import warnings
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from convq.errors import BadImage, ImageTooLarge, JobError
from convq.inference.formats import claimed_size, open_lazily, recognise
from convq.inference.manifest import Input, Limits

Pixels = NDArray[np.uint8]

_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF tag 274 -> what turns the stored image the way people see it."""

_ORIENTATION_HOLDERS = frozenset({"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"})
_WIDE = 65535
_TWELVE_BIT = 4095
_BITS_PER_SAMPLE = 258


class _Quiet:
    """Silences Python's warnings while at least one thread decodes.

    Pillow warns about oddities of the file, which are the client's business and not our log's. The interpreter's
    filters belong to the process, and `catch_warnings` alone would leave them wrong when two threads overlap.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._saved: warnings.catch_warnings[None] | None = None

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.simplefilter("ignore")

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._saved is not None:
                self._saved.__exit__(None, None, None)
                self._saved = None


_quiet = _Quiet()


def decode(data: bytes, spec: Input, limits: Limits) -> Pixels:
    """The first frame of an encoded image as people see it: uint8, [height, width] for gray, else [height, width, 3].

    PNG, JPEG, WebP, BMP, GIF, TIFF. Colours come as red, green, blue also for a model that wants BGR. Transparent
    pixels are composited over `spec.background`; EXIF orientation is applied; 16 bits a channel become 8 by dividing
    by 257 (colour: by taking the high byte, at most one level lower). The array may be read-only.

    Raises:
        ImageTooLarge: more bytes, or by its header more pixels, than `limits`; nothing has been decoded then.
        BadImage: everything else that keeps the bytes from being an image, truncation included.
    """
    if not data:
        raise BadImage("the image is empty: 0 bytes")
    if len(data) > limits.max_bytes:
        raise ImageTooLarge(f"the image has {len(data)} bytes; at most {limits.max_bytes} are accepted")
    name = recognise(data)
    if size := claimed_size(data, name):
        _check_size(size, name, limits)
    try:
        with _quiet:
            image = open_lazily(data, name)
            _check_size(image.size, name, limits)
            image.load()
            return _to_pixels(_upright(image), spec)
    except JobError:
        raise
    except Image.DecompressionBombError:
        raise ImageTooLarge(f"the {name} image would decompress to too many pixels") from None
    except MemoryError:
        raise ImageTooLarge(f"the {name} image needs more memory to decode than there is") from None
    except Exception as err:  # noqa: BLE001
        # Pillow raises nearly every built-in exception on hostile bytes, and whichever it is, the file is at fault.
        raise BadImage(f"the {name} image {_reason(err)}") from None


def _check_size(size: tuple[int, int], name: str, limits: Limits) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise BadImage(f"the {name} image is {width} x {height} pixels; expected at least 1 x 1")
    if width * height > limits.max_pixels:
        raise ImageTooLarge(
            f"the {name} image is {width} x {height} = {width * height} pixels; at most {limits.max_pixels} are accepted"
        )


def _reason(err: Exception) -> str:
    """Pillow's own words where they are words: no path, no object's repr, no numbers of its innards."""
    text = str(err)
    if "truncated" in text.lower() or isinstance(err, EOFError | IndexError):
        return "is truncated: the bytes end before the picture does"
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9 ,.'-]{3,80}", text) and "object" not in text:
        return f"cannot be decoded: {text[0].lower()}{text[1:]}"
    return "cannot be decoded: it is damaged or incomplete"


def _upright(image: Image.Image) -> Image.Image:
    """The image turned by its EXIF orientation. TIFF needs nothing: Pillow turns it while loading."""
    if _ORIENTATION_HOLDERS.isdisjoint(image.info):
        return image
    try:
        turn = _ORIENTATIONS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001
        # A photograph whose EXIF block is damaged is still a photograph: it stands as it was stored.
        return image
    return image if turn is None else image.transpose(turn)


def _to_pixels(image: Image.Image, spec: Input) -> Pixels:
    """The loaded image as uint8 gray or RGB."""
    wanted = "L" if spec.color == "gray" else "RGB"
    if image.mode.startswith("I;16"):
        image = _narrow(image, spec)
    elif image.mode in ("I", "F", "LAB"):
        kind = {"I": "32-bit integer", "F": "floating point", "LAB": "CIELAB"}[image.mode]
        raise BadImage(f"the image has {kind} pixels; expected gray, palette, RGB or CMYK with 8 or 16 bits a channel")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = _composite(image, spec)
    if image.mode != wanted:
        image = image.convert(wanted)
    shape = (image.height, image.width) if wanted == "L" else (image.height, image.width, 3)
    return np.frombuffer(image.tobytes(), dtype=np.uint8).reshape(shape)


def _narrow(image: Image.Image, spec: Input) -> Image.Image:
    """A gray image of 16 (or, in TIFF, 12) bits a pixel as one of 8, rounded; one transparent level is replaced."""
    order = ">u2" if image.mode == "I;16B" else "<u2"
    values = np.frombuffer(image.tobytes(), dtype=order).reshape(image.height, image.width)
    bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))
    top = _TWELVE_BIT if bits == (12,) else _WIDE
    scaled = (np.minimum(values, top) * np.uint32(255) + top // 2) // top
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        scaled[values == clear] = _gray(spec.background)
    return Image.fromarray(scaled.astype(np.uint8))


def _composite(image: Image.Image, spec: Input) -> Image.Image:
    """The image over the manifest's background, without transparency."""
    red, green, blue = spec.background if len(spec.background) > 1 else spec.background * 3
    base = Image.new("RGBA", image.size, (red, green, blue, 255))
    base.alpha_composite(image.convert("RGBA"))
    return base.convert("RGB")


def _gray(background: tuple[int, ...]) -> int:
    """ITU-R BT.601 luma, the weights that Pillow uses for gray as well."""
    if len(background) == 1:
        return background[0]
    red, green, blue = background
    return (299 * red + 587 * green + 114 * blue + 500) // 1000
