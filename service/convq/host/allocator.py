"""Gives memory back to the system that the C library keeps for later: glibc; elsewhere nothing happens.

glibc keeps what was freed. Pictures of megabytes come in all sizes, are freed in another order than they came, and raise
its idea of what is large with every one of them, so that a worker would stay as large as its largest moments.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from convq.host.procfs import usage_of

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGE_BYTES = 4 << 20
"""A block of this size gets pages of its own, which go back when it is freed."""
KEPT_BYTES = 16 << 20
"""So much free memory at the end of the heap is kept."""
LOOK_EVERY_S = 1.0


def _library() -> Any:
    with suppress(OSError, TypeError):
        return ctypes.CDLL(None)
    return None


def keep_little() -> None:
    """From now on large blocks go back to the system when they are freed. Called once, before there are any."""
    with suppress(AttributeError):
        mallopt = _library().mallopt
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def give_back() -> None:
    """Give back all that is free now; takes some milliseconds."""
    with suppress(AttributeError):
        _library().malloc_trim(0)


class Idle:
    """Gives memory back when there is nothing to do and the process has grown since it did so last.

    `let_go` is asked before to free what others keep for later.
    """

    def __init__(self, let_go: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._let_go = let_go
        self._clock = clock
        self._next_s = 0.0
        self._least_bytes: float = _resident_bytes()

    def look(self, *, nothing_in_hand: bool) -> bool:
        """To be called often; looks once a second. Whether memory was given back."""
        now_s = self._clock()
        if now_s < self._next_s:
            return False
        self._next_s = now_s + LOOK_EVERY_S
        if not nothing_in_hand or _resident_bytes() < self._least_bytes + KEPT_BYTES:
            return False
        self._let_go()
        give_back()
        self._least_bytes = _resident_bytes()
        return True


def _resident_bytes() -> int:
    usage = usage_of(os.getpid())
    return 0 if usage is None else usage.resident_bytes
