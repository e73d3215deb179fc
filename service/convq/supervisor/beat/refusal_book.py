"""What Redis knows of refused versions, between the heartbeat, which has the connection, and those who read and write it."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from convq.errors import ConvqError, RedisUnavailable
from convq.queue import Shard
from convq.queue.refusals import KnownRefusal, Refusals
from convq.supervisor.beat.troubles import Troubles

STEP = "refused versions"
AGAIN_S = 600.0
"""Where the server refuses what this needs, it is tried again after so long."""
MOST_DUE = 1000
Known = Mapping[str, Mapping[int, KnownRefusal]]


class RefusalBook:
    """`keep` is the heartbeat's; the rest is for any thread."""

    def __init__(
        self,
        refusals: Refusals,
        troubles: Troubles,
        shards: Callable[[], Sequence[Shard]],
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        """`shards`: of the models that the service has; `wake` is called where `keep` should be, soon."""
        self._refusals, self._troubles, self._shards, self._wake = refusals, troubles, shards, wake
        self._due: deque[tuple[str, int, KnownRefusal | None]] = deque(maxlen=MOST_DUE)
        self._asked = threading.Event()
        self._next_s = 0.0
        self.found: Known | None = None
        """Model -> version -> what was known when this service first reached Redis; None before, and if it may not read."""

    def wait(self, within_s: float) -> Known | None:
        """`found`, once Redis has answered, or cannot be reached, or `within_s` seconds are over."""
        self._asked.wait(within_s)
        return self.found

    def note(self, model: str, version: int, known: KnownRefusal | None) -> None:
        """Have it written down as soon as Redis takes it; None: nothing is known against that version any more."""
        self._due.append((model, version, known))
        self._wake()

    def keep(self) -> None:
        """Read what is known, once; then write what is due. Raises RedisUnavailable alone."""
        if time.monotonic() < self._next_s:
            return
        try:
            if self.found is None:
                self.found = {shard.model: self._refusals.of(shard) for shard in self._shards()}
            while self._due:
                self._write(*self._due[0])
                self._due.popleft()
        except RedisUnavailable:
            raise
        except ConvqError as error:
            self._next_s = time.monotonic() + AGAIN_S
            self._troubles.note("", STEP, f"not remembered: {error}", logging.WARNING)
        finally:
            self._asked.set()

    def _write(self, model: str, version: int, known: KnownRefusal | None) -> None:
        if known is None:
            self._refusals.forget(Shard(model), version)
        else:
            self._refusals.note(Shard(model), version, known)
