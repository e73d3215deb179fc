"""From encoded bytes to the array that a graph takes: `decode`, then `prepare`.

This is the only such path: the trainer, the exporter and the service all use it, so a network never meets pixels in
service that were scaled or rotated differently in training. It knows the manifest and nothing of onnxruntime.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convq.answers.coordinates import Placement
from convq.answers.resampling import opencv_linear
from convq.engine.decoding import Pixels, decode
from convq.errors import BadImage, ImageTooLarge
from convq.repository.manifest import Input

__all__ = ["Pixels", "Placement", "decode", "normalise", "prepare", "prepare_placed"]

_new_tuple = tuple.__new__
_FILTERS = {member.name.lower(): member for member in Image.Resampling}


def prepare(decoded: Pixels, spec: Input, dtype: str = "uint8", *, max_pixels: int = 50_000_000) -> NDArray[Any]:
    """A decoded image as the graph's input without the batch axis: C-contiguous, [C, H, W] or [H, W, C] by `layout`.

    `decoded` is what `decode` returns: uint8, [h, w] for gray, else [h, w, 3] in RGB. `dtype` is that of the graph:
    uint8 leaves the pixels as they are, float32 makes them (pixel * scale - mean) / std. `max_pixels` bounds what a
    free side may grow to.

    Raises BadImage when `resize` is none and the image has another size; ImageTooLarge when scaling it as the manifest
    asks would need more than `max_pixels`.
    """
    return prepare_placed(decoded, spec, dtype, max_pixels=max_pixels)[0]


def prepare_placed(
    decoded: Pixels, spec: Input, dtype: str = "uint8", *, max_pixels: int = 50_000_000
) -> tuple[NDArray[Any], Placement]:
    """As `prepare`, and how the picture lies in the input: by that, and by nothing computed anew, coordinates go back."""
    placed, placement = _place(decoded, spec, max_pixels)
    if spec.color == "gray":
        shaped = placed[None] if spec.layout == "NCHW" else placed[..., None]
    else:
        ordered = placed[..., ::-1] if spec.color == "bgr" else placed
        shaped = ordered.transpose(2, 0, 1) if spec.layout == "NCHW" else ordered
    return normalise(shaped, spec) if dtype == "float32" else np.ascontiguousarray(shaped), placement


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


def _place(decoded: Pixels, spec: Input, max_pixels: int) -> tuple[Pixels, Placement]:
    """Scaled, cropped and filled up to the size of the graph's input: [height, width] or [height, width, 3]."""
    picture_height, picture_width = decoded.shape[:2]
    if spec.height == picture_height and spec.width == picture_width and spec.short_side is None:
        return decoded, Placement(picture_width, picture_height)  # somebody has prepared it already, border included
    content, (to_height, to_width), (cut_top, cut_left) = _scale(decoded, spec, max_pixels)
    factors = to_width / picture_width, to_height / picture_height
    height, width = content.shape[:2]
    full_height = spec.height or _round_up(height + 2 * spec.pad, spec.multiple_of)
    full_width = spec.width or _round_up(width + 2 * spec.pad, spec.multiple_of)
    if (full_height, full_width) == (height, width):
        return content, _new_tuple(Placement, (picture_width, picture_height, *factors, -cut_left, -cut_top))
    if full_height * full_width > max_pixels:
        raise ImageTooLarge(f"the image fills {full_width} x {full_height} pixels; at most {max_pixels} are accepted")
    # A fixed side centres what is smaller; a free one is filled at its end, so that (0, 0) stays put, but for "fit".
    centred = spec.align == "centre"
    top = (full_height - height) // 2 if centred and (spec.height or spec.resize == "fit") else spec.pad
    left = (full_width - width) // 2 if centred and (spec.width or spec.resize == "fit") else spec.pad
    filled = _canvas((full_height, full_width, *content.shape[2:]), spec)
    filled[top : top + height, left : left + width] = content
    # Past the named tuple's own constructor: one is made for every picture, also where nobody asks for it.
    return filled, _new_tuple(Placement, (picture_width, picture_height, *factors, left - cut_left, top - cut_top))


def _canvas(shape: tuple[int, ...], spec: Input) -> Pixels:
    """An array of `pad_value`, which the manifest gives in the model's order of channels; RGB here."""
    if not any(spec.pad_value):
        return np.zeros(shape, dtype=np.uint8)
    values = spec.pad_value[::-1] if spec.color == "bgr" else spec.pad_value
    return np.full(shape, values[0] if len(values) == 1 else values, dtype=np.uint8)


def _scale(decoded: Pixels, spec: Input, max_pixels: int) -> tuple[Pixels, tuple[int, int], tuple[int, int]]:
    """The image as large as the resize rule says, before any border.

    And the height and width that it was scaled to, and how many rows and columns of that were cut off before the first.
    """
    height, width = decoded.shape[:2]
    inner_height = spec.height - 2 * spec.pad if spec.height else None
    inner_width = spec.width - 2 * spec.pad if spec.width else None
    if spec.resize == "none":
        if (inner_height or height, inner_width or width) != (height, width):
            expected = f"{inner_width or 'any'} x {inner_height or 'any'}"
            raise BadImage(f"the image is {width} x {height} pixels; this model takes {expected} (width x height)")
        return decoded, (height, width), (0, 0)
    if spec.lacks:
        # Engine.load refuses such a manifest; only a caller without an engine gets here.
        raise ValueError(f"resize = '{spec.resize}' needs a {spec.lacks} in the manifest")
    to_height, to_width = _target(height, width, inner_height, inner_width, spec)
    if to_height * to_width > max_pixels:
        raise ImageTooLarge(
            f"the image scales to {to_width} x {to_height} pixels for this model; at most {max_pixels} are accepted"
        )
    if (to_height, to_width) != (height, width):
        decoded = _resized(decoded, to_height, to_width, spec.interpolation)
    top = left = 0
    if spec.resize == "crop" and inner_height is not None and inner_width is not None:
        top, left = _crop_offset(to_height, inner_height), _crop_offset(to_width, inner_width)
        decoded = decoded[top : top + inner_height, left : left + inner_width]
    return decoded, (to_height, to_width), (top, left)


def _resized(decoded: Pixels, height: int, width: int, interpolation: str) -> Pixels:
    if interpolation == "opencv-linear":
        return opencv_linear(decoded, height, width)
    return np.asarray(Image.fromarray(decoded).resize((width, height), _FILTERS[interpolation]))


def _crop_offset(side: int, cropped: int) -> int:
    """Where the crop begins: half of what is left over, halves to even, as torchvision's CenterCrop has it."""
    return max(0, round((side - cropped) / 2))


def _target(height: int, width: int, to_height: int | None, to_width: int | None, spec: Input) -> tuple[int, int]:
    """(height, width) to scale to: proportions are kept except with `stretch`, and no side is below 1.

    Sides are rounded, but what follows from a `short_side` is truncated: so torchvision's Resize does, and networks were
    trained so.
    """
    if to_height is None:  # resize = "fit"
        return _fitted(height, width, spec)
    if to_width is None:
        return to_height, max(1, round(width * to_height / height))
    if spec.resize == "stretch":
        return to_height, to_width
    if spec.resize == "letterbox":
        factor = min(to_height / height, to_width / width)
        return max(1, min(to_height, round(height * factor))), max(1, min(to_width, round(width * factor)))
    short, rests_on_width = spec.short_side, width <= height
    if short is None:  # the side that just covers the crop; the other has more to cut off
        rests_on_width = to_width * height >= to_height * width
        short = to_width if rests_on_width else to_height
    return (int(short * height / width), short) if rests_on_width else (short, int(short * width / height))


def _fitted(height: int, width: int, spec: Input) -> tuple[int, int]:
    """(height, width) for `fit`: to the short side, as torchvision's Resize(short_side, max_size=long_side), or shrunk only."""
    short, long = sorted((height, width))
    if spec.short_side is None:
        factor = min(1.0, (spec.long_side or long) / long)
        return max(1, round(height * factor)), max(1, round(width * factor))
    to_short, to_long = spec.short_side, int(spec.short_side * long / short)
    if spec.long_side is not None and to_long > spec.long_side:
        to_short, to_long = max(1, int(spec.long_side * to_short / to_long)), spec.long_side
    return (to_short, to_long) if height <= width else (to_long, to_short)


def _round_up(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple
