"""`convq serve` as a child of this process: for the demonstration and the trial of faults, which both need a whole service.

Knows nothing of queues: it starts a program, reads what that says on standard error, and takes it along when we die.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from types import TracebackType
from typing import Any, Self

from convq.errors import ServiceFailed
from convq.host.death_signal import ending_with_us
from convq.interpreter import child_environment, python

READY_WITHIN_S = 60.0
STOP_WITHIN_S = 30.0
LOG_PIPE_BYTES = 4096
"""The least that Linux has: so that a log that nobody reads is soon full."""


class ChildService:
    """One `convq serve`; leaving a `with` block drains and ends it. `flags` are those of the command.

    Start it from the main thread: Linux ends it when the thread that started it ends. Settings of this user's
    environment are left out, so that it is the same everywhere.
    """

    def __init__(self, *flags: str) -> None:
        command = [*flags, "--http", "127.0.0.1:0", "--log", "json"]
        self._process = subprocess.Popen(
            ending_with_us(python("convq", "serve", *command)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=child_environment(),
            start_new_session=True,  # Ctrl-C must reach us first: we stop things in order
            pipesize=LOG_PIPE_BYTES,
        )
        self._began_s = time.monotonic()
        self._told = threading.Event()
        self._reading = threading.Event()
        self._reading.set()
        self._facts: dict[str, Any] = {}
        self.last_words = "it said nothing"
        self.ready_s = 0.0
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def is_ready(self) -> bool:
        """Whether all its workers have asked for jobs."""
        return bool(self._facts)

    @property
    def workers(self) -> int:
        """How many workers it said that it has. 0 before it is ready."""
        return int(self._facts.get("workers", 0))

    @property
    def metrics_url(self) -> str:
        """Where its metrics are, once it is ready."""
        return f"{self._facts['http']}/metrics"

    def status(self) -> int | None:
        """How it ended; None while it runs."""
        return self._process.poll()

    def wait_ready(self) -> None:
        """Until its workers ask for jobs. Raises ServiceFailed with the last thing that it said."""
        if not self._told.wait(READY_WITHIN_S) or not self.is_ready:
            raise ServiceFailed(f"the service did not start: {self.last_words}")

    def read_log(self, reading: bool) -> None:
        """Whether its log is read from now on. Where not, it must go on all the same."""
        if reading:
            self._reading.set()
        else:
            self._reading.clear()

    def leave(self) -> None:
        """SIGTERM; `wait` for the end."""
        self._process.terminate()

    def kill(self) -> None:
        """SIGKILL the supervisor; its workers see the end of their input and leave."""
        self._process.kill()
        self._forget()

    def wait(self) -> int:
        """Its exit status. One that does not end in time is killed, and that is its status."""
        try:
            self._process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._forget()
        return self._process.returncode

    def check_end(self) -> None:
        """Raise ServiceFailed where the drain did not end well."""
        if status := self.wait():
            raise ServiceFailed(f"the service ended with {status}: {self.last_words}")

    def _forget(self) -> None:
        self._reading.set()
        self._process.wait()
        self._listener.join(timeout=5.0)
        if self._process.stderr is not None and not self._listener.is_alive():
            self._process.stderr.close()

    def _listen(self) -> None:
        """Read its log to the end, and at the pace of whoever asked us to stop reading."""
        assert self._process.stderr is not None  # noqa: S101 - by PIPE above
        for line in self._process.stderr:
            self._reading.wait()
            try:
                entry: dict[str, Any] = json.loads(line)
            except ValueError:
                entry = {"message": line.strip().removeprefix("convq: ")}
            self.last_words = str(entry.get("message")) or self.last_words
            if entry.get("message") == "ready":
                self._facts, self.ready_s = entry, time.monotonic() - self._began_s
                self._told.set()
        self._told.set()  # it ended: nobody needs to wait any longer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()
        self.wait()
