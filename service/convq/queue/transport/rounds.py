"""When keys are asked for again by a client whom the server does not tell what was written."""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterable

ASK_FIRST_S, ASK_LONGEST_S = 0.001, 0.01
ASK_GROWTH = 0.1
"""Where it does not say so, a key is asked for again once it has been waited for so much longer, within these bounds."""
ASK_KEYS = 200
"""So many more keys make the longest pause as much longer: what the server is asked stays about the same."""


class Rounds:
    """When each key is asked for again where the server says nothing: the next round is a share of the wait so far."""

    def __init__(self) -> None:
        self._since_s: dict[str, float] = {}
        self._due: list[tuple[float, str, float]] = []
        """A heap: when, which key, and since when that one waits; of an earlier wait where the times differ."""

    def begin(self, keys: Iterable[str], now_s: float) -> None:
        """These were asked for now, for the first time in this wait."""
        for key in keys:
            self._since_s[key] = now_s
            heapq.heappush(self._due, (now_s + ASK_FIRST_S, key, now_s))

    def due(self, now_s: float, waited_for: Collection[str]) -> list[str]:
        """The keys to ask for now. What is waited for no more is forgotten."""
        keys = []
        longest_s = ASK_LONGEST_S * (1 + len(waited_for) / ASK_KEYS)
        while self._due and self._due[0][0] <= now_s:
            _, key, since_s = heapq.heappop(self._due)
            if self._since_s.get(key) != since_s:
                continue
            if key not in waited_for:
                del self._since_s[key]
                continue
            pause_s = min(max(ASK_GROWTH * (now_s - since_s), ASK_FIRST_S), longest_s)
            heapq.heappush(self._due, (now_s + pause_s, key, since_s))
            keys.append(key)
        return keys

    @property
    def next_s(self) -> float:
        """When the next one is due."""
        return self._due[0][0] if self._due else math.inf
