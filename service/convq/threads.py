"""Where threads of a supervisor or worker begin: what one of them ends by is known to the process, and ends it.

A thread that dies takes what it did with it in silence: leases run out, nobody follows a change, and the probes, which are
other threads, say that all is well. So none is started elsewhere, and the loop of each process asks its `Watch` at every turn.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from convq.logs import defect


@dataclass(frozen=True, slots=True)
class Fallen:
    """A thread that ended by an error that nothing inside it has handled."""

    name: str
    error: BaseException

    def __str__(self) -> str:
        """One line for whoever reads why a process ends."""
        what = str(self.error) or "no message"
        return f"the thread {self.name!r} ended by a defect, {type(self.error).__name__}: {what}"


class Watch:
    """The threads of one process. Each is a daemon: what holds it up must not hold up the end of the process."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._fallen: Fallen | None = None

    @property
    def fallen(self) -> Fallen | None:
        """The first thread that ended by a defect; None while all is well."""
        return self._fallen

    def thread(self, name: str, work: Callable[..., object], *given: Any) -> threading.Thread:
        """A thread that does `work(*given)`, for the caller to start."""
        return threading.Thread(target=self._guard, args=(name, work, given), name=name, daemon=True)

    def start(self, name: str, work: Callable[..., object], *given: Any) -> threading.Thread:
        """The same, started."""
        thread = self.thread(name, work, *given)
        thread.start()
        return thread

    def _guard(self, name: str, work: Callable[..., object], given: tuple[Any, ...]) -> None:
        try:
            work(*given)
        except BaseException as error:  # noqa: BLE001 - whatever it was, the process must know of it
            # First of all, and before anything that may fail as well: at this, the loop ends the process.
            self._fallen = self._fallen or Fallen(name, error)
            defect(self._log, "a thread ended by a defect", error, thread=name)
