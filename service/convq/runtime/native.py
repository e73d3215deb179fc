"""Who is inside native code: kept where it survives a crash, and, for suspects, one at a time.

A decoder or a network can kill its process. What it was working on at that moment stands in the shared memory of the
board, so the supervisor can accuse exactly those jobs. A job that was accused runs alone the next time: alone in its
batch, and alone in the native code of the whole process, so that a second death accuses nobody else.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

LENGTH_BYTES = 4

CRASH_POINTS = 3
"""A worker that ended by a signal of its own native code, or hung: this much suspicion for each job that it was working on."""
KILL_POINTS = 1
"""SIGKILL comes from outside (an operator, an orchestrator) or from the kernel when memory runs out: a third."""
POISON_POINTS = 6
"""Two crashes, or six kills: this job is not run again. With four, one innocent of a million was condemned by random kills."""
ALONE_FROM_ATTEMPT = 3
"""Where nobody lived to accuse (host and supervisor died too), the number of deliveries is what is left to go by."""
POISON_FROM_ATTEMPT = 10


class Mark:
    """The jobs that one thread's native code works on, as lane:entry, in a piece of shared memory."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._room = len(memory) - LENGTH_BYTES

    def set(self, jobs: Iterable[str]) -> None:
        """Write who is in there now. More than there is room for are left out: `ALONE_FROM_ATTEMPT` is for them."""
        text = " ".join(jobs).encode()
        if len(text) > self._room:
            text = text[: self._room].rpartition(b" ")[0]
        self.clear()
        self._memory[LENGTH_BYTES : LENGTH_BYTES + len(text)] = text
        self._memory[:LENGTH_BYTES] = len(text).to_bytes(LENGTH_BYTES, "little")

    def clear(self) -> None:
        """Nobody is in there."""
        self._memory[:LENGTH_BYTES] = bytes(LENGTH_BYTES)

    def read(self) -> list[str]:
        """Who was in there when the writer died."""
        length = int.from_bytes(self._memory[:LENGTH_BYTES], "little")
        return bytes(self._memory[LENGTH_BYTES : LENGTH_BYTES + length]).decode().split()


class Gate:
    """The native code of one process: open to all its threads, or to one alone. A thread that waits to be alone goes first."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._waiting_alone = 0
        self._alone = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Inside together with others."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone and not self._waiting_alone)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                if self._waiting_alone:
                    self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside with nobody else."""
        with self._changed:
            self._waiting_alone += 1
            self._changed.wait_for(lambda: not self._alone and not self._inside)
            self._waiting_alone -= 1
            self._alone = True
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()
