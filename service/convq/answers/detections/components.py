"""Connected regions of a map of yes and no, all at once, as runs of cells."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

MOST_RUNS: Final = 2**18
"""Of one map: 5,000 words of 50 rows each have no more. Noise on 50 megapixels has 12 million."""


class Runs(NamedTuple):
    """Cells that lie side by side in a row, and to which region they belong; ordered by row, then by start."""

    row: NDArray[np.int64]
    start: NDArray[np.int64]
    """The first cell."""
    end: NDArray[np.int64]
    """The one after the last cell."""
    region: NDArray[np.int64]
    """Regions are counted from 0."""

    def largest(self, most: int) -> Runs:
        """Of at most so many regions, those that have the most cells; of equal ones the first."""
        cells = np.bincount(self.region, self.end - self.start)
        if len(cells) <= most:
            return self
        chosen = np.sort(np.argsort(-cells, kind="stable")[:most])
        number = np.full(len(cells), -1, dtype=np.int64)
        number[chosen] = np.arange(most)
        kept = number[self.region] >= 0
        return Runs(self.row[kept], self.start[kept], self.end[kept], number[self.region[kept]])


def connected(mask: NDArray[np.bool_], most_runs: int = MOST_RUNS) -> Runs:
    """The regions of a mask [h, w]: cells that touch each other by a side or a corner.

    Where there are more than `most_runs` runs, the shortest are as if they were not there.
    """
    height, width = mask.shape
    padded = np.zeros((height, width + 2), dtype=np.int8)
    padded[:, 1:-1] = mask
    change = np.diff(padded, axis=1)
    row, start = np.nonzero(change == 1)
    end = np.nonzero(change == -1)[1]
    if len(row) > most_runs:
        row, start, end = _longest(row, start, end, most_runs)
    upper, lower = _touching(row, start, end, width + 1)
    root = _roots(len(row), upper, lower)
    is_first = root == np.arange(len(row))
    return Runs(row, start, end, (np.cumsum(is_first) - 1)[root])


def _longest(
    row: NDArray[np.int64], start: NDArray[np.int64], end: NDArray[np.int64], most: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """At most so many runs: all from that length on of which there are no more."""
    length = end - start
    at_least = np.cumsum(np.bincount(length)[::-1])[::-1]  # [i]: how many have i cells or more
    kept = length >= np.count_nonzero(at_least > most)
    return row[kept], start[kept], end[kept]


def _touching(
    row: NDArray[np.int64], start: NDArray[np.int64], end: NDArray[np.int64], stride: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of runs, one in the row below the other, that touch by a side or a corner: two arrays [pairs] of their numbers.

    Rows are laid end to end, `stride` apart, so that one search in an ordered list serves them all.
    """
    below = (row + 1) * stride
    first = np.searchsorted(row * stride + end, below + start, side="left")
    last = np.searchsorted(row * stride + start, below + end, side="right")
    count = np.maximum(last - first, 0)
    upper = np.repeat(np.arange(len(row)), count)
    return upper, ranges(first, count)


def ranges(first: NDArray[np.int64], count: NDArray[np.int64]) -> NDArray[np.int64]:
    """`count[0]` whole numbers from `first[0]` on, then `count[1]` from `first[1]` on, and so forth, in one array."""
    begins = np.cumsum(count) - count
    return np.asarray(np.arange(count.sum()) + np.repeat(first - begins, count))


def _roots(count: int, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """[count]: for each of so many things the smallest number of those that pairs connect it with, itself included."""
    root = np.arange(count)
    while True:
        one, other = root[first], root[second]
        apart = one != other
        if not apart.any():
            return root
        first, second = first[apart], second[apart]
        one, other = one[apart], other[apart]
        # hang every root below the smallest that it meets, then let all look through to the top
        np.minimum.at(root, np.maximum(one, other), np.minimum(one, other))
        while (above := root[root]).tobytes() != root.tobytes():
            root = above
