"""What Redis knows against jobs, as a worker reads and writes it: the hash `suspects` of one shard.

A field lane:entry holds points, a field slow:lane:entry how often the decoding was over its time. Supervisors add to them
when a worker dies (`release.lua`); an answer deletes both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convq.queue.deliveries import Lease, Row
from convq.queue.entries import Received
from convq.queue.keys import GROUP, Shard
from convq.queue.transport.link import Command, Link, Script

ALONE, RELEASE = Script.load("alone"), Script.load("release")

SUSPICION_TTL_MS = 86_400_000


class Suspicions:
    """For the thread that claims, over its connection. Raises RedisUnavailable where the server cannot answer."""

    def __init__(self, link: Link, shard: Shard) -> None:
        self._link = link
        self._shard = shard

    def known(self, rows: Sequence[Row]) -> list[Row]:
        """The same entries with what is known against each, which were delivered without it."""
        names = [f"{row.lane}:{row.entry}" for row in rows]
        asked: list[Command] = [("HGET", self._shard.suspects, name) for one in names for name in (one, f"slow:{one}")]
        found = [_count(reply) for reply in self._link.flush(asked)] if asked else []
        return [row._replace(suspicion=found[2 * n], slow=found[2 * n + 1]) for n, row in enumerate(rows)]

    def begin_alone(self, lease: Lease, job: Received) -> bool:
        """Write down that this job is about to run alone; False where it is not this worker's any more. Raises LeaseLost."""
        shard, holding = self._shard, (job.lane, job.entry)
        first = holding not in lease.alone
        lease.alone.intersection_update(lease.held)
        lease.alone.add(holding)
        args = [GROUP, lease.incarnation, f"{job.lane}:{job.entry}", job.entry, SUSPICION_TTL_MS, int(first)]
        reply = lease.unfenced(self._link.run(ALONE, [shard.leases, shard.streams[job.lane], shard.suspects], args))
        if reply:
            job.suspicion += 1  # whatever it was: there is something to forget when it is answered
        else:
            lease.held.discard(holding)
        return bool(reply)

    def absolve(self, lease: Lease) -> None:
        """Who ran alone under a lease that was lost did not die of it: that it began is struck out."""
        args: list[Any] = [GROUP, lease.incarnation, SUSPICION_TTL_MS]
        for lane, entry in lease.alone & lease.held:
            args += ("alone", 0, f"{lane}:{entry}")
        if lease.alone:
            self._link.run(RELEASE, [self._shard.leases, *self._shard.streams, self._shard.suspects], args)
            lease.alone.clear()


def _count(reply: Any) -> int:
    """A number of the hash; 0 where there is none, or what a stranger has put there."""
    return int(reply) if isinstance(reply, bytes) and reply.isdigit() else 0
