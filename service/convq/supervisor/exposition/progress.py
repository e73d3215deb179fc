"""Whether the jobs that wait move: for which models there are jobs in the queue, and no worker here that answers or asks for any.

A worker moves while its native code is within its limits, when it publishes answers, and when Redis answers its claims and it
has nothing in hand. So a slow batch is progress, and so is waiting for jobs; a stopped process, a connection that does not
answer and threads that wait for one another are not.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import starmap

from convq.importer.dry_run import WITHIN_S as LOAD_WITHIN_S
from convq.ipc.shared_memory import Board, StatsRow
from convq.logs import event
from convq.queue.transport.link import SOCKET_TIMEOUT_S
from convq.supervisor.slots import Slot

log = logging.getLogger("convq.supervisor")

LOOK_EVERY_S = 0.25
FRESH_S = 3.0
"""What was counted longer ago says nothing of now."""
BEGINS, ENDS = "jobs wait, and no worker makes progress", "workers make progress again"


@dataclass(slots=True)
class _Queue:
    """What is known of the jobs of one model, in seconds of the clock."""

    jobs: int = 0
    waits_since_s: float | None = None
    """Since when each count has found jobs."""
    empty_since_s: float | None = None
    stalled_since_s: float | None = None


class ProgressWatch:
    """Owned by the supervisor's loop; `stalled` and `is_ready` may be asked by other threads.

    `models` are those of the board's places, empty where there is none; they may come and go.
    """

    def __init__(
        self,
        board: Board,
        models: Sequence[str],
        workers: int,
        lease_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._board, self._workers = board, workers
        self._rows: dict[tuple[int, int], StatsRow] = {}
        self._models = models
        self._lease_s = lease_s
        self._clock = clock
        self._moved_s: dict[str, list[float]] = {}
        """Model -> when each worker last moved for it."""
        self._queues: dict[str, _Queue] = {}
        self._next_s = 0.0
        self._stalled: Mapping[str, str] = {}
        self._others_move = False

    def stalled(self) -> Mapping[str, str]:
        """Model -> how many of its jobs wait, for how long nothing of it has moved, and why."""
        return self._stalled

    @property
    def is_ready(self) -> bool:
        """Whether jobs are answered, as far as this can tell: nothing is stalled, or another model moves."""
        return not self._stalled or self._others_move

    def look(
        self,
        slots: Sequence[Slot],
        served: Collection[str],
        counts: Mapping[str, tuple[int, float]],
        suspended: Collection[str],
    ) -> None:
        """Look again, a few times a second. `counts`: model -> jobs in its streams, and when that was, by the clock.

        A stall begins when jobs have been there at each count for a lease, and no worker of the model has moved for longer
        than it may. It ends with the first that moves, or when there were no jobs for a lease.
        """
        now_s = self._clock()
        if now_s < self._next_s:
            return
        self._next_s = now_s + LOOK_EVERY_S
        places, stalled = self._taken(now_s), {}
        for index, model in places.items():
            state, (jobs, counted_s) = self._queues[model], counts.get(model, (0, 0.0))
            if model in served and now_s - counted_s <= FRESH_S:
                self._count(state, jobs, now_s)
            if model in served and (state.stalled_since_s is not None or state.waits_since_s is not None):
                self._judge(index, model, state, slots, now_s)
            elif state.stalled_since_s is not None:
                self._end(model, state, now_s)
            if state.stalled_since_s is not None:
                stalled[model] = self._in_words(model, state, slots, suspended, now_s)
        others = {index: model for index, model in places.items() if model in served and model not in stalled}
        self._others_move = bool(stalled) and any(self._moves(*other, slots, now_s) for other in others.items())
        self._stalled = stalled  # replaced as one

    def _taken(self, now_s: float) -> dict[int, str]:
        """The places that a model has now. One that is new has just moved; one that is gone is forgotten."""
        places = {index: model for index, model in enumerate(self._models) if model}
        gone = self._queues.keys() - places.values()
        for model in gone:
            del self._queues[model], self._moved_s[model]
        for model in places.values():
            if model not in self._queues:
                self._queues[model], self._moved_s[model] = _Queue(), [now_s] * self._workers
        return places

    def _row(self, worker: int, index: int) -> StatsRow:
        known = self._rows.get((worker, index))
        if known is None:
            known = self._rows[worker, index] = self._board.row(worker, index)
        return known

    def _count(self, state: _Queue, jobs: int, now_s: float) -> None:
        state.jobs = jobs
        if jobs:
            state.empty_since_s = None
            state.waits_since_s = now_s if state.waits_since_s is None else state.waits_since_s
        else:
            state.waits_since_s = None
            state.empty_since_s = now_s if state.empty_since_s is None else state.empty_since_s

    def _judge(self, index: int, model: str, state: _Queue, slots: Sequence[Slot], now_s: float) -> None:
        moves = self._moves(index, model, slots, now_s)
        if state.stalled_since_s is not None:
            moved = self._last_moved_s(model) > state.stalled_since_s
            emptied = state.empty_since_s is not None and now_s - state.empty_since_s > self._lease_s
            if moved or emptied:
                self._end(model, state, now_s)
        elif not moves and state.waits_since_s is not None and now_s - state.waits_since_s > self._lease_s:
            state.stalled_since_s = now_s
            idle_s = round(now_s - self._last_moved_s(model), 1)
            event(log, logging.ERROR, BEGINS, model=model, jobs=state.jobs, for_s=idle_s, workers=_states(slots))

    def _end(self, model: str, state: _Queue, now_s: float) -> None:
        lasted_s = round(now_s - (state.stalled_since_s or now_s), 1)
        state.stalled_since_s = None
        event(log, logging.WARNING, ENDS, model=model, jobs=state.jobs, after_s=lasted_s)

    def _last_moved_s(self, model: str) -> float:
        return max(self._moved_s[model])

    def _moves(self, index: int, model: str, slots: Sequence[Slot], now_s: float) -> bool:
        """Whether any worker has moved for this model within its time; takes down when each last did."""
        moving = [
            slot.number for slot in slots if self._worker_moves(slot, index, model, now_s)
        ]  # of each: no short cut
        return bool(moving)

    def _worker_moves(self, slot: Slot, index: int, model: str, now_s: float) -> bool:
        moved_s, row = self._moved_s[model], self._row(slot.number, index)
        runs = slot.pid is not None and not slot.stopped and slot.late is None
        busy = runs and (row.get("pulse_fetching") or any(mark.since_s for mark in row.marks))
        moved_s[slot.number] = now_s if busy else max(moved_s[slot.number], row.get("pulse_moved_s"))
        if slot.stopped:
            patience_s = self._lease_s
        elif slot.ready_since_s is None:
            patience_s = LOAD_WITHIN_S
        else:  # a reply of Redis may take its time, what is prepared may wait for more, and another model may be alone
            rows = [self._row(slot.number, place) for place, name in enumerate(self._models) if name]
            others = [one for one in rows if one is not row and any(mark.since_s for mark in one.marks)]
            limits_s = [max(one.get("pulse_limit_s"), one.get("pulse_decode_limit_s")) for one in others]
            patience_s = self._lease_s + SOCKET_TIMEOUT_S + row.get("pulse_wait_s") + max(limits_s, default=0.0)
        return now_s - max(moved_s[slot.number], slot.resumed_s) <= patience_s

    def _in_words(
        self, model: str, state: _Queue, slots: Sequence[Slot], suspended: Collection[str], now_s: float
    ) -> str:
        jobs = "1 job waits" if state.jobs == 1 else f"{state.jobs} jobs wait"
        idle_s = now_s - self._last_moved_s(model)
        why = "it is suspended" if model in suspended else _states(slots)
        return f"{jobs}, and no worker has moved for {idle_s:.0f} s ({why})"


def _states(slots: Sequence[Slot]) -> str:
    """What the supervisor knows of the workers, in words."""
    return ", ".join(starmap("{1} {0}".format, _counted(slots).items()))


def _counted(slots: Sequence[Slot]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for slot in slots:
        state = "stopped" if slot.stopped else "running" if slot.ready_since_s is not None else "starting"
        counts[state] = counts.get(state, 0) + 1
    return counts
