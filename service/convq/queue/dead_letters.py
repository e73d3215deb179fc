"""Dead letters of one shard: jobs that killed their workers, kept whole (see `bury.lua`). List, show, requeue, purge.

For people at a command line: blocks, and moves an image only where it is asked for.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

from convq.errors import BadField
from convq.protocol import DEDUP_WINDOW_S, Priority
from convq.queue.entries import JOB_ID
from convq.queue.keys import LANES, Shard, is_model_name
from convq.queue.transport.address import Address
from convq.queue.transport.link import Command, Link, Script, understood

LETTERS, REQUEUE = Script.load("letters"), Script.load("requeue")

PAGE = 20
"""Letters that one script looks at: their images pass through the server's memory, not through the wire."""
SEARCH_S, SEARCH_KEYS = 2.0, 1000
"""How long the names of keys are gone through at most, and how many at a time."""
SHOWN_BYTES = 1024
"""How much of a field's value is shown; the image never is."""
NO_LETTER = "is no dead letter of convq"
"""How `requeue.lua` refuses an entry that somebody else has written."""
OWN_FIELDS = 4
"""How many fields at the head of a letter are ours: dead_reason, dead_message, dead_stream, dead_entry."""


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter without its payload. `id` is its own, `job` that of the job, `entry` where the job was last."""

    id: str
    job: str
    model: str
    priority: str
    reason: str
    message: str
    died_ms: int
    """When it was buried, in milliseconds of the server's clock."""
    bytes: int
    """Size of the payload."""
    payload: str
    """Which field holds it: image, tensor, or nothing."""
    entry: str
    fields: dict[str, str] = field(default_factory=dict)
    """What else the client wrote."""


@dataclass(frozen=True, slots=True)
class Requeued:
    """What became of one letter. `entry` None: it was not there, or somebody else took it a moment before."""

    id: str
    job: str | None = None
    entry: str | None = None
    foreign: bool = False
    """It is no letter of convq but what somebody else has written there, and was left as it is."""


def models_with_letters(where: Address | str, known: Iterable[str], *, search: bool) -> dict[str, int]:
    """How many dead letters there are of each model that has or had any: of those that are `known`, and of all that are found.

    `search` goes through the names of the server's keys for `SEARCH_S` seconds at most, and finds nothing where the user may
    not. Raises RedisUnavailable, and StrangeKey where one of them is no stream.
    """
    link = Link(where)
    try:
        models = sorted({*known, *(_found_by_name(link) if search else ())})
        calls = [(word, Shard(model).dead) for model in models for word in ("XLEN", "TYPE")]
        replies = link.flush(calls)
        counts = {model: int(_checked(reply)) for model, reply in zip(models, replies[::2], strict=True)}
        had = [model for model, kind in zip(models, replies[1::2], strict=True) if kind == b"stream"]
        return {model: count for model, count in counts.items() if count or model in had}
    finally:
        link.close()


def _found_by_name(link: Link) -> Iterator[str]:
    """Models by the names of their streams of dead letters: nobody may serve them any more."""
    cursor, give_up_at = b"0", time.monotonic() + SEARCH_S
    while time.monotonic() < give_up_at:
        call = ("SCAN", cursor, "MATCH", "convq:{*}:dead", "COUNT", SEARCH_KEYS, "TYPE", "stream")
        reply = link.flush([call])[0]
        if isinstance(reply, Exception):
            return
        cursor, keys = reply
        for key in keys:
            name = key.removeprefix(b"convq:{").removesuffix(b"}:dead")
            if is_model_name(name):
                yield name.decode()
        if cursor == b"0":
            return


class DeadLetters:
    """The dead letters of one shard. Not for two threads at once. Raises RedisUnavailable, RedisRefused."""

    def __init__(self, where: Address | str, shard: Shard) -> None:
        self._link = Link(where)
        self._shard = shard

    def close(self) -> None:
        """Close the connection."""
        self._link.close()

    def __len__(self) -> int:
        return int(self._link.call("XLEN", self._shard.dead))

    def newest_first(self) -> Iterator[Letter]:
        """Every letter without its payload, page by page; what is buried meanwhile is not among them."""
        end = "+"
        while page := self._link.run(LETTERS, [self._shard.dead], [end, "-", PAGE, SHOWN_BYTES]):
            for row in page:
                yield self._letter(row)
            end = f"({page[-1][0].decode()}"

    def find(self, letter_id: str) -> Letter | None:
        """One letter without its payload. Raises BadField where that is no id of a letter."""
        at = _entry_id(letter_id)
        page = self._link.run(LETTERS, [self._shard.dead], [at, at, 1, SHOWN_BYTES])
        return self._letter(page[0]) if page else None

    def payload(self, letter_id: str) -> bytes | None:
        """The image or tensor of one letter; None where the letter is gone or has none."""
        at = _entry_id(letter_id)
        found = self._link.call("XRANGE", self._shard.dead, at, at)
        flat: list[bytes] = found[0][1][2 * OWN_FIELDS :] if found else []
        return next((flat[i + 1] for i in range(0, len(flat), 2) if flat[i] in (b"image", b"tensor")), None)

    def requeue(self, letter_ids: Sequence[str]) -> Iterator[Requeued]:
        """Put letters back into the streams that they came from, each wholly or not at all, and only once.

        A job keeps its id, priority, fields and payload; its time to live starts anew; an unread answer that it had is
        taken back. What is no letter of convq is left and told. The queue's limits don't count here. Raises QueueFull where the server is at its maxmemory.
        """
        shard = self._shard
        keys = [shard.dead, shard.suspects, shard.cfg, *shard.streams]
        rest = (DEDUP_WINDOW_S * 1000, shard.job_prefix, shard.result_prefix)
        for first in range(0, len(letter_ids), PAGE):
            page = letter_ids[first : first + PAGE]
            replies = self._run_all([REQUEUE.call(keys, (_entry_id(one), *rest)) for one in page])
            for letter_id, reply in zip(page, replies, strict=True):
                if _is_foreign(reply):
                    yield Requeued(letter_id, foreign=True)
                elif not isinstance(reply, Exception):
                    entry, job = reply or (None, None)
                    yield Requeued(letter_id, job and job.decode(), entry and entry.decode())
            for reply in replies:
                if not _is_foreign(reply):
                    _checked(reply)

    def _run_all(self, calls: list[Command]) -> list[Any]:
        """Run calls of `requeue` in one write; a server that lost the script is sent it."""
        replies = self._link.flush(calls)
        for n, reply in enumerate(replies):
            if isinstance(reply, redis.exceptions.NoScriptError):
                replies[n] = self._link.flush([REQUEUE.whole(calls[n])])[0]
        return replies

    def purge(self, letter_ids: Sequence[str]) -> list[bool]:
        """Delete letters for good; whether each was there."""
        replies = self._link.flush([("XDEL", self._shard.dead, _entry_id(one)) for one in letter_ids])
        return [bool(_checked(reply)) for reply in replies]

    def purge_older(self, than_ms: int) -> int:
        """Delete what was buried more than that many milliseconds ago by the server's clock; 0: all. Returns how many."""
        if than_ms <= 0:
            return int(self._link.call("XTRIM", self._shard.dead, "MAXLEN", 0))
        seconds, micros = self._link.call("TIME")
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        return int(self._link.call("XTRIM", self._shard.dead, "MINID", max(0, now_ms - than_ms)))

    def _letter(self, row: list[Any]) -> Letter:
        letter_id, payload = row[0].decode(), row[1].decode()
        texts: list[str] = [value.decode("utf-8", "replace") for value in row[3:]]
        own = dict(zip(texts[: 2 * OWN_FIELDS : 2], texts[1 : 2 * OWN_FIELDS : 2], strict=True))
        rest = texts[2 * OWN_FIELDS :]
        fields = dict(zip(rest[::2], rest[1::2], strict=True))
        ids = [value for name, value in zip(rest[::2], rest[1::2], strict=True) if name == "id"]
        stream, entry = own.get("dead_stream", ""), own.get("dead_entry", "")
        lanes = dict(zip(self._shard.streams, LANES, strict=True))
        return Letter(
            id=letter_id,
            job=ids[0] if len(ids) == 1 and JOB_ID.match(ids[0]) else entry,  # under what it was answered
            model=self._shard.model,
            priority=str(lanes.get(stream, Priority.NORMAL)),
            reason=own.get("dead_reason", "not told"),
            message=own.get("dead_message", ""),
            died_ms=int(letter_id.partition("-")[0]),
            bytes=row[2],
            payload=payload,
            entry=entry,
            fields=fields,
        )


def _entry_id(text: str) -> str:
    milliseconds, dash, number = text.partition("-")
    if milliseconds.isascii() and milliseconds.isdigit() and (not dash or (number.isascii() and number.isdigit())):
        return text if dash else f"{text}-0"
    raise BadField(f"the id of a dead letter looks like 1763800000000-0, not {text!r}; convq dead list shows them")


def _is_foreign(reply: Any) -> bool:
    return isinstance(reply, Exception) and NO_LETTER in str(reply)


def _checked(reply: Any) -> Any:
    if isinstance(reply, Exception):
        raise understood(reply) from reply
    return reply
