"""How much each pixel of a picture belongs to the foreground: from a map of one channel to an 8-bit PNG file."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from convq.answers.coordinates import Placement
from convq.answers.maps import as_png, resized_levels, shown, single
from convq.answers.scores import Activation, activated, as_float32, require_finite

_WHITE: Final = 255
_HALF: Final = 0.5


def matte(
    values: NDArray[Any],
    placement: Placement,
    input_size: tuple[int, int],
    *,
    activation: Activation = "none",
    stretch: bool = False,
    network_size: bool = False,
) -> dict[str, Any]:
    """What a result says of one job's output, [h, w] or [1, h, w], besides its name: 255 is foreground.

    The level is 255 times the value, after `activation`, cut to 0..1, rounded. With `stretch` the smallest value within the
    picture becomes 0 and the largest 1 (`norm_pred` of U2-Net, https://github.com/xuebinqin/U-2-Net); a map that is the same
    everywhere becomes 0. `input_size` is height and width of the network's input.

    Raises:
        NonFinite: any value is NaN or infinite.
        ModelFault: another shape.
    """
    require_finite(values)
    plane = activated(as_float32(single(values, "matte")), activation)
    part = shown(plane.shape, placement, input_size, network_size=network_size)
    if stretch:
        within = plane[part.cells()]
        low, high = float(within.min()), float(within.max())
        plane = ((plane.astype(np.float64) - low) / (high - low)).astype(np.float32) if high > low else plane * 0
    levels = np.clip(plane, 0.0, 1.0) * np.float32(_WHITE) + np.float32(_HALF)
    return as_png(resized_levels(levels, part, np.empty((part.height, part.width), dtype=np.uint8)), part)
