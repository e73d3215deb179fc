"""Log lines: one event each, aligned for people or JSON for machines. Never a payload, never a secret.

What stands in a line may come from a client: a line is one line whatever it holds, and of bounded length. And whoever
writes one never waits: see `outlet`.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from types import TracebackType
from typing import Any, Literal

from convq.masking import masked
from convq.outlet import LAST_WORDS_S, Outlet
from convq.printable import printable, printable_lines, strict_json

Form = Literal["auto", "console", "json"]

_LEVELS = {"DEBUG": "·", "INFO": " ", "WARNING": "!", "ERROR": "✗", "CRITICAL": "✗"}

MAX_CHARACTERS = 1000
"""Of a message or of one fact; what is longer is cut off."""
MAX_TRACEBACK_CHARACTERS = 20_000


class Limit:
    """At most `most` lines a second: a second begins with the first line after the last one."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._left = most
        self._until_s = 0.0

    def take(self) -> bool:
        """Whether one more may be written now."""
        now_s = time.monotonic()
        if now_s >= self._until_s:
            self._left, self._until_s = self._most, now_s + 1.0
        self._left -= 1
        return self._left >= 0


def event(logger: logging.Logger, level: int, message: str, **facts: Any) -> None:
    """Log a sentence with its facts (job ids, models, counts) as fields of their own."""
    if logger.isEnabledFor(level):
        logger.log(level, message, extra={"facts": facts})


def defect(logger: logging.Logger, message: str, error: BaseException | None, **facts: Any) -> None:
    """Log what should not have happened, with its traceback."""
    logger.error(message, exc_info=error, extra={"facts": facts})


def _bounded(text: str, most: int = MAX_CHARACTERS) -> str:
    """The text without passwords, and not longer than `most` characters."""
    shown = masked(text)
    return shown if len(shown) <= most else f"{shown[:most]}… ({len(text):,} characters)"


def _plain(value: Any) -> Any:
    """A fact as JSON can hold it."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {_bounded(str(name)): _plain(one) for name, one in value.items()}
    return _bounded(str(value))


class _Form(logging.Formatter):
    """What both forms share: the message, the facts of the process and of the event, the traceback."""

    def __init__(self, process: dict[str, Any]) -> None:
        super().__init__()
        self._process = process
        self._own_pid = ("pid", os.getpid())

    def message(self, record: logging.LogRecord) -> str:
        """The sentence."""
        return _bounded(record.getMessage())

    def facts(self, record: logging.LogRecord) -> dict[str, Any]:
        """The fields of the event; those of this process stand in for what the event does not say."""
        return self._process | {name: _plain(value) for name, value in getattr(record, "facts", {}).items()}

    def traceback(self, record: logging.LogRecord) -> str:
        """The traceback, empty where there is none."""
        if not record.exc_info or record.exc_info[0] is None:
            return ""
        return _bounded(self.formatException(record.exc_info), MAX_TRACEBACK_CHARACTERS)


class _Console(_Form):
    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        said = [(name, value) for name, value in self.facts(record).items() if (name, value) != self._own_pid]
        facts = "  ".join(f"{name}={value}" for name, value in said)
        text = f"{printable(self.message(record)):<48} {printable(facts)}"
        line = f"{clock}.{int(record.msecs):03d} {_LEVELS.get(record.levelname, ' ')} {text}".rstrip()
        # Indented, so that nothing in an exception's message can pass for a line of the log.
        return "\n    ".join([line, *map(printable, self.traceback(record).splitlines())])


class _Json(_Form):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self.message(record),
            **self.facts(record),
        }
        if traceback := self.traceback(record):
            line["traceback"] = traceback
        return strict_json(line)  # ASCII: no separator of Unicode, no lone surrogate, no terminal can break it


class _Handler(logging.Handler):
    """Puts lines into an outlet, each behind the mark of this process where it has one."""

    def __init__(self, outlet: Outlet, encoding: str, mark: bytes) -> None:
        super().__init__()
        self.outlet = outlet
        self._encoding = encoding
        self._mark = mark

    def emit(self, record: logging.LogRecord) -> None:
        """Hand on one line; a traceback on a console is several, and each bears the mark."""
        try:
            text = self.format(record)
        except Exception:  # noqa: BLE001 - a line that cannot be made must not end who wanted to say it
            record.msg, record.args, record.exc_info, record.facts = "a line of the log could not be made", (), None, {}
            text = self.format(record)
        lines = text.encode(self._encoding, "backslashreplace").split(b"\n")
        self.outlet.put(b"".join(self._mark + line + b"\n" for line in lines))

    def flush(self) -> None:
        """Wait a moment for what is still to be written; called at the end of the process."""
        self.outlet.flush(LAST_WORDS_S)


_handler: _Handler | None = None
_elsewhere = 0
"""Lines that other processes dropped before they reached this one."""


def flush(within_s: float = LAST_WORDS_S) -> None:
    """Give the last lines so many seconds to be read. For ends that run no other code: `os._exit`."""
    if _handler is not None:
        _handler.outlet.flush(within_s)


def forward(lines: bytes) -> None:
    """Pass on what another process has made to be a line of this log."""
    if _handler is not None:
        _handler.outlet.put(lines)


def say(text: str) -> None:
    """Lines for people between those of the log, in their order; a terminal reads here."""
    forward(f"{printable_lines(text)}\n".encode(_encoding(), "backslashreplace"))


def dropped() -> int:
    """How many lines nobody could read, here or in processes that log through this one."""
    return _elsewhere + (_handler.outlet.dropped if _handler is not None else 0)


def note_dropped(lines: int, **facts: Any) -> None:
    """Another process that logs through this one has dropped so many."""
    global _elsewhere  # noqa: PLW0603 - there is one log in a process
    _elsewhere += lines
    event(logging.getLogger("convq"), logging.WARNING, DROPPED, lines=lines, **facts)


DROPPED = "lines of the log were dropped here: they were written faster than read"


def form_here(form: Form) -> Literal["console", "json"]:
    """The form that is meant: on a terminal for people, elsewhere for machines."""
    if form != "auto":
        return form
    return "console" if sys.stderr is not None and sys.stderr.isatty() else "json"


def set_up(form: Form, worker: int | None = None, mark: str = "") -> None:
    """Send convq's log to standard error in that form; `worker` is the number of this worker process.

    With it goes what would otherwise be written there as it is: warnings, and exceptions that nobody caught. `mark`: how
    the one who reads our standard error knows that a line is one of this log and not what some library wrote.
    """
    global _handler  # noqa: PLW0603 - there is one log in a process
    process: dict[str, Any] = {"pid": os.getpid()} if worker is None else {"worker": worker, "pid": os.getpid()}
    formatter = (_Console if form_here(form) == "console" else _Json)(process)
    encoding = _encoding()
    prefix = mark.encode()

    def notice(lines: int) -> bytes:
        if prefix:
            return prefix + b"!%d\n" % lines
        record = logging.LogRecord("convq", logging.WARNING, "", 0, DROPPED, None, None)
        record.facts = {"lines": lines}
        return formatter.format(record).encode(encoding, "backslashreplace") + b"\n"

    _handler = _Handler(Outlet(_standard_error(), notice), encoding, prefix)
    _handler.setFormatter(formatter)
    for name in ("convq", "py.warnings"):
        logger = logging.getLogger(name)
        logger.handlers = [_handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False
    logging.captureWarnings(True)
    _catch_all()


def _encoding() -> str:
    """That of the terminal, where a line feed is a line feed in it."""
    named = getattr(sys.stderr, "encoding", None) or "utf-8"
    return named if "\n".encode(named) == b"\n" else "utf-8"


def _standard_error() -> int:
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # none, or one that is no file
        return 2


def _catch_all() -> None:
    """Exceptions that nobody caught are lines of the log."""
    log = logging.getLogger("convq")

    def uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt | SystemExit):
            sys.__excepthook__(kind, error, trace)
        else:
            defect(log, "an unexpected error ended this process", error)

    def uncaught_in(thread: threading.ExceptHookArgs) -> None:
        name = thread.thread.name if thread.thread is not None else "?"
        defect(log, "an unexpected error ended a thread", thread.exc_value, thread=name)

    sys.excepthook, threading.excepthook = uncaught, uncaught_in
