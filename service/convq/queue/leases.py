"""The supervisor's side of the queue: keep the leases of its workers, say what is served, measure how much waits.

Runs in the supervisor, outside the workers: neither a long native call nor a held interpreter lock can stall a heartbeat.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from convq.queue.address import Address
from convq.queue.functions import FunctionLibrary
from convq.queue.health import Server, look_at
from convq.queue.keys import GROUP, MODELS, Shard
from convq.queue.link import Link, Script

DEPTH, MEASURE, NOTE, RELEASE, RENEW = (Script.load(name) for name in ("depth", "measure", "note", "release", "renew"))

SUSPICION_TTL_MS = 86_400_000
MEMORY_SAMPLES = 5


@dataclass(frozen=True, slots=True)
class LaneDepth:
    """How much one stream holds. `lag` is None where the server cannot tell (an undelivered entry was deleted)."""

    length: int
    pending: int
    lag: int | None
    oldest_age_s: float
    idle_s_max: float


@dataclass(frozen=True, slots=True)
class ShardDepth:
    """The lanes of one shard, from the highest priority to the lowest, and how many dead letters there are."""

    lanes: tuple[LaneDepth, ...]
    dead_letters: int


class LeaseKeeper:
    """One per supervisor and Redis; not for two threads at once."""

    def __init__(self, where: Address | str, *, lease_ms: int) -> None:
        self._address = Address.of(where)
        self._link = Link(self._address)
        self._lease_ms = lease_ms
        self._library = FunctionLibrary(self._link)

    def close(self) -> None:
        """Close the connection."""
        self._link.close()

    @property
    def reconnects(self) -> int:
        """How often the connection was opened again."""
        return max(0, self._link.connects - 1)

    def look(self) -> Server:
        """Ask the server what it is, and what is wrong with it. Raises RedisRefused only where it is too old."""
        return look_at(self._link, self._address)

    def inspect(self) -> Server:
        """As `look`; raises RedisRefused also where it may drop jobs by itself or takes none (a replica)."""
        server = self.look()
        server.refuse()
        return server

    def keep_functions(self) -> list[str]:
        """See that other languages find `FCALL convq_submit`; asks every few seconds. What goes wrong is told, once."""
        return self._library.keep(time.monotonic())

    def renew(self, shard: Shard, incarnations: Sequence[str]) -> list[str]:
        """Keep these leases; return those that are gone: their jobs belong to others now."""
        gone = self._link.run(RENEW, [shard.leases, shard.cfg], [self._lease_ms, "renew", *incarnations])
        return [name.decode() for name in gone]

    def incarnations(self, shard: Shard) -> list[str]:
        """Who holds a lease, run out or not."""
        return [name.decode() for name in self._link.call("ZRANGE", shard.leases, 0, -1)]

    def fence(self, shard: Shard, incarnation: str, suspects: Sequence[str] = (), points: int = 0) -> int:
        """End the lease of a worker that is dead; return how many jobs it held. Others find them at once.

        `suspects` are the jobs, as lane:entry, that native code was working on when it died; each gets `points`.
        """
        keys = [shard.leases, *shard.streams, shard.suspects]
        return int(self._link.run(RELEASE, keys, [GROUP, incarnation, SUSPICION_TTL_MS, points, *suspects]))

    def announce(
        self, shard: Shard, description: Mapping[str, object], ttl_ms: int, max_jobs: int, max_bytes: int
    ) -> None:
        """Say that this model is served, what it takes, how much may wait, how fast it drains. Gone `ttl_ms` after the last call."""
        sizes = self._link.flush([("MEMORY", "USAGE", stream, "SAMPLES", MEMORY_SAMPLES) for stream in shard.streams])
        waiting_bytes = sum(size for size in sizes if isinstance(size, int))
        self._link.run(NOTE, [MODELS], [ttl_ms, shard.model, json.dumps(description)])
        self._link.run(MEASURE, [shard.cfg, *shard.streams], [GROUP, max_jobs, max_bytes, waiting_bytes])

    def withdraw(self, models: Sequence[str]) -> None:
        """Take models that nobody serves any more out of the list; those that have a live lease stay."""
        for model in models:
            shard = Shard(model)
            count, (seconds, micros) = self._link.flush([("ZCOUNT", shard.leases, "-inf", "+inf"), ("TIME",)])
            now_ms = int(seconds) * 1000 + int(micros) // 1000
            alive = self._link.call("ZCOUNT", shard.leases, now_ms, "+inf") if count else 0
            if not alive:
                self._link.call("HDEL", MODELS, model)

    def listed(self) -> list[str]:
        """The models that some service announced."""
        return [name.decode() for name in self._link.call("HKEYS", MODELS)]

    def depth(self, shard: Shard) -> ShardDepth:
        """How much the shard holds."""
        dead, *flat = (int(value) for value in self._link.run(DEPTH, [*shard.streams, shard.dead], [GROUP]))
        lanes = []
        for length, pending, lag, age_ms, idle_ms in zip(*(flat[i::5] for i in range(5)), strict=True):
            lanes.append(LaneDepth(length, pending, None if lag < 0 else lag, age_ms / 1e3, idle_ms / 1e3))
        return ShardDepth(tuple(lanes), dead)
