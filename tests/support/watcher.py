"""What the kernel does to a container that goes beyond its memory: SIGKILL for each worker that becomes too large."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from services import RunningService

EVERY_S = 0.005


class Watcher:
    """Watches the resident memory of a service's workers, from `with` to its end; kills those above `limit_bytes`."""

    def __init__(self, service: RunningService, limit_bytes: int | None) -> None:
        self.killed: list[int] = []
        self.peak_bytes = 0
        self._service = service
        self._limit_bytes = limit_bytes
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        pids: list[int] = []
        rounds = 0
        while not self._over.wait(EVERY_S):
            if rounds % 10 == 0:
                pids = self._service.worker_pids()
            rounds += 1
            for pid in pids:
                size = resident_bytes(pid)
                self.peak_bytes = max(self.peak_bytes, size)
                if self._limit_bytes is not None and size > self._limit_bytes and pid not in self.killed:
                    self.killed.append(pid)
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()


def resident_bytes(pid: int) -> int:
    """What /proc says of it; 0 for a process that is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) << 10
    return 0
