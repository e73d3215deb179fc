"""What the faults are done to: one server that keeps its data, one service, and a guest from time to time.

Everything that is started here ends with this process, and nothing is written outside a temporary folder.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from convq.embedded import EmbeddedServer, Fsync
from convq.errors import RedisUnavailable, ServiceFailed
from convq.settings import VARIABLES

READY_WITHIN_S = 60.0
STOP_WITHIN_S = 30.0
SERVER_WITHIN_S = 20.0
RESULT_TTL_S = 86_400
"""Answers of a run must not run out before they are counted."""
POLL_S = 0.01

T = TypeVar("T")

# Runs the service so that it ends when this process does, even by SIGKILL; elsewhere than on Linux only in good order.
_LAUNCH = """
import os, sys
if sys.platform == "linux":
    import ctypes, signal
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


def wait_for(condition: Callable[[], T], within_s: float) -> T | None:
    """The first true answer of `condition`; None after `within_s` seconds."""
    give_up_at = time.monotonic() + within_s
    while not (answer := condition()):
        if time.monotonic() > give_up_at:
            return None
        time.sleep(POLL_S)
    return answer


class Service:
    """`convq serve` as a child. Start it from the main thread: Linux ends it when the thread that started it ends."""

    def __init__(self, url: str, models: Path, model: str, workers: int, lease_s: float) -> None:
        flags = ["--redis", url, "--models", str(models), "--only", model, "--workers", str(workers)]
        flags += ["--lease", f"{lease_s:g}", "--result-ttl", str(RESULT_TTL_S), "--device", "cpu"]
        flags += ["--http", "127.0.0.1:0", "--log", "json"]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()), "-m", "convq", "serve", *flags],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            # Settings of this user's environment are left out: a run is the same everywhere.
            env={name: value for name, value in os.environ.items() if name not in VARIABLES},
            start_new_session=True,  # Ctrl-C must reach us first: we stop things in order
        )
        self._ready = threading.Event()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self.last_words = "it said nothing"

    @property
    def is_ready(self) -> bool:
        """Whether all its workers have asked for jobs."""
        return self._ready.is_set()

    def status(self) -> int | None:
        """How it ended; None while it runs."""
        return self._process.poll()

    def workers(self) -> list[int]:
        """Process ids of its living workers."""
        return children_of(self._process.pid)

    def kill(self) -> None:
        """SIGKILL the supervisor; its workers end with it."""
        self._process.kill()
        self._forget()

    def leave(self) -> None:
        """SIGTERM; `wait` for the end."""
        self._process.terminate()

    def wait(self) -> int:
        """Its exit status. One that does not end in time is killed, and that is its status."""
        try:
            self._process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._forget()
        return self._process.returncode

    def _forget(self) -> None:
        self._process.wait()
        self._listener.join(timeout=5.0)
        if self._process.stderr is not None and not self._listener.is_alive():
            self._process.stderr.close()

    def _listen(self) -> None:
        """Read its log to the end, so that it never blocks on a full pipe."""
        assert self._process.stderr is not None  # noqa: S101 - by PIPE above
        for line in self._process.stderr:
            try:
                entry: dict[str, Any] = json.loads(line)
            except ValueError:
                entry = {"message": line.strip().removeprefix("convq: ")}
            self.last_words = str(entry.get("message")) or self.last_words
            if entry.get("message") == "ready":
                self._ready.set()


class Stage:
    """The server and the service of one run, from `with` to the end of all of them."""

    def __init__(self, models: Path, model: str, *, workers: int, lease_s: float, fsync: Fsync) -> None:
        self._serving = (models, model, workers, lease_s)
        self._fsync: Fsync = fsync
        self._folder = tempfile.TemporaryDirectory(prefix="convq-chaos-", ignore_cleanup_errors=True)
        self._services: list[Service] = []
        try:
            self._server = self._start_server(0)
            self.port = self._server.port or 0
            self.version = self._server.version
            self.service = self.start_service()
        except BaseException:
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

    def start_service(self) -> Service:
        """One more service on the same server; not ready yet."""
        models, model, workers, lease_s = self._serving
        service = Service(self.url, models, model, workers, lease_s)
        self._services.append(service)
        return service

    def wait_ready(self) -> None:
        """Until the service's workers ask for jobs. Raises ServiceFailed with the last thing that it said."""
        service = self.service
        wait_for(lambda: service.is_ready or service.status() is not None, READY_WITHIN_S)
        if not service.is_ready:
            raise ServiceFailed(f"the service did not start: {service.last_words}")

    def dismiss(self, service: Service) -> int:
        """Wait for the end of a service that was told to go, and return its exit status."""
        self._services.remove(service)
        return service.wait()

    def remove(self, service: Service) -> None:
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
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        rows = [(int(one), state, int(parent)) for one, state, parent in map(str.split, listing.splitlines())]
    return sorted(child for child, state, parent in rows if parent == pid and not state.startswith("Z"))


def _stat(file: Path) -> tuple[int, str, int] | None:
    """Process id, state and parent from /proc/PID/stat; None where the process ended while we looked."""
    try:
        state, parent, *_ = file.read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return int(file.parent.name), state, int(parent)
