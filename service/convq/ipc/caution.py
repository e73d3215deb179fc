"""After a worker has died while a large reply came in, its successor reads less at a time, until that has gone well for a while."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from convq.ipc.shared_memory import StatsRow
from convq.logs import event
from convq.queue import Delivery, WorkQueue

log = logging.getLogger("convq.worker")

MOST_DEATHS = 2
"""By then a worker reads one entry at a time, so that a death accuses that one alone: see `Holdings.cut`."""
GOOD_READS = 16
"""So many deliveries in which nobody dies take one death back."""


class Caution:
    """Of one pipeline; its fetching thread's. What the next worker must know stands on the board."""

    def __init__(self, work: WorkQueue, row: StatsRow, model: str) -> None:
        self._work = work
        self._row = row
        self._good = 0
        work.meter.on_large = lambda large: row.set("pulse_fetching", float(large))
        work.holdings.reading_alone = self._mark
        work.holdings.cut = deaths = int(row.get("pulse_fetch_deaths"))
        if deaths:
            event(log, logging.WARNING, "reads less at a time: its predecessor died while it read", model=model)

    def _mark(self, names: Sequence[str]) -> None:
        """Say on the board which entry is being read: the thread that reads decodes nothing meanwhile."""
        if self._work.holdings.cut:
            if names:
                self._row.decoding.set(names[0].encode())
            else:
                self._row.decoding.clear()

    def note(self, delivery: Delivery) -> None:
        """These jobs have come, and nobody died of it."""
        if not self._work.holdings.cut or not delivery.jobs:
            return
        self._good += 1
        if self._good >= GOOD_READS:
            self._good = 0
            self._work.holdings.cut -= 1
            self._row.set("pulse_fetch_deaths", self._work.holdings.cut)


def note_death(row: StatsRow) -> None:
    """The worker of this row has died; called by the supervisor, before it clears the row."""
    if row.get("pulse_fetching"):
        row.set("pulse_fetch_deaths", min(MOST_DEATHS, row.get("pulse_fetch_deaths") + 1))
