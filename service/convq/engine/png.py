"""From an image output of a network to the bytes of a PNG file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from convq.answers.png import png

CHANNELS = (1, 3)
"""Gray, or red, green and blue."""
_WHITE = 255.0


@dataclass(frozen=True, slots=True)
class Picture:
    """How one image output of a model becomes levels from 0 to 255: value * scale + offset, rounded and cut."""

    layout: Literal["NCHW", "NHWC"] = "NCHW"
    bgr: bool = False
    """Three channels come as blue, green and red."""
    scale: float = 1.0
    offset: float = 0.0

    def misfit(self, shape: tuple[int | None, ...]) -> str | None:
        """What keeps an output of this shape (without the batch axis, None for a side not known yet) from being an image."""
        expected = "channels, height, width" if self.layout == "NCHW" else "height, width, channels"
        if len(shape) != len(expected.split()):
            return f"has {len(shape)} axes besides the batch; an image has 3 ({expected})"
        channels = shape[0] if self.layout == "NCHW" else shape[2]
        if channels not in (None, *CHANNELS):
            return f"has {channels} channels; an image has 1 or 3 ({expected})"
        if 0 in shape:
            return "has no pixels"
        return None

    def levels(self, value: NDArray[Any]) -> NDArray[np.uint8]:
        """One job's output, [c, h, w] or [h, w, c] of finite numbers, as [h, w] or RGB [h, w, 3]; halves go to even."""
        planes = value if self.layout == "NCHW" else value.transpose(2, 0, 1)
        if self.bgr:
            planes = planes[::-1]
        levels = np.empty((*planes.shape[1:], planes.shape[0]), dtype=np.uint8)
        exact = value.dtype == np.uint8 and (self.scale, self.offset) == (1.0, 0.0)
        for channel, plane in enumerate(planes):
            levels[..., channel] = plane if exact else self._cut(plane)
        return levels if len(planes) > 1 else levels[..., 0]

    def png(self, value: NDArray[Any]) -> bytes:
        """One job's output as a PNG file; as `levels` takes it."""
        return png(self.levels(value))

    def _cut(self, plane: NDArray[Any]) -> NDArray[Any]:
        """[h, w] of whole numbers from 0 to 255, as floating point numbers that hold them and the input exactly."""
        wide = plane.dtype.itemsize > 4 or (plane.dtype.kind in "iu" and plane.dtype.itemsize > 2)  # noqa: PLR2004
        with np.errstate(over="ignore"):  # what overflows is beyond 255 or below 0 in any case
            values: NDArray[Any] = np.multiply(plane, self.scale, dtype=np.float64 if wide else np.float32)
            values += self.offset
        np.rint(values, out=values)
        np.clip(values, 0.0, _WHITE, out=values)
        return values
