"""An engine that can say, from another thread, which batch it runs and for how long: for networks that may not come back."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from convq.engine.engine import Engine, Prepared
from convq.host.procfs import waited_s

LONGER = 10
"""A batch that hangs has run so many times as long as any before it."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """A batch that runs now."""

    jobs: int
    thread: int
    since_s: float
    waited_s: float
    """How long that thread had waited for a processor before."""


class WatchedEngine(Engine):
    """One per process."""

    _now: _Batch | None = None
    _longest_s: float = 0.0

    def run(self, inputs: Sequence[Prepared], wanted: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
        """As `Engine.run`, which is looked at meanwhile."""
        thread, began_s = threading.get_native_id(), time.monotonic()
        WatchedEngine._now = _Batch(len(inputs), thread, began_s, waited_s(os.getpid(), thread))
        made = super().run(inputs, wanted)
        WatchedEngine._now = None
        WatchedEngine._longest_s = max(self._longest_s, time.monotonic() - began_s)
        return made

    @classmethod
    def stuck(cls, after_s: float) -> int:
        """Jobs of the batch that has run for longer than `after_s` now, and far longer than any before; 0 where none has.

        Of what the processor was given to others, no more than half of the time is let off.
        """
        batch = cls._now
        if batch is None:
            return 0
        spent_s = time.monotonic() - batch.since_s
        spent_s -= min(waited_s(os.getpid(), batch.thread) - batch.waited_s, spent_s / 2)
        return batch.jobs if spent_s > max(after_s, LONGER * cls._longest_s) else 0
