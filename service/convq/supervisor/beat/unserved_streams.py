"""Says which streams hold jobs that nobody serves: in the log, and as numbers for the probes. Used by the heartbeat."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from convq.errors import RedisRefused
from convq.queue.diagnosis.unserved import Lookout, Unserved
from convq.supervisor.beat.troubles import Troubles

STEP = "streams that nobody serves"
LOOK_EVERY_S = 2.0
"""Between the end of one look and the beginning of the next."""
REFUSED_FOR_S = 600.0
"""Whoever may not look does not try again for so long."""
AWAY_S = 30.0
"""A model that was served before may be away for so long: it restarts, or is started by the jobs that wait for it."""
NAMED = 5
"""Streams that one log line names."""


class UnservedStreams:
    """For the heartbeat's thread; other threads may read `found`."""

    def __init__(self, lookout: Lookout, troubles: Troubles) -> None:
        self._lookout = lookout
        self._troubles = troubles
        self._next_s = 0.0
        self._since_s: dict[str, float] = {}
        self.found: tuple[Unserved, ...] | None = None
        """What the last look found; None before the first, and for whoever may not look."""

    def look(self, mine: bool) -> None:
        """One step of a look, where it is time for one and others do not do it. Raises RedisUnavailable."""
        now_s = time.monotonic()
        if not mine:
            self.found = None
        if not mine or now_s < self._next_s:
            return
        try:
            if not self._lookout.step():
                return
        except RedisRefused as refused:
            self.found, self._next_s = None, now_s + REFUSED_FOR_S
            self._troubles.note("", STEP, f"not looked for, which takes the right +scan: {refused}", logging.WARNING)
            return
        self._next_s = now_s + LOOK_EVERY_S
        self.found = self._lookout.found
        self._say(self.found, now_s)

    def _say(self, found: Sequence[Unserved], now_s: float) -> None:
        self._since_s = {one.key: self._since_s.get(one.key, now_s) for one in found}
        said = [one for one in found if not one.known or now_s - self._since_s[one.key] >= AWAY_S]
        if not said:
            self._troubles.over("", STEP)
            return
        rest = f"; and {len(said) - NAMED} more streams" if len(said) > NAMED else ""
        self._troubles.note("", STEP, "; ".join(sorted(map(str, said[:NAMED]))) + rest, logging.WARNING)
