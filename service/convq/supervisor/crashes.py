"""What a worker's death says about the jobs that it worked on, and about the model: whom it accuses, and of what.

A model whose network kills worker after worker, with nothing answered in between, is no poisoned job: it claims nothing
for a while.
"""

from __future__ import annotations

import logging
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from convq.host.procfs import waited_s
from convq.ipc.crash_marks import CRASH_POINTS, GREEDY_BYTES, GREEDY_POINTS, KILL_POINTS, CrashMark
from convq.ipc.series import LANE_NAMES
from convq.ipc.shared_memory import Board, StatsRow
from convq.logs import event
from convq.queue import Accusation, Blame
from convq.supervisor.overdue import Overdue, overdue
from convq.supervisor.slots import Slot

log = logging.getLogger("convq.supervisor")

DEATHS = 6
WITHIN_S = 60.0
LOOK_EVERY_S = 1.0
"""At the memory of a worker that decodes nothing; else at every tick."""
PAUSE_S = (30.0, 600.0)
"""First and longest pause; it doubles as long as nothing is answered."""


def points_of(status: int, *, hung: bool, grown_bytes: int = 0) -> int:
    """How much suspicion a worker's end casts on the jobs that its native code was working on.

    `status` is that of `subprocess.Popen.poll`: negative for a signal. An orderly end casts none. `grown_bytes` is how much
    more memory it held at the end than before it began with them.
    """
    if hung:
        return CRASH_POINTS
    if status in (0, -signal.SIGTERM, -signal.SIGINT):
        return 0
    if status == -signal.SIGKILL:
        return KILL_POINTS if grown_bytes < GREEDY_BYTES else GREEDY_POINTS
    return CRASH_POINTS


def accusations(row: StatsRow, model: int, points: int, late: Overdue | None) -> list[Accusation]:
    """Whom the death of a worker accuses among the jobs of one model.

    What was over its time accuses itself and nobody beside it. Else all that was in native code is accused, together; or
    the one that had the process for itself, whose beginning was written down before (see `alone.lua`) and is judged now,
    with no points too.
    """
    alone = row.alone.read()
    if late is None:
        company = {one: None for mark in row.marks for one in mark.read() if points and one not in alone}
        return [
            *(Accusation(one, Blame.COMPANY, points) for one in company),
            *(Accusation(one, Blame.ALONE, points) for one in alone),
        ]
    if late.is_loading:
        return [Accusation(one, Blame.ALONE, 0) for one in alone]
    if late.model == model and not late.is_decoding:
        return [Accusation(one, Blame.ALONE if one in alone else Blame.COMPANY, points) for one in late.jobs]
    slow = [Accusation(one, Blame.SLOW, points) for one in late.jobs if late.model == model]
    return slow + [Accusation(one, Blame.ALONE, 0) for one in alone]


def ending(status: int) -> str:
    """How a process ended, in words."""
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


class CircuitBreaker:
    """Suspends models whose every run is a death. Owned by the supervisor's loop; `suspended` may be read by others.

    `models` are those of the board's places, empty where there is none; they may come and go.
    """

    def __init__(
        self,
        board: Board,
        models: Sequence[str],
        workers: int,
        clock: Callable[[], float] = time.monotonic,
        load_s: float = 0.0,
    ) -> None:
        """Loading a version may take `load_s` seconds; 0: as long as it likes."""
        self._load_s = load_s
        self._board, self._workers = board, workers
        self._rows: dict[tuple[int, int], StatsRow] = {}
        self._look_s = [0.0] * workers
        self._waits: dict[tuple[int, CrashMark], tuple[float, float]] = {}
        self._aways: dict[tuple[int, CrashMark], tuple[float, float]] = {}
        self._models, self._seen = models, tuple(models)
        self._clock = clock
        self._deaths: list[deque[tuple[float, float]]] = [deque(maxlen=DEATHS) for _ in models]
        self._pauses_s = [PAUSE_S[0]] * len(models)
        self._until_s = [0.0] * len(models)

    def suspended(self) -> set[str]:
        """The models that claim nothing at present."""
        now_s = self._clock()
        return {model for model, until_s in zip(self._models, self._until_s, strict=True) if model and until_s > now_s}

    def _row(self, worker: int, index: int) -> StatsRow:
        known = self._rows.get((worker, index))
        if known is None:
            known = self._rows[worker, index] = self._board.row(worker, index)
        return known

    def _taken(self) -> list[int]:
        """The places that a model has now; one that has changed hands has no history."""
        now = tuple(self._models)
        for index in (index for index, model in enumerate(now) if model != self._seen[index]):
            self._deaths[index].clear()
            self._pauses_s[index], self._until_s[index] = PAUSE_S[0], 0.0
        self._seen = now
        return [index for index, model in enumerate(now) if model]

    def late(self, slot: Slot) -> Overdue | None:
        """What the worker in this place has worked on for longer than its model's manifest allows; looks at its memory, too."""
        now_s, rows = time.monotonic(), [(index, self._row(slot.number, index)) for index in self._taken()]
        watched = ((row.decoding, row.slow, row.alone, row.loading) for _, row in rows)
        working = any(mark.since_s for marks in watched for mark in marks)
        if working or now_s >= self._look_s[slot.number]:
            self._look_s[slot.number] = now_s + LOOK_EVERY_S
            slot.note_memory(working=working)
        if slot.stopped:  # by a signal: its lease runs out
            return None
        waited, away = partial(self._waited, slot), partial(self._away, slot)
        looked = (overdue(row, index, now_s, slot.resumed_s, waited, self._load_s, away) for index, row in rows)
        return next((late for late in looked if late is not None), None)

    def _waited(self, slot: Slot, mark: CrashMark, from_s: float) -> float:
        """How long what is marked has waited for a processor since `from_s`, or since this was first asked after that."""
        so_far_s = waited_s(slot.pid or 0, mark.thread)
        since_s, before_s = self._waits.get((slot.number, mark), (0.0, 0.0))
        if since_s != from_s:
            self._waits[slot.number, mark] = (from_s, so_far_s)
            return 0.0
        return max(0.0, so_far_s - before_s)

    def _away(self, slot: Slot, mark: CrashMark) -> float:
        """For how many seconds of what is marked the worker could not work, since this was first asked."""
        since_s, before_s = self._aways.get((slot.number, mark), (0.0, 0.0))
        if since_s != mark.since_s:
            self._aways[slot.number, mark] = (mark.since_s, slot.away_s)
            return 0.0
        return slot.away_s - before_s

    def note_death(self, slot: int) -> None:
        """A worker died of its own native code: count it for each model whose network it was running.

        Not where a picture was being decoded as well: that may have been at fault, and the suspects will tell.
        """
        for index in self._taken():
            row = self._row(slot, index)
            if (row.running.read() or row.answering.read()) and not (row.decoding.since_s or row.slow.since_s):
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
            self._row(worker, index).set("pulse_suspended_until_s", now_s + pause_s)
        event(
            log,
            logging.CRITICAL,
            "the network kills every worker; the model claims nothing for a while",
            model=self._models[index],
            deaths=DEATHS,
            pause_s=pause_s,
        )

    def _answered(self, index: int) -> float:
        return sum(
            self._row(worker, index).get("convq_jobs", lane, "ok")
            for worker in range(self._workers)
            for lane in LANE_NAMES
        )
