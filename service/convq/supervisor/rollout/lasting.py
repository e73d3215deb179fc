"""Refusals that outlive a service: a start proves less than a trial, and must not serve what a trial has refused.

Remembered is what would be the same on every host with these files: a network that crashes, hangs or answers wrongly. What
was refused for lack of memory or time is tried again by the next start.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

from convq.errors import ModelBroken
from convq.queue import Shard
from convq.queue.refusals import KnownRefusal
from convq.repository.fingerprint import fingerprint_of
from convq.supervisor.beat.refusal_book import RefusalBook
from convq.supervisor.rollout.served_models import ServedModel

WAIT_S = 1.0
"""A start waits so long for a server that does not answer; one that refuses connections is not waited for."""


class LastingRefusals:
    """`note` is for any thread, the rest for the one that keeps the versions, and for the start before that."""

    def __init__(self, book: RefusalBook, device: str) -> None:
        self._book, self._device = book, device
        self._lock = threading.Lock()
        self._recalled = False
        self._due: dict[tuple[str, int], tuple[object, str]] = {}
        self._noted: dict[str, set[int]] = {}
        """Model -> versions that Redis knows of with the files that lie here."""
        self._tried: set[tuple[str, int]] = set()
        """Models and versions of which this service knows more than what Redis knew at first."""

    def recall(self, models: Sequence[ServedModel], within_s: float = 0.0) -> Iterator[tuple[str, int, str]]:
        """Once, when Redis has first been reached: model, version and why, where its very files were refused before.

        Waits up to `within_s` seconds for that. Nothing is said of what was tried since; what was known of other files is
        forgotten.
        """
        known = None if self._recalled else self._book.wait(within_s)
        if known is None:
            return
        self._recalled = True
        for model in models:
            for version, one in known.get(model.name, {}).items():
                tried = (model.name, version) in self._tried
                if version not in model.present or one.device != self._device or tried:
                    continue
                files = _files_of(model, version)
                if files == one.files:
                    self._noted.setdefault(model.name, set()).add(version)
                    yield model.name, version, _in_words(model, version, one)
                elif files:
                    self._book.note(model.name, version, None)

    def note(self, model: ServedModel, version: int, reason: str) -> None:
        """A version was refused for good."""
        with self._lock:
            self._due[model.name, version] = model.stamp_of(version), model.without_root(reason)
            self._tried.add((model.name, version))

    def forget(self, model: ServedModel, version: int) -> None:
        """A version has passed a trial, or is gone."""
        self._tried.add((model.name, version))
        self._noted.get(model.name, set()).discard(version)
        self._book.note(model.name, version, None)

    def look_after(self, model: ServedModel) -> None:
        """Write down what was noted, unless its files have changed meanwhile; forget what does not lie there any more.

        A folder in which nothing lies may be a mount that went away.
        """
        with self._lock:
            due = {version: self._due.pop((name, version)) for name, version in [*self._due] if name == model.name}
        for version, (stamp, reason) in due.items():
            files = _files_of(model, version)
            if files and stamp == model.stamp_of(version):
                self._book.note(model.name, version, KnownRefusal(files, self._device, reason, _now_ms()))
                self._noted.setdefault(model.name, set()).add(version)
        lying = model.present.keys() | model.glimpsed.keys()
        for version in self._noted.get(model.name, set()) - lying if lying else ():
            self.forget(model, version)

    def leave(self, model: ServedModel) -> None:
        """The model is not there any more."""
        for version in [*self._noted.pop(model.name, ())]:
            self.forget(model, version)


def _in_words(model: ServedModel, version: int, one: KnownRefusal) -> str:
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(min(max(one.at_ms, 0), 1 << 42) / 1e3))
    again = (
        "tried again once they change, or the manifest is touched while the service runs, or at a start after "
        f"HDEL {Shard(model.name).refused} {version}"
    )
    return f"{model.folder / str(version)}: the same files were refused on {when} ({again}): {one.reason}"


def _files_of(model: ServedModel, version: int) -> str:
    """Empty where they cannot be read: whatever stood in the way then may be gone later."""
    try:
        return fingerprint_of(model.folder, version)
    except ModelBroken:
        return ""


def _now_ms() -> int:
    return int(time.time() * 1e3)
