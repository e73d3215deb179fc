"""Jobs into a worker: take a lease, claim jobs, reclaim those of the dead.

Belongs to one thread and has its own connection; publishing is another's (see `commits`), because a commit must never
wait behind a fetch that blocks. What a worker holds is written in its `Lease`, and nowhere else.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

import redis

from convq.errors import RedisRefused
from convq.protocol import INBOX_LENGTH, INBOX_TTL_S
from convq.queue.deliveries import Delivery, Lease, Row, milliseconds
from convq.queue.entries import KNOWN_FIELDS, Received, Receiver
from convq.queue.holdings import Holdings
from convq.queue.keys import GROUP, LANES, RETURNED, Shard
from convq.queue.shares import Shares
from convq.queue.suspicions import SUSPICION_TTL_MS, Suspicions
from convq.queue.transport.address import Address
from convq.queue.transport.link import Command, Link, Script, understood
from convq.queue.transport.metering import Meter, ReplyTooLarge

GROUPS, RELEASE, RENEW = Script.load("groups"), Script.load("release"), Script.load("numbers", "renew")
CLAIM, RECLAIM = Script.load("weight", "claim"), Script.load("numbers", "weight", "reclaim")
EXPIRE = Script.load("known", "weight", "expire")

CAREFUL_POLL_S = 0.05
"""What is weighed before it is read cannot be waited for: asked for this often."""


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
        self._shares = Shares()
        self.holdings = Holdings(self._fetching, shard, self._receiver)
        self.suspicions = Suspicions(self._fetching, shard)
        self._entry_bytes = 0.0  # how large entries were lately; 0: not known yet

    @property
    def meter(self) -> Meter:
        """What counts the bytes of the replies."""
        return self._fetching.meter

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
            raise lease.end()

    def release(self, lease: Lease) -> int:
        """End the lease; return how many jobs it still held, which others may take over at once."""
        keys = [self.shard.leases, *self._streams, self.shard.suspects]
        return int(self._fetching.run(RELEASE, keys, [GROUP, lease.incarnation, SUSPICION_TTL_MS]))

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

    def claim(self, lease: Lease, room: int, block_ms: int, room_bytes: int = 1 << 62) -> Delivery:
        """Jobs for this worker: about `room` of them, waiting up to `block_ms` milliseconds for the first.

        While nothing is left over, one blocking read takes what is there from all three lanes. Under a backlog each
        lane is read for its share: the highest gets all but an eighth for each lower lane that has work. When a lane
        fills up between two claims, up to `room` jobs per lane may come once.

        How many are asked for follows from how large they were lately. Where that was wrong, reading ends at
        `Bounds.claim_bytes`; what was claimed is weighed then, read as far as it fits, and the rest is given back.
        """
        room = self._count_for(room, room_bytes)
        wanted = self._shares.of(room)
        if not self._lanes:
            raise RedisRefused(
                f"every job stream of {self.shard.model} holds something else: rename or delete these keys"
            )
        if self.holdings.cut:
            return self._claim_carefully(lease, wanted, block_ms, room_bytes)
        if self._shares.backlogged:
            reads = [self._lane_read(lease, lane, wanted[lane]) for lane in self._lanes if wanted[lane] > 0]
        else:
            read = ("XREADGROUP", "GROUP", GROUP, lease.incarnation, "COUNT", room, "BLOCK", block_ms, "STREAMS")
            reads = [(*read, *(self._streams[lane] for lane in self._lanes), *(">" * len(self._lanes)))]
        try:
            *replies, cancelled, now = self._read(reads, self.holdings.claim_bytes)
        except ReplyTooLarge:
            return self._salvage(lease, room, room_bytes)
        arrived_s, read_bytes = time.perf_counter(), self.meter.read_bytes
        if any(isinstance(reply, Exception) for reply in replies):
            self._mend(replies)
        server_ms = milliseconds(now)  # before anything is in our hands: it may raise
        jobs = self._receive(lease, [reply for reply in replies if isinstance(reply, list)])
        delivery = Delivery(jobs, server_ms, arrived_s)
        delivery.cancelled = self.holdings.cancelled(delivery.jobs, cancelled)
        self._shares.note(delivery.jobs, wanted)
        if jobs:
            self._note_weight(read_bytes / len(jobs))
        return delivery

    def _count_for(self, room: int, room_bytes: int) -> int:
        """How many entries to ask for, so that they probably fit into the bytes that there is room for."""
        entry_bytes = self._entry_bytes or self.holdings.bounds.guess_bytes
        return max(1, min(room, int(min(room_bytes, self.holdings.claim_bytes) / entry_bytes)))

    def _note_weight(self, entry_bytes: float) -> None:
        """So large entries were just now: the largest of the last few counts, for a while."""
        self._entry_bytes = max(entry_bytes, self._entry_bytes / 2)

    def _salvage(self, lease: Lease, room: int, room_bytes: int) -> Delivery:
        """After a reply that was too large to be read to its end: its entries are pending under our own name."""
        rows, replies = self.holdings.pending(lease)
        self._mend(replies)
        self._shares.note_more({row.lane for row in rows})
        delivery = self.holdings.take_unweighed(lease, rows, room, room_bytes)
        self._note_weight(
            sum(len(job.image or job.tensor or b"") for job in delivery.jobs) / max(1, len(delivery.jobs))
        )
        return delivery

    def _claim_carefully(self, lease: Lease, wanted: list[int], block_ms: int, room_bytes: int) -> Delivery:
        """As `claim`, but nothing is read of which it is not known how large it is."""
        most_bytes = min(room_bytes, self.holdings.claim_bytes)
        args = [GROUP, lease.incarnation, max(1, most_bytes), *self.holdings.bounds.most(), *wanted]
        deadline_s = time.monotonic() + block_ms / 1e3
        while True:
            reply = lease.unfenced(self._fetching.run(CLAIM, [self.shard.leases, *self._streams], args))
            if reply or time.monotonic() >= deadline_s:
                break
            time.sleep(min(CAREFUL_POLL_S, block_ms / 1e3))
        rows = [Row(reply[i], reply[i + 1].decode(), weight=reply[i + 2]) for i in range(0, len(reply), 3)]
        delivery = self.holdings.take(lease, rows, sum(wanted), room_bytes)
        self._shares.note(delivery.jobs, wanted)
        return delivery

    def _lane_read(self, lease: Lease, lane: int, count: int) -> Command:
        return ("XREADGROUP", "GROUP", GROUP, lease.incarnation, "COUNT", count, "STREAMS", self._streams[lane], ">")

    def _read(self, reads: list[Command], limit_bytes: int) -> list[Any]:
        """The reads, then whether anything is cancelled and what time it is, in one round trip. Raises ReplyTooLarge."""
        return self._fetching.flush([*reads, ("SCARD", self.shard.cancelled), ("TIME",)], limit_bytes)

    def _mend(self, replies: list[Any]) -> None:
        """Put right what refused a read: a group or stream that is gone is made anew, a key of another type left out.

        Raises what cannot be mended.
        """
        for reply in replies:
            if isinstance(reply, redis.exceptions.ResponseError):
                if not str(reply).startswith(("NOGROUP", "UNBLOCKED", "WRONGTYPE")):
                    raise understood(reply) from reply
                self.make_groups()

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

    def expire(self, lease: Lease, room: int, result_ttl_ms: int) -> tuple[list[int], Delivery]:
        """Answer expired jobs without moving their images, and claim the others among those looked at.

        For a backlog whose time is over: `room` entries of each lane are looked at. Returns how many of each lane
        expired, and what was claimed. Raises LeaseLost.
        """
        shard = self.shard
        keys = [shard.leases, *self._streams, shard.cfg]
        room = self._count_for(room, self.holdings.claim_bytes)
        args = [GROUP, lease.incarnation, room, result_ttl_ms, INBOX_TTL_S * 1000, INBOX_LENGTH]
        args += (shard.result_prefix, shard.inbox_prefix, shard.model, self._worker, *self.holdings.bounds.most())
        args += KNOWN_FIELDS
        reply = lease.unfenced(self._fetching.run(EXPIRE, keys, args))
        lanes, claimed = [int(count) for count in reply[: len(LANES)]], reply[len(LANES) :]
        rows = [Row(claimed[i], claimed[i + 1].decode(), weight=claimed[i + 2]) for i in range(0, len(claimed), 3)]
        return lanes, self.holdings.take(lease, rows, len(LANES) * room, self.holdings.claim_bytes)

    # -- taking over ----------------------------------------------------------------------------------------------

    def reclaim(self, lease: Lease, room: int, room_bytes: int = 1 << 62, *, returned: bool = True) -> Delivery:
        """Jobs of workers whose lease is gone or ran out, at most `room`; with no room the dead are only fenced.

        So many that their fields have at most `room_bytes` bytes, but one in any case. Without `returned`, what workers
        gave back stays for others.
        """
        keys = [self.shard.leases, self.shard.cfg, *self._streams, self.shard.suspects]
        room_bytes = max(1, min(room_bytes, self.holdings.claim_bytes))
        room = min(room, self.holdings.read_at_once) if self.holdings.cut else room
        args = [GROUP, lease.incarnation, self._lease_ms, room, room_bytes, RETURNED, *self.holdings.bounds.most()]
        args.append(int(returned))
        more, *flat = self._fetching.run(RECLAIM, keys, args)
        rows = [
            Row(flat[i], flat[i + 1].decode(), int(flat[i + 2]), *flat[i + 3 : i + 6]) for i in range(0, len(flat), 6)
        ]
        delivery = self.holdings.read(lease, rows)
        delivery.more = bool(more)
        return delivery

    def give_back(self, lease: Lease, jobs: Sequence[Received]) -> int:
        """Hand over jobs that will not run here now: any worker takes them at its next reclaim, their attempt unchanged.

        The caller must not answer them any more. Returns how many it were; the others are not this worker's. Where the
        connection breaks, `resume` brings back those that stayed. Raises LeaseLost.
        """
        entries = [(job.lane, job.entry) for job in jobs]
        lease.held.difference_update(entries)
        return self.holdings.give_back(lease, entries)

    def resume(self, lease: Lease, room: int = 1 << 30, room_bytes: int = 1 << 62) -> Delivery:
        """Jobs that the server delivered to this worker and that never arrived, after a connection broke.

        What there is no room for is given back.
        """
        if self.strange_keys:
            self.make_groups()  # perhaps somebody has put it right
        rows, replies = self.holdings.pending(lease)
        self._mend(replies)
        return self.holdings.take_unweighed(lease, self.suspicions.known(rows), room, room_bytes)
