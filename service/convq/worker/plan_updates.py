"""Hands the changes of plan that a worker is told on to a thread for each model: none waits for what another one loads."""

from __future__ import annotations

import queue
from collections.abc import Callable

from convq.ipc.messages import PlanUpdate
from convq.threads import Watch

Changes = queue.SimpleQueue[PlanUpdate]


def pass_on(changes: Changes, follow: Callable[[Changes], None], watch: Watch) -> None:
    """For ever. `follow` gets the changes of one model, in a thread that begins with the first of them."""
    ways: dict[str, Changes] = {}
    while True:
        change = changes.get()
        if change.model not in ways:
            ways[change.model] = queue.SimpleQueue()
            watch.start(f"{change.model}-follow", follow, ways[change.model])
        ways[change.model].put(change)
