"""The clients of a run together, and the last look at the server when they are done."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

from convq.errors import ConvqError, RedisUnavailable
from convq.harness.chaos.ledger import Ledger, Ticket
from convq.harness.chaos.load import Digit, Load, ask, take
from convq.queue import BlockingWire, Producer, Shard, at_once
from convq.queue.keys import GROUP

CLIENTS = 2
"""One alone spends half of its time waiting for replies, and the queue is nearly empty."""


class Crowd:
    """Several `Load`s that fill one ledger. All methods are for the main thread."""

    def __init__(self, url: str, shard: Shard, ledger: Ledger, digits: Sequence[Digit], quarantine_s: float) -> None:
        self._ledger = ledger
        self._shard = shard
        self._wire = BlockingWire(url)
        self._producer = Producer(self._wire, shard)
        self._flowing = threading.Event()
        self._loads = [
            Load(str(number), url, shard, ledger, digits, self._flowing, quarantine_s) for number in range(CLIENTS)
        ]

    def start(self) -> None:
        """Begin to submit."""
        self._flowing.set()
        for load in self._loads:
            load.start()

    def mix_in(self, pictures: Sequence[Digit]) -> None:
        """Have these submitted besides; each is answered under its own result key."""
        for number, load in enumerate(self._loads):
            load.mix_in(pictures[number :: len(self._loads)])

    def submit_no_more(self) -> None:
        """From now on answers are read, and nothing new is asked."""
        self._flowing.clear()

    def halt(self) -> None:
        """End the threads."""
        for load in self._loads:
            load.halt()

    def read_again(self) -> None:
        """The server may have gone back in time: read again what was read."""
        for load in self._loads:
            load.read_again()

    def raise_defect(self) -> None:
        """Raise what ended a thread before its time."""
        for load in self._loads:
            if isinstance(load.failed, ConvqError):
                raise load.failed
            if load.failed is not None:
                raise RuntimeError("a client of the run ended by a defect") from load.failed

    def close(self) -> None:
        """Close the connections."""
        for load in self._loads:
            load.close()
        at_once(self._wire.close())

    # -- at the end, when the threads were halted -----------------------------------------------------------------

    def settle(self, within_s: float) -> None:
        """Read, and submit what is unsure, until every job is answered; what is not within `within_s` seconds is lost."""
        give_up_at = time.monotonic() + within_s
        while self._busy() and time.monotonic() < give_up_at:
            for load in self._loads:
                load.go_round()
        for ticket in self._ledger.write_off(time.monotonic()):
            self._ledger.blame(ticket, self._known(ticket))

    def _busy(self) -> bool:
        return self._ledger.in_flight() > 0 or any(load.unsure() for load in self._loads)

    def close_books(self) -> None:
        """Read every inbox for the last time, then look for strays: answers where nothing is expected any more.

        Those are answers to jobs that were answered before. Raises RedisUnavailable.
        """
        for load in self._loads:
            load.retire_all()
        for prefix in (self._shard.inbox_prefix, self._shard.result_prefix):
            cursor = 0
            while True:
                cursor, keys = ask(self._wire, [("SCAN", cursor, "MATCH", f"{prefix}*", "COUNT", 1000)])[0]
                for key in keys:
                    self._ledger.record(take(self._wire, key), time.monotonic())
                if int(cursor) == 0:
                    break

    def left(self) -> int:
        """Entries that are still in the streams, and those that workers hold, of which there should be none."""
        lengths = ask(self._wire, [("XLEN", stream) for stream in self._shard.streams])
        pending = ask(self._wire, [("XPENDING", stream, GROUP) for stream in self._shard.streams])
        return sum(int(length) for length in lengths) + sum(int(row[0]) for row in pending)

    def _known(self, ticket: Ticket) -> dict[str, Any]:
        """What the server knows of a job that was not answered."""
        try:
            known: dict[str, Any] = {"state": str(at_once(self._producer.status(ticket.id)))}
            for stream in self._shard.streams:
                pending = ask(self._wire, [("XPENDING", stream, GROUP, ticket.entry, ticket.entry, 1)])[0]
                for _, owner, idle_ms, deliveries in pending:
                    lives = ask(self._wire, [("ZSCORE", self._shard.leases, owner)])[0] is not None
                    known |= {"stream": stream, "owner": owner.decode(), "owner_lives": lives}
                    known |= {"idle_ms": idle_ms, "deliveries": deliveries}
        except RedisUnavailable as error:
            known = {"unknown": str(error)}
        return known
