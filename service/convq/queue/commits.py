"""Jobs out of a worker: publish results, each at most once, and bury what must not run again.

Belongs to one thread and has its own connection. Whoever publishes needs the lease that the job was claimed with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from convq.protocol import DEAD_LENGTH, INBOX_LENGTH, INBOX_TTL_S
from convq.queue.deliveries import Lease
from convq.queue.entries import Received
from convq.queue.keys import GROUP, Shard
from convq.queue.transport.address import Address
from convq.queue.transport.link import Link, Script

BURY, COMPLETE = (Script.load("known", name) for name in ("bury", "complete"))

CHUNK, PORTION_BYTES = 500, 8 << 20
"""Jobs, and bytes of documents, per call of the commit script: bound the time that the server does nothing else. One larger
document has a call of its own."""
LARGE_BYTES = 1 << 20
"""Documents that have more than this together are published only where the server has room for them."""


@dataclass(slots=True)
class Completion:
    """One answered job on its way out: the document, and where it goes."""

    job: Received
    document: bytes
    cancelled: bool = False
    failed: bool = False
    """It ends as an error."""


@dataclass(slots=True)
class Committed:
    """What became of one commit."""

    published: int = 0
    lost: int = 0
    """Answered by somebody else in the meantime."""
    refused: list[Received] = field(default_factory=list)
    """Still ours: their inbox is a key of another type."""
    no_room: list[Received] = field(default_factory=list)
    """Still ours: their documents are large, and the server has no room for them."""


class Commits:
    """The results of one shard, as one worker publishes them. Raises RedisUnavailable where the server cannot answer."""

    def __init__(self, where: Address | str, shard: Shard, *, result_ttl_ms: int) -> None:
        self._shard = shard
        self.result_ttl_ms = result_ttl_ms
        self._link = Link(where)

    @property
    def reconnects(self) -> int:
        """How often the connection was opened again."""
        return max(0, self._link.connects - 1)

    def close(self) -> None:
        """Close the connection."""
        self._link.close()

    def doubt(self) -> None:
        """The server, or the way to it, had trouble elsewhere: commit over a new connection. Any thread may say so."""
        self._link.doubt()

    def complete(self, lease: Lease, completions: Sequence[Completion]) -> Committed:
        """Publish results, each at most once, and delete their jobs.

        Raises LeaseLost where this worker was declared dead: nothing was published, others answer. After
        RedisUnavailable the same call may be repeated: what it had published is not published again.
        """
        committed = Committed()
        for chunk in _chunks(completions):
            if not self._complete_chunk(lease, chunk, committed):
                self._complete_small(lease, chunk, committed)
        return committed

    def bury(self, lease: Lease, completion: Completion, reason: str, message: str) -> bool:
        """Answer one job as poisoned and keep the whole of it as a dead letter; whether it was still ours to answer.

        Raises LeaseLost as `complete` does; after RedisUnavailable it may be repeated.
        """
        job, shard = completion.job, self._shard
        where, ttl_ms = shard.result(job.id), self.result_ttl_ms
        if job.reply_to is not None:
            where, ttl_ms = job.reply_to, INBOX_TTL_S * 1000
        keys = [shard.leases, shard.streams[job.lane], shard.dead, shard.suspects, where]
        keys += (shard.result(job.id), shard.cancelled, shard.cfg)
        args = [
            GROUP,
            lease.incarnation,
            job.lane,
            job.entry,
            completion.document,
            ttl_ms,
            DEAD_LENGTH,
            reason,
            message,
            job.id,
            INBOX_LENGTH,
        ]
        reply = lease.unfenced(self._link.run(BURY, keys, args))
        lease.held.discard((job.lane, job.entry))
        return bool(reply)

    def _complete_small(self, lease: Lease, chunk: Sequence[Completion], committed: Committed) -> None:
        """Publish what has no large part in that there is no room; the rest is told."""
        large_bytes = LARGE_BYTES // len(chunk)
        committed.no_room += [done.job for done in chunk if len(done.document) > large_bytes]
        small = [done for done in chunk if len(done.document) <= large_bytes]
        if small:
            self._complete_chunk(lease, small, committed)

    def _complete_chunk(self, lease: Lease, chunk: Sequence[Completion], committed: Committed) -> bool:
        """Publish these in one step. False where the server has no room for them: then nothing has happened."""
        document_bytes = sum([len(done.document) for done in chunk])
        groups = self._grouped(chunk)
        cancelled = ",".join(done.job.id for done in chunk if done.cancelled)
        suspects = ",".join(
            f"{done.job.lane}:{done.job.entry}" for done in chunk if done.job.suspicion or done.job.slow
        )
        args: list[Any] = [GROUP, lease.incarnation, self.result_ttl_ms, INBOX_TTL_S * 1000, INBOX_LENGTH]
        args += (cancelled, suspects, sum([done.failed for done in chunk]))
        args.append(document_bytes if document_bytes > LARGE_BYTES else 0)
        jobs: list[Received] = []
        for (lane, kind, destination), members in groups.items():
            args += (lane + 1, kind, destination, len(members))
            for done in members:
                args += (done.job.entry, done.document)
                if kind == "k":
                    args.append(done.job.id)
                jobs.append(done.job)
        keys = [self._shard.leases, *self._shard.streams, self._shard.cancelled, self._shard.suspects, self._shard.cfg]
        reply = lease.unfenced(self._link.run(COMPLETE, keys, args))
        if reply == b"FULL":
            return False
        published, lost, refused = reply
        kept = [jobs[position - 1] for position in refused]
        lease.held.difference_update([(job.lane, job.entry) for job in jobs])
        lease.held.update([(job.lane, job.entry) for job in kept])
        committed.refused += kept
        committed.published += published
        committed.lost += len(lost)
        return True

    def _grouped(self, chunk: Sequence[Completion]) -> dict[tuple[int, str, str], list[Completion]]:
        """The completions by lane and destination; see `complete.lua` for the kinds."""
        groups: dict[tuple[int, str, str], list[Completion]] = {}
        prefix, inboxes = self._shard.result_prefix, self._shard.inbox_prefix
        for done in chunk:
            job = done.job
            if job.reply_to is not None:
                unnamed = job.id == job.entry or (job.id[:4] == "map-" and job.reply_to == _inbox_of(inboxes, job.id))
                key = (job.lane, "i" if unnamed else "k", job.reply_to)
            else:
                key = (job.lane, "r" if job.id == job.entry else "n", prefix + job.id)
            groups.setdefault(key, []).append(done)
        return groups


def _chunks(completions: Sequence[Completion]) -> Iterator[Sequence[Completion]]:
    """These in order, no more at once than one call may bring."""
    if len(completions) <= CHUNK and sum([len(done.document) for done in completions]) <= PORTION_BYTES:
        yield completions  # nearly always, and at no cost for each
        return
    first, chunk_bytes = 0, 0
    for i, done in enumerate(completions):
        size = len(done.document)
        if i > first and (i - first == CHUNK or chunk_bytes + size > PORTION_BYTES):
            yield completions[first:i]
            first, chunk_bytes = i, 0
        chunk_bytes += size
    yield completions[first:]


def _inbox_of(prefix: str, job_id: str) -> str:
    """Where the job with that id is answered if a client's `map` has made it: such ids are in no table of ids."""
    return prefix + job_id.rpartition("-")[0]
