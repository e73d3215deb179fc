"""How many jobs a batch may have: what comes of it has room in the memory of its worker, and it ends before that counts as hung."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from numpy.typing import NDArray

from convq.errors import ModelBroken
from convq.repository.manifest import Limits

TOGETHER_BYTES: Final = 60 * 2**20
"""What comes of one batch may take so much where nobody says otherwise: an eighth of what a worker plans with."""
BASE64_PARTS: Final = (4, 3)
"""What is written of bytes in base64: so many thirds of them."""

SHAPES_KNOWN: Final = 256
"""Shapes of inputs whose outputs are remembered: clients choose them where sides are free."""

MARGIN: Final = 2.0
"""A batch is to take at most so small a part of its limit: a machine that is busy makes it longer, and no worker may die of that."""
TRIES: Final = 3

ALONE_S: Final = 0.25
"""Of the processor: a job of a graph that nobody knows yet, and that takes longer, runs alone."""
BATCH_S: Final = 2.0
"""Of the processor, for the largest batch of such a graph."""


def taken_bytes(job_bytes: int, jobs: int = 1, told_bytes: int | None = None) -> int:
    """What the outputs of so many jobs take, `job_bytes` for each, together with the documents that are made of them.

    `told_bytes` of each job go into its document, all of its outputs where that is not given.
    """
    told_bytes = job_bytes if told_bytes is None else told_bytes
    return (job_bytes * BASE64_PARTS[1] + told_bytes * BASE64_PARTS[0]) * jobs // BASE64_PARTS[1]


def fitting(job_bytes: int, largest: int, together_bytes: int, told_bytes: int | None = None) -> int:
    """The most jobs, up to `largest` and at least one, that take no more than `together_bytes` with what comes of them."""
    return max(1, min(largest, together_bytes // max(1, taken_bytes(job_bytes, told_bytes=told_bytes))))


def remark(job_bytes: int, largest: int, together_bytes: int, told_bytes: int | None = None) -> str:
    """Why fewer than `largest` jobs share a batch; empty where they do not."""
    fits = fitting(job_bytes, largest, together_bytes, told_bytes)
    if fits == largest:
        return ""
    figures = f"the outputs of one take {job_bytes:,} bytes, and a batch and its documents may take {together_bytes:,}"
    return f"at most {fits} jobs share a batch instead of {largest}: {figures}"


class Sizes:
    """What the outputs of one job take, by the shape of its input, as far as that was seen. The first shape is the example."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], dict[str, int]] = {}

    def note(self, shape: tuple[int, ...], outputs: Mapping[str, NDArray[Any]], size: int) -> None:
        """These came of a batch of `size`: [size, ...] each. The most counts, where more than the shape decides."""
        known = self._known.get(shape)
        if known is None:
            if len(self._known) > SHAPES_KNOWN:
                self._known = dict([next(iter(self._known.items()))])
            known = self._known[shape] = {}
        for name, raw in outputs.items():
            job_bytes = raw.nbytes // size
            if job_bytes > known.get(name, -1):
                known[name] = job_bytes

    def job_bytes(self, shape: tuple[int, ...], names: Iterable[str]) -> tuple[int, bool]:
        """What these outputs take of one job, and whether that was seen.

        Otherwise it is rather too much: as if outputs grew with the square of their input.
        """
        known, names = self._known.get(shape, {}), list(names)
        if all(name in known for name in names):
            return sum(known[name] for name in names), True
        example, seen = next(iter(self._known.items()), (shape, known))
        grown = max(1.0, math.prod(shape) / max(1, math.prod(example))) ** 2
        return int(sum(known.get(name, seen.get(name, 0) * grown) for name in names)), False


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


def affordable(job_s: float) -> int | None:
    """How many jobs may share a batch of a graph that takes so long for one; None for as many as there may be anyway.

    Whoever shares a batch waits for all of it, and all sizes up to this are run before the model is served.
    """
    if job_s > ALONE_S:
        return 1
    most = int(BATCH_S / max(job_s, 1e-9))
    if most >= Limits().max_batch:
        return None
    return 1 << (most.bit_length() - 1)  # a power of two: time is no exact measure


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
