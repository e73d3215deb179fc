"""Notices when a model's network kills worker after worker and nothing is answered in between: that is no poisoned job."""

from __future__ import annotations

import logging
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence

from convq.runtime.board import Board
from convq.runtime.logs import event
from convq.runtime.metrics import LANE_NAMES
from convq.runtime.native import CRASH_POINTS, KILL_POINTS

log = logging.getLogger("convq.supervisor")

DEATHS = 6
WITHIN_S = 60.0
PAUSE_S = (30.0, 600.0)
"""First and longest pause; it doubles as long as nothing is answered."""


def points_of(status: int, *, hung: bool) -> int:
    """How much suspicion a worker's end casts on the jobs that its native code was working on.

    `status` is that of `subprocess.Popen.poll`: negative for a signal. An orderly end casts none.
    """
    if hung:
        return CRASH_POINTS
    if status in (0, -signal.SIGTERM, -signal.SIGINT):
        return 0
    return KILL_POINTS if status == -signal.SIGKILL else CRASH_POINTS


def ending(status: int) -> str:
    """How a process ended, in words."""
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


class CrashWatch:
    """Suspends models whose every run is a death. Owned by the supervisor's loop; `suspended` may be read by others."""

    def __init__(
        self, board: Board, models: Sequence[str], workers: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._board = board
        self._models = tuple(models)
        self._workers = workers
        self._clock = clock
        self._deaths: list[deque[tuple[float, float]]] = [deque(maxlen=DEATHS) for _ in models]
        self._pauses_s = [PAUSE_S[0]] * len(models)
        self._until_s = [0.0] * len(models)

    def suspended(self) -> set[str]:
        """The models that claim nothing at present."""
        now_s = self._clock()
        return {model for model, until_s in zip(self._models, self._until_s, strict=True) if until_s > now_s}

    def note_death(self, slot: int) -> None:
        """A worker died of its own native code: count it for each model that it was running."""
        for index in range(len(self._models)):
            row = self._board.row(slot, index)
            if row.running.read() or row.decoding.read():
                self._count(index)

    def _count(self, index: int) -> None:
        now_s, answered = self._clock(), self._answered(index)
        deaths = self._deaths[index]
        if deaths and deaths[-1][1] < answered:
            deaths.clear()
            self._pauses_s[index] = PAUSE_S[0]
        deaths.append((now_s, answered))
        if len(deaths) == DEATHS and now_s - deaths[0][0] <= WITHIN_S:
            self._suspend(index, now_s)

    def _suspend(self, index: int, now_s: float) -> None:
        pause_s = self._pauses_s[index]
        self._pauses_s[index] = min(2 * pause_s, PAUSE_S[1])
        self._deaths[index].clear()
        self._until_s[index] = now_s + pause_s
        for worker in range(self._workers):
            self._board.row(worker, index).set("pulse_suspended_until_s", now_s + pause_s)
        event(
            log,
            logging.CRITICAL,
            "the network kills every worker; the model claims nothing for a while",
            model=self._models[index],
            deaths=DEATHS,
            pause_s=pause_s,
        )

    def _answered(self, index: int) -> float:
        rows = [self._board.row(worker, index) for worker in range(self._workers)]
        return sum(row.get("convq_jobs", lane, "ok") for row in rows for lane in LANE_NAMES)
