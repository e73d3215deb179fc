"""How one shard does, read from Redis alone, for people who look from outside: `convq top` and `convq doctor`.

One script a look: images stay where they are. What was asked for is bounded, whatever the queue holds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convq.queue.entries import CLIENT_NAME
from convq.queue.keys import GROUP, Shard
from convq.queue.transport.address import Address
from convq.queue.transport.link import Link, Script, text_of

GLANCE = Script.load("numbers", "drain", "lanes", "glance")

MOST_LEASES = 1000
SAMPLED, SAMPLED_BYTES = 400, 4 << 20
"""How many entries of a shard are asked for their client, and how many bytes these may have together."""
MALFORMED = "(malformed)"
"""What is shown for clients whose name cannot be one."""

_COUNT = re.compile(rb"[0-9]{1,15}\Z")


@dataclass(frozen=True, slots=True)
class LaneGlance:
    """One stream: jobs in it, of them held by workers, and not handed to any yet (None: the server cannot tell)."""

    length: int
    pending: int
    lag: int | None
    oldest_age_s: float | None
    added: int
    """Jobs ever added."""

    @property
    def waiting(self) -> int:
        """Jobs that nobody holds."""
        return self.length - self.pending if self.lag is None else self.lag


@dataclass(frozen=True, slots=True)
class WorkerGlance:
    """A worker that has a lease, good for `left_s` more seconds (below 0: it has run out)."""

    name: str
    left_s: float
    held: int
    asked_s: float | None
    """Seconds since it last asked for jobs; None: never."""

    @property
    def is_alive(self) -> bool:
        """Whether its lease is good."""
        return self.left_s > 0

    @property
    def host(self) -> str:
        """Where it runs: what stands before the process space and the process id."""
        return re.sub(r"(\.[0-9a-f]{8})?-[0-9]{1,10}-[0-9a-f]{8}\Z", "", self.name)


@dataclass(frozen=True, slots=True)
class Glance:
    """One look at one shard. `lanes` from the highest priority to the lowest; counters are None where they are not known."""

    model: str
    at_ms: int
    """Server's clock."""
    lanes: tuple[LaneGlance, ...]
    workers: tuple[WorkerGlance, ...]
    answered: int | None
    failed: int | None
    """Of them with `error` or `poisoned`."""
    limit_jobs: int | None
    limit_bytes: int | None
    held_bytes: int | None
    drain_per_s: float | None
    """Jobs answered a second while jobs wait, as last measured; None where that is not known."""
    refused: int
    """Jobs that the door has refused for the one or the other limit."""
    dead_letters: int
    leases_known: bool
    """Whether `workers` could be read: this user may, and their key holds leases."""
    clients: Mapping[str, int]
    """Who sent the entries that were looked at: name ("" for those without one) -> how many."""
    sampled: int

    @property
    def jobs(self) -> int:
        """In all streams, waiting or held."""
        return sum(lane.length for lane in self.lanes)

    @property
    def oldest_age_s(self) -> float | None:
        """Of the oldest job; None where there is none."""
        return max((lane.oldest_age_s for lane in self.lanes if lane.oldest_age_s is not None), default=None)

    @property
    def alive(self) -> list[WorkerGlance]:
        """The workers whose lease is good."""
        return [worker for worker in self.workers if worker.is_alive]

    @property
    def is_full(self) -> bool:
        """Whether the door refuses jobs."""
        full_jobs = self.limit_jobs is not None and self.jobs >= self.limit_jobs
        full_bytes = None not in (self.limit_bytes, self.held_bytes) and self.held_bytes >= self.limit_bytes  # type: ignore[operator]
        return full_jobs or (full_bytes and self.jobs > 0)


class Glances:
    """Looks at shards over one connection. Raises RedisUnavailable, RedisRefused."""

    def __init__(self, where: Address | str) -> None:
        self._link = Link(where)

    @property
    def link(self) -> Link:
        """The connection, for what else is asked."""
        return self._link

    def look(self, shard: Shard, sampled: int = SAMPLED, sampled_bytes: int = SAMPLED_BYTES) -> Glance:
        """One look; at most so many entries of so many bytes are asked for their client."""
        keys = [*shard.streams, shard.leases, shard.cfg, shard.dead]
        reply = self._link.run(GLANCE, keys, [GROUP, MOST_LEASES, sampled, sampled_bytes])
        now_ms, leases, cfg, drain_per_s, door, dead, seen, clients, *lanes = reply
        answered, failed, max_jobs, max_bytes = map(_count, cfg)
        return Glance(
            model=shard.model,
            at_ms=now_ms,
            lanes=tuple(_lane(lane) for lane in lanes),
            workers=tuple(_worker(leases[i : i + 4], now_ms) for i in range(0, len(leases or ()), 4)),
            leases_known=leases is not None,
            answered=answered,
            failed=failed,
            limit_jobs=max_jobs,
            limit_bytes=max_bytes,
            held_bytes=_count(door[0]),
            drain_per_s=None if drain_per_s is None else float(drain_per_s),
            refused=sum(_count(text) or 0 for text in door[1:]),
            dead_letters=dead,
            clients=_clients(clients),
            sampled=seen,
        )

    def close(self) -> None:
        """Close the connection."""
        self._link.close()


def _lane(row: Sequence[int]) -> LaneGlance:
    length, pending, lag, age_ms, added = row
    return LaneGlance(length, pending, None if lag < 0 else lag, None if age_ms < 0 else age_ms / 1e3, added)


def _worker(row: Sequence[Any], now_ms: int) -> WorkerGlance:
    name, until_ms, held, asked_ms = row
    return WorkerGlance(text_of(name), (float(until_ms) - now_ms) / 1e3, held, None if asked_ms < 0 else asked_ms / 1e3)


def _count(text: bytes | None) -> int | None:
    """A count that anybody may have written; None for what is none."""
    return int(text) if text is not None and _COUNT.match(text) else None


def _clients(flat: Sequence[Any]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name, jobs in zip(flat[::2], flat[1::2], strict=True):
        text = text_of(name)
        shown = text if not text or CLIENT_NAME.match(text) else MALFORMED
        counts[shown] = counts.get(shown, 0) + jobs
    return counts
