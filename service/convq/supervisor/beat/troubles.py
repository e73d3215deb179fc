"""What goes wrong for one model again and again: said when it begins, now and then while it lasts, and when it is over."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

from convq.logs import defect, event

SAY_AGAIN_S = 60.0


@dataclass(slots=True)
class _Trouble:
    text: str
    said_s: float


class Troubles:
    """The troubles of one thread, by model and by what it was doing. Other threads may read them."""

    def __init__(self, log: logging.Logger, during: str) -> None:
        self._log = log
        self._during = during
        self._known: dict[tuple[str, str], _Trouble] = {}

    def note(
        self, model: str, step: str, text: str, level: int = logging.ERROR, error: Exception | None = None
    ) -> None:
        """Something went wrong, or still does. `error` is a defect of ours: it is logged with its traceback."""
        now_s, known = time.monotonic(), self._known.get((model, step))
        if known is not None and known.text == text and now_s < known.said_s + SAY_AGAIN_S:
            return
        self._known[model, step] = _Trouble(text, now_s)
        if error is None:
            event(self._log, level, text, **self._facts(model, step))
        else:
            defect(self._log, text, error, **self._facts(model, step))

    def over(self, model: str, step: str) -> None:
        """It went well."""
        if self._known.pop((model, step), None) is not None:
            event(self._log, logging.WARNING, "this works again", **self._facts(model, step))

    def of(self, model: str, step: str) -> str | None:
        """What is wrong now; None where nothing is."""
        known = self._known.get((model, step))
        return None if known is None else known.text

    def _facts(self, model: str, step: str) -> dict[str, Any]:
        return {"during": self._during, "model": model, "step": step}
