"""Entries that a worker was given and has not read: how large they are, reading what there is room for, handing on the rest.

The server delivers entries before anybody knows their size. What is pending under a worker and not in its hands, because
it was taken over, or because the reply was lost or too large, is weighed inside the server first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from convq.errors import BadField, BadTensor, ConvqError, ImageTooLarge, JobError, RedisUnavailable
from convq.protocol import CANCELLED_LENGTH, CANCELLED_TTL_S
from convq.queue.deliveries import Bounds, Delivery, Lease, Row, milliseconds
from convq.queue.entries import KNOWN_FIELDS, MAX_TEXT_BYTES, PAYLOADS, Received, Receiver
from convq.queue.keys import GROUP, RETURNED, Shard
from convq.queue.transport.link import Command, Link, Script, understood

GIVE_BACK, HEADER = (Script.load(name) for name in ("give_back", "header"))
WEIGH = Script.load("weight", "weigh")

READ_AT_ONCE = 64
"""Entries in one reply of those that are read by their names."""


class Holdings:
    """The entries of one worker and shard, over the connection of its `WorkQueue`."""

    def __init__(self, link: Link, shard: Shard, receiver: Receiver) -> None:
        self.bounds = Bounds()
        self.cut = 0
        """How often a worker of this place has died while it read; each time fewer bytes and entries are read at once."""
        self.stays_unread: Callable[[Row], bool] = lambda _: False
        """Whose payload is not to be read before it is their turn, or never: suspects, of which one may kill by its size."""
        self.reading_alone: Callable[[Sequence[str]], object] = list
        """Told the name of an entry, as lane:entry, before it is read alone, and no name after each reading."""
        self._link = link
        self._shard = shard
        self._receiver = receiver
        self._streams = shard.streams

    @property
    def claim_bytes(self) -> int:
        """How many bytes are read at once."""
        return max(1, self.bounds.claim_bytes >> (2 * self.cut))

    @property
    def read_at_once(self) -> int:
        """How many entries are read at once."""
        return max(1, READ_AT_ONCE >> (3 * self.cut))

    # -- taking and giving back -----------------------------------------------------------------------------------

    def pending(self, lease: Lease) -> tuple[list[Row], list[Any]]:
        """What the server says that this worker holds and that is not in its hands; and the replies, for who minds errors."""
        held = set(lease.held)  # before the server is asked: what is committed in between is not taken for lost
        replies = self._link.flush([("XPENDING", s, GROUP, "-", "+", 10_000, lease.incarnation) for s in self._streams])
        rows = [
            Row(lane, entry.decode(), int(attempt))
            for lane, reply in enumerate(replies)
            if isinstance(reply, list)
            for entry, _, _, attempt in reply
        ]
        return [row for row in rows if row[:2] not in held], replies

    def weigh(self, rows: Sequence[Row], room_bytes: int) -> list[Row]:
        """The first of these with their weight, as far as there are bytes for them; those that are gone with 0."""
        args: list[Any] = [max(1, room_bytes), *self.bounds.most()]
        for row in rows:
            args += (row.lane + 1, row.entry)
        weights = self._link.run(WEIGH, self._streams, args) if rows else []
        return [row._replace(weight=weight) for row, weight in zip(rows, weights, strict=False)]

    def take(
        self, lease: Lease, weighed: Sequence[Row], room: int, room_bytes: int, others: Sequence[Row] = ()
    ) -> Delivery:
        """Read what there is room for of these weighed entries, at least one; give back the rest, and all others."""
        kept, left = 0, min(room_bytes, self.claim_bytes)
        for row in weighed[: max(1, min(room, self.read_at_once) if self.cut else room)]:
            left -= max(0, row.weight)
            if left < 0 and kept:
                break
            kept += 1
        rest = [row[:2] for row in (*weighed[kept:], *others)]
        if rest:
            self.give_back(lease, rest)
        delivery = self.read(lease, weighed[:kept])
        delivery.more = bool(rest)
        return delivery

    def take_unweighed(self, lease: Lease, rows: Sequence[Row], room: int, room_bytes: int) -> Delivery:
        """The same for entries of which nobody knows yet how large they are."""
        weighed = self.weigh(rows, min(room_bytes, self.claim_bytes))
        return self.take(lease, weighed, room, room_bytes, rows[len(weighed) :])

    def give_back(self, lease: Lease, entries: Sequence[tuple[int, str]]) -> int:
        """Hand over entries (lane, entry id) to whoever reclaims next; how many it were. Raises LeaseLost."""
        args: list[Any] = [GROUP, lease.incarnation, RETURNED]
        for lane, entry in entries:
            args += (lane + 1, entry)
        return int(lease.unfenced(self._link.run(GIVE_BACK, [self._shard.leases, *self._streams], args)))

    # -- reading --------------------------------------------------------------------------------------------------

    def read(self, lease: Lease, rows: Sequence[Row]) -> Delivery:
        """The jobs of these entries; what was deleted meanwhile is acknowledged away."""
        jobs: list[Received] = []
        try:
            return self._read(lease, rows, jobs)
        except ConvqError:  # nobody will see these: what is not in our hands is looked for again
            lease.held.difference_update([(job.lane, job.entry) for job in jobs])
            raise

    def _read(self, lease: Lease, rows: Sequence[Row], jobs: list[Received]) -> Delivery:
        gone: list[Command] = []
        arrived_s, now, cancelled = time.perf_counter(), None, None
        for group in self._groups(rows) or [[]]:
            if len(group) == 1:
                self.reading_alone([f"{group[0].lane}:{group[0].entry}"])
            try:
                found, cancelled, now = self._read_group(group)
            finally:
                self.reading_alone([])
            arrived_s = time.perf_counter()
            for row, job in zip(group, found, strict=True):
                if job is None:
                    gone.append(("XACK", self._streams[row.lane], GROUP, row.entry))
                else:
                    job.suspicion, job.slow = row.suspicion, row.slow
                    jobs.append(job)
                    lease.held.add((row.lane, row.entry))
        if gone:
            self._link.flush(gone)
        return Delivery(jobs, milliseconds(now), arrived_s, self.cancelled(jobs, cancelled))

    def _groups(self, rows: Sequence[Row]) -> list[list[Row]]:
        """These rows as they are read together."""
        groups: list[list[Row]] = []
        left = 0
        for row in rows:
            left -= max(0, row.weight)
            if not groups or left < 0 or len(groups[-1]) >= self.read_at_once:
                groups.append([])
                left = self.claim_bytes - max(0, row.weight)
            groups[-1].append(row)
        return groups

    def _read_group(self, rows: Sequence[Row]) -> tuple[list[Received | None], Any, Any]:
        """The job of each row, None where it is gone; then whether anything is cancelled and what time it is."""
        headers = [row.weight < 0 or self.stays_unread(row) for row in rows]
        whole = [row for row, header in zip(rows, headers, strict=True) if not header]
        reads: list[Command] = [("XRANGE", self._streams[row.lane], row.entry, row.entry) for row in whole]
        *replies, cancelled, now = self._link.flush([*reads, ("SCARD", self._shard.cancelled), ("TIME",)])
        found = iter(replies)
        jobs = [
            self._header(row) if header else self._whole(row, next(found))
            for row, header in zip(rows, headers, strict=True)
        ]
        return jobs, cancelled, now

    def _whole(self, row: Row, found: Any) -> Received | None:
        if isinstance(found, Exception):
            raise understood(found) from found
        if not found:
            return None
        return self._receiver.receive(found[0][0], found[0][1], lane=row.lane, attempt=row.attempt)

    def read_payload(self, job: Received) -> bool:
        """Read image or tensor of a job that is `unread`. Whether its entry is still there; else it is acknowledged away."""
        (found,) = self._link.flush([("XRANGE", self._streams[job.lane], job.entry, job.entry)])
        whole = self._whole(Row(job.lane, job.entry, job.attempt), found)
        if whole is None:  # it must not look as if somebody would answer it
            self._link.flush([("XACK", self._streams[job.lane], GROUP, job.entry)])
            return False
        job.image, job.tensor, job.unread = whole.image, whole.tensor, False
        return True

    def _header(self, row: Row) -> Received | None:
        """The job of an entry without its payload, which stays where it is; where that is too large, it is refused."""
        longest = MAX_TEXT_BYTES + 1  # what is longer than it may be is still so
        args = [row.entry, longest, ",".join(PAYLOADS), *KNOWN_FIELDS]
        reply = self._link.run(HEADER, [self._streams[row.lane]], args)
        if not reply:
            return None
        entry_bytes, payload_bytes, *flat = reply
        job = self._receiver.receive(row.entry.encode(), flat, lane=row.lane, attempt=row.attempt)
        bounds, tensor = self.bounds, job.tensor is not None
        job.image = job.tensor = None
        job.unread = row.weight >= 0
        if job.problem is None and not job.unread:
            most = bounds.tensor_bytes if tensor else bounds.image_bytes
            told = f"has {payload_bytes} bytes; at most {most} are accepted"
            problem: JobError = BadTensor(f"the tensor {told}") if tensor else ImageTooLarge(f"the image {told}")
            if payload_bytes <= most:
                beside, most = entry_bytes - payload_bytes, bounds.claim_bytes
                problem = BadField(f"there are {beside} bytes beside image or tensor; at most {most} are accepted")
            job.problem = problem.at_rest()
        return job

    def cancelled(self, jobs: Sequence[Received], count: Any) -> frozenset[str]:
        """Which of these jobs the client has withdrawn; keeps the set of withdrawn ids bounded in size and time.

        `count` is what SCARD said of that set; where the key is no set, nobody can have withdrawn anything.
        """
        if not jobs or not count or isinstance(count, Exception):
            return frozenset()
        ids = [job.id for job in jobs]
        key = self._shard.cancelled
        commands: list[Command] = [("SMISMEMBER", key, *ids), ("EXPIRE", key, CANCELLED_TTL_S, "NX")]
        if count > CANCELLED_LENGTH:
            commands.append(("SPOP", key, count - CANCELLED_LENGTH))
        try:
            flags = self._link.flush(commands)[0]
        except RedisUnavailable as broke:  # these jobs are in our hands already: they run, withdrawn or not
            flags = broke
        if isinstance(flags, Exception):
            return frozenset()
        return frozenset(job_id for job_id, flag in zip(ids, flags, strict=True) if flag)
