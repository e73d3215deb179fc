"""Where lines go that must not hold up whoever writes them: a log, a report. `put` never waits.

A pipe may be full because nobody reads it, a terminal may be stopped, a disk full, a reader gone. What cannot be taken is
dropped and counted, and when lines flow again, the count stands where they are missing. The order is kept.
"""

from __future__ import annotations

import os
import select
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

MOST_BYTES = 1 << 20
"""Of lines that wait: a few thousand."""
LAST_WORDS_S = 1.0
"""How long the end of a process waits for somebody to read its last lines."""


class Outlet:
    """Lines on their way to a descriptor, which is written to by one thread. Any thread may `put`.

    Where the descriptor does not block, `put` writes at once as long as nothing waits: what a process says just before
    it crashes is then out. `notice` makes the line that says how many were dropped.
    """

    def __init__(self, descriptor: int, notice: Callable[[int], bytes], most_bytes: int = MOST_BYTES) -> None:
        self._descriptor = descriptor
        self._notice = notice
        self._most_bytes = most_bytes
        self._lines: deque[tuple[bytes, int]] = deque()
        """Each with the number of those that were dropped just before it."""
        self._bytes = 0
        self._unsaid = 0
        """Dropped since the last line that was taken."""
        self._writing = self._broken = self._failing = False
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None
        self.dropped = 0
        """Lines, since the beginning."""

    def put(self, line: bytes) -> None:
        """Take a line, its line feed included; drop it where too many wait."""
        with self._change:
            if not self._lines and not self._writing and not self._unsaid and not self._failing:
                line = self._write_at_once(line)
                if not line:
                    return
            if self._bytes + len(line) > self._most_bytes and self._lines:
                self._drop(1)
                return
            self._lines.append((line, self._unsaid))
            self._bytes += len(line)
            self._unsaid = 0
            if self._thread is None:
                self._start()
            self._change.notify_all()

    @property
    def is_served(self) -> bool:
        """Whether a thread writes what waits; there is none where the system lets us have no more."""
        return self._thread is not None or not self._lines

    def flush(self, within_s: float = LAST_WORDS_S) -> bool:
        """Wait until all is written, for so many seconds at most; whether it is."""
        with self._change:
            return self._change.wait_for(lambda: not self._lines and not self._writing, within_s)

    # -- with the lock held ---------------------------------------------------------------------------------------

    def _start(self) -> None:
        """The thread; where the system lets us have no more, the next line tries again."""
        thread = threading.Thread(target=self._run, name="outlet", daemon=True)
        with suppress(RuntimeError):
            thread.start()
            self._thread = thread

    def _drop(self, lines: int) -> None:
        self.dropped += lines
        self._unsaid += lines

    def _write_at_once(self, line: bytes) -> bytes:
        """What is left of the line after one attempt; all of it where the descriptor could block."""
        with suppress(OSError):
            if not os.get_blocking(self._descriptor):
                return line[os.write(self._descriptor, line) :]
        return line

    # -- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._change:
                while not self._lines:
                    if self._unsaid and not self._failing:  # nothing follows that could say it
                        self._lines.append((b"", self._unsaid))
                        self._unsaid = 0
                        break
                    self._change.wait()
                line, missing = self._lines.popleft()
                self._bytes -= len(line)
                self._writing = True
            self._failing = not self._deliver(line, missing)
            with self._change:
                if self._failing:
                    self.dropped += bool(line)
                    # These are missing before the next line, whichever that is.
                    lost = missing + bool(line)
                    if self._lines:
                        following, gap = self._lines[0]
                        self._lines[0] = (following, gap + lost)
                    else:
                        self._unsaid += lost
                self._writing = False
                self._change.notify_all()

    def _deliver(self, line: bytes, missing: int) -> bool:
        try:
            return self._write((self._notice(missing) if missing else b"") + line)
        except Exception:  # noqa: BLE001 - who should hear of a defect of this thread? The count goes on, and so does it
            return False

    def _write(self, lines: bytes) -> bool:
        """Write all of it, however long that takes. False where that is not possible now: no space, no reader."""
        left = memoryview(b"\n" + lines if self._broken else lines)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
                self._broken = False
            except BlockingIOError:
                _wait_writable(self._descriptor)
            except OSError:
                self._broken = self._broken or 0 < len(left) < len(lines)
                return False
        return True


def _wait_writable(descriptor: int) -> None:
    """Until the descriptor takes more, or a second has passed."""
    waiting = select.poll()
    waiting.register(descriptor, select.POLLOUT)
    waiting.poll(1000)


def say(text: str, within_s: float = LAST_WORDS_S) -> None:
    """Write a line to standard error, waiting for so many seconds at most for somebody to read what is before it."""
    stream = sys.stderr
    if stream is None:
        return
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # a test, or a program that runs us, has put something else in its place
        stream.write(text + "\n")
        return
    with suppress(OSError, ValueError):
        stream.flush()
    outlet = Outlet(descriptor, lambda _: b"")
    line = f"{text}\n".encode(stream.encoding or "utf-8", "backslashreplace")
    outlet.put(line)
    if outlet.is_served:
        outlet.flush(within_s)
    else:  # better to wait for a reader than to end without a word
        with suppress(OSError):
            os.write(descriptor, line)
