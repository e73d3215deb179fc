"""One shard of a real server, a client of it and as many workers as a test wants."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import redis
from guarded import Guarded

from convq.protocol import Job, Priority
from convq.queue import (
    BlockingWire,
    Commits,
    Completion,
    Delivery,
    Lease,
    LeaseKeeper,
    Producer,
    Received,
    Shard,
    Submission,
    WorkQueue,
    at_once,
)

LEASE_MS = 500


@dataclass
class Bench:
    """A shard, a client of it, and as many workers as a test wants; `url` is the workers'."""

    url: str
    shard: Shard
    redis: Any
    producer: Producer
    keeper: LeaseKeeper
    commits: Commits
    queues: list[WorkQueue]

    def worker(self) -> tuple[WorkQueue, Lease]:
        work = WorkQueue(self.url, self.shard, worker=f"w-{len(self.queues)}", lease_ms=LEASE_MS)
        self.queues.append(work)
        return work, work.take()

    def submit(self, *jobs: Job, priority: Priority = Priority.NORMAL) -> list[str]:
        return at_once(self.producer.submit([Submission(job, priority) for job in jobs]))

    def results(self, job_id: str) -> list[bytes]:
        found: list[bytes] = self.redis.lrange(self.shard.result(job_id), 0, -1)
        return found


@contextmanager
def open_bench(server: Guarded) -> Iterator[Bench]:
    """The shard of model lenet, with the rights that producers and workers have."""
    shard, worker = Shard("lenet"), server.url("worker")
    connection = redis.Redis.from_url(server.url("admin"))
    wire = BlockingWire(server.url("producer"))
    keeper = LeaseKeeper(worker, lease_ms=LEASE_MS)
    commits = Commits(worker, shard, result_ttl_ms=60_000)
    made = Bench(worker, shard, connection, Producer(wire, shard), keeper, commits, [])
    yield made
    for work in made.queues:
        work.close()
    keeper.close()
    commits.close()
    at_once(wire.close())
    connection.close()


def done(jobs: list[Received], document: bytes = b"done") -> list[Completion]:
    return [Completion(job, document) for job in jobs]


def entries(delivery: Delivery) -> list[str]:
    return [job.entry for job in delivery.jobs]
