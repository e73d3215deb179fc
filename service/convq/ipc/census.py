"""Who sends how many jobs: counted by the names that clients give themselves, in bounded memory, whatever names come.

The busiest have a counter of their own, the rest share one. A name takes another's place only by many more jobs within the
last minutes, so that neither a flood of new names nor one that is new each time makes new series without end.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

MOST_NAMES = 20
"""So many names have counters of their own, for each model."""
MOST_CANDIDATES = 100
"""So many other names are watched, whether they deserve one."""
HALF_LIFE_S = 60.0
"""Jobs of so long ago count half where places are given."""
LEAST_JOBS = 10
"""With fewer jobs lately nobody takes another's place."""
UNNAMED, OTHER = "unnamed", "other"
"""How jobs are counted that name no client, and those of all who have no counter of their own."""


class Census:
    """Jobs by client. For any number of threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._decayed_s = clock()
        self._counts: dict[str, int] = {}
        self._recent: dict[str, float] = {}
        """Of the names in `_counts`."""
        self._candidates: dict[str, float] = {}
        self._shared = {UNNAMED: 0, OTHER: 0}

    def add(self, jobs: Mapping[str, int]) -> None:
        """Count `jobs`, by name; "" for those without one. Costs no more than the names that are in there."""
        with self._lock:
            counts, recent = self._counts, self._recent
            for name, count in jobs.items():
                if name in counts:
                    counts[name] += count
                    recent[name] += count
                else:
                    self._add_unplaced(name or UNNAMED, count)

    def totals(self) -> dict[str, int]:
        """Name -> jobs so far, for at most `MOST_NAMES`, the unnamed and the rest. A counter may begin anew: its name had lost its place."""
        with self._lock:
            self._decay()
            return {**self._counts, **{name: count for name, count in self._shared.items() if count}}

    def take(self) -> dict[str, int]:
        """What `totals` has gained since the last call."""
        with self._lock:
            self._decay()
            gained = {name: count for name, count in (self._counts | self._shared).items() if count}
            self._counts, self._shared = dict.fromkeys(self._counts, 0), dict.fromkeys(self._shared, 0)
            return gained

    def _add_unplaced(self, name: str, count: int) -> None:
        if name in self._shared:
            self._shared[name] += count
        elif len(self._counts) < MOST_NAMES:
            self._counts[name], self._recent[name] = count, float(count)
        else:
            self._shared[OTHER] += count
            self._watch(name, count)

    def _watch(self, name: str, count: int) -> None:
        """Note a name without a place; it gets that of the quietest one where it has more than twice as many jobs lately."""
        candidates = self._candidates
        candidates[name] = weight = candidates.get(name, 0.0) + count
        if weight >= LEAST_JOBS:
            self._decay()
            quietest = min(self._recent, key=self._recent.__getitem__)
            if weight > 2 * self._recent[quietest]:
                del self._counts[quietest], self._recent[quietest]
                self._counts[name], self._recent[name] = 0, candidates.pop(name)
        if len(candidates) > MOST_CANDIDATES:  # all give up as much as the least has: who comes often stays
            least = min(candidates.values())
            self._candidates = {one: had - least for one, had in candidates.items() if had > least}

    def _decay(self) -> None:
        now_s = self._clock()
        share = 0.5 ** ((now_s - self._decayed_s) / HALF_LIFE_S)
        self._decayed_s = now_s
        self._recent = {name: jobs * share for name, jobs in self._recent.items()}
        self._candidates = {name: jobs * share for name, jobs in self._candidates.items()}
