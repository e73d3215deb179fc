"""The load generator: jobs at a fixed rate or a fixed number in flight, and how long each took until its answer.

Open loop (`rate`): jobs are due at fixed times, whatever became of those before, as from users who do not know of each
other. A latency counts from when its job was due, not from when the generator came round to sending it: a service that
stalls is charged with the whole stall (no coordinated omission). Closed loop (`in_flight`): an answer makes room for the
next job, which finds out how much goes through.

Knows nothing of the terminal, and starts nothing: it is aimed at a service that runs.
"""

from __future__ import annotations

import math
import secrets
import threading
import time
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from typing import Any

from convq.errors import QueueFull, ServiceFailed
from convq.harness.latency import Latency
from convq.protocol import Job, Result, decode_result
from convq.queue import Address, BlockingWire, Producer, Shard, Submission, at_once

SEND_AT_MOST = 100
"""Jobs in one submit: one round trip, refused or taken as a whole."""
IN_FLIGHT = 64
READ_AT_MOST = 1000
READ_FOR_S = 0.2
FULL_PAUSE_S = 0.05
"""How long a closed loop waits at a full queue."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is to be sent: `images`, over and over, for `seconds`; at `rate` jobs a second, or else `in_flight` at a time."""

    images: Sequence[bytes]
    seconds: float
    rate: float | None = None
    in_flight: int = IN_FLIGHT
    timeout_s: float = 10.0
    """Without any answer for so long, those that are missing count as unanswered."""

    @property
    def loop(self) -> str:
        """In words."""
        return f"closed, {self.in_flight} in flight" if self.rate is None else f"open, {self.rate:g} jobs/s"


@dataclass(frozen=True, slots=True)
class Report:
    """What one run found out. `elapsed_s` is from when the first job was due to the last answer."""

    model: str
    loop: str
    elapsed_s: float
    accepted: int
    refused: int
    """Not taken, because the queue was full."""
    ok: int
    failed: dict[str, int]
    """Answers that were not ok, by error code, or by status where there is none."""
    unanswered: int
    latency: Latency
    """Of the answers that were ok."""
    latest_ms: float
    """How late the generator itself was at worst: where this is not small, it did not keep up."""

    @property
    def jobs_per_s(self) -> float:
        """Answers that were ok, a second."""
        return self.ok / self.elapsed_s if self.elapsed_s else 0.0

    def document(self) -> dict[str, Any]:
        """The figures, as JSON takes them."""
        return {**asdict(self), "jobs_per_s": self.jobs_per_s}

    def check(self) -> None:
        """Raise ServiceFailed where a job that was accepted did not end as ok. Refusing is what a full queue should do."""
        wrong = [f"{count} ended as {what}" for what, count in self.failed.items()]
        wrong += [f"{self.unanswered} were not answered"] if self.unanswered else []
        if wrong:
            raise ServiceFailed(f"of {self.accepted} jobs {', '.join(wrong)}")


class _Books:
    """Which jobs are on their way, and how those that came back took. For the thread that sends and the one that reads.

    An answer may be read before the entry ids of its chunk are known: it waits in `early`.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._due_s: dict[str, float] = {}
        self._early: dict[str, tuple[Result, float]] = {}
        self.accepted = 0
        self.refused = 0
        self.spent_ms = array("d")
        self.failed: Counter[str] = Counter()
        self.last_s = 0.0
        self.latest_ms = 0.0
        self.broken: BaseException | None = None

    @property
    def unanswered(self) -> int:
        """Jobs that were accepted and have no answer yet."""
        return len(self._due_s)

    def sent(self, entries: Sequence[str], due_s: Sequence[float]) -> None:
        """These jobs were accepted."""
        with self._changed:
            self.accepted += len(entries)
            for entry, due in zip(entries, due_s, strict=True):
                if entry in self._early:
                    self._close(*self._early.pop(entry), due)
                else:
                    self._due_s[entry] = due

    def received(self, results: Sequence[Result], now_s: float) -> None:
        """These answers have come."""
        with self._changed:
            for result in results:
                due_s = self._due_s.pop(result.entry, None)
                if due_s is None:
                    self._early[result.entry] = (result, now_s)
                else:
                    self._close(result, now_s, due_s)
            self._changed.notify()

    def give_up(self, error: BaseException) -> None:
        """The reader ended: whoever waits for answers need not."""
        with self._changed:
            self.broken = error
            self._changed.notify()

    def room(self, in_flight: int, timeout_s: float) -> int:
        """How many jobs may be added to those on their way, waiting for at least one; 0 when the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: self.broken or len(self._due_s) < in_flight, timeout_s)
            self._raise()
            return max(0, in_flight - len(self._due_s))

    def settle(self, timeout_s: float) -> None:
        """Wait until all is answered, or until no answer has come for that long."""
        with self._changed:
            before = -1
            while self._due_s and before != len(self._due_s):
                before = len(self._due_s)
                self._changed.wait_for(lambda: self.broken or len(self._due_s) < before, timeout_s)  # noqa: B023 - called here
                self._raise()

    def _raise(self) -> None:
        if self.broken is not None:
            raise self.broken

    def _close(self, result: Result, now_s: float, due_s: float) -> None:
        self.last_s = max(self.last_s, now_s)
        if result.ok:
            self.spent_ms.append((now_s - due_s) * 1e3)
        else:
            self.failed[result.error.code if result.error else str(result.status)] += 1


class _Sender:
    """Submits jobs that are due."""

    def __init__(self, producer: Producer, inbox: str, load: Load, books: _Books) -> None:
        self._producer = producer
        self._jobs = cycle([Submission(Job(image=image, reply_to=inbox)) for image in load.images])
        self._load = load
        self._books = books

    def run(self, began_s: float) -> None:
        """Send everything; answers may still be missing afterwards."""
        if self._load.rate is None:
            self._closed(began_s + self._load.seconds)
        else:
            self._open(began_s, self._load.rate)

    def _open(self, began_s: float, rate: float) -> None:
        total, sent = math.ceil(rate * self._load.seconds), 0
        while sent < total:
            time.sleep(max(0.0, began_s + sent / rate - time.perf_counter()))
            due = min(total, int((time.perf_counter() - began_s) * rate) + 1)
            many = min(SEND_AT_MOST, max(1, due - sent))
            self._send([began_s + number / rate for number in range(sent, sent + many)])
            sent += many

    def _closed(self, end_s: float) -> None:
        while time.perf_counter() < end_s:
            room = self._books.room(self._load.in_flight, self._load.timeout_s)
            if room == 0:  # nothing comes back any more
                return
            if not self._send([time.perf_counter()] * min(room, SEND_AT_MOST)):
                time.sleep(FULL_PAUSE_S)

    def _send(self, due_s: Sequence[float]) -> bool:
        """Whether the jobs were accepted."""
        books = self._books
        books.latest_ms = max(books.latest_ms, (time.perf_counter() - due_s[0]) * 1e3)
        try:
            entries = at_once(self._producer.submit(list(islice(self._jobs, len(due_s)))))
        except QueueFull as full:
            entries = full.accepted
        books.sent(entries, due_s[: len(entries)])
        books.refused += len(due_s) - len(entries)
        return len(entries) == len(due_s)


def run(address: Address | str, model: str, load: Load) -> Report:
    """Send the load to a running service and measure. Raises ConvqError, ValueError for a load without images."""
    if not load.images:
        raise ValueError("a load needs at least one image")
    books = _Books()
    inbox = Shard(model).inbox(f"bench-{secrets.token_hex(8)}")
    with _producer(address, model) as writing, _producer(address, model) as reading, _reading(reading, inbox, books):
        began_s = time.perf_counter()
        _Sender(writing, inbox, load, books).run(began_s)
        books.settle(load.timeout_s)
    return Report(
        model=model,
        loop=load.loop,
        elapsed_s=max(0.0, books.last_s - began_s),
        accepted=books.accepted,
        refused=books.refused,
        ok=len(books.spent_ms),
        failed=dict(books.failed),
        unanswered=books.unanswered,
        latency=Latency.of(books.spent_ms),
        latest_ms=books.latest_ms,
    )


@contextmanager
def _producer(address: Address | str, model: str) -> Iterator[Producer]:
    wire = BlockingWire(address)
    try:
        yield Producer(wire, Shard(model))
    finally:
        at_once(wire.close())


@contextmanager
def _reading(producer: Producer, inbox: str, books: _Books) -> Iterator[None]:
    """Take answers from the inbox meanwhile, in a thread of its own, so that nobody waits to be read."""
    done = threading.Event()

    def read() -> None:
        try:
            while not done.is_set():
                documents = at_once(producer.collect(inbox, READ_AT_MOST, READ_FOR_S))
                now_s = time.perf_counter()
                books.received([decode_result(document) for document in documents], now_s)
        except BaseException as error:  # noqa: BLE001 - the thread that sends raises it
            books.give_up(error)

    thread = threading.Thread(target=read, name="bench-reader", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
