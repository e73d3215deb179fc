"""How long something took, and how long it would have taken on a machine that has nothing else to do."""

from __future__ import annotations

import hashlib
import threading
import time
from typing import Self

EVERY_S = 0.1
ROUNDS = 20_000
"""About 5 ms of work: far more than a process that has slept is given at once before others have their turn."""


class Stopwatch:
    """The wall time of a block, and how much of it the machine was away for.

    A thread does a small piece of work ten times a second and compares its wall time with its processor time. Whatever
    makes the one longer (busy neighbours, a quota, too few processors for the test itself) makes everything else longer
    that is done meanwhile. So a limit on `quiet_s` says the same on every machine; one on the wall time does not.
    """

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._ended_s: float | None = None
        self._wall_s = self._processor_s = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._measure, daemon=True)

    def _measure(self) -> None:
        while True:
            wall_s, processor_s = time.perf_counter(), time.thread_time()
            hashlib.pbkdf2_hmac("sha256", b"any", b"thing", ROUNDS)  # gives up the GIL: other threads do not count
            self._wall_s += time.perf_counter() - wall_s
            self._processor_s += time.thread_time() - processor_s
            if self._over.wait(EVERY_S):
                return

    @property
    def took_s(self) -> float:
        """Wall time from the beginning of the block to its end, or to now."""
        return (self._ended_s or time.monotonic()) - self._began_s

    @property
    def slowdown(self) -> float:
        """How many times longer everything takes than on an idle machine, so far; at least 1."""
        return max(1.0, self._wall_s / self._processor_s) if self._processor_s else 1.0

    @property
    def quiet_s(self) -> float:
        """How long that would have taken on an idle machine."""
        return self.took_s / self.slowdown

    def __enter__(self) -> Self:
        self._began_s = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended_s = time.monotonic()
        self._over.set()
        self._thread.join()
