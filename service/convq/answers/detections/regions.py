"""Objects that are regions of a map, as DB text detectors have them: the connected cells above a threshold.

Each becomes the smallest rectangle around it; its score is the mean of the map in it and half a cell around, for so
many cells does OpenCV fill that makers of such networks chose their thresholds with. It grows by area * 1.5 / perimeter
on each side, as the network was trained to see it shrunk by about that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from convq.answers.coordinates import rounded
from convq.answers.detections.components import connected, ranges
from convq.answers.detections.found import Detections, Wanted, rounded_scores
from convq.answers.detections.geometry import Size, in_picture
from convq.answers.detections.hulls import hulls_of, smallest_rectangles
from convq.answers.detections.rectangles import Rectangles, around, ordered
from convq.answers.detections.spec import DetectionsSpec, RegionsSpec
from convq.errors import ModelFault, NonFinite

MOST_REGIONS: Final = 1000
"""Of one job, those with the most cells: a map of noise has hundreds of thousands."""


_SLACK: Final = 1e-6
"""In cells: points that lie on a side of a rectangle are inside, whatever was rounded."""


def regions_of(
    spec: DetectionsSpec, regions: RegionsSpec, outputs: Mapping[str, NDArray[Any]], jobs: Sequence[Wanted], size: Size
) -> list[Detections | NonFinite]:
    """The regions of each job's map, as detections of class 0 with corners. Raises ModelFault where there is no map."""
    values = outputs.get(regions.output)
    shape = [] if values is None else list(values.shape)
    fits = shape[1:2] == [1] if len(shape) == 4 else len(shape) == 3  # noqa: PLR2004 - [n, 1, h, w] or [n, h, w]
    if values is None or values.dtype.kind not in "fiu" or not fits or shape[0] < len(jobs):
        raise ModelFault(f"output {regions.output} has shape {shape} for a batch of {len(jobs)}; expected [n, 1, h, w]")
    maps = values.reshape(shape[0], *shape[-2:])
    return [_of_job(one, spec, regions, job, size) for one, job in zip(maps, jobs, strict=False)]


def _of_job(
    values: NDArray[Any], spec: DetectionsSpec, regions: RegionsSpec, job: Wanted, size: Size
) -> Detections | NonFinite:
    values = values.astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        return NonFinite("the map of regions is not finite: NaN or infinity came from the network")
    runs = connected(values > regions.threshold).largest(MOST_REGIONS)
    if not len(runs.row) or (job.classes is not None and 0 not in job.classes):
        return _detections(np.empty((0, 4, 2)), np.empty(0, np.float32), job, spec)
    found = smallest_rectangles(hulls_of(runs))
    wide = found.half.min(axis=1) * 2 >= regions.min_side
    found = Rectangles(*(part[wide] for part in found))
    scores = means_inside(values, found._replace(half=found.half + 0.5))
    chosen = np.flatnonzero(scores >= (spec.min_score if job.min_score is None else job.min_score))
    chosen = chosen[np.argsort(-scores[chosen], kind="stable")]
    grown = _grown(Rectangles(*(part[chosen] for part in found)), regions.grow)
    cells = np.array(values.shape[::-1], dtype=np.float64)
    return _detections(grown.corners() * (size.sides / cells), scores[chosen], job, spec)


def _detections(
    corners: NDArray[np.float64], scores: NDArray[np.floating], job: Wanted, spec: DetectionsSpec
) -> Detections:
    """The answer, of corners [k, 4, 2] in pixels of the input, best first."""
    most = spec.max_detections if job.max_detections is None else job.max_detections
    inside = np.flatnonzero(in_picture(around(corners), job.placement))
    kept = inside[:most]
    placed = ordered(rounded(job.placement.cut(job.placement.points_back(corners[kept]))))
    return Detections(
        boxes=around(placed),
        scores=rounded_scores(scores[kept]),
        classes=np.zeros(len(kept), dtype=np.int64),
        corners=placed,
        truncated=len(inside) > most,
    )


def _grown(rectangles: Rectangles, factor: float) -> Rectangles:
    area = 4 * rectangles.half.prod(axis=1, keepdims=True)
    perimeter = 4 * rectangles.half.sum(axis=1, keepdims=True)
    return rectangles._replace(half=rectangles.half + area * factor / perimeter)


def means_inside(values: NDArray[np.float32], rectangles: Rectangles) -> NDArray[np.float64]:
    """[k]: the mean of a map [h, w] over the cells that lie in each rectangle, as points; 0 where there is none."""
    height, width = values.shape
    corners = rectangles.corners()
    top = np.clip(np.floor(corners[:, :, 1].min(axis=1)), 0, height).astype(np.int64)
    bottom = np.clip(np.ceil(corners[:, :, 1].max(axis=1)) + 1, 0, height).astype(np.int64)
    lines = np.maximum(bottom - top, 0)
    owner, row = np.repeat(np.arange(len(lines)), lines), ranges(top, lines)
    low, high = _spans(rectangles, owner, row.astype(np.float64))
    first = np.clip(np.ceil(low - _SLACK), 0, width).astype(np.int64)
    last = np.maximum(np.clip(np.floor(high + _SLACK) + 1, 0, width).astype(np.int64), first)
    sums = np.zeros((height, width + 1))
    np.cumsum(values, axis=1, dtype=np.float64, out=sums[:, 1:])
    total = np.bincount(owner, sums[row, last] - sums[row, first], minlength=len(lines))
    cells = np.bincount(owner, last - first, minlength=len(lines))
    return np.asarray(total / np.maximum(cells, 1))


def _spans(
    rectangles: Rectangles, owner: NDArray[np.int64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where horizontal lines at `y` [r] run through the rectangles `owner` [r]: from x to x, reversed where they do not.

    A point is inside where its distances from the centre, along both axes, are at most the half sides.
    """
    centre, half = rectangles.centre[owner], rectangles.half[owner]
    cosine, sine = rectangles.axis[owner].T
    low, high = np.full(len(y), -np.inf), np.full(len(y), np.inf)
    for along, across, side in ((cosine, sine, half[:, 0]), (-sine, cosine, half[:, 1])):
        from_centre = across * (y - centre[:, 1])
        slanted = np.abs(along) > 1e-12  # noqa: PLR2004 - else the line runs along this side, inside or outside as a whole
        safe = np.where(slanted, along, 1.0)
        one, other = (-side - from_centre) / safe, (side - from_centre) / safe
        outside = np.abs(from_centre) > side + _SLACK
        low = np.maximum(low, np.where(slanted, np.minimum(one, other), np.where(outside, np.inf, -np.inf)))
        high = np.minimum(high, np.where(slanted, np.maximum(one, other), np.where(outside, -np.inf, np.inf)))
    return centre[:, 0] + low, centre[:, 0] + high
