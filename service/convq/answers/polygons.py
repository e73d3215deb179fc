"""The outlines of a mask: every ring of it, along the corners of its pixels, and simplified to within a pixel.

Corners are points (x, y) of whole numbers: (0, 0) is the top left corner of the top left pixel. A ring around pixels runs
clockwise as seen, one around a hole the other way, so that the shoelace formula with y pointing down gives areas whose sum is
the number of pixels. Pixels that touch at a corner alone are apart. A program that fills by the even-odd rule, all rings of
a mask together, gets the mask back.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

TOLERANCE: Final = 1.0
"""Pixels: no corner of the mask is farther from the simplified ring."""
MAX_CORNERS: Final = 2**20
"""Of one mask, or of all masks of a job: a second of following them, and more than anybody draws. With six characters a
coordinate they are 12 MiB of a result."""
_MAX_ROUNDS = 64
"""Of splitting; spirals could ask for as many as they have corners. What is left then keeps all its corners."""
_LEAST_SHARE = 0.5
"""Of its area that a simplified ring must keep: one pixel wide things would vanish, so they stay as they are."""

Points = NDArray[np.int64]


class Rings(NamedTuple):
    """Closed rings, one behind the other."""

    points: Points
    """[n, 2] of x and y; the last point of a ring is joined to its first, which is not repeated."""
    firsts: Points
    """[rings]: where each begins."""

    def areas(self) -> NDArray[np.float64]:
        """[rings]: in pixels; positive for clockwise rings, negative for holes. By the shoelace formula."""
        if not len(self.firsts):
            return np.empty(0)
        x, y = self.points.T
        following = self.following()
        cross = x * y[following] - x[following] * y
        return np.asarray(np.add.reduceat(cross, self.firsts) / 2.0)

    def following(self) -> Points:
        """[n]: the index of the point after each in its ring."""
        following = np.arange(1, len(self.points) + 1)
        following[self.ends() - 1] = self.firsts
        return following

    def ends(self) -> Points:
        """[rings]: where each ends; one behind its last point."""
        return np.append(self.firsts[1:], len(self.points)) if len(self.firsts) else self.firsts

    def flat(self) -> list[list[int]]:
        """Each ring as a list x, y, x, y, ..., as results have it."""
        return [self.points[first:end].ravel().tolist() for first, end in zip(self.firsts, self.ends(), strict=True)]

    def split(self, counts: Sequence[int]) -> list[Rings]:
        """Undoes `join`: the first so many rings, the next so many, and so on."""
        borders = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
        begins = np.append(self.firsts, len(self.points))
        return [
            Rings(self.points[begins[one] : begins[other]], self.firsts[one:other] - begins[one])
            for one, other in itertools.pairwise(borders)
        ]

    def moved(self, x: int, y: int) -> Rings:
        """The same elsewhere: so many pixels to the right and down."""
        return Rings(self.points + np.array([x, y]), self.firsts)


def join(parts: Sequence[Rings]) -> Rings:
    """The rings of several masks as if they were of one, in order; together they are simplified in far less time."""
    empty = np.empty(0, dtype=np.int64)
    shifts = np.cumsum([0, *(len(part.points) for part in parts)])
    return Rings(
        np.concatenate((empty.reshape(0, 2), *(part.points for part in parts))),
        np.concatenate((empty, *(part.firsts + shift for part, shift in zip(parts, shifts, strict=False)))),
    )


class _Edges(NamedTuple):
    """The vertical edges between a filled and an empty pixel, joined where they go on straight; [n] each."""

    x: Points
    top: Points
    bottom: Points
    heads_down: NDArray[np.bool_]
    """The filled side is at the right hand of whoever walks: to the left of the edge."""


def rings(columns: NDArray[np.bool_], *, max_corners: int = MAX_CORNERS) -> Rings:
    """All rings of a mask, with nothing but corners in them; none of an empty one.

    `columns` is the mask turned on its side, [w, h] of bool, column by column. Rings come by the place of their leftmost,
    then uppermost edge. Needs four bytes for each pixel meanwhile. Raises ValueError for more than `max_corners`, before
    any ring has been followed.
    """
    edges = _edges(columns)
    if 2 * len(edges.x) > max_corners:
        raise ValueError(f"the rings of the mask have {2 * len(edges.x)} corners; at most {max_corners} are accepted")
    following = _linked(edges, columns.shape[0])
    nexts = following.tolist()
    order: list[int] = []
    firsts: list[int] = []
    seen = bytearray(len(nexts))
    for start in range(len(nexts)):
        if not seen[start]:
            firsts.append(2 * len(order))
            edge = start
            while not seen[edge]:
                seen[edge] = True
                order.append(edge)
                edge = nexts[edge]
    begins = np.where(edges.heads_down, edges.top, edges.bottom)
    ends = np.where(edges.heads_down, edges.bottom, edges.top)
    points = np.stack((edges.x, ends, edges.x[following], begins[following]), axis=1)
    return Rings(points[np.array(order, dtype=np.int64)].reshape(-1, 2), np.array(firsts, dtype=np.int64))


def simplified(exact: Rings, tolerance: float = TOLERANCE) -> Rings:
    """The same rings with fewer points, each of which was one: no part is farther from its like than `tolerance`, in pixels.

    By the rule of Ramer (1972) and of Douglas and Peucker (1973): the point farthest from the chord is kept while it is too
    far away. A ring begins with two: its first, and the one farthest from that. A ring that would lose half of its area or
    turn around stays as it was.
    """
    if not len(exact.firsts):
        return exact
    kept = _kept(exact, tolerance)
    fewer = _chosen(exact, kept)
    areas, of = exact.areas(), np.repeat(np.arange(len(exact.firsts)), exact.ends() - exact.firsts)
    lost = fewer.areas() * np.sign(areas) < np.abs(areas) * _LEAST_SHARE
    return _chosen(exact, kept | lost[of]) if lost.any() else fewer


def _edges(columns: NDArray[np.bool_]) -> _Edges:
    """In the order of lines from left to right, then from the top."""
    width, height = columns.shape
    padded = np.zeros((width + 2, height + 2), dtype=np.int8)
    padded[1:-1, 1:-1] = columns
    steps = (padded[1:] - padded[:-1]).ravel()  # 1: filled to the right of the line; -1: filled to its left
    changes = np.flatnonzero(steps[1:] != steps[:-1])
    x, y = np.divmod(changes, height + 2)
    before, after = steps[changes], steps[changes + 1]
    begins, ends = after != 0, before != 0
    return _Edges(x[begins], y[begins], y[ends], after[begins] < 0)


def _linked(edges: _Edges, width: int) -> Points:
    """[n]: the edge that follows each in its ring: joined to it by the horizontal edge at which it ends.

    Horizontal edges need no search of their own: on each horizontal line, the ends of vertical ones are theirs, in pairs
    from the left. Where two filled pixels touch at a corner, four edges meet: those that head down belong to what is left.
    """
    count = len(edges.x)
    if not count:
        return edges.x
    x = np.concatenate((edges.x, edges.x))
    y = np.concatenate((edges.top, edges.bottom))
    heads_down = np.concatenate((edges.heads_down, edges.heads_down))
    ends_here = np.concatenate((~edges.heads_down, edges.heads_down))
    pairs = np.argsort((y * (width + 1) + x) * 2 + ~heads_down, kind="stable").reshape(-1, 2)
    one, other = pairs.T % count  # each edge stands in it twice, once with either end
    one_ends = ends_here[pairs[:, 0]]
    following = np.empty(count, dtype=np.int64)
    following[np.where(one_ends, one, other)] = np.where(one_ends, other, one)
    return following


def _chosen(exact: Rings, kept: NDArray[np.bool_]) -> Rings:
    """The rings of these points [n] alone; each has some."""
    before = np.concatenate(([0], np.cumsum(kept)))
    return Rings(exact.points[kept], before[exact.firsts])


def _kept(exact: Rings, tolerance: float) -> NDArray[np.bool_]:
    """[n]: which points simplified rings have."""
    points, firsts, ends = exact.points.astype(np.float64), exact.firsts, exact.ends()
    kept = np.zeros(len(points), dtype=np.bool_)
    kept[firsts] = True
    lengths = ends - firsts
    away = points - np.repeat(points[firsts], lengths, axis=0)
    farthest = _first_largest((away**2).sum(axis=1), firsts, lengths)
    kept[farthest] = True
    # A chord joins the points `first` and `last`; where it closes a ring, its last point is the first of the ring.
    first, last = np.concatenate((firsts, farthest)), np.concatenate((farthest, ends))
    tip = np.concatenate((farthest, firsts))
    for _ in range(_MAX_ROUNDS):
        inner = last - first - 1
        going = inner > 0
        first, last, tip, inner = first[going], last[going], tip[going], inner[going]
        if not len(first):
            return kept
        starts = np.cumsum(inner) - inner
        between = np.arange(inner.sum()) + np.repeat(first + 1 - starts, inner)
        distances = _squared_distances(points, between, np.repeat(first, inner), np.repeat(tip, inner))
        split = _first_largest(distances, starts, inner)
        far = distances[split] > tolerance**2
        first, last, tip, split = first[far], last[far], tip[far], between[split[far]]
        kept[split] = True
        first, last, tip = (np.concatenate(two) for two in ((first, split), (split, last), (split, tip)))
    for one, end in zip(first, last, strict=True):
        kept[one:end] = True
    return kept


def _first_largest(values: NDArray[np.float64], starts: Points, lengths: Points) -> Points:
    """[groups]: the index of the largest of each group of `values`; the first of equal ones. No group is empty."""
    most = np.repeat(np.maximum.reduceat(values, starts), lengths)
    group = np.repeat(np.arange(len(starts)), lengths)
    found = np.flatnonzero(values == most)
    fresh = np.concatenate(([True], np.diff(group[found]) > 0))
    return found[fresh]


def _squared_distances(points: NDArray[Any], which: Points, one: Points, other: Points) -> NDArray[np.float64]:
    """Of each point from the piece of a straight line between two others, all given by index."""
    start = points[one]
    chord, away = points[other] - start, points[which] - start
    along = (chord * away).sum(axis=1) / np.maximum((chord**2).sum(axis=1), 1.0)
    away -= np.clip(along, 0.0, 1.0)[:, None] * chord
    return np.asarray((away**2).sum(axis=1))
