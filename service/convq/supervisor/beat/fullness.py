"""Says once that a queue is full, and once that there is room again: in the log of the service that exports the queue."""

from __future__ import annotations

import logging

from convq.queue.supervision import ShardDepth
from convq.supervisor.beat.troubles import Troubles

STEP, TEXT = "room in the queue", "the queue is full: submit is refused"
ROOM_AGAIN = 0.9
"""How far it must have drained to be no longer called full: clients that wait fill it again at once."""


def note_room(troubles: Troubles, model: str, depth: ShardDepth) -> None:
    """Look at how much of a queue is filled."""
    if depth.filled >= 1:
        troubles.note(model, STEP, TEXT, logging.WARNING)
    elif depth.filled < ROOM_AGAIN:
        troubles.over(model, STEP)
