"""Masks of detections from weights and prototypes, as networks of the YOLACT kind give them (Bolya et al. 2019).

The mask of an object is where the sum of all prototypes, each times the object's weight for it, is above 0: where its
sigmoid is above 0.5. It is computed in the object's box alone, at the size of the picture (`process_mask` of ultralytics
does it at that of the network, and then cuts), and never held for more than one object.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from math import ceil
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convq.answers.coordinates import Placement
from convq.answers.png import png
from convq.answers.polygons import MAX_CORNERS, Rings, join, rings, simplified
from convq.answers.resampling import Floats, mixed, mixed_bands, taps
from convq.answers.rle import encode_columns
from convq.errors import ModelFault, NonFinite

MaskFormat = Literal["rle", "polygon", "png"]

MAX_MASK_BYTES: Final = 16 * 2**20
"""Of all masks of one job, as they stand in its result; polygons have fewer by `MAX_CORNERS`."""
MAX_MASK_PIXELS: Final = 256 * 2**20
"""Of the boxes of all masks of one job together: a second or two of work, and ten times what a full picture needs."""


class Masks(NamedTuple):
    """What the detections of one job gain."""

    entries: list[dict[str, Any]]
    """One a detection, in order: `mask`, `polygons` or `mask_png` as a result has it; empty where it has none."""
    truncated: bool
    """Whether there was no room for the masks of some: they and all that follow have none."""


class _Box(NamedTuple):
    """Whole pixels of the picture: those whose centres lie in a box, and at least one."""

    left: int
    top: int
    width: int
    height: int


def instance_masks(
    weights: NDArray[Any],
    prototypes: NDArray[Any],
    boxes: NDArray[Any],
    placement: Placement,
    input_size: tuple[int, int],
    form: MaskFormat = "rle",
) -> Masks:
    """The masks of all detections of one job, best first.

    `weights` is [k, m] and `prototypes` [m, h, w], of any floating point type, both without activation; `boxes` is [k, 4]
    as x1, y1, x2, y2 in pixels of the picture, finite; `input_size` is height and width of the network's input in pixels,
    which the prototypes cover.

    Raises ModelFault where the shapes do not belong together, NonFinite where a mask comes of NaN or infinity.
    """
    if weights.ndim != 2 or prototypes.ndim != 3 or weights.shape[1] != len(prototypes) or not prototypes.size:  # noqa: PLR2004
        shapes = f"{list(weights.shape)} and {list(prototypes.shape)}"
        raise ModelFault(f"weights and prototypes of masks have the shapes {shapes}; expected [k, m] and [m, h, w]")
    drawn = _drawn(weights, prototypes, boxes, placement, input_size)
    entries = _outlined(drawn) if form == "polygon" else _packed(drawn, placement, form)
    without = len(weights) - len(entries)
    return Masks(entries + [{} for _ in range(without)], without > 0)


def _drawn(
    weights: NDArray[Any],
    prototypes: NDArray[Any],
    boxes: NDArray[Any],
    placement: Placement,
    input_size: tuple[int, int],
) -> Iterator[tuple[_Box, NDArray[np.bool_]]]:
    """The mask of each detection in its box, as `_columns` has it, while there are pixels left to spend."""
    left_pixels = MAX_MASK_PIXELS
    for weight, corners in zip(weights, boxes.tolist(), strict=True):
        box = _pixels(corners, placement)
        left_pixels -= box.width * box.height
        if left_pixels < 0:
            return
        yield box, _columns(weight, prototypes, box, placement, input_size)


def _packed(
    drawn: Iterable[tuple[_Box, NDArray[np.bool_]]], placement: Placement, form: MaskFormat
) -> list[dict[str, Any]]:
    """`mask` or `mask_png` for the first detections, as many as there is room for."""
    entries: list[dict[str, Any]] = []
    left_bytes = MAX_MASK_BYTES
    for box, columns in drawn:
        if form == "rle":
            rle = encode_columns(columns, box.left, box.top, placement.height, placement.width)
            left_bytes -= len(rle["counts"])
            entry = {"mask": rle}
        else:
            levels = np.multiply(
                columns.T, np.uint8(255), dtype=np.uint8, order="C"
            )  # rows in one piece: a fifth of the time
            data = base64.b64encode(png(levels)).decode("ascii")
            left_bytes -= len(data)
            entry = {"mask_png": {"x": box.left, "y": box.top, "data": data}}
        if left_bytes < 0:
            break
        entries.append(entry)
    return entries


def _outlined(drawn: Iterable[tuple[_Box, NDArray[np.bool_]]]) -> list[dict[str, Any]]:
    """`polygons` for the first detections, as many as have no more corners together than anybody draws."""
    parts: list[Rings] = []
    left_corners = MAX_CORNERS
    for box, columns in drawn:
        try:
            exact = rings(columns, max_corners=left_corners)
        except ValueError:
            break
        left_corners -= len(exact.points)
        parts.append(exact.moved(box.left, box.top))
    fewer = simplified(join(parts))
    return [{"polygons": part.flat()} for part in fewer.split([len(part.firsts) for part in parts])]


def _pixels(corners: Sequence[float], placement: Placement) -> _Box:
    x1, y1, x2, y2 = corners
    left, right = _inside(x1, x2, placement.width)
    top, bottom = _inside(y1, y2, placement.height)
    return _Box(left, top, right - left, bottom - top)


def _inside(first: float, last: float, side: int) -> tuple[int, int]:
    """Of the pixels along one side, those from `first` to `last` by their centres, one at least: begin and end."""
    begin = ceil(min(max(first, 0.0), side) - 0.5)
    end = ceil(min(max(last, 0.0), side) - 0.5)
    begin = min(max(begin, 0), side - 1)
    return begin, max(end, begin + 1)


def _columns(
    weight: NDArray[Any], prototypes: NDArray[Any], box: _Box, placement: Placement, input_size: tuple[int, int]
) -> NDArray[np.bool_]:
    """The mask in the box, [box width, box height]: turned on its side, since run lengths go down the columns."""
    _, height, width = prototypes.shape
    across, down = width / input_size[1], height / input_size[0]  # cells a pixel of the input
    begin = (box.left * placement.sx + placement.dx) * across, (box.top * placement.sy + placement.dy) * down
    step = placement.sx * across, placement.sy * down
    sides = taps(width, (begin[0], begin[0] + box.width * step[0]), box.width)
    rows = taps(height, (begin[1], begin[1] + box.height * step[1]), box.height)
    x, y = (slice(int(found.rows.min()), int(found.rows.max()) + 1) for found in (sides, rows))
    part = prototypes[:, y, x].astype(np.float32, copy=False)
    inside = np.empty((box.width, box.height), dtype=np.bool_)
    with np.errstate(all="ignore"):  # what is not finite is told of
        sums: Floats = np.tensordot(weight.astype(np.float32, copy=False), part, axes=1)
    if not np.isfinite(sums).all():
        raise NonFinite("a detection has a mask that is not finite: NaN or infinity came from the network")
    tall = mixed(sums, rows.within(y.start))
    for which, band in mixed_bands(np.ascontiguousarray(tall.T), sides.within(x.start)):
        np.greater(band, 0.0, out=inside[which])
    return inside
