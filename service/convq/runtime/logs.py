"""Log lines: one event each, aligned for people or JSON for machines. Never a payload, never a secret.

What stands in a line may come from a client: a line is one line whatever it holds, and of bounded length.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
import time
from types import TracebackType
from typing import Any, Literal

_LEVELS = {"DEBUG": "·", "INFO": " ", "WARNING": "!", "ERROR": "✗", "CRITICAL": "✗"}
_PASSWORD = re.compile(r"(://[^\s/@:]*):[^\s/@]*@")

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
    """The text without passwords of URLs, and not longer than `most` characters."""
    shown = _PASSWORD.sub(r"\1:***@", text[: 2 * most])
    return shown if len(shown) <= most else f"{shown[:most]}… ({len(text):,} characters)"


def _plain(value: Any) -> Any:
    """A fact as JSON can hold it."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    return _bounded(str(value))


def _printable(text: str) -> str:
    """The text on one line: what moves the cursor, breaks the line or cannot be seen is written as an escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


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
        text = f"{_printable(self.message(record)):<48} {_printable(facts)}"
        line = f"{clock}.{int(record.msecs):03d} {_LEVELS.get(record.levelname, ' ')} {text}".rstrip()
        # Indented, so that nothing in an exception's message can pass for a line of the log.
        return "\n    ".join([line, *map(_printable, self.traceback(record).splitlines())])


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
        return json.dumps(line)  # ASCII: no separator of Unicode, no lone surrogate, no terminal can break it


def set_up(form: Literal["auto", "console", "json"], worker: int | None = None) -> None:
    """Send convq's log to standard error in that form; `worker` is the number of this worker process.

    With it goes what would otherwise be written there as it is: warnings, and exceptions that nobody caught.
    """
    if form == "auto":
        form = "console" if sys.stderr.isatty() else "json"
    process: dict[str, Any] = {"pid": os.getpid()} if worker is None else {"worker": worker, "pid": os.getpid()}
    output = logging.StreamHandler(sys.stderr)
    output.setFormatter((_Console if form == "console" else _Json)(process))
    for name in ("convq", "py.warnings"):
        logger = logging.getLogger(name)
        logger.handlers = [output]
        logger.setLevel(logging.INFO)
        logger.propagate = False
    logging.captureWarnings(True)
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
