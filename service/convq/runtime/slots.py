"""One place for a worker process, and its history. Owned by the supervisor's loop; others only read it."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Slot:
    """One place for a worker process, and its history."""

    number: int
    process: subprocess.Popen[bytes] | None = None
    ready_since_s: float | None = None
    failures: int = 0
    start_at_s: float = 0.0
    restarts: int = 0
    failure: dict[str, Any] | None = None
    stopped: bool = False
    hung: bool = False
    models: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def pid(self) -> int | None:
        """The process id of the living worker."""
        return self.process.pid if self.process is not None else None

    def note_stops(self) -> None:
        """A stopped worker (SIGSTOP, a debugger) makes no progress: its lease must run out, so that others take over."""
        if self.process is None or not hasattr(os, "waitid"):
            return
        try:
            news = os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WCONTINUED | os.WNOHANG)
        except ChildProcessError:
            return
        if news is not None:
            self.stopped = (
                news.si_code == os.CLD_STOPPED if news.si_code in (os.CLD_STOPPED, os.CLD_CONTINUED) else False
            )
