"""Log lines: one event each, aligned for people or JSON for machines. Never a payload, never a secret."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, Literal

_LEVELS = {"DEBUG": "·", "INFO": " ", "WARNING": "!", "ERROR": "✗", "CRITICAL": "✗"}


def event(logger: logging.Logger, level: int, message: str, **facts: Any) -> None:
    """Log a sentence with its facts (job ids, models, counts) as fields of their own."""
    if logger.isEnabledFor(level):
        logger.log(level, message, extra={"facts": facts})


class _Console(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        facts = "  ".join(f"{name}={value}" for name, value in getattr(record, "facts", {}).items())
        line = f"{clock}.{int(record.msecs):03d} {_LEVELS.get(record.levelname, ' ')} {record.getMessage():<48} {facts}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def set_up(form: Literal["auto", "console", "json"]) -> None:
    """Send convq's log to standard error in that form."""
    if form == "auto":
        form = "console" if sys.stderr.isatty() else "json"
    output = logging.StreamHandler(sys.stderr)
    output.setFormatter(_Console() if form == "console" else _Json())
    logger = logging.getLogger("convq")
    logger.handlers = [output]
    logger.setLevel(logging.INFO)
    logger.propagate = False
