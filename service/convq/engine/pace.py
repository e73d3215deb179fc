"""How many jobs a batch may have, so that it ends within the time after which its worker counts as hung."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

from convq.errors import ModelBroken

MARGIN: Final = 2.0
"""A batch is to take at most so small a part of its limit: a machine that is busy makes it longer, and no worker may die of that."""
TRIES: Final = 3


def fitting_batch(
    run: Callable[[int], object], largest: int, limit_s: float, threads: int | None, called: str
) -> tuple[int, str]:
    """The most jobs, up to `largest`, that `run` computes well within `limit_s`, and why it is fewer where it is.

    `run` takes a number of jobs and computes a batch of so many; it has done that before. `threads` is on how many threads
    of this process, None where it is another device; `called` is the file in messages. What counts is the time that the processor needs: a machine that does
    other things beside makes no network slow. Raises ModelBroken where a single job takes longer than the limit.
    """
    size, took_s = largest, _seconds(run, largest, threads, enough_s=limit_s / MARGIN)
    whole_s = took_s
    while size > 1 and took_s > limit_s / MARGIN:
        size = max(1, min(size - 1, math.floor(size * limit_s / MARGIN / took_s)))
        took_s = _seconds(run, size, threads, enough_s=limit_s / MARGIN)
    if took_s > limit_s:
        raise ModelBroken(
            f"{called}: one job takes {took_s:.3g} s; limits.max_batch_s ends a worker after {limit_s:g} s: make that longer"
        )
    if size == largest:
        return size, ""
    figures = f"a batch of {largest} takes {whole_s:.3g} s, and limits.max_batch_s ends a worker after {limit_s:g} s"
    return size, f"at most {size} jobs share a batch instead of {largest}: {figures}"


def _seconds(run: Callable[[int], object], size: int, threads: int | None, *, enough_s: float) -> float:
    """What a batch takes at least: the best of a few runs, and not more than the processor worked for it."""
    best_s = math.inf
    for _ in range(TRIES):
        began_s, worked_s = time.monotonic(), _worked_s(threads)
        run(size)
        took_s = time.monotonic() - began_s
        if threads is not None:
            took_s = min(took_s, (_worked_s(threads) - worked_s) / threads)
        best_s = min(best_s, took_s)
        if best_s <= enough_s:
            break
    return best_s


def _worked_s(threads: int | None) -> float:
    """A single thread of onnxruntime is the caller's own; several are of the process."""
    return time.thread_time() if threads == 1 else time.process_time()
