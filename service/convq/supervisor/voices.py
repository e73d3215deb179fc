"""What workers write to standard error, read by their supervisor: lines of their log, and whatever libraries print.

So one process alone writes to the log, no worker waits for whoever reads that, and the last words of one that crashed are
not lost with it.
"""

from __future__ import annotations

import logging
import os
import time
from typing import IO

from convq import logs
from convq.logs import Limit, event
from convq.outlet import LAST_WORDS_S
from convq.threads import Watch

log = logging.getLogger("convq.worker")

MOST_BYTES = 1 << 20
"""Of one line; a longer one is several."""
RAW_LINES_PER_S = 20
"""Of what libraries print; more is left out."""


def new_mark() -> str:
    """What a worker's log lines begin with. Nobody can guess it: what a model makes a library print is no log line."""
    return f"\x1e{os.urandom(8).hex()} "


class Voice:
    """Passes on what one worker process writes, until it is gone."""

    def __init__(self, worker: int, pid: int, written: IO[bytes], mark: str, watch: Watch) -> None:
        self._facts = {"worker": worker, "pid": pid}
        self._written = written
        self._mark = mark.encode()
        self._limit = Limit(RAW_LINES_PER_S)
        self._left_out = 0
        self._thread = watch.start(f"voice-{worker}", self._run)

    def wait(self, deadline_s: float) -> None:
        """Until all that it wrote is passed on, or `time.monotonic` says `deadline_s`."""
        self._thread.join(max(0.0, deadline_s - time.monotonic()))

    @property
    def is_over(self) -> bool:
        """Whether the process is gone and all is passed on."""
        return not self._thread.is_alive()

    def _run(self) -> None:
        with self._written:
            for line in iter(lambda: self._written.readline(MOST_BYTES), b""):
                self._take(line)
        self._say_left_out()

    def _take(self, line: bytes) -> None:
        before, mark, rest = line.partition(self._mark)
        if before.strip():  # a library's words without a line feed, perhaps
            self._take_raw(before.decode(errors="replace").strip())
        if mark and rest.startswith(b"!"):
            logs.note_dropped(int(rest[1:]), **self._facts)
        elif mark:
            logs.forward(rest)

    def _take_raw(self, text: str) -> None:
        if self._limit.take():
            self._say_left_out()
            event(log, logging.WARNING, "a library wrote", text=text, **self._facts)
        else:
            self._left_out += 1

    def _say_left_out(self) -> None:
        left_out, self._left_out = self._left_out, 0
        if left_out:
            event(log, logging.WARNING, "and more lines that libraries wrote", lines=left_out, **self._facts)


class Voices:
    """Those of all workers of a service."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._all: list[Voice] = []

    def hear(self, worker: int, pid: int, written: IO[bytes], mark: str) -> None:
        """Listen to one more."""
        self._all = [voice for voice in self._all if not voice.is_over]
        self._all.append(Voice(worker, pid, written, mark, self._watch))

    def wait(self) -> None:
        """A moment, for what workers wrote before they ended."""
        deadline_s = time.monotonic() + LAST_WORDS_S
        for voice in self._all:
            voice.wait(deadline_s)
