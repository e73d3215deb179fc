"""What a job asks of a detector, and what it gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from convq.answers.coordinates import Placement, rounded
from convq.errors import NonFinite

SCORE_DECIMALS: Final = 6
"""Of scores in a result."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The fields of one job that concern detections; None where the job does not say."""

    placement: Placement
    """How its picture lies in the input."""
    min_score: float | None = None
    iou: float | None = None
    max_detections: int | None = None
    classes: NDArray[np.int64] | None = None
    """Positions in the model's labels: only these are detections."""


@dataclass(frozen=True, slots=True)
class Detections:
    """The detections of one job, best first; coordinates in pixels of its picture, with two decimals."""

    boxes: NDArray[np.float64]
    """[k, 4]: x1, y1, x2, y2, cut to the picture, never without area before they are rounded."""
    scores: NDArray[np.float64]
    """[k], with six decimals."""
    classes: NDArray[np.int64]
    """[k]: positions in the model's labels, of which there may be fewer."""
    keypoints: NDArray[np.float64] | None = None
    """[k, points, 2 or 3]: x, y, and a score with six decimals where the network gives one; may lie outside the picture."""
    masks: NDArray[np.float32] | None = None
    """[k, m]: weights of the prototypes."""
    corners: NDArray[np.float64] | None = None
    """[k, 4, 2]: clockwise as seen, first the one with the smallest x + y; cut to the picture."""
    truncated: bool = False
    """Whether there were more than the job or the model allows."""


def check_finite(**named: NDArray[np.floating] | None) -> None:
    """Raise NonFinite where any of these arrays, named in words, holds NaN or infinity."""
    for name, values in named.items():
        if values is not None and not np.isfinite(values).all():
            raise NonFinite(f"a detection has {name} that are not finite: NaN or infinity came from the network")


def rounded_scores(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """As they stand in a result."""
    return rounded(scores.astype(np.float64), SCORE_DECIMALS)
