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

from convq.chaos.ledger import Ledger, Ticket
from convq.errors import QueueFull, RedisUnavailable
from convq.protocol import Job, Priority
from convq.queue import BlockingWire, Producer, Shard, Submission, at_once
from convq.queue.keys import GROUP
from convq.queue.link import Command, understood

IN_FLIGHT = 1024
"""More than two workers hold, so that a killed service does not bring everything to a stop until its leases run out."""
CHUNK = 64
PAGE = 512
SINGLES = 8
"""One chunk in so many is answered under result keys; the others share inboxes."""
PRIORITIES = (Priority.NORMAL,) * 6 + (Priority.HIGH, Priority.LOW)
READ_AT_MOST = 1000
PAUSE_S = 0.004
TROUBLE_PAUSE_S = 0.05
SWEEP_EVERY_S = 30.0
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


@dataclass(slots=True)
class _Page:
    """One inbox and the jobs that are answered there. Nothing is taken from it before all of them are settled, so that
    `read` documents have been seen and each one of them once."""

    inbox: str
    tickets: list[Ticket] = field(default_factory=list)
    read: int = 0
    again: bool = False
    settled_s: float | None = None


class Load(threading.Thread):
    """The client, as a thread. After `halt` its methods belong to the caller. `failed` holds what ended it otherwise."""

    def __init__(self, url: str, shard: Shard, ledger: Ledger, digits: Sequence[Digit], quarantine_s: float) -> None:
        super().__init__(name="load", daemon=True)
        self.flowing = threading.Event()
        self.failed: BaseException | None = None
        self._wire = BlockingWire(url)
        self._shard = shard
        self._producer = Producer(self._wire, shard)
        self._ledger = ledger
        self._digits = digits
        self._quarantine_s = quarantine_s
        self._halted = threading.Event()
        self._reread = threading.Event()
        self._chunks = 0
        self._pages = [_Page(shard.inbox("chaos-0"))]
        self._inboxes = 1
        self._singles: deque[Ticket] = deque()
        self._unsure: list[tuple[Ticket, Submission]] = []
        self._rubbish: set[str] = set()
        self._next_sweep_s = time.monotonic() + SWEEP_EVERY_S

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

    def busy(self) -> bool:
        """Whether a job is in flight, or it is not known whether it is."""
        return bool(self._unsure) or self._ledger.in_flight() > 0

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
        except QueueFull:
            self._halted.wait(TROUBLE_PAUSE_S)
        except RedisUnavailable:
            self._halted.wait(TROUBLE_PAUSE_S)
        else:
            if not moved:
                self._halted.wait(PAUSE_S)

    def _submit(self) -> bool:
        if not self._unsure:
            if not self.flowing.is_set() or self._ledger.in_flight() > IN_FLIGHT - CHUNK:
                return False
            self._unsure = self._next_chunk()
        entries = at_once(self._producer.submit([submission for _, submission in self._unsure]))
        self._ledger.accept([ticket for ticket, _ in self._unsure], entries, time.monotonic())
        self._unsure = []
        return True

    def _next_chunk(self) -> list[tuple[Ticket, Submission]]:
        number, self._chunks = self._chunks, self._chunks + 1
        page = None
        if number % SINGLES:
            if len(self._pages[-1].tickets) >= PAGE:
                self._pages.append(_Page(self._shard.inbox(f"chaos-{self._inboxes}")))
                self._inboxes += 1
            page = self._pages[-1]
        priority = PRIORITIES[number // 2 % len(PRIORITIES)]
        chunk = []
        for at in range(CHUNK):
            digit = self._digits[(number * CHUNK + at) % len(self._digits)]
            ticket = self._ledger.open(digit.label)
            (self._singles if page is None else page.tickets).append(ticket)
            job = digit.job(ticket, page and page.inbox, as_tensor=at % 2 == 0)
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
        replies = self._flush(commands)
        now_s = time.monotonic()
        for page, documents in zip(pages, replies, strict=False):
            self._ledger.record(documents, now_s, again=page.again)
            page.read += len(documents)
            page.again = page.again and bool(documents)
        for documents in replies[len(pages) :]:
            self._ledger.record(documents, now_s)
        return any(replies)

    def _flush(self, commands: Sequence[Command]) -> list[Any]:
        """The replies. Raises what a refused command's reply says."""
        replies = at_once(self._wire.flush(commands)) if commands else []
        for reply in replies:
            if isinstance(reply, Exception):
                raise understood(reply) from reply
        return replies

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
        while len(self._pages) > 1 and self._is_ripe(self._pages[0], now_s):
            self._retire(self._pages[0])
            del self._pages[0]
        if self._rubbish:
            self._flush([("DEL", *self._rubbish)])
            self._rubbish.clear()
        if not self._ledger.strict:
            self._ledger.write_off_excused(now_s, WRITE_OFF_S)
        if now_s >= self._next_sweep_s:
            self._next_sweep_s = now_s + SWEEP_EVERY_S
            self.sweep()

    def _is_ripe(self, page: _Page, now_s: float) -> bool:
        return page.settled_s is not None and now_s - page.settled_s >= self._quarantine_s and not page.again

    def _retire(self, page: _Page) -> None:
        """Take an inbox away together with what came late: in one step, so that nothing can come in between."""
        *_, (documents, _) = self._flush([("MULTI",), ("LRANGE", page.inbox, page.read, -1), ("DEL", page.inbox), ("EXEC",)])
        self._ledger.record(documents, time.monotonic())
        self._discard(page.tickets)

    def _discard(self, tickets: Sequence[Ticket]) -> None:
        """Forget jobs, and have the server forget that it knew their ids: it would for ten minutes, in memory."""
        self._rubbish.update(self._shard.job(ticket.id) for ticket in tickets)
        self._ledger.forget(tickets)

    def sweep(self) -> None:
        """Answers that lie where none is expected any more: to jobs that were answered before."""
        expected = {page.inbox for page in self._pages} | {self._shard.result(ticket.id) for ticket in self._singles}
        for prefix in (self._shard.inbox_prefix, self._shard.result_prefix):
            cursor: Any = 0
            while True:
                cursor, keys = self._flush([("SCAN", cursor, "MATCH", f"{prefix}*", "COUNT", 1000)])[0]
                for name in {key.decode() for key in keys} - expected - self._rubbish:
                    *_, (documents, _) = self._flush([("MULTI",), ("LRANGE", name, 0, -1), ("DEL", name), ("EXEC",)])
                    self._ledger.record(documents, time.monotonic())
                if int(cursor) == 0:
                    break

    # -- at the end -----------------------------------------------------------------------------------------------

    def settle(self, within_s: float) -> None:
        """Go round, with nothing new, until every job is answered; what is not within `within_s` seconds is lost."""
        give_up_at = time.monotonic() + within_s
        while self.busy() and time.monotonic() < give_up_at:
            self.go_round()
        for ticket in self._ledger.write_off(time.monotonic(), 0.0):
            self._ledger.blame(ticket, self._known(ticket))

    def close_books(self) -> None:
        """Read every inbox for the last time, whatever is expected there, and look for strays. Raises RedisUnavailable."""
        for page in self._pages:
            self._retire(page)
        self._pages = [_Page(self._shard.inbox("chaos-end"))]
        self._discard(list(self._singles))
        self._singles.clear()
        self.sweep()

    def left(self) -> int:
        """Entries that are still in the streams, and those that workers hold, of which there should be none."""
        lengths = self._flush([("XLEN", stream) for stream in self._shard.streams])
        pending = self._flush([("XPENDING", stream, GROUP) for stream in self._shard.streams])
        return sum(lengths) + sum(int(row[0]) for row in pending)

    def _known(self, ticket: Ticket) -> dict[str, Any]:
        """What the server knows of a job that was not answered."""
        try:
            known: dict[str, Any] = {"state": str(at_once(self._producer.status(ticket.id)))}
            for stream in self._shard.streams:
                for entry, owner, idle_ms, deliveries in self._flush(
                    [("XPENDING", stream, GROUP, ticket.entry, ticket.entry, 1)]
                )[0]:
                    alive = self._flush([("ZSCORE", self._shard.leases, owner)])[0] is not None
                    known |= {"stream": stream, "entry": entry.decode(), "owner": owner.decode(), "owner_lives": alive}
                    known |= {"idle_ms": idle_ms, "deliveries": deliveries}
        except RedisUnavailable as error:
            known = {"unknown": str(error)}
        return known
