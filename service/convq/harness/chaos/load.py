"""The client of the run: keeps a bounded number of jobs in flight, and reads every answer without taking it away first.

An answer that is popped and whose reply is lost with the connection would be the client's own loss. So answers are read
where they lie, written into the ledger, and removed afterwards. Every job has an id of the client's: a submission whose
reply was lost is sent again and stays one job.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from convq.errors import QueueFull, RedisUnavailable
from convq.harness.chaos.ledger import Ledger, Ticket
from convq.protocol import Job, Priority
from convq.queue import BlockingWire, Producer, Shard, Submission, at_once
from convq.queue.transport.link import Command, understood

IN_FLIGHT = 1024
"""More than two workers hold, so that a killed service does not bring everything to a stop until its leases run out."""
CHUNK = 64
PAGE = 512
EXTRA_CHUNK = 4
"""Of what is mixed in: a submission of large pictures must stay below what the server takes at once."""
SINGLES = 8
"""One chunk in so many is answered under result keys; the others share inboxes."""
PRIORITIES = (Priority.NORMAL,) * 6 + (Priority.HIGH, Priority.LOW)
READ_AT_MOST = 1000
PAUSE_S = 0.004
TROUBLE_PAUSE_S = 0.05
WRITE_OFF_S = 30.0


@dataclass(frozen=True, slots=True)
class Digit:
    """One picture in both forms that a job may have, and what it shows."""

    label: str
    png: bytes
    tensor: bytes

    def job(self, ticket: Ticket, reply_to: str | None, *, as_tensor: bool) -> Job:
        """The job that asks for it."""
        if as_tensor:
            return Job(tensor=self.tensor, dtype="uint8", shape="1,32,32", id=ticket.id, reply_to=reply_to)
        return Job(image=self.png, id=ticket.id, reply_to=reply_to)


@dataclass(slots=True, eq=False)
class _Page:
    """One inbox and the jobs that are answered there.

    Nothing is taken from it before all of them are settled: the first `read` documents have been seen, each of them once.
    """

    inbox: str
    tickets: list[Ticket] = field(default_factory=list)
    read: int = 0
    again: bool = False
    settled_s: float | None = None


def ask(wire: BlockingWire, commands: Sequence[Command]) -> list[Any]:
    """The replies. Raises what a refused command's reply says."""
    replies = at_once(wire.flush(commands)) if commands else []
    for reply in replies:
        if isinstance(reply, Exception):
            raise understood(reply) from reply
    return replies


def take(wire: BlockingWire, key: str, since: int = 0) -> list[bytes]:
    """Remove a list and return what it held behind its first `since` elements."""
    *_, (documents, _) = ask(wire, [("MULTI",), ("LRANGE", key, since, -1), ("DEL", key), ("EXEC",)])
    return list(documents)


class Load(threading.Thread):
    """One client, as a thread. After `halt` its methods belong to the caller. `failed` holds what ended it otherwise."""

    def __init__(
        self,
        name: str,
        url: str,
        shard: Shard,
        ledger: Ledger,
        digits: Sequence[Digit],
        flowing: threading.Event,
        quarantine_s: float,
    ) -> None:
        super().__init__(name=f"load-{name}", daemon=True)
        self.failed: BaseException | None = None
        self._flowing = flowing
        self._wire = BlockingWire(url)
        self._shard = shard
        self._producer = Producer(self._wire, shard)
        self._ledger = ledger
        self._digits = digits
        self._quarantine_s = quarantine_s
        self._halted = threading.Event()
        self._reread = threading.Event()
        self._chunks = 0
        self._inbox = shard.inbox(f"chaos-{name}-")
        self._inboxes = 0
        self._pages: list[_Page] = []
        self._singles: deque[Ticket] = deque()
        self._unsure: list[tuple[Ticket, Submission]] = []
        self._extra: deque[Digit] = deque()
        self._rubbish: set[str] = set()

    # -- for the main thread --------------------------------------------------------------------------------------

    def run(self) -> None:
        """Submit and read until halted."""
        try:
            while not self._halted.is_set():
                self.go_round()
        except BaseException as error:  # noqa: BLE001 - the main thread raises it
            self.failed = error

    def halt(self) -> None:
        """End the thread."""
        self._halted.set()
        if self.is_alive():
            self.join(30.0)

    def read_again(self) -> None:
        """The server may have gone back in time: read again what was read."""
        self._reread.set()

    def mix_in(self, pictures: Sequence[Digit]) -> None:
        """Submit these besides, as soon as may be, however many jobs are in flight."""
        self._extra.extend(pictures)

    def unsure(self) -> bool:
        """Whether jobs were submitted of which it is not known whether they were taken."""
        return bool(self._unsure)

    def close(self) -> None:
        """Close the connections."""
        at_once(self._wire.close())

    # -- one round ------------------------------------------------------------------------------------------------

    def go_round(self) -> None:
        """Submit what there is room for, read what has come, remove what is done."""
        try:
            moved = self._submit()
            moved = self._read() or moved
            self._tidy()
        except (QueueFull, RedisUnavailable):
            self._halted.wait(TROUBLE_PAUSE_S)
        else:
            if not moved:
                self._halted.wait(PAUSE_S)

    def _submit(self) -> bool:
        if not self._unsure:
            if self._extra:
                self._unsure = [self._single(self._extra.popleft()) for _ in range(min(EXTRA_CHUNK, len(self._extra)))]
            elif not self._flowing.is_set() or self._ledger.in_flight() > IN_FLIGHT - CHUNK:
                return False
            else:
                self._unsure = self._next_chunk()
        entries = at_once(self._producer.submit([submission for _, submission in self._unsure]))
        self._ledger.accept([ticket for ticket, _ in self._unsure], entries, time.monotonic())
        self._unsure = []
        return True

    def _single(self, picture: Digit) -> tuple[Ticket, Submission]:
        ticket = self._ledger.open(picture.label)
        self._singles.append(ticket)
        return ticket, Submission(picture.job(ticket, None, as_tensor=False), Priority.NORMAL)

    def _next_chunk(self) -> list[tuple[Ticket, Submission]]:
        number, self._chunks = self._chunks, self._chunks + 1
        page = None
        if number % SINGLES:
            if not self._pages or len(self._pages[-1].tickets) >= PAGE:
                self._pages.append(_Page(f"{self._inbox}{self._inboxes}"))
                self._inboxes += 1
            page = self._pages[-1]
        priority = PRIORITIES[number // 2 % len(PRIORITIES)]
        chunk = []
        for at in range(CHUNK):
            digit = self._digits[(number * CHUNK + at) % len(self._digits)]
            ticket = self._ledger.open(digit.label)
            (self._singles if page is None else page.tickets).append(ticket)
            job = digit.job(ticket, page.inbox if page else None, as_tensor=at % 2 == 0)
            chunk.append((ticket, Submission(job, priority)))
        return chunk

    def _read(self) -> bool:
        """Look into every inbox and under every result key that still owes something."""
        if self._reread.is_set():
            self._reread.clear()
            for page in self._pages:
                page.read, page.again = 0, True
        pages = [page for page in self._pages if page.settled_s is None or page.again]
        singles = [ticket for ticket in self._singles if ticket.answered_s is None]
        commands: list[Command] = [("LRANGE", p.inbox, p.read, p.read + READ_AT_MOST - 1) for p in pages]
        commands += [("LRANGE", self._shard.result(ticket.id), 0, -1) for ticket in singles]
        replies = ask(self._wire, commands)
        now_s = time.monotonic()
        for page, documents in zip(pages, replies, strict=False):
            self._ledger.record(documents, now_s, again=page.again)
            page.read += len(documents)
            page.again = page.again and bool(documents)
        for documents in replies[len(pages) :]:
            self._ledger.record(documents, now_s)
        return any(replies)

    # -- keeping it small -----------------------------------------------------------------------------------------

    def _tidy(self) -> None:
        now_s = time.monotonic()
        settled = [ticket for ticket in self._singles if ticket.settled]
        if settled:
            self._singles = deque(ticket for ticket in self._singles if not ticket.settled)
            self._rubbish.update(self._shard.result(ticket.id) for ticket in settled)
            self._discard(settled)
        for page in self._pages[:-1]:
            if page.settled_s is None and all(ticket.settled for ticket in page.tickets):
                page.settled_s = now_s
        for page in [page for page in self._pages if self._is_ripe(page, now_s)]:
            self._retire(page)
            self._pages.remove(page)
        if self._rubbish:
            ask(self._wire, [("DEL", *self._rubbish)])
            self._rubbish.clear()
        if not self._ledger.strict:
            self._ledger.write_off(now_s, WRITE_OFF_S, only_excused=True)

    def _is_ripe(self, page: _Page, now_s: float) -> bool:
        return page.settled_s is not None and now_s - page.settled_s >= self._quarantine_s and not page.again

    def _retire(self, page: _Page) -> None:
        """Take an inbox away together with what came late: in one step, so that nothing can come in between."""
        self._ledger.record(take(self._wire, page.inbox, page.read), time.monotonic(), again=page.again)
        self._discard(page.tickets)

    def _discard(self, tickets: Sequence[Ticket]) -> None:
        """Forget jobs, and have the server forget that it knew their ids: it would for ten minutes, in memory."""
        self._rubbish.update(self._shard.job(ticket.id) for ticket in tickets)
        self._ledger.forget(tickets)

    def retire_all(self) -> None:
        """Read every inbox for the last time and remove it, whatever is expected there. Raises RedisUnavailable."""
        while self._pages:
            self._retire(self._pages[-1])
            self._pages.pop()
        self._discard(list(self._singles))
        self._singles.clear()
