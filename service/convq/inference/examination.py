"""What a loaded version answers, how fast, how much memory it takes, and whether its batches keep jobs apart."""

from __future__ import annotations

import math
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convq.errors import JobError, ModelBroken
from convq.inference.graph import EXAMPLE_ELEMENTS, FREE_SIDES
from convq.inference.outputs import finite, rank
from convq.inference.session import Engine
from convq.inference.tensors import Prepared, read_npy

TOP = 5
TIMED_S = 0.3
"""How long each batch size is timed; at least one run."""
MIXED_ABOVE = 1e-3
"""Relative to the largest value: rounding, which depends on the size of a batch, stays far below."""


def examine(engine: Engine, folder: Path, given: Path | None) -> dict[str, Any]:
    """Look at a version that is loaded and warm; `folder` holds its manifest. What comes back is JSON-able.

    The sample is the file `given` (an image, or a NumPy file for a model of tensors), else the manifest's warm-up
    sample, else noise. Raises ModelBroken where jobs of one batch
    change each other's answers, or where the sample cannot be answered.
    """
    warmup = engine.manifest.warmup
    file = given if given is not None else folder / warmup.sample if warmup is not None else None
    name, sample = ("noise", noise(engine, seed=0)) if file is None else (file.name, _read(engine, file))
    difference = _apart(engine)
    return {
        "sample": {"name": name, **_answer(engine, sample)},
        "ms_per_image": {str(size): _ms_per_image(engine, size) for size in sorted({1, engine.max_batch})},
        "largest_difference": difference,
        "memory_bytes": _most_memory_bytes(),
    }


def noise(engine: Engine, seed: int) -> Prepared:
    """A job's input of noise: pixels for a model of images, numbers around 0 for one of tensors."""
    described: Any = engine.describe()["inputs"]
    spec = described[0]
    shape = _example_shape(spec["shape"], spec.get("multiple_of"))
    rng = np.random.default_rng(seed)
    text = ",".join(map(str, shape))
    if spec["color"] == "none" and spec["dtype"] == "float32":
        return engine.admit(rng.standard_normal(shape).astype("<f4").tobytes(), "float32", text)
    return engine.admit(rng.integers(0, 256, shape, dtype=np.uint8).tobytes(), "uint8", text)


def _example_shape(sides: list[int | None], multiple: int | None) -> list[int]:
    """Some shape that the model takes; `multiple` is None where it takes no images."""
    if multiple is not None:
        free = max(1, FREE_SIDES[0] // multiple) * multiple
    else:
        fixed, count = math.prod(side for side in sides if side is not None), sides.count(None)
        free = next((side for side in FREE_SIDES if fixed * side**count <= EXAMPLE_ELEMENTS), 1)
    return [free if side is None else side for side in sides]


def _read(engine: Engine, file: Path) -> Prepared:
    try:
        content = file.read_bytes()
        return engine.admit(*read_npy(content)) if file.suffix == ".npy" else engine.prepare(engine.decode(content))
    except OSError as error:
        raise ModelBroken(f"{file}: cannot be read: {error.strerror}") from None
    except JobError as error:
        raise ModelBroken(f"{file}: {error}") from None


def _answer(engine: Engine, sample: Prepared) -> dict[str, Any]:
    """Top classes, and of every output what it looks like."""
    try:
        made = engine.run([sample])
    except JobError as error:
        raise ModelBroken(f"its network refuses the sample: {error}") from None
    answer: dict[str, Any] = {
        "finite": bool(finite(made).all()),
        "outputs": [{"name": name, **_looks(rows[0])} for name, rows in made.items()],
    }
    if engine.classes is not None:
        ranking = rank(made[engine.classes], engine.activation, TOP)
        answer["predictions"] = [
            {"label": engine.labels[index], "index": int(index), "score": round(float(score), 7)}
            for index, score in zip(ranking.indices[0], ranking.scores[0], strict=True)
        ]
    return answer


def _looks(value: NDArray[Any]) -> dict[str, Any]:
    low, high = (float(value.min()), float(value.max())) if value.size else (0.0, 0.0)
    return {"dtype": value.dtype.name, "shape": list(value.shape), "low": low, "high": high}


def _ms_per_image(engine: Engine, size: int) -> float:
    """Milliseconds of the network alone, per image, in batches of `size`: the median run."""
    batch = [noise(engine, seed=size)] * size
    runs: list[float] = []
    give_up_at = time.perf_counter() + TIMED_S
    while not runs or time.perf_counter() < give_up_at:
        began = time.perf_counter()
        engine.run(batch)
        runs.append(time.perf_counter() - began)
    return round(statistics.median(runs) * 1e3 / size, 4)


def _apart(engine: Engine) -> float | None:
    """The largest relative difference between answers in a batch of 2 and alone; None where jobs run alone anyway."""
    if engine.max_batch < 2:  # noqa: PLR2004
        return None
    jobs = [noise(engine, seed) for seed in (1, 2)]
    together = engine.run(jobs)
    largest = 0.0
    for place, job in enumerate(jobs):
        for name, alone in engine.run([job]).items():
            difference = _difference(together[name][place], alone[0])
            if difference > MIXED_ABOVE:
                raise ModelBroken(
                    f"output {name} of a job depends on the other jobs of its batch (it differs by {difference:.2g}); "
                    "set limits.max_batch = 1"
                )
            largest = max(largest, difference)
    return largest


def _difference(made: NDArray[Any], expected: NDArray[Any]) -> float:
    if made.shape != expected.shape:
        return float("inf")
    both = np.stack([made, expected]).astype(np.float64)
    both = np.where(np.isfinite(both), both, 0.0)
    return float(np.abs(both[0] - both[1]).max(initial=0.0)) / float(np.abs(both).max(initial=1e-6))


def _most_memory_bytes() -> int:
    """The largest resident size of this process so far."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024
