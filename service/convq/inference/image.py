"""From encoded bytes to the array that a graph takes: `decode`, then `prepare`.

This is the only such path: the trainer, the exporter and the service all use it, so a network never meets pixels in
service that were scaled or rotated differently in training. It knows the manifest and nothing of onnxruntime.
"""

from __future__ import annotations

import re
import threading
import warnings
from types import TracebackType
from typing import Any

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
_FILTERS = {member.name.lower(): member for member in Image.Resampling}
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


def prepare(decoded: Pixels, spec: Input, dtype: str = "uint8", *, max_pixels: int = 50_000_000) -> NDArray[Any]:
    """A decoded image as the graph's input without the batch axis: C-contiguous, [C, H, W] or [H, W, C] by `layout`.

    `decoded` is what `decode` returns: uint8, [h, w] for gray, else [h, w, 3] in RGB. `dtype` is that of the graph:
    uint8 leaves the pixels as they are, float32 makes them (pixel * scale - mean) / std. `max_pixels` bounds what a
    free side may grow to.

    Raises BadImage when `resize` is none and the image has another size; ImageTooLarge when scaling it as the manifest
    asks would need more than `max_pixels`.
    """
    placed = _place(decoded, spec, max_pixels)
    if spec.color == "gray":
        shaped = placed[None] if spec.layout == "NCHW" else placed[..., None]
    else:
        ordered = placed[..., ::-1] if spec.color == "bgr" else placed
        shaped = ordered.transpose(2, 0, 1) if spec.layout == "NCHW" else ordered
    return normalise(shaped, spec) if dtype == "float32" else np.ascontiguousarray(shaped)


def normalise(shaped: Pixels, spec: Input) -> NDArray[np.float32]:
    """(pixel * scale - mean) / std as float32, C-contiguous, for uint8 pixels already in the layout of the model."""
    if not spec.normalises:
        return np.ascontiguousarray(shaped, dtype=np.float32)
    std = np.asarray(spec.std, dtype=np.float64)
    factor = (spec.scale / std).astype(np.float32)
    offset = (-np.asarray(spec.mean, dtype=np.float64) / std).astype(np.float32)
    if spec.layout == "NCHW":
        factor, offset = factor[:, None, None], offset[:, None, None]
    values = np.multiply(shaped, factor, dtype=np.float32, order="C")
    values += offset
    return values


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


def _place(decoded: Pixels, spec: Input, max_pixels: int) -> Pixels:
    """Scaled, cropped and filled up to the size of the graph's input: [height, width] or [height, width, 3]."""
    if spec.height == decoded.shape[0] and spec.width == decoded.shape[1] and spec.short_side is None:
        return decoded  # somebody has prepared it already, border included
    content = _scale(decoded, spec, max_pixels)
    height, width = content.shape[:2]
    full_height = spec.height or _round_up(height + 2 * spec.pad, spec.multiple_of)
    full_width = spec.width or _round_up(width + 2 * spec.pad, spec.multiple_of)
    if (full_height, full_width) == (height, width):
        return content
    if full_height * full_width > max_pixels:
        raise ImageTooLarge(f"the image fills {full_width} x {full_height} pixels; at most {max_pixels} are accepted")
    # A fixed side centres what is smaller (the letterbox); a free one is filled at its end, so that (0, 0) stays put.
    top = (full_height - height) // 2 if spec.height else spec.pad
    left = (full_width - width) // 2 if spec.width else spec.pad
    filled = _canvas((full_height, full_width, *content.shape[2:]), spec)
    filled[top : top + height, left : left + width] = content
    return filled


def _canvas(shape: tuple[int, ...], spec: Input) -> Pixels:
    """An array of `pad_value`, which the manifest gives in the model's order of channels; RGB here."""
    if not any(spec.pad_value):
        return np.zeros(shape, dtype=np.uint8)
    values = spec.pad_value[::-1] if spec.color == "bgr" else spec.pad_value
    return np.full(shape, values[0] if len(values) == 1 else values, dtype=np.uint8)


def _scale(decoded: Pixels, spec: Input, max_pixels: int) -> Pixels:
    """The image as large as the resize rule says, before any border."""
    height, width = decoded.shape[:2]
    inner_height = spec.height - 2 * spec.pad if spec.height else None
    inner_width = spec.width - 2 * spec.pad if spec.width else None
    if spec.resize == "none":
        if (inner_height or height, inner_width or width) != (height, width):
            expected = f"{inner_width or 'any'} x {inner_height or 'any'}"
            raise BadImage(f"the image is {width} x {height} pixels; this model takes {expected} (width x height)")
        return decoded
    if inner_height is None or (inner_width is None and spec.resize != "height"):
        # Engine.load refuses such a manifest; only a caller without an engine gets here.
        raise ValueError(f"resize = '{spec.resize}' needs a height and a width in the manifest")
    to_height, to_width = _target(height, width, inner_height, inner_width, spec)
    if to_height * to_width > max_pixels:
        raise ImageTooLarge(
            f"the image scales to {to_width} x {to_height} pixels for this model; at most {max_pixels} are accepted"
        )
    if (to_height, to_width) != (height, width):
        resized = Image.fromarray(decoded).resize((to_width, to_height), _FILTERS[spec.interpolation])
        decoded = np.asarray(resized)
    if spec.resize == "crop" and inner_width is not None:
        top, left = (to_height - inner_height) // 2, (to_width - inner_width) // 2
        decoded = decoded[top : top + inner_height, left : left + inner_width]
    return decoded


def _target(height: int, width: int, to_height: int, to_width: int | None, spec: Input) -> tuple[int, int]:
    """(height, width) to scale to: proportions are kept except with `stretch`, sides are rounded and at least 1."""
    if to_width is None:
        return to_height, max(1, round(width * to_height / height))
    if spec.resize == "stretch":
        return to_height, to_width
    if spec.resize == "letterbox":
        factor = min(to_height / height, to_width / width)
        return max(1, min(to_height, round(height * factor))), max(1, min(to_width, round(width * factor)))
    if spec.short_side is not None:
        factor = spec.short_side / min(height, width)
    else:
        factor = max(to_height / height, to_width / width)
    return max(to_height, round(height * factor)), max(to_width, round(width * factor))


def _round_up(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple
