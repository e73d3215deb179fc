"""The queues whose numbers this service shows: one service a queue, elected on the server."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping

from convq.queue import LeaseKeeper, Shard
from convq.queue.supervision import ShardDepth


class Exports:
    """Used by the heartbeat's thread; any thread may ask for `depths`. `look` is told of what was measured."""

    def __init__(
        self, keeper: LeaseKeeper, step: Callable[..., None], look: Callable[[Shard, ShardDepth], None]
    ) -> None:
        self._keeper = keeper
        self._step = step
        self._look = look
        self._depths: Mapping[str, ShardDepth] = {}

    @property
    def any(self) -> bool:
        """Whether it is any queue at all."""
        return bool(self._depths)

    def depths(self, models: Collection[str]) -> dict[str, ShardDepth]:
        """Model -> how much its queue holds, for those of `models` whose queue is ours at this moment."""
        now_s, here = time.monotonic(), set(models)
        return {model: depth for model, depth in self._depths.items() if now_s < depth.valid_until_s and model in here}

    def stand(self, shard: Shard) -> None:
        """Stand for election, and measure the queue where this service is the one that exports it."""
        depth = self._keeper.depth(shard)
        others = {model: kept for model, kept in self._depths.items() if model != shard.model}
        self._depths = others if depth is None else {**others, shard.model: depth}  # replaced as one: a scrape reads it
        if depth is not None:
            self._look(shard, depth)

    def forget(self, here: Collection[str]) -> None:
        """Only these models are here now: the queues of others are for other services."""
        self._resign(self._depths.keys() - set(here))

    def end(self) -> None:
        """Let others be elected at once."""
        self._resign(self._depths.keys())

    def _resign(self, models: Collection[str]) -> None:
        gone = set(models)
        self._depths = {model: depth for model, depth in self._depths.items() if model not in gone}
        for model in gone:
            self._step(model, "resigning", self._keeper.resign, Shard(model))
