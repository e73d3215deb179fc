"""What strangers put into the keys of the models of this service: looked for by the heartbeat, said, and shown by the probes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence

from convq.logs import event
from convq.queue import LeaseKeeper, Shard
from convq.queue.keys import MODELS
from convq.queue.supervision import FAR_AHEAD_S, ShardDepth
from convq.supervisor.beat.fullness import note_room
from convq.supervisor.beat.troubles import Troubles

KEYS = "keys"
"""The step of a heartbeat that looks at the types of keys."""
LOOK_EVERY_S = 2.0
"""How often the server is asked for the types of a model's keys."""
AHEAD_S = 5.0
"""A stream whose ids are so far ahead of the server's clock is told of."""
REMEDY = "rename or delete what a stranger has put there"


class ForeignKeys:
    """Used by the heartbeat's thread; other threads may read `unserved`, `named` and `counts`."""

    def __init__(
        self, keeper: LeaseKeeper, troubles: Troubles, log: logging.Logger, shards: Callable[[], Sequence[Shard]]
    ) -> None:
        """`shards` gives those of the models that are served now."""
        self._keeper = keeper
        self._troubles = troubles
        self._log = log
        self._shards = shards
        self._found: Mapping[str, Mapping[str, str]] = {}
        self._next_s: dict[str, float] = {}

    def look(self, shard: Shard) -> None:
        """Every few seconds: which keys of the model hold something else. Raises RedisUnavailable."""
        now_s = time.monotonic()
        if now_s < self._next_s.get(shard.model, 0.0):
            return
        self._next_s[shard.model] = now_s + LOOK_EVERY_S
        found = self._keeper.strange_keys(shard)
        self._found = {**self._found, shard.model: found}  # replaced as one: a probe reads it
        if found:
            self._troubles.note(shard.model, KEYS, _in_words(found))
        else:
            self._troubles.over(shard.model, KEYS)

    def why(self, model: str) -> str:
        """Which keys hold something else at this moment, in words; empty where none does."""
        return _in_words(
            {k: v for s in self._shards() if s.model == model for k, v in self._keeper.strange_keys(s).items()}
        )

    def unserved(self, shard: Shard) -> str | None:
        """Why no job of the model can be read; None where at least one lane is a stream."""
        found = self._found.get(shard.model, {})
        return _in_words(found) if found.keys() >= set(shard.streams) else None

    def named(self, models: Sequence[str]) -> str:
        """What stands in keys of these models, each once, though jobs of theirs are answered; empty where all is well."""
        return _in_words({key: text for model in models for key, text in self._found.get(model, {}).items()})

    def counts(self) -> dict[str, int]:
        """Model -> how many of its own keys hold something else."""
        found = self._found
        return {shard.model: len(found.get(shard.model, {}).keys() - {MODELS}) for shard in self._shards()}

    def look_ahead(self, shard: Shard, depth: ShardDepth) -> None:
        """Say where entry ids are from the future, and exchange a stream that is empty and far ahead; say that a queue is full."""
        note_room(self._troubles, shard.model, depth)
        for stream, lane in zip(shard.streams, depth.lanes, strict=True):
            if lane.ahead_s <= AHEAD_S:
                self._troubles.over(shard.model, f"ids of {stream}")
                continue
            text = (
                f"an entry id of {stream} is ahead of the server's clock, and so is every later one; see convq doctor"
            )
            self._troubles.note(shard.model, f"ids of {stream}", text)
        if any(lane.ahead_s > FAR_AHEAD_S for lane in depth.lanes):
            for stream in self._keeper.mend(shard):
                event(self._log, logging.WARNING, "a new stream takes the place of one from the future", key=stream)


def _in_words(found: Mapping[str, str]) -> str:
    return f"{'; '.join(found.values())}: {REMEDY}" if found else ""
