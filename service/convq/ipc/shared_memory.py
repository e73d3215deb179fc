"""Numbers that worker processes write and the supervisor reads: one row of float64 per worker and model, in shared memory.

The memory belongs to the supervisor and outlives every worker: counters go on where a killed worker left them, a busy
worker never delays a scrape, and nothing is sent. Each row has one writing process, whose threads take the row's lock to
count; 8 aligned bytes are read whole or not at all.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from convq.ipc.crash_marks import CrashMark

FLOAT_BYTES = 8
BATCH_BYTES = 160 << 10
"""Room for the names of the largest batch (4096 jobs); pages that are not written take no memory."""
JOB_BYTES = 72
MARKS = {
    "running": BATCH_BYTES,
    "answering": BATCH_BYTES,
    "decoding": JOB_BYTES,
    "slow": JOB_BYTES,
    "alone": JOB_BYTES,
    "loading": JOB_BYTES,
}
"""What a row marks, and the bytes of each: see `StatsRow`. Multiples of 8."""
MARKS_BYTES = sum(MARKS.values())


@dataclass(frozen=True, slots=True)
class Series:
    """One metric family of the board. A histogram has `buckets` (upper bounds); `labels` lists every value of each label.

    A gauge that is `absent_at_zero` says nothing before it was first set, like the time of something that never happened.
    """

    name: str
    help: str
    kind: str
    labels: tuple[tuple[str, tuple[str, ...]], ...] = ()
    buckets: tuple[float, ...] = ()
    absent_at_zero: bool = False

    @property
    def width(self) -> int:
        """How many cells one label combination takes: a histogram has one per bucket, one above all, and the sum."""
        return len(self.buckets) + 2 if self.kind == "histogram" else 1

    @property
    def label_names(self) -> list[str]:
        """The names of its labels, in order."""
        return [name for name, _ in self.labels]

    def combinations(self) -> list[tuple[str, ...]]:
        """Every combination of label values, in the order of the cells."""
        return list(product(*(values for _, values in self.labels)))


class Layout:
    """Where each series lies in a row, and the buckets of each histogram, as numbers and as `bounds` for numpy."""

    def __init__(self, series: Sequence[Series]) -> None:
        self.series = tuple(series)
        self.buckets = {one.name: one.buckets for one in self.series if one.kind == "histogram"}
        self.bounds = {name: np.array(buckets) for name, buckets in self.buckets.items()}
        self._offsets: dict[tuple[str, tuple[str, ...]], int] = {}
        offset = 0
        for one in self.series:
            for combination in one.combinations():
                self._offsets[one.name, combination] = offset
                offset += one.width
        self.width = offset

    def offset(self, name: str, labels: tuple[str, ...] = ()) -> int:
        """The first cell of one label combination of one series. KeyError where it does not exist."""
        return self._offsets[name, labels]


class StatsRow:
    """One worker's numbers for one model, and which jobs its native code works on.

    `running` is the batch in the network, `answering` the one whose answers are made, `decoding` the job that the fetching
    thread decodes and prepares, `slow` the one that the slow lane does, `alone` the one that has the process for itself.
    `loading` names no job but the version that is being loaded.
    """

    def __init__(self, layout: Layout, cells: np.ndarray, marks: memoryview) -> None:
        self.layout = layout
        self.cells = cells
        made, start = {}, 0
        for name, size in MARKS.items():
            made[name] = CrashMark(marks[start : start + size])
            start += size
        self.running, self.answering = made["running"], made["answering"]
        self.decoding, self.slow, self.alone = made["decoding"], made["slow"], made["alone"]
        self.loading = made["loading"]
        self._lock = threading.Lock()
        self._bounds = layout.bounds

    @property
    def marks(self) -> tuple[CrashMark, ...]:
        """All that says which jobs are in native code."""
        return self.running, self.answering, self.decoding, self.slow, self.alone

    def clear_marks(self) -> None:
        """Nobody is in native code."""
        for mark in (*self.marks, self.loading):
            mark.clear()

    def add(self, name: str, amount: float, *labels: str) -> None:
        """Count up."""
        with self._lock:
            self.cells[self.layout.offset(name, labels)] += amount

    def set(self, name: str, value: float, *labels: str) -> None:
        """Set a gauge."""
        self.cells[self.layout.offset(name, labels)] = value

    def get(self, name: str, *labels: str) -> float:
        """Read a counter or gauge."""
        return float(self.cells[self.layout.offset(name, labels)])

    def observe(self, name: str, values: Sequence[float] | np.ndarray, *labels: str) -> None:
        """Put many observations into a histogram at once: the cost is per batch, not per job."""
        bounds = self._bounds[name]
        start = self.layout.offset(name, labels)
        array = np.asarray(values, dtype=np.float64)
        counts = np.bincount(np.searchsorted(bounds, array, side="left"), minlength=len(bounds) + 1)
        with self._lock:
            self.cells[start : start + len(bounds) + 1] += counts
            self.cells[start + len(bounds) + 1] += array.sum()

    def observe_alike(self, name: str, value: float, count: int, *labels: str) -> None:
        """Put `count` observations of one value into a histogram: what all jobs of a batch share.

        numpy would let go of the interpreter lock to look for one bucket, and another thread may keep that for 5 ms.
        """
        bounds = self.layout.buckets[name]
        start = self.layout.offset(name, labels)
        with self._lock:
            self.cells[start + bisect_left(bounds, value)] += count
            self.cells[start + len(bounds) + 1] += value * count


class Board:
    """The shared memory. The supervisor makes it; a worker opens it by the file descriptor that it inherits."""

    def __init__(self, layout: Layout, workers: int, models: int, descriptor: int | None = None) -> None:
        numbers = layout.width * workers * models
        size = numbers * FLOAT_BYTES + MARKS_BYTES * workers * models
        self.descriptor = _anonymous_file(size) if descriptor is None else descriptor
        self._memory = mmap.mmap(self.descriptor, size)
        self._cells = np.frombuffer(self._memory, dtype=np.float64, count=numbers).reshape(
            workers, models, layout.width
        )
        self._marks = memoryview(self._memory)[numbers * FLOAT_BYTES :]
        self._layout = layout
        self._models = models

    def totals(self, model: int) -> np.ndarray:
        """The cells of one model, summed over workers: right for counters and histograms."""
        return np.asarray(self._cells[:, model].sum(axis=0))

    def clear(self, model: int) -> None:
        """Forget what every worker has counted for a model: another one will have its number."""
        self._cells[:, model] = 0.0

    def row(self, worker: int, model: int) -> StatsRow:
        """The row of worker number `worker` for model number `model`."""
        start = (worker * self._models + model) * MARKS_BYTES
        return StatsRow(self._layout, self._cells[worker, model], self._marks[start : start + MARKS_BYTES])


def _anonymous_file(size_bytes: int) -> int:
    """A descriptor of memory without a name: nothing is left behind whatever dies."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("convq-board")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size_bytes)
    return descriptor
