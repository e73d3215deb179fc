"""Decodes expensive pictures beside the others of their model: one at a time, in a thread that begins with the first of them.

A picture of fifty megapixels takes a second, one that somebody made to be slow takes as long as it may. Digits that came
with it are decoded, run and answered meanwhile: decoders let go of the interpreter lock.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from convq.ipc.crash_marks import Gate
from convq.worker.ticket import Ticket

STUCK_S = 1.0
"""One that takes longer holds up those behind it: they are given to others."""


class SlowLane:
    """The lane of one pipeline. `put`, `withdraw` and `close` are for the fetching thread."""

    def __init__(
        self,
        gate: Gate,
        wait_for_room: Callable[[], None],
        prepare: Callable[[Ticket], None],
        done: Callable[[Ticket], None],
        thread: Callable[[Callable[[], None]], threading.Thread],
    ) -> None:
        self._gate = gate
        self._wait_for_room = wait_for_room
        self._prepare = prepare
        self._done = done
        self._make_thread = thread
        self._thread: threading.Thread | None = None
        self._waiting: deque[Ticket] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._busy = False
        self._since_s = 0.0
        self._payload_bytes = 0

    @property
    def backlog(self) -> int:
        """How many jobs are here, the one that is being decoded too."""
        return len(self._waiting) + self._busy

    @property
    def payload_bytes(self) -> int:
        """How many bytes those hold that are not begun: they take room for claims, and what is being decoded takes none.

        It may be as large as a claim, and would keep everybody out for as long as it takes.
        """
        return self._payload_bytes

    @property
    def is_stuck(self) -> bool:
        """Whether the one that is being decoded takes long."""
        since_s = self._since_s
        return since_s > 0 and time.monotonic() - since_s > STUCK_S

    def put(self, tickets: Sequence[Ticket]) -> None:
        """Add jobs; what was over its time before comes last of them."""
        if not tickets:
            return
        with self._changed:
            self._waiting.extend(sorted(tickets, key=lambda ticket: ticket.job.slow))
            self._payload_bytes += sum(ticket.payload_bytes for ticket in tickets)
            self._changed.notify()
        if self._thread is None:
            self._thread = self._make_thread(self._work)
            self._thread.start()

    def withdraw(self) -> list[Ticket]:
        """Take back all that is not begun."""
        with self._changed:
            waiting = list(self._waiting)
            self._waiting.clear()
            self._payload_bytes -= sum(ticket.payload_bytes for ticket in waiting)
            return waiting

    def close(self) -> None:
        """Take nothing more; returns when what was begun is done."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        while (ticket := self._next()) is not None:
            self._wait_for_room()
            with self._gate.slowly():
                self._since_s = time.monotonic()
                self._prepare(ticket)
                self._since_s = 0.0
            self._busy = (
                False  # before it is handed on: counted nowhere it is safe, counted twice it would seem answered
            )
            self._done(ticket)
            del ticket  # while this waits for the next one

    def _next(self) -> Ticket | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return None
            self._busy = True
            ticket = self._waiting.popleft()
            self._payload_bytes -= ticket.payload_bytes
            return ticket
