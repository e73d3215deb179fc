"""A terminal that shows one frame after the other: its own screen, keys as they are pressed, another size when it has one."""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Self

from convq.cli.display.frames import Line
from convq.cli.display.output import write_terminal

_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l\x1b[2J", "\x1b[?25h\x1b[?1049l"
_STYLES = {"bold": "1", "red": "31", "dim": "2"}
_RESET = "\x1b[0m"


def terminal_size() -> tuple[int, int]:
    """Columns and rows of standard output at this moment."""
    with suppress(OSError):
        columns, rows = os.get_terminal_size(sys.stdout.fileno())
        if columns and rows:
            return columns, rows
    return shutil.get_terminal_size()


class Screen:
    """From `with` to its end. A dumb terminal gets the frames one below the other."""

    def __init__(self) -> None:
        self.is_dumb = os.environ.get("TERM", "dumb") in ("", "dumb", "unknown")
        self._plain = self.is_dumb or bool(os.environ.get("NO_COLOR"))
        self._keys: int | None = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
        self._modes: list[Any] | None = None
        self._handlers: dict[int, Any] = {}
        self._woken, self._waker = os.pipe()
        os.set_blocking(self._waker, False)

    def draw(self, lines: Iterable[Line]) -> None:
        """Show a frame in the place of the last one."""
        texts = [line.text if self._plain or not line.style else self._styled(line) for line in lines]
        if self.is_dumb:
            write_terminal("\n".join([*texts, "", ""]))
        else:
            write_terminal("\x1b[H" + "\r\n".join(f"{text}\x1b[K" for text in texts) + "\x1b[J")

    def wait(self, timeout_s: float) -> str:
        """The key that was pressed within this time; empty where none was, or the terminal has another size."""
        sources = [self._woken] if self._keys is None else [self._woken, self._keys]
        ready, _, _ = select.select(sources, [], [], max(0.0, timeout_s))
        if self._woken in ready:
            os.read(self._woken, 4096)
        if self._keys is None or self._keys not in ready:
            return ""
        pressed = os.read(self._keys, 64)
        if not pressed:
            self._keys = None  # its end
        return pressed.decode("ascii", "replace")

    def __enter__(self) -> Self:
        for number, handler in (
            (signal.SIGWINCH, self._wake),
            (signal.SIGTSTP, self._suspend),
            (signal.SIGCONT, self._resume),
        ):
            self._handlers[number] = signal.signal(number, handler)
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._close()
        os.close(self._woken)
        os.close(self._waker)

    def _styled(self, line: Line) -> str:
        return f"\x1b[{_STYLES[line.style]}m{line.text}{_RESET}"

    def _open(self) -> None:
        if self._keys is not None:
            import termios  # noqa: PLC0415 - for terminals alone
            import tty  # noqa: PLC0415

            self._modes = termios.tcgetattr(self._keys)
            tty.setcbreak(self._keys)
        if not self.is_dumb:
            write_terminal(_ENTER)

    def _close(self) -> None:
        with suppress(OSError):
            write_terminal("" if self.is_dumb else _LEAVE)
        if self._modes is not None and self._keys is not None:
            import termios  # noqa: PLC0415

            with suppress(termios.error):
                termios.tcsetattr(self._keys, termios.TCSADRAIN, self._modes)

    def _wake(self, _number: int, _frame: FrameType | None) -> None:
        with suppress(OSError):
            os.write(self._waker, b"!")

    def _suspend(self, _number: int, _frame: FrameType | None) -> None:
        """Ctrl-Z: the shell gets its terminal as it was."""
        self._close()
        os.kill(os.getpid(), signal.SIGSTOP)

    def _resume(self, number: int, frame: FrameType | None) -> None:
        self._open()
        self._wake(number, frame)
