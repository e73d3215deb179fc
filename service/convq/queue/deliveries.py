"""What passes between a worker and its queue: the lease that it works under, how much it may be given, what it was given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from convq.errors import LeaseLost, RedisUnavailable
from convq.queue.entries import Received

MIB = 1 << 20
_FENCED = b"FENCED"
"""What every script answers to a worker whose lease has ended; it has changed nothing then."""


@dataclass(slots=True)
class Lease:
    """One incarnation of one worker: a name that is never used again, and the entries that it holds.

    `held` is written by the claiming thread and the completing thread; sets of Python take single additions and removals
    from two threads.
    """

    incarnation: str
    held: set[tuple[int, str]] = field(default_factory=set)
    lost: bool = False
    alone: set[tuple[int, str]] = field(default_factory=set)
    """Of those that were held, the ones that ran alone: see `Suspicions.begin_alone`."""

    def unfenced(self, reply: Any) -> Any:
        """What a script replied to the holder of this lease. Raises LeaseLost where that says that the lease has ended."""
        if reply == _FENCED:
            raise self.end()
        return reply

    def end(self) -> LeaseLost:
        """Mark the lease as one that was lost; the error of its worker, which was declared dead."""
        self.lost = True
        return LeaseLost(f"{self.incarnation} was silent for too long; its jobs run elsewhere")


@dataclass(slots=True)
class Delivery:
    """What one claim brought.

    `server_ms` is the server's clock at the delivery, `arrived_s` this process's `time.perf_counter` when the reply had
    come; both name the same moment, so that waiting is measured without any other clock. `cancelled` holds job ids.
    """

    jobs: list[Received]
    server_ms: float
    arrived_s: float
    cancelled: frozenset[str] = frozenset()
    more: bool = False
    """More of this kind was there than there was room for: whoever has room again need not wait."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much one worker reads at a time for one model, and how large a job of it may be. Bytes."""

    claim_bytes: int = 64 * MIB
    """Of the entries of one reply; only a single entry may be larger."""
    guess_bytes: int = 1
    """Of one entry, before any has come: so many are asked for at first as would fit then."""
    image_bytes: int = 512 * MIB
    tensor_bytes: int = 512 * MIB
    """A larger image or tensor is refused unread, and so is an entry with more than `claim_bytes` beside them."""

    def most(self) -> tuple[int, int, int]:
        """What `weight.lua` compares with."""
        return self.image_bytes, self.tensor_bytes, self.claim_bytes


class Row(NamedTuple):
    """One entry that this worker was given and has not read."""

    lane: int
    entry: str
    attempt: int = 1
    suspicion: int = 0
    weight: int = 0
    """Bytes of its fields; negative where it is larger than a job may be."""
    slow: int = 0
    """How often its decoding was over its time."""


def milliseconds(now: Any) -> float:
    """What TIME replied. Raises RedisUnavailable where it was an error."""
    if isinstance(now, Exception):
        raise RedisUnavailable(f"Redis would not tell the time: {now}")
    return int(now[0]) * 1e3 + int(now[1]) / 1e3
