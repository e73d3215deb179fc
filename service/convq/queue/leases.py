"""The supervisor's side of the queue: keep the leases of its workers, say what is served, measure how much waits.

Runs in the supervisor, outside the workers: neither a long native call nor a held interpreter lock can stall a heartbeat.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from convq.errors import RedisRefused
from convq.queue.keys import GROUP, MODELS, Shard
from convq.queue.link import Link, Script

DEPTH, NOTE, RELEASE, RENEW = (Script.load(name) for name in ("depth", "note", "release", "renew"))

SUSPICION_TTL_MS = 86_400_000
OLDEST_REDIS = (7, 0)
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


@dataclass(frozen=True, slots=True)
class Server:
    """What the server says of itself."""

    name: str
    version: str
    maxmemory_policy: str
    persistent: bool
    role: str
    maxmemory_bytes: int
    """0: no limit."""
    clock_s: float
    """Its wall clock when it answered."""

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class LeaseKeeper:
    """One per supervisor and Redis; not for two threads at once."""

    def __init__(self, url: str, *, lease_ms: int) -> None:
        self._link = Link(url)
        self._lease_ms = lease_ms

    def close(self) -> None:
        """Close the connection."""
        self._link.close()

    @property
    def reconnects(self) -> int:
        """How often the connection was opened again."""
        return max(0, self._link.connects - 1)

    def inspect(self) -> Server:
        """Ask the server what it is. Raises RedisRefused where it is too old for streams with lag (7.0, Valkey 7.2)."""
        info = _pairs(self._link.call("INFO"))
        name = "valkey" if "valkey_version" in info else "redis"
        version = info.get(f"{name}_version", "0")
        if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_REDIS:
            raise RedisRefused(f"{name} {version} is too old: convq needs Redis 7.0 or Valkey 7.2, or newer")
        return Server(
            name=name,
            version=version,
            maxmemory_policy=info.get("maxmemory_policy", "unknown"),
            persistent=info.get("aof_enabled") == "1",
            role=info.get("role", "unknown"),
            maxmemory_bytes=int(info.get("maxmemory", "0")),
            clock_s=int(info.get("server_time_usec", "0")) / 1e6,
        )

    def renew(self, shard: Shard, incarnations: Sequence[str]) -> list[str]:
        """Keep these leases; return those that are gone: their jobs belong to others now."""
        gone = self._link.run(RENEW, [shard.leases, shard.cfg], [self._lease_ms, "renew", *incarnations])
        return [name.decode() for name in gone]

    def fence(self, shard: Shard, incarnation: str, suspects: Sequence[str] = (), points: int = 0) -> int:
        """End the lease of a worker that is dead; return how many jobs it held. Others find them at once.

        `suspects` are the jobs, as lane:entry, that native code was working on when it died; each gets `points`.
        """
        keys = [shard.leases, *shard.streams, shard.suspects]
        return int(self._link.run(RELEASE, keys, [GROUP, incarnation, SUSPICION_TTL_MS, points, *suspects]))

    def announce(
        self, shard: Shard, description: Mapping[str, object], ttl_ms: int, max_jobs: int, max_bytes: int
    ) -> None:
        """Say that this model is served, what it takes, and how much may wait. Gone `ttl_ms` after the last call."""
        sizes = self._link.flush([("MEMORY", "USAGE", stream, "SAMPLES", MEMORY_SAMPLES) for stream in shard.streams])
        waiting_bytes = sum(size for size in sizes if isinstance(size, int))
        limits = ("max_jobs", max_jobs, "max_bytes", max_bytes, "bytes", waiting_bytes)
        self._link.run(NOTE, [MODELS], [ttl_ms, shard.model, json.dumps(description)])
        self._link.run(NOTE, [shard.cfg], ["", *limits])

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


def _pairs(info: bytes) -> dict[str, str]:
    rows = (line.partition(":") for line in info.decode().splitlines())
    return {name: value for name, colon, value in rows if colon}
