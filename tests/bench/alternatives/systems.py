"""The systems as processes: how each is started, which of its processes is a worker, and how it is killed.

Each is started as its documentation says, with as many workers as the others, on the same server where it needs one.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convq.embedded import EmbeddedServer
from convq.host.death_signal import ending_with_us

HERE = Path(__file__).resolve().parent
READY_WITHIN_S = 60.0
STOP_WITHIN_S = 15.0
MARKS = {"convq": "convq.worker.process", "celery": "celery", "mosec": "spawn_main"}
"""What the command line of a worker holds."""


@dataclass
class Service:
    """One running service: `address` is where its clients turn to."""

    name: str
    address: str
    process: subprocess.Popen[bytes]
    workers: int

    def worker_pids(self) -> list[int]:
        """The processes that run the network."""
        return [pid for pid in _children(self.process.pid) if MARKS[self.name] in _command(pid)]

    def pids(self) -> list[int]:
        """All its processes."""
        return [self.process.pid, *_children(self.process.pid)]

    def is_whole(self) -> bool:
        """Whether it has all its workers."""
        return len(self.worker_pids()) == self.workers

    def kill_worker(self) -> None:
        """kill -9 of one."""
        os.kill(self.worker_pids()[0], signal.SIGKILL)

    def kill(self) -> None:
        """kill -9 of the service and its workers at once. Not quite a machine that is gone: convq sees that on its own one."""
        for pid in self.pids():
            os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL for what does not end."""
        self.process.terminate()
        try:
            self.process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.kill()
            self.process.wait()


class Place:
    """Where the systems run: one server, one environment for the alternatives, one folder for their files."""

    def __init__(self, stack: ExitStack, server: EmbeddedServer, python: Path, folder: Path) -> None:
        self._stack = stack
        self._server = server.url
        self.server_pid = server.pid
        self._python = str(python)
        self._folder = folder
        self._started = 0

    def start(self, name: str, workers: int) -> Service:
        """A service that is ready, or at least listens."""
        self._started += 1
        mark = self._folder / f"{name}-{self._started}.ready"
        address, command = self._command(name, workers, mark)
        variables = {
            "ALTERNATIVES_REDIS": address,
            "ALTERNATIVES_READY": str(mark),
            "ALTERNATIVES_WORKERS": str(workers),
            "PYTHONPATH": str(HERE),
        }
        with mark.with_suffix(".log").open("wb") as log:
            process = subprocess.Popen(
                ending_with_us(command), env=os.environ | variables, stdout=log, stderr=log, cwd=self._folder
            )
        service = Service(name, address, process, workers)
        self._stack.callback(service.stop)
        wait(
            lambda: (mark.exists() or _listens(address)) and service.is_whole(),
            f"{name} to start, see {mark.with_suffix('.log')}",
        )
        return service

    def call(self, name: str, address: str) -> Call:
        """A caller of that system, in the environment that has its client."""
        python = sys.executable if name == "convq" else self._python
        call = Call([python, str(HERE / "caller.py"), name, address], self._folder)
        self._stack.callback(call.stop)
        return call

    def _command(self, name: str, workers: int, mark: Path) -> tuple[str, list[str]]:
        """Address and command of a new service."""
        if name == "convq":
            command = [sys.executable, "-m", "convq", "serve", "--redis", self._server, "--workers", str(workers)]
            command += ["--only", "lenet", "--http", "127.0.0.1:0", "--log", "json", "--ready-file", str(mark)]
            return self._server, command
        if name == "celery":
            command = [self._python, "-m", "celery", "-A", "celery_tasks", "worker", "--concurrency", str(workers)]
            return _other_database(self._server), [*command, "--hostname", f"worker{self._started}@%h"]
        port = _free_port()
        command = [self._python, str(HERE / "mosec_server.py"), "--address", "127.0.0.1", "--port", str(port)]
        return f"127.0.0.1:{port}", [*command, "--path", str(self._folder / f"mosec-{self._started}")]


class Call:
    """One caller: a process that carries out orders."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self._process = subprocess.Popen(
            ending_with_us(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder
        )
        self._hear()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def order(self, do: str, **parameters: float) -> dict[str, Any]:
        """What it found out."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **parameters}) + "\n")
        self._process.stdin.flush()
        return self._hear()

    def survive(self, kill: Callable[[], None], **parameters: float) -> dict[str, Any]:
        """What became of its jobs, when it was killed after so many of them."""
        killed_after = self.order("survive", **parameters)["kill"]
        kill()
        return {"answered_before": killed_after, **self._hear()}

    def stop(self) -> None:
        """The end of its orders is its end."""
        self._process.kill()
        self._process.communicate()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"a caller ended: {self._process.args!r}"
        document: dict[str, Any] = json.loads(line)
        return document


def wait(condition: Callable[[], bool], what: str) -> None:
    """Until it holds."""
    deadline_s = time.monotonic() + READY_WITHIN_S
    while not condition():
        assert time.monotonic() < deadline_s, f"waited {READY_WITHIN_S:g} s for {what}"
        time.sleep(0.05)


def cpu_s(pids: Iterable[int]) -> float:
    """Processor time that these processes have taken, in user and kernel."""
    stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(stat[11]) + int(stat[12]) for stat in stats) / os.sysconf("SC_CLK_TCK")


def _children(pid: int) -> list[int]:
    """Those of a process and theirs, on Linux."""
    try:
        texts = [file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []
    found = [int(child) for text in texts for child in text.split()]
    return found + [pid for child in found for pid in _children(child)]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(address: str) -> bool:
    """Whether someone does at host:port; a server's URL is none."""
    host, _, port = address.partition(":")
    if not port.isdecimal():
        return False
    with closing(socket.socket()) as probe:
        return probe.connect_ex((host, int(port))) == 0


def _other_database(url: str) -> str:
    """The server's database 1: convq has 0."""
    return url.removesuffix("/0") + "/1"
