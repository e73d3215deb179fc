"""What a loaded version answers, how fast, how much memory it takes, and whether its batches keep jobs apart."""

from __future__ import annotations

import base64
import resource
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convq.engine.answering.meaning import Wish
from convq.engine.answering.variants import detected, variants
from convq.engine.engine import Engine
from convq.engine.postprocess import Head, finite, rank
from convq.engine.tensors import Prepared, read_npy
from convq.errors import JobError, ModelBroken, NonFinite
from convq.repository.files import MOST_SAMPLE_BYTES, read_given, read_inside
from convq.repository.version_files import VersionFiles

TOP = 5
TIMED_S = 0.3
"""How long each batch size is timed; at least one run."""


def examine(engine: Engine, folder: Path, given: Path | None, *, draw: bool = False) -> dict[str, Any]:
    """Look at a version that is loaded and warm; `folder` holds its manifest. What comes back is JSON-able.

    The sample is the file `given` (an image, or a NumPy file for a model of tensors), else the manifest's warm-up
    sample, else noise. Of a detector whose sample is a picture there are `variants` as well, and with `draw` the
    `drawing`, a PNG file in base64. Raises ModelBroken where the sample cannot be answered.
    """
    warmup = engine.manifest.warmup
    own = VersionFiles(folder, engine.version, engine.manifest, is_own=True)
    file = given if given is not None else own.find(warmup.sample) if warmup is not None else None
    home = None if given is not None else folder
    name, sample = ("noise", engine.noise()) if file is None else (file.name, _read(engine, file, home))
    return {
        "sample": {"name": name, **_answer(engine, sample)},
        "ms_per_image": {str(size): _ms_per_image(engine, size) for size in sorted({1, engine.max_batch})},
        "largest_difference": _apart(engine),
        "memory_bytes": _most_memory_bytes(),
        "remark": engine.remark,
        **({} if file is None or file.suffix == ".npy" else _seen(engine, file, home, draw=draw)),
    }


def _seen(engine: Engine, file: Path, home: Path | None, *, draw: bool) -> dict[str, Any]:
    """Of a detector, what it makes of the sample otherwise, and the sample with what it finds drawn on it."""
    if engine.detector is None:
        return {}
    pixels = engine.decode(_content(file, home))
    try:
        found = detected(engine, engine.prepare(pixels), "rle" if draw else "none")
    except NonFinite:
        return {}  # said of the sample itself
    seen: dict[str, Any] = {"variants": variants(engine, pixels, found.detections)}
    if draw:
        from convq import drawing  # noqa: PLC0415 - seldom wanted

        document = {"image": {"width": found.width, "height": found.height}, "detections": found.detections}
        seen["drawing"] = base64.b64encode(drawing.png_of(drawing.draw(document, pixels, engine.describe()))).decode()
    return seen


def _content(file: Path, home: Path | None) -> bytes:
    """Of a file of the model in `home`, or without that of one that a person has named."""
    return read_given(file, MOST_SAMPLE_BYTES) if home is None else read_inside(file, home, MOST_SAMPLE_BYTES)


def _read(engine: Engine, file: Path, home: Path | None) -> Prepared:
    """The input that a file makes."""
    content = _content(file, home)
    try:
        return engine.admit(*read_npy(content)) if file.suffix == ".npy" else engine.prepare(engine.decode(content))
    except JobError as error:
        raise ModelBroken(f"{file}: {error}") from None


def _answer(engine: Engine, sample: Prepared) -> dict[str, Any]:
    """Top classes, what is detected, and of every output what it looks like."""
    try:
        made = engine.run([sample])
    except JobError as error:
        raise ModelBroken(f"its network refuses the sample: {error}") from None
    detector = engine.detector
    rest = {name: rows for name, rows in made.items() if detector is None or name not in detector.reads}
    answer: dict[str, Any] = {
        "finite": not rest or bool(finite(rest).all()),
        "outputs": [{"name": name, **_looks(rows[0])} for name, rows in made.items()],
    }
    if engine.heads:
        ranked = {head.output: _ranked(head, made) for head in engine.heads}
        answer["predictions"] = ranked[engine.heads[0].output]
        answer |= {"heads": ranked} if len(ranked) > 1 else {}
    frame = engine.frame_of(sample.shape, sample.placement)
    try:
        told = engine.meanings.tell(made, 0, frame, Wish())
    except NonFinite:
        return {**answer, "finite": False}
    answer |= {key: _brief(said) for key, said in told.keys.items()}
    if told.pictures:
        answer["pictures"] = [_brief(picture) for picture in told.pictures]
    if detector is not None:
        try:
            answer["detections"] = detected(engine, sample).detections
        except NonFinite:
            return {**answer, "finite": False}
    return answer


def _ranked(head: Head, made: Mapping[str, NDArray[Any]]) -> list[dict[str, Any]]:
    """The top classes of the only job."""
    ranking = rank(made[head.output], head.activation, TOP)
    return [
        {"label": head.labels[index], "index": int(index), "score": round(float(score), 7)}
        for index, score in zip(ranking.indices[0], ranking.scores[0], strict=True)
    ]


def _brief(said: Any) -> Any:
    """The same without what is no reading for people: the bytes of pictures and vectors."""
    return {key: value for key, value in said.items() if key != "data"} if isinstance(said, dict) else said


def _looks(value: NDArray[Any]) -> dict[str, Any]:
    """Type, shape, and the lowest and the highest finite number; None for both where there is none."""
    known = value[np.isfinite(value)] if value.dtype.kind == "f" else value
    low, high = (float(known.min()), float(known.max())) if known.size else (None, None)
    return {"dtype": value.dtype.name, "shape": list(value.shape), "low": low, "high": high}


def _ms_per_image(engine: Engine, size: int) -> float:
    """Milliseconds of the network alone, per image, in batches of `size`: the median run."""
    batch = [engine.noise()] * size
    runs: list[float] = []
    give_up_at = time.perf_counter() + TIMED_S
    while not runs or time.perf_counter() < give_up_at:
        began = time.perf_counter()
        engine.run(batch)
        runs.append(time.perf_counter() - began)
    return round(statistics.median(runs) * 1e3 / size, 4)


def _apart(engine: Engine) -> float | None:
    """How much an answer changes beside another job, relative to its largest value; None where jobs run alone anyway.

    Rounding is far below 0.001. More than that comes of a graph that computes with the whole batch, such as one that
    finds the scale of its numbers at run time; `warm_up` refuses above 0.005.
    """
    if engine.max_batch < 2:  # noqa: PLR2004
        return None
    jobs = [engine.noise(seed) for seed in (1, 2)]
    together = engine.run(jobs)
    return max(
        _difference(together[name][place], alone[0])
        for place, job in enumerate(jobs)
        for name, alone in engine.run([job]).items()
    )


def _difference(made: NDArray[Any], expected: NDArray[Any]) -> float:
    both = np.stack([made, expected]).astype(np.float64)
    both = np.where(np.isfinite(both), both, 0.0)
    return float(np.abs(both[0] - both[1]).max(initial=0.0)) / float(np.abs(both).max(initial=1e-6))


def _most_memory_bytes() -> int:
    """The largest resident size of this process so far."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024
