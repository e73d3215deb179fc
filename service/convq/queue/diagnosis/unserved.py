"""Streams with jobs that nobody serves: a wrong name in a plain XADD, or a model whose services are all gone.

Only a look at every key of the server finds them. It is taken in steps, of which none holds up the server.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from convq.queue.keys import KNOWN, MODELS, is_model_name
from convq.queue.transport.link import Link, text_of, understood

KEYS_AT_ONCE = 1000
"""Keys that one step looks at: about a millisecond of the server's."""
MOST_STREAMS = 1000
"""So many are kept in mind of one look."""
_OURS = re.compile(r"convq:\{([a-z0-9][a-z0-9_-]{0,63})(?:\.[0-9]{1,4})?\}:(jobs|jobs:high|jobs:low|dead)\Z")


@dataclass(frozen=True, slots=True)
class Unserved:
    """One stream that nobody reads. `model` is None where its key is none of a job stream at all."""

    key: str
    jobs: int
    model: str | None
    known: bool
    """Whether the model was served here before, or is expected: it may only be away."""
    nearest: str | None
    """The model, or the stream of one, that was perhaps meant: one that is served or known."""

    def __str__(self) -> str:
        what = f"nobody serves {self.model!r}" if self.model is not None else "that is no stream of a model"
        hint = f"; did you mean {self.nearest}?" if self.nearest is not None else ""
        return f"{self.key} holds jobs, and {what}{hint}"


class Lookout:
    """Looks at the keys of a server, a step at a time, over the link of whoever asks."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._cursor = b"0"
        self._streams: set[str] = set()
        self.found: tuple[Unserved, ...] = ()
        """What the last whole look found, most jobs first."""

    def step(self) -> bool:
        """One step; whether it was the last one of a look, so that `found` is new. Raises RedisUnavailable, RedisRefused."""
        self._cursor, keys = self._link.call(
            "SCAN", self._cursor, "MATCH", "convq:*", "COUNT", KEYS_AT_ONCE, "TYPE", "stream"
        )
        for key in keys:
            if len(self._streams) < MOST_STREAMS:
                self._streams.add(text_of(key))
        if self._cursor != b"0":
            return False
        streams, self._streams = sorted(self._streams), set()
        self.found = self._judged(streams)
        return True

    def _judged(self, streams: Sequence[str]) -> tuple[Unserved, ...]:
        listed, known = self._link.flush([("HKEYS", MODELS), ("SMEMBERS", KNOWN)])
        if isinstance(listed, Exception):
            raise understood(listed) from listed
        served = sorted(name.decode() for name in listed if is_model_name(name))
        expected = {text_of(name) for name in known} if isinstance(known, list) else set()
        doubtful = [key for key in streams if _is_doubtful(key, served)]
        lengths = self._link.flush([("XLEN", key) for key in doubtful]) if doubtful else []
        found = [
            _unserved(key, jobs, served, expected)
            for key, jobs in zip(doubtful, lengths, strict=True)
            if isinstance(jobs, int) and jobs > 0
        ]
        return tuple(sorted(found, key=lambda one: -one.jobs))


def _is_doubtful(key: str, served: Collection[str]) -> bool:
    ours = _OURS.match(key)
    return ours is None or (ours[2] != "dead" and ours[1] not in served)


def _unserved(key: str, jobs: int, served: Sequence[str], expected: Collection[str]) -> Unserved:
    ours, names = _OURS.match(key), [*served, *sorted({*expected} - {*served, "*"})]
    if ours is None:
        return Unserved(key, jobs, None, False, _one_of(key, [f"convq:{{{name}}}:jobs" for name in names]))
    model = ours[1]
    return Unserved(key, jobs, model, model in expected, None if model in expected else nearest_model(model, names))


def nearest_model(name: str, names: Collection[str]) -> str | None:
    """The model of these that is called most like it, if any is."""
    return _one_of(name, sorted(names))


def _one_of(name: str, names: Sequence[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, names, n=1)), None)


def look_once(link: Link, steps: int = 1000) -> tuple[Unserved, ...] | None:
    """A whole look, of so many steps at most; None where there were more keys. Raises as `Lookout.step`."""
    lookout = Lookout(link)
    return lookout.found if any(lookout.step() for _ in range(steps)) else None
