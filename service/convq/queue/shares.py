"""How much of each claim every lane gets: priorities that starve nobody."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from convq.queue.entries import Received
from convq.queue.keys import LANES

LOWER_LANE_SHARE = 1 / 8
"""Of every claim under a backlog, each lower lane gets this share."""


class Shares:
    """What one worker remembers of the lanes of one shard: which have more, and what is owed to the lower ones."""

    def __init__(self) -> None:
        self._more = [False] * len(LANES)
        self._credit = [0.0] * len(LANES)

    @property
    def backlogged(self) -> bool:
        """Whether a lane probably has more than was claimed of it last."""
        return any(self._more)

    def of(self, room: int) -> list[int]:
        """How many of `room` jobs to read from each lane, the highest first.

        Without a backlog all of them from each. Fractions are carried on, so that even a room of one serves all lanes in
        turn. A lower lane that had nothing last time is looked at with a share of one at most.
        """
        shares = [room] * len(LANES)
        left = room
        for lane in reversed(range(1, len(LANES))):
            if any(self._more[:lane]):
                share = room * LOWER_LANE_SHARE
                credit = self._credit[lane] + (share if self._more[lane] else min(share, 1.0))
                shares[lane] = min(int(credit), left)
                self._credit[lane] = min(credit - shares[lane], 1.0)
                left -= shares[lane]
                shares[:lane] = [left] * lane
        return shares

    def note(self, jobs: Sequence[Received], wanted: Sequence[int]) -> None:
        """A lane that gave all that was asked of it probably has more."""
        came = [0] * len(LANES)
        for job in jobs:
            came[job.lane] += 1
        self._more = [count >= most > 0 for count, most in zip(came, wanted, strict=True)]

    def note_more(self, lanes: Collection[int]) -> None:
        """These have more, whatever the others have."""
        self._more = [was or lane in lanes for lane, was in enumerate(self._more)]
