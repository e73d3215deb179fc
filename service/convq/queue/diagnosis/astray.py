"""Where a job lies that no served model knows: in a stream of a wrong name, or of a model whose services are gone."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convq.errors import RedisRefused
from convq.queue.diagnosis.unserved import Unserved, look_once
from convq.queue.keys import Shard
from convq.queue.transport.address import Address
from convq.queue.transport.link import Link, text_of

MOST_ENTRIES = 1000
"""Entries of all streams together that are read for an id of their own: their images come with them."""
PAGE = 20
_ANSWERED = re.compile(rb"\S+ answered ([0-9]{1,15}) (.+) [0-9]+-[0-9]+\Z")
"""As known.lua writes it."""
_ENTRY = re.compile(r"[0-9]{1,20}-[0-9]{1,20}\Z")


@dataclass(frozen=True, slots=True)
class Search:
    """What came of it. `whole`: whether all such streams were looked through."""

    found: Mapping[str, Sequence[Unserved]]
    """Id -> the streams that hold a job of it: entries of several streams may have the same id."""
    whole: bool


def find_astray(address: Address, ids: Collection[str]) -> Search:
    """Look for jobs, by the ids of their entries or by their own, in the streams that nobody serves.

    What this user may not read is passed over. Raises RedisUnavailable.
    """
    link = Link(address)
    try:
        streams = look_once(link)
        if streams is None:
            return Search({}, whole=False)
        found: dict[str, list[Unserved]] = {}
        whole = True
        for one in ids:
            entries = [_entry_of(link, stream, one) for stream in streams]
            asked = [("XRANGE", s.key, entry, entry) for s, entry in zip(streams, entries, strict=True)]
            there = link.flush(asked) if asked else []
            holders = [s for s, reply in zip(streams, there, strict=True) if isinstance(reply, list) and reply]
            found |= dict.fromkeys([one], holders) if holders else {}
            whole = whole and not any(isinstance(reply, Exception) for reply in there)
        named = {one for one in ids if one not in found and not _ENTRY.match(one)}
        more, read_all = _read_through(link, streams, named) if named else ({}, True)
        return Search(found | more, whole and read_all)
    except RedisRefused:
        return Search({}, whole=False)
    finally:
        link.close()


@dataclass(frozen=True, slots=True)
class Answered:
    """A job that was submitted with an id is known to have been answered. `inbox`: where to; None: its result key."""

    ago_s: float
    inbox: str | None

    def __str__(self) -> str:
        if self.inbox is not None:
            return f"answered {self.ago_s:.0f} s ago, into {self.inbox}"
        return f"answered {self.ago_s:.0f} s ago, and its result was read or has expired; another id makes another job"


def when_answered(address: Address, job_id: str, models: Sequence[str]) -> tuple[str, Answered] | None:
    """Whose job it was, and when it was answered; None where no id of these models is remembered so. Raises RedisUnavailable."""
    link = Link(address)
    try:
        now, *replies = link.flush([("TIME",), *(("GET", Shard(name).job(job_id)) for name in models)])
    finally:
        link.close()
    for name, reply in zip(models, replies, strict=True):
        known = _ANSWERED.match(reply) if isinstance(reply, bytes) else None
        if known is not None and isinstance(now, list):
            inbox = None if known[2] == b"-" else text_of(known[2])
            return name, Answered(max(0.0, int(now[0]) - int(known[1]) / 1e3), inbox)
    return None


def _entry_of(link: Link, stream: Unserved, job_id: str) -> str:
    """The entry that it would be: of an id that came through the door, as that has written it down; else none that there is."""
    if _ENTRY.match(job_id):
        return job_id
    if stream.model is not None:
        reply = link.flush([("GET", Shard(stream.model).job(job_id))])[0]
        entry = text_of(reply).rpartition(" ")[2] if isinstance(reply, bytes) else ""
        if _ENTRY.match(entry):
            return entry
    return "0-0"


def _read_through(link: Link, streams: Sequence[Unserved], ids: set[str]) -> tuple[dict[str, list[Unserved]], bool]:
    """Jobs of a plain XADD have their ids in their entries alone."""
    found: dict[str, list[Unserved]] = {}
    left = MOST_ENTRIES
    for stream in streams:
        start = "-"
        while left > 0:
            page: Any = link.flush([("XRANGE", stream.key, start, "+", "COUNT", min(PAGE, left))])[0]
            if not isinstance(page, list) or not page:
                break
            left -= len(page)
            for _, fields in page:
                known = dict(zip(fields[::2], fields[1::2], strict=False))
                if (name := text_of(known.get(b"id", b""))) in ids:
                    found[name] = [*found.get(name, ()), *([stream] if stream not in found.get(name, ()) else [])]
            start = f"({text_of(page[-1][0])}"
    return found, left > 0
