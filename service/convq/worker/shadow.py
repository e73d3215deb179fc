"""Runs a version beside the one that answers, on the same inputs: its answers are compared and counted, never published."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from convq.engine.engine import Engine, Prepared
from convq.engine.postprocess import finite
from convq.engine.room import fitting
from convq.errors import ModelFault
from convq.ipc.shared_memory import StatsRow
from convq.logs import Limit, event
from convq.worker.postprocessor import BatchResult

log = logging.getLogger("convq.worker")

RELATIVE, ABSOLUTE = 1e-3, 1e-4
"""How far numbers may be apart that are still the same answer, where no classes say what matters."""


@contextmanager
def in_network(row: StatsRow, engine: Engine, jobs: bytes) -> Iterator[None]:
    """Say on the board what native code works on and since when, for whoever finds this process dead or hanging."""
    row.set("pulse_running_version", engine.version)
    row.running.set(jobs)
    try:
        yield
    finally:
        row.running.clear()


class Shadow:
    """Compares for one pipeline. Belongs to the thread that runs the network."""

    def __init__(self, row: StatsRow, together_bytes: int) -> None:
        """What comes of one batch may take `together_bytes`."""
        self._row = row
        self._together_bytes = together_bytes
        self._complaints = Limit(1)

    def compare(self, answers: BatchResult, inputs: Sequence[Prepared], shadow: Engine) -> None:
        """Run `shadow` on what `answers` came from, and count how many jobs it answers alike. Never raises ModelFault."""
        began = time.perf_counter()
        same = failed = differs = 0
        try:
            at_once = self._at_once(inputs, shadow)
            for first in range(0, len(inputs), at_once):
                part = inputs[first : first + at_once]
                with in_network(self._row, shadow, b""):  # its death accuses no job
                    outputs = shadow.run(part, ())
                fine, agreed = agreement(answers, first, outputs, part, shadow)
                alike = int((fine & agreed).sum())
                same, differs = same + alike, differs + int(fine.sum()) - alike
                failed += sum(shadow.takes_finite(one) for one, good in zip(part, fine, strict=True) if not good)
        except ModelFault as error:
            failed = sum(shadow.takes_finite(one) for one in inputs)
            self._row.add("convq_version_jobs", failed, "shadow", "failed")
            facts = {"model": shadow.name, "version": shadow.version, "reason": str(error)}
            if self._complaints.take():
                event(log, logging.WARNING, "the shadow version failed", **facts)
            return
        self._row.add("convq_version_jobs", same, "shadow", "ok")
        self._row.add("convq_version_jobs", failed, "shadow", "failed")
        self._row.add("convq_version_jobs", differs, "shadow", "differs")
        spent_s = time.perf_counter() - began
        self._row.observe_alike("convq_version_inference_seconds", spent_s, len(inputs), "shadow")

    def _at_once(self, inputs: Sequence[Prepared], shadow: Engine) -> int:
        job_bytes, is_known = shadow.output_bytes(inputs[0].shape, ())
        fits = fitting(job_bytes, shadow.max_batch, self._together_bytes, told_bytes=0)  # nothing is written of them
        return fits if is_known or fits >= len(inputs) else 1


def agreement(
    answers: BatchResult, first: int, outputs: dict[str, np.ndarray], inputs: Sequence[Prepared], shadow: Engine
) -> tuple[np.ndarray, np.ndarray]:
    """[n] of bool each, for the jobs from `first` on: which are answered with numbers, and which of them alike.

    That is the same best class of each head, the same number of detections of each label, the same text, or else the same numbers. `outputs` are what the
    shadow made of `inputs`. Raises ModelFault.
    """
    count, made = len(inputs), answers.outputs or {}
    mine = {name: raw[first : first + count] for name, raw in made.items()}
    serving = answers.engine
    if shadow.detector is not None and serving is not None and serving.detector is not None:
        placements, shape = [one.placement for one in inputs], inputs[0].shape
        before = serving.detector.labels_found(mine, shape, placements)
        after = shadow.detector.labels_found(outputs, shape, placements)
        same = [
            one is not None and other is not None and sorted(one) == sorted(other)
            for one, other in zip(before, after, strict=True)
        ]
        return np.array([one is not None for one in after]), np.array(same)
    if (
        (texts := shadow.meanings.texts(outputs))
        and serving is not None
        and (before_texts := serving.meanings.texts(mine))
    ):
        alike = [one is not None and one == other for one, other in zip(texts, before_texts, strict=True)]
        return np.array([one is not None for one in texts]), np.array(alike)
    return finite(outputs), _same(mine, outputs, shadow)


def _same(mine: dict[str, np.ndarray], outputs: dict[str, np.ndarray], shadow: Engine) -> np.ndarray:
    """[n] of bool: which jobs have the same best classes, or else the same numbers."""
    count = len(next(iter(outputs.values())))
    if shadow.heads and mine:
        pairs = ([one[head.output].reshape(count, -1) for one in (mine, outputs)] for head in shadow.heads)
        return np.asarray(np.logical_and.reduce([one.argmax(axis=1) == other.argmax(axis=1) for one, other in pairs]))
    same = np.ones(count, dtype=np.bool_)
    for name, values in outputs.items():
        if name not in mine or mine[name].shape != values.shape:
            return np.zeros(count, dtype=np.bool_)
        close = np.isclose(mine[name], values, rtol=RELATIVE, atol=ABSOLUTE)
        same &= close.reshape(count, -1).all(axis=1)
    return same
