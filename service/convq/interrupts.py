"""What Ctrl-C does to the command while modules are imported: it ends it, and is never lost.

An exception that a signal raises wherever Python happens to be is lost where native code calls Python back and has nobody to
hand it to, as while a pydantic model is made: then the command went on, and ended as if nothing had been said. So no signal
raises anything within an import. Before the command has begun there is nothing to tidy up, and the process ends at once.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from convq.interpreter import is_the_command

AGAIN_S = 0.02
"""After which a signal that came within an import is looked at again."""
_IMPORT = "<frozen importlib._bootstrap>"


def end_at_once() -> None:
    """From now on Ctrl-C ends this process, where it is the command `convq` and is not told to ignore it, as by nohup."""
    if is_the_command("convq") and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def unwind() -> None:
    """The command begins: from now on Ctrl-C is a KeyboardInterrupt, as ever, but not within an import."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, between_imports(signal.default_int_handler))


def between_imports(act: Callable[[int, FrameType | None], Any]) -> Callable[[int, FrameType | None], None]:
    """The handler of a signal that does `act`, which raises something, as soon as no module is being imported."""

    def handle(number: int, frame: FrameType | None) -> None:
        if _is_importing(frame):
            signal.signal(signal.SIGALRM, handle)
            signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
        else:
            act(number, frame)

    return handle


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == _IMPORT:
            return True
        frame = frame.f_back
    return False


def _end(number: int, _frame: FrameType | None) -> None:
    os._exit(128 + number)


end_at_once()
