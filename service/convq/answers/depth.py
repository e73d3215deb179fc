"""How far away each pixel of a picture is: from a map of one channel to a 16-bit PNG file and the two ends of its scale."""

from __future__ import annotations

from math import isfinite
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from convq.answers.coordinates import Placement
from convq.answers.maps import as_png, resized_levels, shown, single
from convq.answers.scores import as_float32, require_finite
from convq.errors import NonFinite

_HIGHEST: Final = 65_535
_HALF: Final = 0.5
FARTHEST: Final = 256.0
"""Of an inverse map, as a multiple of the nearest depth: what is farther, as far as infinity, counts as so far. With it, the
step from one level to the next is at most 0.4 per cent of any depth."""


def depth(
    values: NDArray[Any],
    placement: Placement,
    input_size: tuple[int, int],
    *,
    scale: float = 1.0,
    inverse: bool = False,
    network_size: bool = False,
) -> dict[str, Any]:
    """What a result says of one job's output, [h, w] or [1, h, w], besides its name.

    A depth is the value times `scale`, and with `inverse` 1 / value times `scale`, for networks that give disparities. It is
    `low` + (`high` - `low`) * level / 65535, where both are those of the whole map within the picture, to seven digits.
    Where all depths are equal, so are `low` and `high`, and all levels are 0. `input_size` is height and width of the
    network's input.

    Raises:
        NonFinite: any value is NaN or infinite, no value of an inverse map is above 0, or a depth is beyond what floating point
            numbers hold.
        ModelFault: another shape.
    """
    require_finite(values)
    plane = as_float32(single(values, "depth")).astype(np.float64)
    part = shown(plane.shape, placement, input_size, network_size=network_size)
    within = part.cells()
    if inverse:
        nearest = plane[within].max()
        if nearest <= 0.0:
            raise NonFinite("the network produced no inverse depth above 0 for this input")
        plane = 1.0 / np.maximum(plane, nearest / FARTHEST)
    with np.errstate(over="ignore"):
        plane *= scale
    low, high = float(plane[within].min()), float(plane[within].max())
    if not isfinite(high - low):
        raise NonFinite("the network produced a depth that is too large for a number")
    steps = _HIGHEST / (high - low) if high > low else 0.0
    levels = np.clip((plane - low) * steps, 0.0, _HIGHEST) + _HALF
    made = resized_levels(levels.astype(np.float32), part, np.empty((part.height, part.width), dtype=np.uint16))
    return {**as_png(made, part), "low": float(f"{low:.7g}"), "high": float(f"{high:.7g}")}
