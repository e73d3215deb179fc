"""Trials of versions, each in a process and a thread of its own: nobody waits for one, least of all another model."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convq.host.procfs import usage_of
from convq.importer.dry_run import Rehearsal, rehearse
from convq.supervisor.slots import Slot
from convq.threads import Watch


@dataclass(frozen=True, slots=True)
class _Trial:
    """One that is under way, or over."""

    version: int
    stamp: Any
    tried: Rehearsal | None = None


class Trials:
    """One trial of each model at a time. Asked by the thread that keeps the versions."""

    def __init__(
        self, device: str, within_s: float, slots: Sequence[Slot], limit_bytes: int | None, watch: Watch
    ) -> None:
        """The workers of `slots` will load what passes, beside what they have, within `limit_bytes` of memory each, if any."""
        self._device, self._within_s = device, within_s
        self._slots, self._limit_bytes = slots, limit_bytes
        self._watch = watch
        self._lock = threading.Lock()
        self._of: dict[str, _Trial] = {}

    def result(self, folder: Path, version: int, stamp: Any) -> Rehearsal | None:
        """How the trial of a version with files of this stamp went; None while one of its model is under way, begun now if need be.

        What was tried with other files says nothing, and is forgotten.
        """
        with self._lock:
            trial = self._of.get(folder.name)
            if trial is not None and trial.tried is None:
                return None
            self._of.pop(folder.name, None)
            if trial is not None and (trial.version, trial.stamp) == (version, stamp):
                return trial.tried
            self._of[folder.name] = _Trial(version, stamp)
        self._watch.start(f"trial-{folder.name}", self._try, folder, version, stamp)
        return None

    def _try(self, folder: Path, version: int, stamp: Any) -> None:
        tried = rehearse(
            folder,
            version,
            device=self._device,
            within_s=self._within_s,
            workers=len(self._slots),
            most_bytes=self._room_bytes(),
        )
        with self._lock:
            self._of[folder.name] = _Trial(version, stamp, tried)

    def _room_bytes(self) -> int | None:
        """What a worker may take besides what it has: pictures that it works on now are no part of that, hence the smallest."""
        if self._limit_bytes is None:
            return None
        usages = [usage_of(slot.pid) for slot in self._slots if slot.pid is not None]
        has = min((usage.resident_bytes for usage in usages if usage is not None), default=0)
        return max(1, self._limit_bytes - has)
