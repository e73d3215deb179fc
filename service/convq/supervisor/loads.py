"""What the death of a worker says about a version that is being loaded: after a few, the version is at fault and not the worker.

Only those are accused that no whole service has loaded yet: of what all workers have run, a kill from outside says nothing.
"""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from convq.ipc.shared_memory import Board, StatsRow
from convq.supervisor.crashes import points_of
from convq.supervisor.slots import Slot

POINTS, WITHIN_S = 4, 120.0
"""As much suspicion (see `crash_marks`) within so long condemns: two crashes, two kills of a worker that had grown, four others."""
RECENT_S = 1.0
"""A worker may be killed for its memory just after it has loaded something."""


@dataclass(frozen=True, slots=True)
class BadLoad:
    """A version that is not to be loaded again."""

    model: str
    version: int
    reason: str


class Loads:
    """Watches what workers load. Owned by the supervisor's loop."""

    def __init__(
        self,
        board: Board,
        models: Sequence[str],
        slots: Sequence[Slot],
        is_proven: Callable[[str, int], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`is_proven` says of a version whether all workers had it at once."""
        self._board, self._models = board, models
        self._is_proven = is_proven
        self._clock = clock
        self._rows: dict[tuple[int, int], StatsRow] = {}
        self._seen: list[dict[tuple[str, int], float]] = [{} for _ in slots]
        self._deaths: dict[tuple[str, int], deque[tuple[float, int]]] = {}

    def look(self) -> None:
        """Take down what is being loaded now. Once a tick, and before a death is judged."""
        now_s = self._clock()
        for number, seen in enumerate(self._seen):
            for index, model in enumerate(self._models):
                if model and (version := self._version(number, index)):
                    seen[model, version] = now_s

    def judge(self, slot: Slot, status: int, limit_s: float) -> BadLoad | None:
        """The version that this death of a worker condemns, if any. Before the board forgets what the worker did."""
        self.look()
        if slot.late is not None and slot.late.is_loading:
            model = self._models[slot.late.model]
            version = self._version(slot.number, slot.late.model)
            return BadLoad(
                model,
                version,
                f"{model}/{version}: it did not load within {limit_s:g} s; --load-within gives it longer",
            )
        said_why = slot.late is not None or slot.failure is not None  # what it says itself accuses no neighbour
        points = 0 if said_why else points_of(status, hung=False, grown_bytes=slot.grown_bytes)
        accused = self._loading(slot.number) if points else set()
        if not accused and status == -signal.SIGKILL and points:  # the kernel may take another than the one that asks
            accused = {one for other in range(len(self._seen)) for one in self._loading(other)}
        for one in sorted(accused):
            if self._count(one, points):
                times = len(self._deaths.pop(one))
                why = "killed (for their memory?)" if status == -signal.SIGKILL else "ended by it"
                return BadLoad(*one, f"{one[0]}/{one[1]}: while it was loaded, workers were {why} {times} times")
        return None

    def _version(self, number: int, index: int) -> int:
        """The version that a worker loads of the model in a place of the board; 0 while it loads none."""
        known = self._rows.get((number, index))
        if known is None:
            known = self._rows[number, index] = self._board.row(number, index)
        named = "".join(known.loading.read()) if known.loading.since_s else ""
        return int(named) if named.isdigit() else 0

    def _loading(self, number: int) -> set[tuple[str, int]]:
        """What a worker loads, or loaded just now, of what is not proven."""
        now_s = self._clock()
        seen = self._seen[number]
        return {one for one, when_s in seen.items() if now_s - when_s <= RECENT_S and not self._is_proven(*one)}

    def _count(self, one: tuple[str, int], points: int) -> bool:
        now_s = self._clock()
        deaths = self._deaths.setdefault(one, deque())
        deaths.append((now_s, points))
        while deaths and now_s - deaths[0][0] > WITHIN_S:
            deaths.popleft()
        return sum(each for _, each in deaths) >= POINTS
