"""Loads that take longer than usual are named, and those of versions that no plan holds any more are ended."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from convq.ipc.shared_memory import Board, StatsRow
from convq.logs import event
from convq.supervisor.slots import Slot

log = logging.getLogger("convq.supervisor")

LONG_PART = 4
"""A load is named once it has taken more than one part in so many of its time."""
UNWANTED_S = 2.0
"""A worker that starts may finish what no plan holds any more within so long; one that serves meanwhile, until it is named."""
LONG = "a version takes longer than usual to load"


@dataclass(slots=True)
class _Load:
    """One load, as it was first seen."""

    model: str
    version: int
    since_s: float
    unwanted_since_s: float | None = None
    told: bool = False


class LongLoads:
    """Owned by the supervisor's loop; `named` may be asked by other threads."""

    def __init__(
        self,
        board: Board,
        models: Sequence[str],
        slots: Sequence[Slot],
        limit_s: float,
        wants: Callable[[str, int], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """A version may take `limit_s` to load; `wants` says whether some plan holds it."""
        self._board, self._models, self._slots = board, models, slots
        self._limit_s, self._wants, self._clock = limit_s, wants, clock
        self._rows: dict[tuple[int, int], StatsRow] = {}
        self._loads: dict[tuple[int, int], _Load] = {}

    def look(self) -> None:
        """Look again, once a tick: one log line for each load that is long, and `unwanted` for workers that are to end."""
        now_s, seen = self._clock(), {}
        for slot in self._slots:
            for place, load in self._loading(slot):
                seen[place] = load
                if now_s - load.since_s > self._limit_s / LONG_PART and not load.told:
                    load.told = True
                    facts = {"worker": slot.number, "model": load.model, "version": load.version}
                    event(log, logging.WARNING, LONG, **facts, for_s=round(now_s - load.since_s, 1))
                if self._is_in_vain(slot, load, now_s):
                    slot.unwanted = f"{load.model}/{load.version}"
        self._loads = seen  # replaced as one

    def named(self) -> list[str]:
        """What is long, in words."""
        now_s = self._clock()
        return [
            f"worker {number} has been loading {load.model}/{load.version} for {now_s - load.since_s:.0f} s"
            for (number, _), load in self._loads.items()
            if load.told
        ]

    def _loading(self, slot: Slot) -> Iterator[tuple[tuple[int, int], _Load]]:
        """What a worker loads now: its place and the model's -> the load."""
        for index, model in enumerate(self._models):
            if not model or slot.process is None:
                continue
            place = slot.number, index
            row = self._rows.get(place) or self._rows.setdefault(place, self._board.row(*place))
            since_s, named = row.loading.since_s, "".join(row.loading.read())
            if since_s and named.isdigit():
                known = self._loads.get(place)
                same = known is not None and (known.model, known.since_s) == (model, since_s)
                yield place, known if known is not None and same else _Load(model, int(named), since_s)

    def _is_in_vain(self, slot: Slot, load: _Load, now_s: float) -> bool:
        if slot.stopped or self._wants(load.model, load.version):
            load.unwanted_since_s = None
            return False
        load.unwanted_since_s = load.unwanted_since_s or now_s
        serves = slot.ready_since_s is not None
        return load.told if serves else now_s - load.unwanted_since_s > UNWANTED_S
