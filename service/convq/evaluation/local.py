"""Asks versions that lie in a model folder, in this process and without a queue, by the code that serves them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from convq.client.inputs import contents
from convq.engine.engine import Engine, Prepared
from convq.engine.postprocess import finite, rank
from convq.engine.tensors import read_npy
from convq.errors import JobError, ModelFault, NonFinite
from convq.evaluation.dataset import ARRAY
from convq.evaluation.tally import TOP, Failed, Said

BATCH_BYTES: Final = 64 << 20
"""Inputs that wait for their batch."""


def load(folder: Path, version: int, device: str) -> Engine:
    """A version, loaded and tried as a worker does it. Raises ModelBroken, SettingsError."""
    engine = Engine.load(folder, version, device=device)
    engine.warm_up()
    return engine


def answers(engines: Sequence[Engine], pictures: Iterable[tuple[int, Path]]) -> Iterator[tuple[int, Said | Failed]]:
    """What each engine says of each picture: which engine, and its answer.

    A picture is decoded once where all take the same input. Pictures of one shape that follow each other share a batch. Answers come as batches end.
    """
    waiting = [_Waiting(engine) for engine in engines]
    alike = all(_takes(engine) == _takes(engines[0]) for engine in engines)
    for number, path in pictures:
        shared: Prepared | None = None
        for place, engine in enumerate(engines):
            try:
                content = contents(path) if place == 0 or not alike else b""
                prepared = shared if alike and shared is not None else _prepare(engine, content, path)
            except JobError as error:
                yield from ((other, _failed(number, error)) for other in (range(len(engines)) if alike else (place,)))
                if alike:
                    break
                continue
            shared = prepared
            yield from ((place, answer) for answer in waiting[place].add(number, prepared))
    for place, last in enumerate(waiting):
        yield from ((place, answer) for answer in last.flush())


def _takes(engine: Engine) -> tuple[object, object]:
    """All that decides what becomes of a picture before the network."""
    return engine.manifest.model_dump(include={"input", "limits"}), engine.describe()["inputs"]


def _prepare(engine: Engine, content: bytes, path: Path) -> Prepared:
    if path.name.lower().endswith(ARRAY):
        return engine.admit(*read_npy(content))
    return engine.prepare(engine.decode(content))


def _failed(number: int, error: JobError) -> Failed:
    return Failed(number, error.code, str(error))


class _Waiting:
    """Inputs of one engine that are to share a batch."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._numbers: list[int] = []
        self._inputs: list[Prepared] = []

    def add(self, number: int, prepared: Prepared) -> Iterator[Said | Failed]:
        """One more; yields the answers of a batch that is full, or whose pictures have another shape."""
        if self._inputs and self._inputs[0].shape != prepared.shape:
            yield from self.flush()
        self._numbers.append(number)
        self._inputs.append(prepared)
        one_bytes = len(prepared.data) if isinstance(prepared.data, bytes) else prepared.data.nbytes
        if len(self._inputs) >= self._engine.max_batch or len(self._inputs) * one_bytes >= BATCH_BYTES:
            yield from self.flush()

    def flush(self) -> Iterator[Said | Failed]:
        """The answers of all that wait."""
        numbers, inputs = self._numbers, self._inputs
        self._numbers, self._inputs = [], []
        if inputs:
            yield from _run(self._engine, numbers, inputs)


def _run(engine: Engine, numbers: Sequence[int], inputs: Sequence[Prepared]) -> Iterator[Said | Failed]:
    """One batch. Where onnxruntime refuses it, each picture runs by itself, as in a worker."""
    assert engine.classes is not None  # noqa: S101 - the caller has looked
    try:
        outputs = engine.run(inputs, ())
    except ModelFault as error:
        if len(inputs) == 1:
            yield _failed(numbers[0], error)
            return
        for number, one in zip(numbers, inputs, strict=True):
            yield from _run(engine, [number], [one])
        return
    ranking = rank(outputs[engine.classes], engine.activation, TOP)
    rows = zip(numbers, finite(outputs).tolist(), ranking.indices.tolist(), ranking.scores.tolist(), strict=True)
    for number, usable, indices, scores in rows:
        if usable:
            yield Said(number, indices, scores[0])
        else:
            yield _failed(number, NonFinite("the network produced NaN or infinity for this input"))
