"""What services have found of versions that are not to be served, in the hash `convq:{M}:refused`: it outlives them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from convq.errors import StrangeKey
from convq.queue.keys import Shard
from convq.queue.transport.link import Link

MOST = 64
"""Versions of one model that are remembered: of more, those with the highest numbers."""
MOST_REASON = 1000
"""Characters."""


@dataclass(frozen=True, slots=True)
class KnownRefusal:
    """Why a version is not to be served, and which files that was found of."""

    files: str
    """See `fingerprint_of`."""
    device: str
    """`--device` of the service that found it."""
    reason: str
    at_ms: int
    """When, in milliseconds since 1970 by the clock of whoever found it."""

    @classmethod
    def read(cls, value: bytes) -> KnownRefusal | None:
        """What stands in the hash; None for what no service has written."""
        try:
            said = json.loads(value)
            return cls(str(said["files"]), str(said["device"]), str(said["reason"])[:MOST_REASON], int(said["at_ms"]))
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return None


class Refusals:
    """Reads and writes the hash of each model, over the link of whoever asks. All of it raises what `Link.call` does."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def of(self, shard: Shard) -> Mapping[int, KnownRefusal]:
        """Version -> what is known of it; nothing where a stranger's value is in the place of the hash."""
        try:
            found: list[bytes] = self._link.call("HGETALL", shard.refused)
        except StrangeKey:
            return {}
        pairs = zip(found[::2], found[1::2], strict=False)
        rows = {int(name): KnownRefusal.read(value) for name, value in pairs if _is_version(name)}
        return {version: known for version, known in rows.items() if known is not None}

    def note(self, shard: Shard, version: int, known: KnownRefusal) -> None:
        """Remember it, in the place of what was known of that version before."""
        self._link.call("HSET", shard.refused, version, json.dumps(asdict(known)))
        names: list[bytes] = self._link.call("HKEYS", shard.refused)
        if len(names) > MOST:
            strange = [name for name in names if not _is_version(name)]
            oldest = sorted((name for name in names if _is_version(name)), key=int)
            self._link.call("HDEL", shard.refused, *[*strange, *oldest][: len(names) - MOST])

    def forget(self, shard: Shard, version: int) -> None:
        """Nothing is known against that version any more."""
        self._link.call("HDEL", shard.refused, version)


def _is_version(name: bytes) -> bool:
    return name.isdigit() and len(name) <= len("999999999")
