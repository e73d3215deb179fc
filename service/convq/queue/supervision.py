"""The supervisor's side of the queue: keep the leases of its workers, say what is served, measure how much waits.

Runs in the supervisor, outside the workers: neither a long native call nor a held interpreter lock can stall a heartbeat.
"""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from convq.errors import StrangeKey
from convq.queue.diagnosis.health import Server, look_at
from convq.queue.diagnosis.mending import Rights
from convq.queue.diagnosis.unserved import Lookout
from convq.queue.functions import FunctionLibrary
from convq.queue.keys import GROUP, KNOWN, MODELS, Shard, is_model_name
from convq.queue.refusals import Refusals
from convq.queue.suspicions import SUSPICION_TTL_MS
from convq.queue.transport.address import Address
from convq.queue.transport.link import Command, Link, Script, text_of

DEPTH, MEASURE, RENEW = (
    Script.load("numbers", "drain", "lanes", "depth"),
    Script.load("numbers", "measure"),
    Script.load("numbers", "renew"),
)
MEND, NOTE, RELEASE = (Script.load(name) for name in ("mend", "note", "release"))

MEMORY_SAMPLES = 5
LONGEST_TERM_MS = 4000
"""A service that exports a queue and is silent for a lease, and no longer than this, is replaced by another."""
FAR_AHEAD_S = 900.0
"""A stream whose ids are so far in the future is exchanged. Longer than results live (300 s) and ids are known (600 s): where the
server's clock went back, ids that were given in the time that comes again are forgotten by then."""
MOST_LEASES = 1000
"""So many are looked at in one beat, those that run out first before the others."""
FACTS_OF_A_LANE = 8


@dataclass(frozen=True, slots=True)
class LaneDepth:
    """How much one stream holds, and how many jobs were ever added.

    `lag` is None where the server cannot tell (an undelivered entry was deleted).
    """

    length: int
    pending: int
    lag: int | None
    oldest_age_s: float
    """Of an entry whose id is from the future: how long it has been the oldest one that we saw."""
    idle_s_max: float
    added: int
    ahead_s: float = 0.0
    """By how much the last entry id is ahead of the server's clock: every later entry inherits that time."""


@dataclass(frozen=True, slots=True)
class ShardDepth:
    """How much one shard holds: `lanes` from the highest priority to the lowest, dead letters, and what the door knows.

    Limits and bytes are None until a service that serves the model has said them.
    """

    lanes: tuple[LaneDepth, ...]
    dead_letters: int
    refused: Mapping[str, int]
    """Which limit (jobs, bytes) -> how many jobs the door refused for it."""
    limit_jobs: int | None
    limit_bytes: int | None
    held_bytes: int | None
    drain_per_s: float | None
    """Jobs answered a second while jobs wait; None while that is not known."""
    valid_until_s: float
    """A moment of `time.monotonic`: from then on another service may export this shard's queue."""

    @property
    def drain_s(self) -> float | None:
        """Seconds until all that waits now is answered; 0 where nothing does, infinite where nothing drains."""
        waiting = sum(lane.length for lane in self.lanes)
        if not waiting or self.drain_per_s is None:
            return None if waiting else 0.0
        return waiting / self.drain_per_s if self.drain_per_s else math.inf

    @property
    def filled(self) -> float:
        """How much of what the door lets in is there, of jobs or of bytes: from 1 on it refuses."""
        jobs = sum(lane.length for lane in self.lanes)
        shares = [jobs / self.limit_jobs if self.limit_jobs else 0.0]
        if self.limit_bytes and self.held_bytes is not None and jobs:
            shares.append(self.held_bytes / self.limit_bytes)
        return max(shares)


class Blame(StrEnum):
    """What the death of a worker says about a job; see `release.lua`."""

    COMPANY = "company"
    """It was in native code, with others or not known to be alone."""
    ALONE = "alone"
    """It was in native code, and nobody else."""
    SLOW = "slow"
    """Its decoding was over its time."""


class Accusation(NamedTuple):
    """One job that the death of a worker accuses: lane:entry, of what, and with how many points."""

    job: str
    blame: Blame
    points: int


class LeaseKeeper:
    """One per supervisor and Redis; not for two threads at once."""

    def __init__(self, where: Address | str, *, lease_ms: int) -> None:
        self._address = Address.of(where)
        self._link = Link(self._address)
        self._lease_ms = lease_ms
        self._term_ms = min(lease_ms, LONGEST_TERM_MS)
        self._name = secrets.token_hex(8)
        self._library = FunctionLibrary(self._link)
        self._rights = Rights(self._link)
        self.misnamed: list[bytes] = []
        """Names in the list of models that no model can have."""
        self.jobs: dict[str, tuple[int, float]] = {}
        """Model -> jobs in its streams, whoever exports them, and when `depth` found so many, by `time.monotonic`."""
        self._first_seen: dict[tuple[str, int], tuple[bytes, float]] = {}
        """Model and lane -> the oldest entry where its age is not known, and when it was first seen, by `time.monotonic`."""

    def close(self) -> None:
        """Close the connection."""
        self._link.close()

    @property
    def reconnects(self) -> int:
        """How often the connection was opened again."""
        return max(0, self._link.connects - 1)

    def look(self) -> Server:
        """Ask the server what it is, and what is wrong with it. Raises RedisRefused only where it is too old."""
        return look_at(self._link, self._address, self._rights)

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
        return [text_of(name) for name in gone]

    def incarnations(self, shard: Shard) -> list[str]:
        """Who holds a lease, run out or not; of too many, those that run out first. What is no text names no worker."""
        names: list[bytes] = self._link.call("ZRANGE", shard.leases, 0, MOST_LEASES - 1)
        return [name.decode() for name in names if name.isascii()]

    def strange_keys(self, shard: Shard) -> dict[str, str]:
        """Which keys of the shard, or the list of models, hold something else: key -> words; none where TYPE is refused."""
        wanted = {**shard.types, MODELS: "hash"}
        found = self._link.flush([("TYPE", key) for key in wanted])
        return {
            key: f"{key} holds a {text_of(kind)}, and must hold a {wanted[key]}"
            for key, kind in zip(wanted, found, strict=True)
            if isinstance(kind, bytes) and text_of(kind) not in (wanted[key], "none")
        }

    def fence(self, shard: Shard, incarnation: str, suspects: Sequence[str | Accusation] = (), points: int = 0) -> int:
        """End the lease of a worker that is dead; return how many jobs it held. Others find them at once.

        `suspects` are the jobs that its death accuses; a mere name, lane:entry, is one in company, with `points`.
        """
        keys = [shard.leases, *shard.streams, shard.suspects]
        args: list[Any] = [GROUP, incarnation, SUSPICION_TTL_MS]
        for one in suspects:
            job, blame, weight = (one, Blame.COMPANY, points) if isinstance(one, str) else one
            args += (blame, weight, job)
        return int(self._link.run(RELEASE, keys, args))

    def announce(
        self, shard: Shard, description: Mapping[str, object], ttl_ms: int, max_jobs: int, max_bytes: int
    ) -> None:
        """Say that this model is served, what it takes, how much may wait, how fast it drains. Gone `ttl_ms` after the last call."""
        asked: list[Command] = [("MEMORY", "USAGE", stream, "SAMPLES", MEMORY_SAMPLES) for stream in shard.streams]
        *sizes, _ = self._link.flush([*asked, ("SADD", KNOWN, shard.model)])
        waiting_bytes = sum(size for size in sizes if isinstance(size, int))
        self._link.run(NOTE, [MODELS], [ttl_ms, shard.model, json.dumps(description)])
        self._link.run(MEASURE, [shard.cfg, *shard.streams], [GROUP, max_jobs, max_bytes, waiting_bytes])

    def make_known(self, names: Sequence[str]) -> None:
        """Have the door let in jobs for these models for good, whether or not anybody serves them now; * stands for all."""
        if names:
            self._link.call("SADD", KNOWN, *names)

    def refusals(self) -> Refusals:
        """What is known of versions that are not to be served, over the connection of this keeper."""
        return Refusals(self._link)

    def lookout(self) -> Lookout:
        """Looks for streams that nobody serves, over the connection of this keeper."""
        return Lookout(self._link)

    def unlist(self, model: str) -> None:
        """Take a model out of the list, whoever serves it."""
        self._link.call("HDEL", MODELS, model)

    def mend(self, shard: Shard) -> list[str]:
        """Exchange streams that are empty and whose ids are far in the future; return the new ones. See `mend.lua`."""
        new = self._link.run(MEND, shard.streams, [GROUP, round(FAR_AHEAD_S * 1e3)])
        return [shard.streams[number - 1] for number in new]

    def withdraw(self, models: Sequence[str]) -> None:
        """Take models that nobody serves any more out of the list; those that have a live lease stay."""
        for model in models:
            shard = Shard(model)
            seconds, micros = self._link.call("TIME")
            now_ms = int(seconds) * 1000 + int(micros) // 1000
            try:
                alive = self._link.call("ZCOUNT", shard.leases, now_ms, "+inf")
            except StrangeKey:  # nobody can have a lease there
                alive = 0
            if not alive:
                self.unlist(model)

    def listed(self) -> list[str]:
        """The models that some service announced; `misnamed` is what else stood in the list then."""
        names: list[bytes] = self._link.call("HKEYS", MODELS)
        self.misnamed = [name for name in names if not is_model_name(name)]
        return [name.decode() for name in names if is_model_name(name)]

    def depth(self, shard: Shard) -> ShardDepth | None:
        """How much the shard holds, for the one service that exports that; None for the others.

        Who was elected stays so by calling this again within a lease, or within 4 s where that is shorter.
        """
        valid_until_s = time.monotonic() + self._term_ms / 1e3  # from before the server heard of it: never too late
        reply = self._elect(shard, self._term_ms)
        self.jobs[shard.model] = reply[0], time.monotonic()
        if len(reply) == 1:
            return None
        _, dead, refused_jobs, refused_bytes, *facts = reply
        limit_jobs, limit_bytes, held_bytes = (None if fact is None else int(fact) for fact in facts[:3])
        rows = [facts[i : i + FACTS_OF_A_LANE] for i in range(4, len(facts), FACTS_OF_A_LANE)]
        lanes = [self._lane_depth(shard, lane, row) for lane, row in enumerate(rows)]
        return ShardDepth(
            lanes=tuple(lanes),
            dead_letters=dead,
            refused={"jobs": refused_jobs, "bytes": refused_bytes},
            limit_jobs=limit_jobs,
            limit_bytes=limit_bytes,
            held_bytes=held_bytes,
            drain_per_s=None if facts[3] is None else float(facts[3]),
            valid_until_s=valid_until_s,
        )

    def _lane_depth(self, shard: Shard, lane: int, row: Sequence[Any]) -> LaneDepth:
        """One lane as `depth.lua` tells it."""
        length, pending, lag, age_ms, idle_ms, added, ahead_ms, unknown = row
        where, now_s = (shard.model, lane), time.monotonic()
        if not unknown:
            self._first_seen.pop(where, None)
        else:
            entry, since_s = self._first_seen.get(where, (unknown, now_s))
            since_s = since_s if entry == unknown else now_s
            self._first_seen[where] = unknown, since_s
            age_ms = (now_s - since_s) * 1e3
        known = None if lag < 0 else lag
        return LaneDepth(length, pending, known, age_ms / 1e3, idle_ms / 1e3, added, ahead_ms / 1e3)

    def resign(self, shard: Shard) -> None:
        """Export the shard's queue no longer: the next service that asks is elected at once."""
        self._elect(shard, 0)

    def _elect(self, shard: Shard, term_ms: int) -> list[Any]:
        keys = [*shard.streams, shard.dead, shard.cfg]
        reply: list[Any] = self._link.run(DEPTH, keys, [GROUP, self._name, term_ms])
        return reply
