"""What the faults are done to: one server that keeps its data, one service, and a guest from time to time.

Everything that is started here ends with this process, and nothing is written outside a temporary folder.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from convq.embedded import EmbeddedServer, Fsync
from convq.errors import RedisUnavailable
from convq.harness.service_process import ChildService

STOP_WITHIN_S = 30.0
SERVER_WITHIN_S = 20.0
RESULT_TTL_S = 86_400
"""Answers of a run must not run out before they are counted."""
POLL_S = 0.01

T = TypeVar("T")


def wait_for(condition: Callable[[], T], within_s: float) -> T | None:
    """The first true answer of `condition`; None after `within_s` seconds."""
    give_up_at = time.monotonic() + within_s
    while not (answer := condition()):
        if time.monotonic() > give_up_at:
            return None
        time.sleep(POLL_S)
    return answer


class Stage:
    """The server and the service of one run, from `with` to the end of all of them."""

    def __init__(self, models: Path, model: str, *, workers: int, lease_s: float, fsync: Fsync) -> None:
        self._serving = (models, model, workers, lease_s)
        self._fsync: Fsync = fsync
        self._folder = tempfile.TemporaryDirectory(prefix="convq-chaos-", ignore_cleanup_errors=True)
        self._services: list[ChildService] = []
        try:
            self._server = self._start_server(0)
            self.port = self._server.port or 0
            self.version = self._server.version
            self.service = self.start_service()
        except BaseException:  # Ctrl-C too: nobody else knows of what runs already
            self.end()
            raise

    @property
    def url(self) -> str:
        """TCP, because it is the same after the server was killed; its unix socket is not."""
        return f"redis://127.0.0.1:{self.port}/0"

    # -- the server -----------------------------------------------------------------------------------------------

    def kill_server(self) -> None:
        """SIGKILL it: what it has not written is gone."""
        os.kill(self._server.pid, signal.SIGKILL)
        wait_for(lambda: not self._server.is_alive(), STOP_WITHIN_S)
        self._server.stop()

    def restart_server(self) -> None:
        """Start it again on its data and its port. Raises RedisUnavailable."""
        give_up_at = time.monotonic() + SERVER_WITHIN_S
        while True:
            try:
                self._server = self._start_server(self.port)
            except RedisUnavailable:
                # While nobody listens there, another program's outgoing connection may have been given this port.
                if time.monotonic() > give_up_at:
                    raise
                time.sleep(POLL_S)
            else:
                return

    def _start_server(self, port: int) -> EmbeddedServer:
        return EmbeddedServer.start(Path(self._folder.name) / "data", port=port, appendfsync=self._fsync)

    # -- services -------------------------------------------------------------------------------------------------

    def start_service(self) -> ChildService:
        """One more service on the same server; not ready yet."""
        models, model, workers, lease_s = self._serving
        flags = ["--redis", self.url, "--models", str(models), "--only", model, "--workers", str(workers)]
        flags += ["--lease", f"{lease_s:g}", "--result-ttl", str(RESULT_TTL_S), "--device", "cpu"]
        service = ChildService(*flags)
        self._services.append(service)
        return service

    def dismiss(self, service: ChildService) -> int:
        """Wait for the end of a service that was told to go, and return its exit status."""
        self._services.remove(service)
        return service.wait()

    def remove(self, service: ChildService) -> None:
        """Kill a service as a whole."""
        self._services.remove(service)
        service.kill()

    # -- end ------------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Stop everything and remove the folder. Twice does no harm."""
        for service in self._services:
            service.leave()
        while self._services:
            self._services.pop().wait()
        if hasattr(self, "_server"):
            self._server.stop()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


def children_of(pid: int) -> list[int]:
    """Process ids of the living children of a process."""
    if sys.platform == "linux":
        rows = [row for row in map(_stat, Path("/proc").glob("[0-9]*/stat")) if row is not None]
    else:
        command = ["ps", "-A", "-o", "pid=,stat=,ppid="]
        listing = subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout
        rows = [(int(one), state, int(parent)) for one, state, parent in map(str.split, listing.splitlines())]
    return sorted(child for child, state, parent in rows if parent == pid and not state.startswith("Z"))


def _stat(file: Path) -> tuple[int, str, int] | None:
    """Process id, state and parent from /proc/PID/stat; None where the process ended while we looked."""
    try:
        state, parent, *_ = file.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return int(file.parent.name), state, int(parent)
