"""What the sweep is made of: a file, and the picture that people see in it, by other means than the service's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BACKGROUND = (40, 90, 195)
"""Its luma is 87.02: a gray model with a background of 87 sees the same."""
HEIGHT, WIDTH = 17, 25
Levels = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """A file. `expected` is [height, width, 3] as floats from 0 to 255, over BACKGROUND; None: to be refused."""

    kind: str
    name: str
    data: bytes
    expected: Levels | None
    within: float = 0.51
    """How far a level may be off: half a level of rounding, more where decoders are free to differ."""
    may_refuse: bool = False


def ramps(samples: int, top: int, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.int64]:
    """[height, width, samples] from 0 to `top`, no two rows, columns, corners or samples alike."""
    rows, columns = np.mgrid[:height, :width]
    planes = [
        columns * top / (width - 1),
        rows * top / (height - 1),
        top - columns * rows * top / (width - 1) / (height - 1),
        (columns + rows) * top / (width + height - 2),
        top * ((columns // 3 + rows // 2) % 2),
        np.full((height, width), top / 3),
    ]
    levels: NDArray[np.int64] = np.rint(np.stack(planes[:samples], axis=-1)).astype(np.int64)
    return levels


def seen(colour: NDArray[Any], alpha: Levels | None = None) -> Levels:
    """[h, w, 1 or 3] levels from 0 to 255, with alpha from 0 to 1, over BACKGROUND."""
    three = np.broadcast_to(colour, (*colour.shape[:2], 3)).astype(np.float64)
    if alpha is None:
        return three
    return three * alpha + np.array(BACKGROUND) * (1 - alpha)


def turned(stored: Levels, orientation: int) -> Levels:
    """The stored picture as people see it, for each of the orientations of EXIF, one flip after the other."""
    if orientation >= 5:
        stored = stored.transpose(1, 0, 2)
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}.get(orientation, ())
    return np.flip(stored, flips) if flips else stored
