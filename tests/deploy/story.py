"""What happens to a service in half a minute: load on three lanes, bad input, kills, poison, a full queue.

So that every panel of the dashboards has something to show. The load is small: two cores are enough for all of it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Self

import numpy as np
import redis

from convq import Client, QueueFull
from deploy.stand import Stand
from servers import wait_until
from services import JOBS, LANES, Plain, digits, image_of, tensor_of

MAX_JOBS = 1500
OPTIONS = ("--max-jobs", str(MAX_JOBS), "--result-ttl", "3", "--lease", "1")
"""Of the service: a queue that is full soon, answers that nobody reads and that expire soon, a short lease."""
CRASH = 0xEE
TRIES = 5


class Load:
    """Jobs on all lanes, every 100 ms, until it is told to stop; `jobs` of them each time, a picture or a tensor."""

    def __init__(self, url: str, jobs: int) -> None:
        self.jobs = jobs
        self._url = url
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        pictures = [image_of(pixels) for pixels in digits()[:200]]
        generator = np.random.default_rng(0)
        with Plain(self._url) as plain:
            while not self._over.wait(0.1):
                for lane, share in zip(LANES, (0.1, 0.7, 0.2), strict=True):
                    chosen = generator.integers(0, len(pictures), round(self.jobs * share))
                    with suppress(redis.ConnectionError):  # cut on purpose, or just before the end
                        plain.burst([{"image": pictures[index]} for index in chosen], stream=lane)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def push_bad_input(plain: Plain) -> None:
    """Each kind of mistake that clients make, and jobs whose time is over."""
    plain.burst([{"image": b"no picture at all"}] * 20 + [{"image": b"x", "tensor": b"y"}] * 5)
    plain.burst([{"tensor": b"short", "dtype": "uint8", "shape": "1,32,32"}] * 5)
    plain.burst([{"image": image_of(digits()[0]), "ttl_ms": 1}] * 20)


def push_poison(plain: Plain) -> str:
    """A job that kills its worker twice and is buried; its id."""
    magic = bytes([CRASH]) + tensor_of(digits()[0])[1:]
    return plain.push({"tensor": magic, "dtype": "uint8", "shape": "1,32,32"})


def kill_a_worker(stand: Stand) -> None:
    """SIGKILL under load, and another in its place: its jobs are taken over."""
    victim = stand.service.worker_pids()[0]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: stand.service.is_whole(without=victim), 20)


@contextmanager
def stopped_workers(stand: Stand) -> Iterator[list[int]]:
    """All workers frozen, from `with` to SIGCONT; their process ids."""
    workers = stand.service.worker_pids()
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield workers
    finally:
        for pid in workers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def freeze_one_in_the_middle(stand: Stand, plain: Plain) -> None:
    """A worker frozen with jobs in its hands, until others have taken them over: what it then has to say comes too late."""
    for _ in range(TRIES):
        freeze_one(stand, plain)
        if happens(lambda: counted(stand, "convq_lost_commits_total") > 0, 2):
            return
    raise AssertionError(f"in {TRIES} tries no worker was frozen in the middle of a batch")


def freeze_one(stand: Stand, plain: Plain) -> None:
    """A worker frozen as soon as there are jobs; if it was between two batches, nothing is taken over."""
    before = counted(stand, "convq_redeliveries_total")
    with stopped_workers(stand) as workers:
        plain.burst([{"image": image_of(digits()[0])}] * (MAX_JOBS - 200))
    os.kill(workers[0], signal.SIGSTOP)
    try:
        happens(lambda: counted(stand, "convq_redeliveries_total") > before, 5)
    finally:
        os.kill(workers[0], signal.SIGCONT)
    run_down(plain)


def happens(condition: Callable[[], bool], within_s: float) -> bool:
    """Whether it becomes true in time."""
    try:
        return wait_until(condition, within_s, patience=1)
    except AssertionError:
        return False


def counted(stand: Stand, counter: str) -> float:
    """What the service says of a counter, now."""
    return sum(stand.service.metrics()[counter].values())


def fill_the_queue(stand: Stand, plain: Plain, until: Callable[[], bool]) -> None:
    """While nobody works: jobs up to the limit, then submissions that are refused, until that is enough."""
    with stopped_workers(stand):
        plain.burst([{"image": image_of(digits()[0])}] * MAX_JOBS)

        def refused_enough() -> bool:
            with Client(stand.server.url, model="lenet") as client, suppress(QueueFull):
                client.submit(image_of(digits()[1]))
            return until()

        wait_until(refused_enough, 20, every_s=0.2)


def run_down(plain: Plain) -> None:
    """Wait until everything is answered."""
    wait_until(lambda: plain.redis.xlen(JOBS) == 0, 30)
