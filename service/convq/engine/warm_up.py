"""What a version must show before it is used: sound answers, the same in batches as alone, in time and in room."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from convq.engine.independence import Run, check_independence
from convq.engine.onnx_session import FEATURES, OpenedVersion
from convq.engine.room import MARGIN, fitting, fitting_batch, remark
from convq.engine.samples import BLANK, FEW, inputs_for, varied, wild
from convq.engine.soundness import check_classes, check_finite, check_same, check_sample, told_of
from convq.engine.tensors import Prepared

PLAIN: tuple[str, ...] = ()
"""What is wanted of a run without feature maps."""


class Runs(Protocol):
    """What is shown by running it: an `Engine`."""

    def run(self, inputs: Sequence[Prepared], wanted: Collection[str] | None, /) -> Mapping[str, NDArray[Any]]:
        """See `Engine.run`."""

    def output_bytes(self, shape: tuple[int, ...], wanted: Collection[str] | None) -> tuple[int, bool]:
        """See `Engine.output_bytes`."""

    def told_bytes(self, shape: tuple[int, ...], wanted: Collection[str] | None) -> int:
        """See `Engine.told_bytes`."""


class WarmUp:
    """One warm-up of one version. After `run`, `max_batch` and `remark` are what `Engine` says of them."""

    def __init__(self, opened: OpenedVersion, engine: Runs, sample: Prepared | None, together_bytes: int) -> None:
        """`sample` is the manifest's, where it names one; what comes of a batch may take `together_bytes`."""
        self._opened, self._engine, self._sample, self._together_bytes = opened, engine, sample, together_bytes
        self._file, self._manifest, self._graph = opened.file, opened.manifest, opened.plain.graph
        self._mapped = None if opened.featured.graph.feature_maps else PLAIN
        self._mapped_file = opened.file if opened.featured is opened.plain else opened.file.with_name(FEATURES)
        self.max_batch, self.remark = self._graph.max_batch, ""
        self.example = self._graph.example_shape(self._manifest.limits.max_pixels)
        if sample is not None and not self._graph.takes_images:  # it knows a shape that the graph takes
            self.example = sample.shape
        self._blank = Prepared(np.zeros(self.example, dtype=self._graph.dtype), self.example)

    def run(self, spare_s: float) -> None:
        """As `Engine.warm_up` says. Raises ModelBroken, JobError."""
        began, run, sample = time.monotonic(), self._engine.run, self._sample
        made = run([self._blank], PLAIN)
        if self._graph.shape and None not in self._graph.shape:  # else every shape is looked at when it comes
            job_bytes, told_bytes = self._job_bytes(PLAIN)
            taken = job_bytes, self.max_batch, self._together_bytes, told_bytes
            self.max_batch, self.remark = fitting(*taken), remark(*taken)
        check_classes(self._opened, made)
        detector = self._opened.detector
        if detector is not None:  # whether its outputs are what the manifest says, a run alone can show
            detector.labels_found(made, self.example, [None], "rle")
        told_of(self._opened, made, self._blank)
        if sample is not None:
            check_sample(self._opened, run([sample], PLAIN), sample)
        else:
            noises = [[one] for number, one in enumerate(self._varied(FEW + 1)) if number != BLANK]
            read = frozenset[str]() if detector is None else detector.reads
            check_finite(self._file, lambda noise: run(noise, PLAIN), noises, read)
        inputs = self._varied(inputs_for(self.max_batch))
        inputs[:2] = [sample if sample is not None and sample.shape == self.example else inputs[0], self._blank]
        self._check_independence(inputs, spare_s)
        if self._mapped is None:
            check_same(self._mapped_file, run(inputs[:1], PLAIN), run(inputs[:1], None))
        if time.monotonic() - began > self._manifest.limits.max_batch_s / MARGIN and self._fit_batch():
            self._check_independence(inputs, 0.0)

    def _job_bytes(self, wanted: Collection[str] | None) -> tuple[int, int]:
        """What comes of one job of the example's shape, and what of that goes into its document."""
        return self._engine.output_bytes(self.example, wanted)[0], self._engine.told_bytes(self.example, wanted)

    def _varied(self, count: int) -> list[Prepared]:
        """Distinct inputs of the example's shape."""
        made = varied(self._graph.input, self.example, self._graph.dtype, count)
        return [Prepared(data, self.example) for data in made]

    def _check_independence(self, inputs: Sequence[Prepared], spare_s: float) -> None:
        """A job's answer is the same alone and in any batch, with the feature maps and without. Raises ModelBroken."""
        strange = wild(self.example, self._graph.dtype) if self.max_batch > 1 else {}
        tried = {self._file: PLAIN} | {self._mapped_file: self._mapped}
        for file, wanted in tried.items():
            if wanted is None:  # what the maps of one job take is to be known before more share a batch
                check_independence(file, self._runner(inputs[1:2], wanted), 1, 1, 0.0)
            job_bytes, told_bytes = self._job_bytes(wanted)
            largest = fitting(job_bytes, self.max_batch, self._together_bytes, told_bytes)
            count = min(len(inputs), inputs_for(largest))
            every = [*inputs[:count], *(Prepared(data, self.example) for data in strange.values())]
            check_independence(file, self._runner(every, wanted), count, largest, spare_s / len(tried), list(strange))

    def _runner(self, inputs: Sequence[Prepared], wanted: Collection[str] | None) -> Run:
        """Runs batches of these inputs, named by their numbers."""
        return lambda numbers: self._engine.run([inputs[one] for one in numbers], wanted)

    def _fit_batch(self) -> bool:
        """As many jobs in a batch as end in time, on the slower of the two networks; whether that is fewer. Raises ModelBroken."""
        threads = self._manifest.runtime.threads if self._opened.provider == "cpu" else None
        limit_s, run = self._manifest.limits.max_batch_s, self._engine.run
        self.max_batch, slow = fitting_batch(
            lambda size: run([self._blank] * size, self._mapped), self.max_batch, limit_s, threads, str(self._file)
        )
        self.remark = "; ".join(one for one in (self.remark, slow) if one)
        return bool(slow)
