"""Convex hulls of many regions at once, and the smallest rectangle around each.

A side of that rectangle lies along an edge of the hull, so all edges are tried.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convq.answers.detections.components import Runs, ranges
from convq.answers.detections.rectangles import Rectangles

_TOGETHER: Final = 64
"""Hulls whose corners are tried against their edges at once: what that takes in memory grows with their number."""
_FAR: Final = np.iinfo(np.int64).max


class Hulls(NamedTuple):
    """Convex hulls, one after the other."""

    points: NDArray[np.int64]
    """[p, 2]: x and y of the corners."""
    starts: NDArray[np.int64]
    """[k + 1]: the first corner of each hull, and how many there are."""
    edges: NDArray[np.float64]
    """[e, 2]: the directions of their edges, of length 1, and that of the x axis."""
    edge_starts: NDArray[np.int64]
    """[k + 1]: as `starts`."""


def hulls_of(runs: Runs) -> Hulls:
    """The hull of each region, the cell of row 2 and column 3 being the point (3, 2).

    So it is with the makers of such maps, who fill polygons with all cells from that of one corner to that of the other:
    what reaches from 3 to 5 fills the cells 3, 4 and 5.
    """
    regions = int(runs.region.max(initial=-1)) + 1
    top, bottom = np.full(regions, _FAR), np.full(regions, -1)
    np.minimum.at(top, runs.region, runs.row)
    np.maximum.at(bottom, runs.region, runs.row)
    # In each row of a region, of which it has all from its top to its bottom: the first and the last of its cells.
    rows = bottom - top + 1
    place = (np.cumsum(rows) - rows)[runs.region] + runs.row - top[runs.region]
    left, right = np.full(rows.sum(), _FAR), np.full(rows.sum(), -1)
    np.minimum.at(left, place, runs.start)
    np.maximum.at(right, place, runs.end - 1)
    region, y = np.repeat(np.arange(regions), rows), ranges(top, rows)
    owners, points, edge_owners, edges = [], [], [np.arange(regions)], [np.tile([[1.0, 0.0]], (regions, 1))]
    for x, sign in ((left, 1), (right, -1)):
        chain = _chain(region, y, x * sign)
        owner, corners = region[chain], np.stack([x[chain], y[chain]], axis=1)
        steps, same = np.diff(corners, axis=0), owner[1:] == owner[:-1]
        owners.append(owner)
        points.append(corners)
        edge_owners.append(owner[1:][same])
        edges.append(steps[same] / np.linalg.norm(steps[same], axis=1, keepdims=True))
    return Hulls(*_grouped(owners, points, regions), *_grouped(edge_owners, edges, regions))


def _grouped(
    owners: list[NDArray[np.int64]], parts: list[NDArray[Any]], regions: int
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """All parts in the order of their owners, and where each owner's begin."""
    owner = np.concatenate(owners)
    starts = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=regions))])
    return np.concatenate(parts)[np.argsort(owner, kind="stable")], starts


def _chain(region: NDArray[np.int64], y: NDArray[np.int64], x: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which of these points, ordered by region and y, make the convex chain of each region at its smallest x.

    A point that does not lie before the line through its neighbours is no corner, whichever else go: all such are dropped
    at once, until none is left.
    """
    chain = np.arange(len(region))
    while True:
        before, at, after = chain[:-2], chain[1:-1], chain[2:]
        inner = region[before] == region[after]
        bends = (x[at] - x[before]) * (y[after] - y[at]) < (x[after] - x[at]) * (y[at] - y[before])
        keep = np.ones(len(chain), dtype=np.bool_)
        keep[1:-1] = ~inner | bends
        if keep.all():
            return chain
        chain = chain[keep]


def smallest_rectangles(hulls: Hulls) -> Rectangles:
    """For each hull, of which there is at least one, the rectangle of the smallest area around it."""
    regions = len(hulls.starts) - 1
    parts = [_smallest(hulls, first, min(first + _TOGETHER, regions)) for first in range(0, regions, _TOGETHER)]
    return Rectangles(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def _smallest(hulls: Hulls, first: int, last: int) -> Rectangles:
    """Of the hulls `first` to `last`: each edge with all corners of its hull."""
    edges = hulls.edges[hulls.edge_starts[first] : hulls.edge_starts[last]]
    edge_counts = np.diff(hulls.edge_starts[first : last + 1])
    owner = np.repeat(np.arange(first, last), edge_counts)
    counts = np.diff(hulls.starts)[owner]
    points = hulls.points[ranges(hulls.starts[owner], counts)]
    direction = np.repeat(edges, counts, axis=0)
    along = points[:, 0] * direction[:, 0] + points[:, 1] * direction[:, 1]
    across = points[:, 1] * direction[:, 0] - points[:, 0] * direction[:, 1]
    begins = np.cumsum(counts) - counts
    values = np.stack([along, across], axis=1)
    low, high = np.minimum.reduceat(values, begins), np.maximum.reduceat(values, begins)
    area = (high - low).prod(axis=1)
    order = np.lexsort((area, owner))
    best = order[np.cumsum(edge_counts) - edge_counts]
    axis, middle = edges[best], (low[best] + high[best]) / 2
    second = np.stack([-axis[:, 1], axis[:, 0]], axis=1)
    return Rectangles(middle[:, :1] * axis + middle[:, 1:] * second, axis, (high[best] - low[best]) / 2)
