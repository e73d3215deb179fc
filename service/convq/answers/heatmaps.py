"""Where the named points of a picture are: from coordinates, or from a map for each point, to pixels of the picture."""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from convq.answers.coordinates import Placement, rounded
from convq.answers.scores import Activation, activated, as_float32, require_finite
from convq.errors import ModelFault

_SCORE_DECIMALS: Final = 6
_TOWARDS_NEIGHBOUR: Final = 0.25
"""Cells that a peak is moved by, towards the larger of its two neighbours along an axis."""


def keypoints(
    values: NDArray[Any],
    count: int,
    placement: Placement,
    input_size: tuple[int, int],
    *,
    units: Literal["pixels", "unit"] = "pixels",
    activation: Activation = "none",
) -> list[list[float]]:
    """What a result says under `keypoints`, of one job's output: [x, y, score] of each point, or [x, y], in the given order.

    `values` holds `count` points: x and y of each, [K * 2] or [K, 2], or with a score, [K * 3] or [K, 3], further axes of length
    1 allowed; or maps [K, h, w] over the network's input, whose peaks they are. `units` says of what coordinates are: pixels of the input,
    or its sides. `activation` is for scores alone. `input_size` is height and width of the network's input. Points are in
    pixels of the picture, with two decimals, and may lie outside of it.

    Raises:
        NonFinite: any value is NaN or infinite.
        ModelFault: another shape.
    """
    require_finite(values)
    maps = values.ndim == 3 and len(values) == count and min(values.shape[1:]) > 1  # noqa: PLR2004
    scores: NDArray[np.float32] | None
    if maps:
        points, scores = _peaks(as_float32(values), input_size)
    else:
        points, scores = _coordinates(values, count)
        if units == "unit":
            points = points * np.array([input_size[1], input_size[0]], dtype=np.float64)
    places: list[list[float]] = rounded(placement.points_back(points)).tolist()
    if scores is None:
        return places
    told = rounded(activated(scores, activation).astype(np.float64), _SCORE_DECIMALS).tolist()
    return [[*place, score] for place, score in zip(places, told, strict=True)]


def rows_of(count: int) -> list[list[int]]:
    """The shapes that the coordinates of so many points may have, axes of length 1 left out."""
    shapes = ((count * 2,), (count * 3,), (count, 2), (count, 3))
    return [[side for side in shape if side != 1] for shape in shapes]


def _coordinates(values: NDArray[Any], count: int) -> tuple[NDArray[np.float64], NDArray[np.float32] | None]:
    """[K, 2] as they are, and the scores [K] where there are any."""
    sides = [side for side in values.shape if side != 1]
    if not count or sides not in rows_of(count):
        expected = f"[{count * 2}], [{count * 3}], [{count}, 2], [{count}, 3] or maps [{count}, h, w]"
        raise ModelFault(f"an output that means keypoints has the shape {list(values.shape)}; expected {expected}")
    rows = as_float32(values).reshape(count, -1)
    return rows[:, :2].astype(np.float64), rows[:, 2] if rows.shape[1] > 2 else None  # noqa: PLR2004


def _peaks(maps: NDArray[np.float32], input_size: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Of maps [K, h, w]: [K, 2] in pixels of the input, and the value of each peak, [K].

    The peak is the centre of the largest cell, the first of equal ones, a quarter of a cell towards its larger neighbour
    along each axis, where it has two that differ (Newell et al. 2016; `get_final_preds` of HRNet).
    """
    count, height, width = maps.shape
    flat = maps.reshape(count, -1).argmax(axis=1)
    y, x = np.divmod(flat, width)
    each = np.arange(count)
    right, left = (maps[each, y, np.clip(x + step, 0, width - 1)] for step in (1, -1))
    below, above = (maps[each, np.clip(y + step, 0, height - 1), x] for step in (1, -1))
    aside = np.where((x > 0) & (x < width - 1), np.sign(right.astype(np.float64) - left), 0.0)
    down = np.where((y > 0) & (y < height - 1), np.sign(below.astype(np.float64) - above), 0.0)
    cells = np.stack((x + 0.5 + _TOWARDS_NEIGHBOUR * aside, y + 0.5 + _TOWARDS_NEIGHBOUR * down), axis=1)
    return cells * np.array([input_size[1] / width, input_size[0] / height]), maps[each, y, x]
