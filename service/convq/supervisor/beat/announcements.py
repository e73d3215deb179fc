"""What clients read of which models are served: `convq:models`, as this service keeps its part of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from convq.queue import LeaseKeeper, Shard
from convq.settings import Settings
from convq.supervisor.beat.troubles import Troubles

ANNOUNCED_FOR_LEASES = 3
"""The list of served models outlives the last heartbeat by this many leases."""


class Announcements:
    """Used by the heartbeat's thread; any thread may `describe`."""

    def __init__(self, keeper: LeaseKeeper, settings: Settings, troubles: Troubles) -> None:
        self._keeper = keeper
        self._settings = settings
        self._troubles = troubles
        self._descriptions: dict[str, Mapping[str, object] | None] = {}
        self.listed: set[str] = set()
        """The models that stand in the list by our last beat."""

    def describe(self, model: str, description: Mapping[str, object] | None) -> None:
        """What the list is to say of a model from the next beat on; None: no worker has it any more."""
        self._descriptions[model] = description

    def make(self, shard: Shard, why_unserved: str | None) -> None:
        """Say that a model is served; where its workers can have no leases, or no job can be read, it is not."""
        if why_unserved is not None:
            self.listed.discard(shard.model)
            self._keeper.unlist(shard.model)
            return
        description = self._descriptions.get(shard.model)
        if description is not None:
            ttl_ms = ANNOUNCED_FOR_LEASES * self._settings.lease_ms
            self._keeper.announce(shard, description, ttl_ms, self._settings.max_jobs, self._settings.max_bytes)
            self.listed.add(shard.model)
        elif shard.model in self._descriptions:
            self.listed.discard(shard.model)
            self._keeper.withdraw([shard.model])

    def withdraw_others(self, models: Collection[str]) -> None:
        """Take what is not among `models` and served by nobody out of the list. What stands there beside models is left, and said."""
        self._keeper.withdraw([model for model in self._keeper.listed() if model not in models])
        if strange := self._keeper.misnamed:
            some = ", ".join(repr(name[:80]) for name in strange[:5])
            self._troubles.note("", "names", f"convq:models has {len(strange)} fields that name no model: {some}")
        else:
            self._troubles.over("", "names")

    def forget(self, here: Collection[str]) -> None:
        """Only these models are here now."""
        self.listed &= set(here)
