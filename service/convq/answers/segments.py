"""Which class each pixel of a picture belongs to: from scores of classes, or their numbers, to a PNG file and a legend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from convq.answers.coordinates import Placement, rounded
from convq.answers.maps import Shown, as_png, shown
from convq.answers.resampling import nearest, nearest_cells
from convq.answers.scores import require_finite
from convq.errors import ModelFault

MOST_CLASSES: Final = 65_535
_MOST_OF_8_BITS: Final = 255
"""Classes that have a level each beside the one that means nothing."""
_SHARE_DECIMALS: Final = 6
_CHUNK = 2**15
"""Cells that are compared at once: what is in hand of them stays in the processor's cache."""


def segments(
    values: NDArray[Any],
    labels: Sequence[str],
    placement: Placement,
    input_size: tuple[int, int],
    *,
    ignore: int | None = None,
    network_size: bool = False,
) -> dict[str, Any]:
    """What a result says under `segments`, of one job's output.

    `values` is [C, h, w], a number a class, the largest of which decides, or class numbers as integers, [h, w] or [1, h, w];
    `input_size` is height and width of the network's input. The class `ignore` means nothing, and so does a number for which
    there is no level. Shares are of all pixels of the map, those of nothing included.

    Raises:
        NonFinite: any value is NaN or infinite.
        ModelFault: another shape, or more than `MOST_CLASSES`.
    """
    require_finite(values)
    numbered = values.dtype.kind in "iub" and values.ndim > 1 and values.shape[:-2] in ((), (1,))
    if not (numbered or values.ndim == 3) or not values.size:  # noqa: PLR2004
        expected = "[C, h, w], or [h, w] or [1, h, w] of integers"
        raise ModelFault(f"an output that means segments has the shape {list(values.shape)}; expected {expected}")
    count = max(len(labels), 1 if numbered else len(values))
    if count > MOST_CLASSES:
        raise ModelFault(f"an output that means segments has {count} classes; at most {MOST_CLASSES} have a level")
    dtype = _level_dtype(count)
    if numbered:
        levels = _levels_of_numbers(values.reshape(values.shape[-2:]), dtype)
    else:
        levels = class_map(values).astype(dtype, copy=False)
    nothing = _nothing(dtype)
    if ignore is not None and 0 <= ignore < nothing:
        levels[levels == ignore] = nothing
    part = shown(levels.shape, placement, input_size, network_size=network_size)
    enlarged = nearest(levels, part.across, part.down, part.height, part.width)
    legend = _legend(levels, part, labels, nothing)
    return {**as_png(enlarged, part), "width": part.width, "height": part.height, "classes": legend}


def class_map(values: NDArray[Any]) -> NDArray[Any]:
    """[h, w]: which of [C, h, w] is the largest, the first of equal ones: uint8 up to 255 classes, else uint16.

    As `numpy.argmax`, but comparing whole planes, a piece at a time: [21, 520, 520] took 3 ms where that took 15.
    """
    planes = values.reshape(len(values), -1)
    if planes.dtype == np.float16:
        planes = planes.astype(np.float32)
    dtype = _level_dtype(len(values))
    best = np.zeros(planes.shape[1], dtype=dtype)
    for first in range(0, len(best), _CHUNK):
        chunk = planes[:, first : first + _CHUNK]
        index, most = best[first : first + _CHUNK], chunk[0].copy()
        larger = np.empty(most.shape, dtype=np.bool_)
        number = np.empty(most.shape, dtype=dtype)
        for i in range(1, len(chunk)):
            np.greater(chunk[i], most, out=larger)
            # Later classes have larger numbers: the larger number is that of the last class that was larger.
            np.multiply(larger.view(np.uint8), dtype.type(i), out=number)
            np.maximum(index, number, out=index)
            np.maximum(chunk[i], most, out=most)
    return best.reshape(values.shape[1:])


def _level_dtype(classes: int) -> np.dtype[Any]:
    return np.dtype(np.uint8 if classes <= _MOST_OF_8_BITS else np.uint16)


def _nothing(dtype: np.dtype[Any]) -> int:
    """The level that is no class: the highest."""
    return (1 << 8 * dtype.itemsize) - 1


def _levels_of_numbers(numbers: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Class numbers [h, w] as levels; those that have none as the highest, which means nothing."""
    nothing = _nothing(dtype)
    if numbers.dtype in (np.dtype(np.bool_), dtype):
        return numbers.astype(dtype)
    return np.where((numbers >= 0) & (numbers < nothing), numbers, nothing).astype(dtype)


def _legend(levels: NDArray[Any], part: Shown, labels: Sequence[str], nothing: int) -> list[dict[str, Any]]:
    """The classes that occur in what goes out, largest share first; counted where it is still small."""
    across = np.bincount(nearest_cells(levels.shape[1], part.across, part.width), minlength=levels.shape[1])
    down = np.bincount(nearest_cells(levels.shape[0], part.down, part.height), minlength=levels.shape[0])
    pixels = np.bincount(levels.ravel(), weights=np.outer(down, across).ravel(), minlength=nothing + 1)[:nothing]
    shares = rounded(pixels / (part.width * part.height), _SHARE_DECIMALS)
    order = np.argsort(-pixels, kind="stable")
    return [
        {"label": labels[i] if i < len(labels) else f"#{i}", "index": i, "share": shares[i].item()}
        for i in order[: np.count_nonzero(pixels)].tolist()
    ]
