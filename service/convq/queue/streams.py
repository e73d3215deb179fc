"""Jobs into a worker: take a lease, claim jobs, reclaim those of the dead.

Belongs to one thread and has its own connection; publishing is another's (see `commits`), because a commit must never
wait behind a fetch that blocks. What a worker holds is written in its `Lease`, and nowhere else.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

from convq.errors import LeaseLost, RedisRefused, RedisUnavailable
from convq.protocol import CANCELLED_LENGTH, CANCELLED_TTL_S, INBOX_LENGTH, INBOX_TTL_S
from convq.queue.address import Address
from convq.queue.entries import Received, Receiver
from convq.queue.keys import GROUP, LANES, RETURNED, Shard
from convq.queue.link import Command, Link, Script, understood

EXPIRE, GIVE_BACK, GROUPS, RECLAIM, RELEASE, RENEW = (
    Script.load(name) for name in ("expire", "give_back", "groups", "reclaim", "release", "renew")
)

LOWER_LANE_SHARE = 1 / 8
"""Of every claim under a backlog, each lower lane gets this share, so that no priority starves another."""

SUSPICION_TTL_MS = 86_400_000


@dataclass(slots=True)
class Lease:
    """One incarnation of one worker: a name that is never used again, and the entries that it holds.

    `held` is written by the claiming thread and the completing thread; sets of Python take single additions and removals
    from two threads.
    """

    incarnation: str
    held: set[tuple[int, str]] = field(default_factory=set)
    lost: bool = False


@dataclass(slots=True)
class Delivery:
    """What one claim brought.

    `server_ms` is the server's clock at the delivery, `arrived_s` this process's `time.perf_counter` when the reply had
    come; both name the same moment, so that waiting is measured without any other clock. `cancelled` holds job ids.
    """

    jobs: list[Received]
    server_ms: float
    arrived_s: float
    cancelled: frozenset[str] = frozenset()


class WorkQueue:
    """One shard of one model, as one worker uses it. Raises RedisUnavailable where the server cannot answer."""

    def __init__(self, where: Address | str, shard: Shard, *, worker: str, lease_ms: int) -> None:
        self.shard = shard
        self._worker = worker
        self._lease_ms = lease_ms
        self._fetching = Link(where)
        self._receiver = Receiver(shard.inbox_prefix)
        self._streams = shard.streams
        self._lease_keys = [shard.leases, shard.cfg]
        self._lane_of = {stream.encode(): lane for lane, stream in enumerate(shard.streams)}
        self._lanes = tuple(range(len(LANES)))
        self._backlogged = [False] * len(LANES)
        self._credit = [0.0] * len(LANES)

    @property
    def lease_s(self) -> float:
        """How many seconds a worker may be silent."""
        return self._lease_ms / 1e3

    @property
    def reconnects(self) -> int:
        """How often a connection was opened again."""
        return max(0, self._fetching.connects - 1)

    def close(self) -> None:
        """Close the connection."""
        self._fetching.close()

    # -- leases ---------------------------------------------------------------------------------------------------

    def take(self) -> Lease:
        """A new lease under a name that nobody had before, and the consumer groups where they are missing."""
        lease = Lease(f"{self._worker}-{secrets.token_hex(4)}")
        self.make_groups()  # first: where it fails, no lease stays behind
        self._fetching.run(RENEW, self._lease_keys, [self._lease_ms, "take", lease.incarnation])
        return lease

    def renew(self, lease: Lease) -> None:
        """Keep the lease. Raises LeaseLost where others own its jobs already."""
        if self._fetching.run(RENEW, self._lease_keys, [self._lease_ms, "renew", lease.incarnation]):
            lease.lost = True
            raise LeaseLost(f"{lease.incarnation} was silent for more than {self._lease_ms} ms; its jobs run elsewhere")

    def release(self, lease: Lease) -> int:
        """End the lease; return how many jobs it still held, which others may take over at once."""
        keys = [self.shard.leases, *self._streams, self.shard.suspects]
        return int(self._fetching.run(RELEASE, keys, [GROUP, lease.incarnation, SUSPICION_TTL_MS, 0]))

    def make_groups(self) -> None:
        """Create the consumer group on every stream, from the first entry on, where it is missing.

        A stream whose key holds something else is left out of the claims until it is a stream again.
        """
        strange = self._fetching.run(GROUPS, self._streams, [GROUP])
        self._lanes = tuple(lane for lane in range(len(LANES)) if lane + 1 not in strange)

    @property
    def strange_keys(self) -> list[str]:
        """Keys of job streams that hold something else; what is pushed there is refused by the server."""
        return [stream for lane, stream in enumerate(self._streams) if lane not in self._lanes]

    # -- claiming (one thread) ------------------------------------------------------------------------------------

    def claim(self, lease: Lease, room: int, block_ms: int) -> Delivery:
        """Jobs for this worker: about `room` of them, waiting up to `block_ms` milliseconds for the first.

        While nothing is left over, one blocking read takes what is there from all three lanes. Under a backlog each
        lane is read for its share: the highest gets all but an eighth for each lower lane that has work. When a lane
        fills up between two claims, up to `room` jobs per lane may come once.
        """
        wanted = [room] * len(LANES)
        if any(self._backlogged):
            wanted = self._shares(room)
            replies = self._read(
                [self._lane_read(lease, lane, wanted[lane]) for lane in self._lanes if wanted[lane] > 0]
            )
        elif not self._lanes:
            raise RedisRefused(
                f"every job stream of {self.shard.model} holds something else: rename or delete these keys"
            )
        else:
            read = ("XREADGROUP", "GROUP", GROUP, lease.incarnation, "COUNT", room, "BLOCK", block_ms, "STREAMS")
            replies = self._read([(*read, *(self._streams[lane] for lane in self._lanes), *(">" * len(self._lanes)))])
        arrived_s = time.perf_counter()
        *reads, cancelled, now = replies
        if any(isinstance(reply, Exception) for reply in reads):
            self._mend(reads)
        jobs = self._receive(lease, [reply for reply in reads if isinstance(reply, list)])
        delivery = Delivery(jobs, _milliseconds(now), arrived_s)
        delivery.cancelled = self._cancelled(delivery.jobs, cancelled)
        self._note_backlog(delivery.jobs, wanted)
        return delivery

    def _shares(self, room: int) -> list[int]:
        """How many to read from each lane; fractions are carried on, so that even a room of one serves all lanes in turn.

        A lower lane that had nothing last time is looked at with a share of one at most.
        """
        shares = [room] * len(LANES)
        left = room
        for lane in reversed(range(1, len(LANES))):
            if any(self._backlogged[:lane]):
                share = room * LOWER_LANE_SHARE
                credit = self._credit[lane] + (share if self._backlogged[lane] else min(share, 1.0))
                shares[lane] = min(int(credit), left)
                self._credit[lane] = min(credit - shares[lane], 1.0)
                left -= shares[lane]
                shares[:lane] = [left] * lane
        return shares

    def _lane_read(self, lease: Lease, lane: int, count: int) -> Command:
        return ("XREADGROUP", "GROUP", GROUP, lease.incarnation, "COUNT", count, "STREAMS", self._streams[lane], ">")

    def _read(self, reads: list[Command]) -> list[Any]:
        """The reads, then whether anything is cancelled and what time it is, in one round trip."""
        return self._fetching.flush([*reads, ("SCARD", self.shard.cancelled), ("TIME",)])

    def _mend(self, replies: list[Any]) -> None:
        """Put right what refused a read: a group or stream that is gone is made anew, a key of another type left out.

        Raises what cannot be mended.
        """
        for reply in replies:
            if isinstance(reply, redis.exceptions.ResponseError):
                if not str(reply).startswith(("NOGROUP", "UNBLOCKED", "WRONGTYPE")):
                    raise understood(reply) from reply
                self.make_groups()

    def _note_backlog(self, jobs: list[Received], wanted: list[int]) -> None:
        """A lane that gave all that was asked of it probably has more."""
        came = [0] * len(LANES)
        for job in jobs:
            came[job.lane] += 1
        self._backlogged = [count >= most > 0 for count, most in zip(came, wanted, strict=True)]

    def _receive(self, lease: Lease, reads: list[Any]) -> list[Received]:
        jobs: list[Received] = []
        receive, held = self._receiver.receive, lease.held
        for reply in reads:
            for stream, entries in reply:
                lane = self._lane_of[stream]
                for entry, flat in entries:
                    job = receive(entry, flat or (), lane=lane, attempt=1)
                    held.add((lane, job.entry))
                    jobs.append(job)
        return jobs

    def _cancelled(self, jobs: list[Received], count: Any) -> frozenset[str]:
        """Which of these jobs the client has withdrawn; keeps the set of withdrawn ids bounded in size and time.

        `count` is what SCARD said of that set; where the key is no set, nobody can have withdrawn anything.
        """
        if not jobs or not count or isinstance(count, Exception):
            return frozenset()
        ids = [job.id for job in jobs]
        key = self.shard.cancelled
        commands: list[Command] = [("SMISMEMBER", key, *ids), ("EXPIRE", key, CANCELLED_TTL_S, "NX")]
        if count > CANCELLED_LENGTH:
            commands.append(("SPOP", key, count - CANCELLED_LENGTH))
        flags = self._fetching.flush(commands)[0]
        if isinstance(flags, Exception):
            raise understood(flags) from flags
        return frozenset(job_id for job_id, flag in zip(ids, flags, strict=True) if flag)

    def expire(self, lease: Lease, room: int, result_ttl_ms: int) -> tuple[list[int], Delivery]:
        """Answer expired jobs without moving their images, and claim the others among those looked at.

        For a backlog whose time is over: `room` entries of each lane are looked at. Returns how many of each lane
        expired, and what was claimed. Raises LeaseLost.
        """
        shard = self.shard
        keys = [shard.leases, *self._streams, shard.cfg]
        args = [GROUP, lease.incarnation, room, result_ttl_ms, INBOX_TTL_S * 1000, INBOX_LENGTH]
        args += (shard.result_prefix, shard.inbox_prefix, shard.model, self._worker)
        reply = self._fetching.run(EXPIRE, keys, args)
        if reply == b"FENCED":
            lease.lost = True
            raise LeaseLost(f"{lease.incarnation} was silent for more than {self._lease_ms} ms; its jobs run elsewhere")
        rows = [(int(reply[i]), reply[i + 1].decode(), 1) for i in range(len(LANES), len(reply), 2)]
        return [int(count) for count in reply[: len(LANES)]], self._read_entries(lease, rows)

    # -- taking over ----------------------------------------------------------------------------------------------

    def reclaim(self, lease: Lease, room: int) -> Delivery:
        """Jobs of workers whose lease is gone or ran out, at most `room`; with no room the dead are only fenced."""
        keys = [self.shard.leases, self.shard.cfg, *self._streams, self.shard.suspects]
        flat = self._fetching.run(RECLAIM, keys, [GROUP, lease.incarnation, self._lease_ms, room, RETURNED])
        rows = [(int(flat[i]) - 1, flat[i + 1].decode(), int(flat[i + 2])) for i in range(0, len(flat), 4)]
        delivery = self._read_entries(lease, rows)
        suspicions = {(lane, entry): int(points) for (lane, entry, _), points in zip(rows, flat[3::4], strict=True)}
        for job in delivery.jobs:
            job.suspicion = suspicions[job.lane, job.entry]
        return delivery

    def give_back(self, lease: Lease, jobs: Sequence[Received]) -> int:
        """Hand over jobs that will not run here now: any worker takes them at its next reclaim, their attempt unchanged.

        The caller must not answer them any more. Returns how many it were; the others are not this worker's. Where the
        connection breaks, `resume` brings back those that stayed. Raises LeaseLost.
        """
        lease.held.difference_update([(job.lane, job.entry) for job in jobs])
        return self._give_back(lease, [(job.lane, job.entry) for job in jobs])

    def _give_back(self, lease: Lease, entries: Sequence[tuple[int, str]]) -> int:
        args: list[Any] = [GROUP, lease.incarnation, RETURNED]
        for lane, entry in entries:
            args += (lane + 1, entry)
        reply = self._fetching.run(GIVE_BACK, [self.shard.leases, *self._streams], args)
        if reply == b"FENCED":
            lease.lost = True
            raise LeaseLost(f"{lease.incarnation} was silent for more than {self._lease_ms} ms; its jobs run elsewhere")
        return int(reply)

    def resume(self, lease: Lease) -> Delivery:
        """Jobs that the server delivered to this worker and that never arrived, after a connection broke."""
        if self.strange_keys:
            self.make_groups()  # perhaps somebody has put it right
        held = set(lease.held)  # before the server is asked: what is committed in between is not taken for lost
        pending = self._fetching.flush(
            [("XPENDING", s, GROUP, "-", "+", 10_000, lease.incarnation) for s in self._streams]
        )
        self._mend(pending)
        rows = [
            (lane, entry.decode(), int(attempt))
            for lane, reply in enumerate(pending)
            if isinstance(reply, list)
            for entry, _, _, attempt in reply
        ]
        return self._read_entries(lease, [row for row in rows if row[:2] not in held])

    def _read_entries(self, lease: Lease, rows: Sequence[tuple[int, str, int]]) -> Delivery:
        """The entries of these rows (lane, entry id, attempt); those that were deleted are acknowledged away."""
        reads: list[Command] = [("XRANGE", self._streams[lane], entry, entry) for lane, entry, _ in rows]
        *replies, cancelled, now = self._read(reads)
        arrived_s = time.perf_counter()
        jobs: list[Received] = []
        gone: list[Command] = []
        for (lane, entry, attempt), found in zip(rows, replies, strict=True):
            if isinstance(found, Exception):
                raise understood(found) from found
            if found:
                jobs.append(self._receiver.receive(found[0][0], found[0][1], lane=lane, attempt=attempt))
                lease.held.add((lane, entry))
            else:
                gone.append(("XACK", self._streams[lane], GROUP, entry))
        if gone:
            self._fetching.flush(gone)
        return Delivery(jobs, _milliseconds(now), arrived_s, self._cancelled(jobs, cancelled))


def _milliseconds(now: Any) -> float:
    if isinstance(now, Exception):
        raise RedisUnavailable(f"Redis would not tell the time: {now}")
    return int(now[0]) * 1e3 + int(now[1]) / 1e3
