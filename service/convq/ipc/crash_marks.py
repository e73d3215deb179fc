"""Who is inside native code and since when, kept where it survives a crash; and the gate that lets a suspect in alone.

A decoder or a network can kill its process, or never come back. What it was working on at that moment stands in the
shared memory of the board, so the supervisor can accuse exactly those jobs. A job that was accused runs alone the next
time, and only what happens then can condemn it: in company it may have been another's fault.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

CRASH_POINTS = 3
"""A worker that ended by a signal of its own native code, or hung: this much suspicion for each job that it was working on."""
KILL_POINTS = 1
"""SIGKILL comes from outside (an operator, an orchestrator) or from the kernel when memory runs out: a third."""
GREEDY_POINTS, GREEDY_BYTES = 2, 256 << 20
"""Unless the worker had grown by so much meanwhile: then it probably was the memory, and counts twice."""
COMPANY_POINTS = 3
"""The most that deaths in company add up to: they make a job run alone, and condemn nobody. `release.lua` counts so."""
POISON_POINTS = 6
"""A crash in company and one alone, three kills for memory, two of them alone, or six kills, five of them alone: this job is
not run again. With four points, one innocent of a thousand random kills was condemned."""
SLOW_DECODES = 2
"""So often a job may be over the time that its decoding has, before it is not decoded again. No company can be taken for
that: the mark has one name and its own clock."""
ALONE_FROM_ATTEMPT = 3
"""Where nobody lived to accuse (host and supervisor died too), deliveries make a job run alone. They condemn nobody."""


def is_condemned(suspicion: int, slow: int) -> bool:
    """Whether a job with so many points, decoded over its time so often, is not run again.

    More than `COMPANY_POINTS` come from deaths alone only: nobody is condemned who did not run alone and die.
    """
    return suspicion >= POISON_POINTS or slow >= SLOW_DECODES


def runs_alone(suspicion: int, attempt: int) -> bool:
    """Whether a job is run with nobody else in the native code of its process."""
    return suspicion > 0 or attempt >= ALONE_FROM_ATTEMPT


def stays_unread(suspicion: int, slow: int, attempt: int) -> bool:
    """Whether the payload of a job is not read before it runs alone, or not at all: reading it may be what kills."""
    return is_condemned(suspicion, slow) or (runs_alone(suspicion, attempt) and not slow)


def listed(jobs: Iterable[str]) -> bytes:
    """The names of jobs, as `CrashMark.set` takes them."""
    return " ".join(jobs).encode()


class CrashMark:
    """The jobs that one thread's native code works on, as lane:entry, and since when, in a piece of shared memory.

    One thread sets and clears it. The memory begins at a multiple of 8 bytes: the moment, the length, which thread, the names.
    """

    HEAD_BYTES = 24
    _SINCE, _LENGTH = struct.Struct("<d"), struct.Struct("<q")

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._room = len(memory) - self.HEAD_BYTES

    def set(self, names: bytes) -> None:
        """Write who is in there from now on. More than there is room for are left out: `ALONE_FROM_ATTEMPT` is for them."""
        if len(names) > self._room:
            names = names[: self._room + 1].rpartition(b" ")[0]
        self._LENGTH.pack_into(self._memory, 8, 0)
        self._memory[self.HEAD_BYTES : self.HEAD_BYTES + len(names)] = names
        self._LENGTH.pack_into(self._memory, 8, len(names))
        self._LENGTH.pack_into(self._memory, 16, threading.get_native_id())
        self._SINCE.pack_into(self._memory, 0, time.monotonic())

    def clear(self) -> None:
        """Nobody is in there."""
        self._SINCE.pack_into(self._memory, 0, 0.0)
        self._LENGTH.pack_into(self._memory, 8, 0)

    @property
    def since_s(self) -> float:
        """When it was set, by `time.monotonic`; 0 while nobody is in there."""
        return float(self._SINCE.unpack_from(self._memory, 0)[0])

    @property
    def thread(self) -> int:
        """The kernel's number of the thread that set it."""
        return int(self._LENGTH.unpack_from(self._memory, 16)[0])

    def read(self) -> list[str]:
        """Who was in there when the writer died."""
        length = self._LENGTH.unpack_from(self._memory, 8)[0]
        return bytes(self._memory[self.HEAD_BYTES : self.HEAD_BYTES + length]).decode().split()


class Gate:
    """The native code of one process: open to all its threads, or to one alone.

    Whoever wants to be alone `ask`s first. From then on no expensive picture is begun, and all else goes on; once `is_calm`,
    `alone` has little to wait for.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._slow = False
        self._asking: set[object] = set()
        self._closed = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Inside together with others."""
        with self._changed:
            self._changed.wait_for(lambda: not self._closed)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                if self._closed:
                    self._changed.notify_all()

    @contextmanager
    def slowly(self) -> Iterator[None]:
        """Inside together with others, for long: one at a time, and not while somebody asks to be alone."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._closed or self._slow or self._asking))
            self._inside += 1
            self._slow = True
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._slow = False
                self._changed.notify_all()

    def ask(self, who: object) -> None:
        """Somebody wants to be alone soon."""
        with self._changed:
            self._asking.add(who)

    def withdraw(self, who: object) -> None:
        """They do not any more."""
        with self._changed:
            self._asking.discard(who)
            self._changed.notify_all()

    @property
    def is_calm(self) -> bool:
        """Whether nobody is inside for long."""
        return not self._slow

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside with nobody else; waits for all who are inside, and lets nobody in meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: not self._closed)
            self._closed = True
            self._changed.wait_for(lambda: not self._inside)
        try:
            yield
        finally:
            with self._changed:
                self._closed = False
                self._changed.notify_all()
