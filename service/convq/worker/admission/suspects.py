"""Who waits to run alone in one pipeline, who is next, and when it is time: never before what nobody suspects, never not at all."""

from __future__ import annotations

import time
from collections.abc import Sequence

from convq.worker.ticket import Ticket

PATIENCE_S = 0.5
"""While there is other work, suspects wait this long; then claims pause until they had their turn."""
TURN_S = 0.5
"""So long suspects follow one another, before others may have waited long enough."""


class Suspects:
    """The waiting suspects of one pipeline. Belongs to its fetching thread."""

    def __init__(self) -> None:
        self._waiting: list[Ticket] = []
        self._since_s = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def payload_bytes(self) -> int:
        """How many bytes they hold."""
        return sum(ticket.payload_bytes for ticket in self._waiting)

    def add(self, tickets: Sequence[Ticket]) -> None:
        """More suspects."""
        if tickets and not self._waiting:
            self._since_s = time.monotonic()
        self._waiting.extend(tickets)

    def are_due(self, *, idle: bool) -> bool:
        """Whether they should run now: nothing else waits, or they have waited long enough."""
        return bool(self._waiting) and (idle or time.monotonic() - self._since_s > PATIENCE_S)

    def pop(self) -> Ticket:
        """The least suspected, oldest first: the others of a batch need not wait for the one that kills."""
        found = min(self._waiting, key=lambda ticket: ticket.job.suspicion)
        self._waiting.remove(found)
        return found

    def rest(self) -> None:
        """They had their turn; the next begins as late as the first."""
        self._since_s = time.monotonic()

    def withdraw(self) -> list[Ticket]:
        """Take back all that wait."""
        waiting, self._waiting = self._waiting, []
        return waiting
