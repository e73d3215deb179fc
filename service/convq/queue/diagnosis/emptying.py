"""Forgets all that a database holds but what a running service keeps there: for the next test on the same server."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Final

from convq.errors import ServiceFailed
from convq.queue.keys import MODELS, Shard
from convq.queue.transport.address import Address
from convq.queue.transport.link import Link, text_of

PAGE: Final = 500
POLL_S: Final = 0.005


def empty(where: Address | str, models: Iterable[str], within_s: float) -> None:
    """Withdraw what waits, let workers finish what they hold, and delete every key but the service's own.

    Leases, groups, limits and the list of models stay: without them a service would have to begin again. Raises
    ServiceFailed where jobs are still there after `within_s` seconds.
    """
    link, shards = Link(where), [Shard(model) for model in models]
    try:
        give_up_at = time.monotonic() + within_s
        while left := sum(_withdraw(link, shard) for shard in shards):
            if time.monotonic() > give_up_at:
                raise ServiceFailed(f"{left} jobs of the test before are still not answered after {within_s:g} s")
            time.sleep(POLL_S)
        kept = {MODELS, *(key for shard in shards for key in (*shard.streams, shard.leases, shard.cfg, shard.door))}
        for keys in _pages(link):
            if gone := [key for key in keys if text_of(key) not in kept]:
                link.flush([("DEL", *gone)])
    finally:
        link.close()


def _withdraw(link: Link, shard: Shard) -> int:
    """Have workers drop what is in the streams; how many jobs that are."""
    count = 0
    for stream in shard.streams:
        (length,) = link.flush([("XLEN", stream)])
        if not isinstance(length, int) or not length:
            continue
        count += length
        (entries,) = link.flush([("XRANGE", stream, "-", "+", "COUNT", PAGE)])
        ids = [_job_id(entry) for entry in entries] if isinstance(entries, list) else []
        if ids:
            link.flush([("SADD", shard.cancelled, *ids)])
    return count


def _job_id(entry: list[object]) -> bytes:
    """The id of a job: its own, or that of its entry."""
    name, fields = entry
    if isinstance(fields, list) and b"id" in fields[::2]:
        return bytes(fields[2 * fields[::2].index(b"id") + 1])
    return bytes(name)  # type: ignore[call-overload,no-any-return]


def _pages(link: Link) -> Iterator[list[bytes]]:
    """All keys, some at a time."""
    cursor = b"0"
    while True:
        (reply,) = link.flush([("SCAN", cursor, "COUNT", PAGE)])
        if isinstance(reply, Exception):
            raise reply
        cursor, keys = reply
        yield keys
        if cursor == b"0":
            return
