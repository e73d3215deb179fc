"""Forms batches: about time and order, not about tensors; knows neither Redis nor onnxruntime.

Natural batching: take what is there, never wait while the network is idle. Under load the next batch grows while the
current one runs. A wait happens only where a model's manifest asks for one.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from convq.ipc.series import CloseReason

T = TypeVar("T")


@dataclass(slots=True)
class Batch(Generic[T]):
    """Items that run together, oldest first; all have the same key."""

    items: list[T]
    reason: CloseReason


@dataclass(slots=True)
class _Group(Generic[T]):
    """Items of one key, each with the moment at which it came."""

    item_bytes: int
    waiting: deque[tuple[float, T]] = field(default_factory=deque)


class Batcher(Generic[T]):
    """Items go in from one thread and come out as batches in another.

    Only items of one `key` (the shape of the input, say) share a batch; they all have as many bytes as `weight` says of
    the first. At most `max_batch` items wait here, and hardly more than `max_bytes` bytes, beside what already runs: that
    is what a dead worker can hold too much, and what its memory must hold.
    """

    def __init__(
        self,
        max_batch: int,
        max_wait_s: float,
        key: Callable[[T], Hashable],
        clock: Callable[[], float] = time.monotonic,
        weight: Callable[[T], int] = lambda _: 0,
        max_bytes: float = math.inf,
    ) -> None:
        self._max_batch = max_batch
        self._max_bytes = max_bytes
        self._weight = weight
        self._max_wait_s = max_wait_s
        self._key = key
        self._clock = clock
        self._groups: dict[Hashable, _Group[T]] = {}
        self._waiting = 0
        self._waiting_bytes = 0
        self._closed = False
        self._changed = threading.Condition()

    def resize(self, max_batch: int, max_bytes: float | None = None) -> None:
        """Take other limits from the next batch on; what waits already may be more. None: as many bytes as before."""
        with self._changed:
            self._max_batch = max_batch
            self._max_bytes = self._max_bytes if max_bytes is None else max_bytes
            self._changed.notify_all()

    def put(self, items: Sequence[T]) -> None:
        """Add items. Never blocks: the caller asked for `room` first."""
        if not items:
            return
        now = self._clock()
        with self._changed:
            last: Hashable = None
            group: _Group[T] | None = None
            put_bytes = 0
            for item in items:
                key = self._key(item)
                if group is None or key != last:  # most often all have one
                    last, group = key, self._groups.get(key)
                    if group is None:
                        group = self._groups[key] = _Group(self._weight(item))
                    waiting, item_bytes = group.waiting, group.item_bytes
                waiting.append((now, item))
                put_bytes += item_bytes
            self._waiting += len(items)
            self._waiting_bytes += put_bytes
            self._changed.notify_all()

    def room(self, timeout_s: float) -> int:
        """How many more items may come, waiting up to `timeout_s` for at least one."""
        with self._changed:
            self._changed.wait_for(lambda: self._has_room() or self._closed, timeout_s)
            return 0 if self._closed or not self._has_room() else self._max_batch - self._waiting

    def room_bytes(self) -> float:
        """How many more bytes may come."""
        with self._changed:
            return max(0.0, self._max_bytes - self._waiting_bytes)

    def wait_for_bytes(self) -> None:
        """Return when fewer than `max_bytes` wait: then one more may be made, however large it is."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting_bytes < self._max_bytes or self._closed)

    def _has_room(self) -> bool:
        return self._waiting < self._max_batch and self._waiting_bytes < self._max_bytes

    def collect(self) -> Batch[T] | None:
        """The next batch, waiting for one; None when closed and empty."""
        with self._changed:
            while True:
                batch = self._ready()
                if batch is not None:
                    self._changed.notify_all()
                    return batch
                if self._closed:
                    return None
                self._changed.wait(self._until_due_s())

    def close(self) -> None:
        """Take nothing more; what waits is still handed out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _ready(self) -> Batch[T] | None:
        """A batch that may run now: a full group first, else the group whose oldest item has waited long enough."""
        if not self._groups:
            return None
        for key, group in self._groups.items():
            if len(group.waiting) >= self._max_batch:
                return self._take(key, CloseReason.FULL)
        key, oldest = min(((key, group.waiting[0][0]) for key, group in self._groups.items()), key=lambda pair: pair[1])
        if self._closed:
            return self._take(key, CloseReason.DRAIN)
        if self._max_wait_s <= 0:
            return self._take(key, CloseReason.IDLE)
        if self._clock() - oldest >= self._max_wait_s:
            return self._take(key, CloseReason.TIMEOUT)
        return None

    def _until_due_s(self) -> float | None:
        if not self._groups:
            return None
        oldest = min(group.waiting[0][0] for group in self._groups.values())
        return max(0.0, oldest + self._max_wait_s - self._clock())

    def _take(self, key: Hashable, reason: CloseReason) -> Batch[T]:
        group = self._groups[key]
        waiting = group.waiting
        items = [waiting.popleft()[1] for _ in range(min(self._max_batch, len(waiting)))]
        if not waiting:
            del self._groups[key]
        self._waiting -= len(items)
        self._waiting_bytes -= group.item_bytes * len(items)
        return Batch(items, reason)
