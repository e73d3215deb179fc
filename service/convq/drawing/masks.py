"""Masks of detections as Pillow images, in all three forms that results have them. Without numpy."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import accumulate, pairwise
from math import ceil
from typing import Any, NamedTuple

from PIL import Image

from convq.detected import RunLengths


class Mask(NamedTuple):
    """The part of a picture that holds a mask."""

    image: Image.Image
    """Of mode L: 0 or 255."""
    x: int
    """Where its top left pixel belongs, in the picture."""
    y: int


def mask_of(detection: Mapping[str, Any], size: tuple[int, int]) -> Mask | None:
    """The mask of a detection, which is `mask`, `polygons` or `mask_png`; None where it has none, or an empty one.

    `size` is width and height of the picture. Raises ValueError for what is no mask of it.
    """
    if (rle := detection.get("mask")) is not None:
        return _of_runs(RunLengths.model_validate(rle), size)
    if (rings := detection.get("polygons")) is not None:
        return filled(rings, size)
    if (png := detection.get("mask_png")) is not None:
        with Image.open(BytesIO(base64.b64decode(png["data"])), formats=("PNG",)) as image:
            return Mask(image.convert("L"), png["x"], png["y"])
    return None


def _of_runs(mask: RunLengths, size: tuple[int, int]) -> Mask | None:
    """Only the columns and rows that hold something: hundreds of masks of a large picture take their own room alone."""
    width, height = size
    runs = mask.runs()
    if mask.size != (height, width):
        raise ValueError(f"a mask is of a picture of {mask.size[1]} x {mask.size[0]} pixels, not of {width} x {height}")
    ends = list(accumulate(runs))
    spans = [(first, last) for first, last in list(pairwise(ends))[::2] if last > first]
    if not spans:
        return None
    left, right = spans[0][0] // height, (spans[-1][1] - 1) // height + 1
    levels = bytearray((right - left) * height)
    for first, last in spans:
        levels[first - left * height : last - left * height] = b"\xff" * (last - first)
    columns = Image.frombytes("L", (height, right - left), bytes(levels))
    top, _, bottom, _ = columns.getbbox() or (0, 0, height, 0)
    image = columns.crop((top, 0, bottom, right - left)).transpose(Image.Transpose.TRANSPOSE)
    return Mask(image, left, top)


def filled(rings: Sequence[Sequence[float]], size: tuple[int, int]) -> Mask | None:
    """What flat rings x, y, x, y, … along the corners of pixels enclose, even-odd: a pixel belongs where its centre does."""
    width, height = size
    crossings: dict[int, list[float]] = {}
    for ring in rings:
        corners = list(zip(ring[::2], ring[1::2], strict=True))
        for (x1, y1), (x2, y2) in zip(corners, [*corners[1:], *corners[:1]], strict=True):
            (xa, ya), (xb, yb) = ((x1, y1), (x2, y2)) if y1 < y2 else ((x2, y2), (x1, y1))
            for row in range(max(0, ceil(ya - 0.5)), min(height, ceil(yb - 0.5))):
                crossings.setdefault(row, []).append(xa + (row + 0.5 - ya) * (xb - xa) / (yb - ya))
    if not crossings:
        return None
    top, bottom = min(crossings), max(crossings) + 1
    levels = bytearray((bottom - top) * width)
    for row, found in crossings.items():
        found.sort()
        for first, last in zip(found[::2], found[1::2], strict=True):
            left, right = max(0, ceil(first - 0.5)), min(width, ceil(last - 0.5))
            if right > left:
                at = (row - top) * width
                levels[at + left : at + right] = b"\xff" * (right - left)
    return Mask(Image.frombytes("L", (width, bottom - top), bytes(levels)), 0, top)
