"""Outlines of masks as polygons that have no holes, for tools that know none."""

from __future__ import annotations

from collections.abc import Sequence

Ring = Sequence[float]
"""x, y, x, y, …"""


def area(ring: Ring) -> float:
    """What a ring encloses, in square pixels: above 0 where it runs clockwise as seen (Gauss' shoelace formula)."""
    points = list(zip(ring[::2], ring[1::2], strict=True))
    following = [*points[1:], *points[:1]]
    return sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in zip(points, following, strict=True)) / 2


def without_holes(rings: Sequence[Ring]) -> list[list[float]]:
    """The same rings where none is a hole; else one ring of them all, joined by lines that it runs along in both directions.

    Such a line encloses nothing, so that what is inside stays so, by the even-odd rule and by winding.
    """
    if not rings or all(area(ring) >= 0 for ring in rings):
        return [list(ring) for ring in rings]
    joined = list(rings[0])
    for ring in rings[1:]:
        at = _nearest(joined, ring[0], ring[1])
        joined = [*joined[: at + 2], *ring, ring[0], ring[1], *joined[at:]]
    return [joined]


def _nearest(ring: Ring, x: float, y: float) -> int:
    """Where the corner of the ring stands that is nearest to x, y."""
    return min(range(0, len(ring), 2), key=lambda at: (ring[at] - x) ** 2 + (ring[at + 1] - y) ** 2)
