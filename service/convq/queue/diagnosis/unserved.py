"""Streams with jobs that nobody serves: a wrong name in a plain XADD, or a model whose services are all gone.

Only a look at every key of the server finds them. It is taken in steps, of which none holds up the server.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from convq.queue.keys import KNOWN, MODELS, is_model_name
from convq.queue.transport.link import Link, text_of, understood

KEYS_AT_ONCE = 1000
"""Keys that one step looks at: about a millisecond of the server's."""
MOST_STREAMS = 1000
"""So many are kept in mind of one look; they are what metrics count and what is named."""
MOST_LETTERS = 100
"""What is compared of a key's name."""
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

    @property
    def is_near(self) -> bool:
        """Whether it is called like a model or stream that there is, or is that of a known one."""
        return self.known or self.nearest is not None

    def __str__(self) -> str:
        what = f"nobody serves {self.model!r}" if self.model is not None else "that is no stream of a model"
        hint = f"; did you mean {self.nearest}?" if self.nearest is not None else ""
        return f"{self.key} holds jobs, and {what}{hint}"


class Lookout:
    """Looks at the keys of a server, a step at a time, over the link of whoever asks."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._cursor = b"0"
        self._streams: dict[str, None] = {}
        self._far: list[str] = []
        """Of them those whose names are like none that is known: they make room for others."""
        self.found: tuple[Unserved, ...] = ()
        """What the last whole look found: what may be a wrong name first, and then most jobs first."""

    def step(self) -> bool:
        """One step; whether it was the last one of a look, so that `found` is new. Raises RedisUnavailable, RedisRefused."""
        self._cursor, keys = self._link.call(
            "SCAN", self._cursor, "MATCH", "convq:*", "COUNT", KEYS_AT_ONCE, "TYPE", "stream"
        )
        self._remember(map(text_of, keys))
        if self._cursor != b"0":
            return False
        streams, self._streams, self._far = sorted(self._streams), {}, []
        self.found = self._judged(streams)
        return True

    def _remember(self, keys: Iterable[str]) -> None:
        """Of more streams than can be kept in mind, those first whose names are like that of a model."""
        served, expected = self._names()
        spelt = {one for name in (*served, *expected) for one in _spellings(f"convq:{{{name}}}:jobs")}
        for key in keys:
            if key in self._streams or not _is_doubtful(key, served):
                continue
            if (full := len(self._streams) >= MOST_STREAMS) and not self._far:
                return
            near = not _spellings(key).isdisjoint(spelt)
            if full and near:
                del self._streams[self._far.pop()]
            if near or not full:
                self._streams[key] = None
            if not near and not full:
                self._far.append(key)

    def _names(self) -> tuple[list[str], set[str]]:
        """Models that are served, and that are known. Raises RedisRefused where the list cannot be read."""
        listed, known = self._link.flush([("HKEYS", MODELS), ("SMEMBERS", KNOWN)])
        if isinstance(listed, Exception):
            raise understood(listed) from listed
        served = sorted(name.decode() for name in listed if is_model_name(name))
        return served, {text_of(name) for name in known} if isinstance(known, list) else set()

    def _judged(self, streams: Sequence[str]) -> tuple[Unserved, ...]:
        served, expected = self._names()
        doubtful = [key for key in streams if _is_doubtful(key, served)]
        lengths = self._link.flush([("XLEN", key) for key in doubtful]) if doubtful else []
        found = [
            _unserved(key, jobs, served, expected)
            for key, jobs in zip(doubtful, lengths, strict=True)
            if isinstance(jobs, int) and jobs > 0
        ]
        return tuple(sorted(found, key=lambda one: (not one.is_near, -one.jobs)))


def _is_doubtful(key: str, served: Collection[str]) -> bool:
    ours = _OURS.match(key)
    return ours is None or (ours[2] != "dead" and ours[1] not in served)


def _spellings(key: str) -> set[str]:
    """The letters and digits of a key, and these with any one left out: keys that share one differ by a letter or by signs.

    Cheap, as a look may meet a thousand keys in a step; what is said of a stream in the end is found by a better rule.
    """
    plain = "".join(filter(str.isalnum, key[:MOST_LETTERS].lower().removesuffix(":high").removesuffix(":low")))
    return {plain, *(plain[:at] + plain[at + 1 :] for at in range(len(plain)))}


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
