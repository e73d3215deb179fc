"""From raw outputs to answers, a whole batch at a time: scores, the best classes, and whether all is finite."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convq.engine.png import Picture
from convq.errors import ModelFault

MAX_OUTPUT_BYTES: Final = 256 * 2**20
"""Of all outputs of one job, asked for or not, images counted as a byte a level: what a worker holds of it."""
MAX_ANSWER_BYTES: Final = 36 * 2**20
"""Of those outputs that go into the answer of one job, counted alike: a photograph of 12.5 megapixels in three colours. In
base64 that is 48 MiB, in one Redis value, in the memory of a server that others use as well."""
PARTITION_FROM = 8
"""Selecting k of many classes beats sorting them all once there are this many times k; measured with 1,000 classes."""


class Head(NamedTuple):
    """An output that holds classes."""

    output: str
    labels: tuple[str, ...]
    """The classes in the order of the output."""
    activation: str
    """What `rank` must apply."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """The best classes of every job of a batch, best first."""

    indices: NDArray[np.int64]
    """[n, k]: positions in the model's labels."""
    scores: NDArray[np.float32]
    """[n, k]: what the activation made of the raw values; with softmax they sum to 1 over *all* classes."""


def rank(raw: NDArray[Any], activation: str, k: int) -> Ranking:
    """The `k` best classes of each row of `raw`, an array [n, classes] (further axes are flattened into the second).

    `activation` is softmax, sigmoid or none. `k` above the number of classes means all of them. The order is that of
    the raw values, so that scores which an activation has rounded to the same number stay in their right order; equal
    raw values are ordered by index. Rows that hold NaN or infinity yield some ranking: `finite` tells which they are.
    """
    values = raw.reshape(raw.shape[0], -1)
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float64 if values.dtype.kind in "iu" and values.itemsize > 2 else np.float32)  # noqa: PLR2004
    indices = _best(values, max(0, min(k, values.shape[1])))
    with np.errstate(all="ignore"):  # only rows that are not finite can warn, and those are answered as such
        picked = np.take_along_axis(values, indices, axis=1)
        scores = _activate(picked, values, activation)
    return Ranking(indices, scores.astype(np.float32, copy=False))


def finite(
    outputs: Mapping[str, NDArray[Any]],
    optional: Collection[str] = (),
    asked: Sequence[Collection[str]] = (),
) -> NDArray[np.bool_]:
    """[n] of bool: which jobs of the batch have no NaN and no infinity in any output. Integer outputs always pass.

    An output in `optional` counts only for the jobs that asked for it, so that no job fails by what its neighbour
    wanted; `asked` has one entry for each job then.
    """
    fine: NDArray[np.bool_] | None = None
    for name, raw in outputs.items():
        if fine is None:
            fine = np.ones(raw.shape[0], dtype=np.bool_)
        if raw.dtype.kind == "f":
            passed = np.isfinite(raw).reshape(raw.shape[0], -1).all(axis=1)
            if name in optional:
                passed |= np.array([name not in names for names in asked], dtype=np.bool_)
            fine &= passed
    return np.ones(0, dtype=np.bool_) if fine is None else fine


def agrees(expected: NDArray[Any], found: NDArray[Any], tolerance: float = 0.01) -> bool:
    """Whether two runs of one network on one input gave the same, but for roundings.

    A graph whose inner values are outputs is optimised otherwise, so floating point numbers may differ by `tolerance` of
    the largest among them; what is no floating point number needs only the same shape.
    """
    if expected.shape != found.shape:
        return False
    if expected.dtype.kind != "f" or not expected.size:
        return True
    most = np.abs(expected[np.isfinite(expected)]).max(initial=0.0)
    return bool(np.allclose(expected, found, rtol=0.0, atol=tolerance * float(most), equal_nan=True))


def _activate(picked: NDArray[Any], values: NDArray[Any], activation: str) -> NDArray[Any]:
    if activation == "softmax":
        # exp(x - max) / sum exp(x - max): the same quotient as exp(x) / sum exp(x), and it cannot overflow.
        top = values.max(axis=1, keepdims=True)
        return np.asarray(np.exp(picked - top) / np.exp(values - top).sum(axis=1, keepdims=True))
    if activation == "sigmoid":
        # 1 / (1 + exp(-x)); for negative x as exp(x) / (1 + exp(x)), so that exp never overflows.
        small = np.exp(-np.abs(picked))
        return np.asarray(np.where(picked >= 0, 1.0, small) / (1.0 + small))
    if activation == "none":
        return picked
    raise ValueError(f"unknown activation {activation!r}: softmax, sigmoid or none")


def _best(values: NDArray[Any], k: int) -> NDArray[np.int64]:
    """[n, k]: indices of the k largest of each row, largest first, equal ones by index."""
    falling = -values
    if values.shape[1] < PARTITION_FROM * max(k, 1):
        return np.argsort(falling, axis=1, kind="stable")[:, :k].astype(np.int64, copy=False)
    # Ascending indices before the stable sort make equal values come out by index.
    chosen = np.sort(np.argpartition(falling, max(k - 1, 0), axis=1)[:, :k], axis=1)
    order = np.argsort(np.take_along_axis(falling, chosen, axis=1), axis=1, kind="stable")
    best = np.take_along_axis(chosen, order, axis=1)
    if k:
        # A tie across the border: which of the equal values were chosen is accidental, so those rows are sorted whole.
        border = np.take_along_axis(falling, best[:, -1:], axis=1)
        for row in np.flatnonzero((falling <= border).sum(axis=1) > k):
            best[row] = np.argsort(falling[row], kind="stable")[:k]
    return best.astype(np.int64, copy=False)


def check_outputs(outputs: Mapping[str, NDArray[Any]], size: int, pictures: Mapping[str, Picture]) -> None:
    """Raise ModelFault for what a graph did not say of itself, and what no result can carry.

    `outputs` are the raw ones of a batch of `size`, by name: [size, ...] each; those in `pictures` are to be images.
    """
    output_bytes = 0
    for name, raw in outputs.items():
        if raw.ndim < 1 or raw.shape[0] != size:
            raise ModelFault(f"output {name} has shape {list(raw.shape)} for a batch of {size}; expected {size} first")
        output_bytes += raw.size if name in pictures else raw.nbytes
    for name, picture in pictures.items():
        if misfit := picture.misfit(outputs[name].shape[1:]):
            raise ModelFault(f"output {name} {misfit}")
    if output_bytes > size * MAX_OUTPUT_BYTES:
        most = f"a job may have at most {MAX_OUTPUT_BYTES:,}: send a smaller input"
        raise ModelFault(f"the outputs for this input have {output_bytes // size:,} bytes; {most}")


def answer_bytes(outputs: Mapping[str, NDArray[Any]], pictures: Collection[str]) -> dict[str, int]:
    """By output of a batch: the bytes of one job's, before they are written as base64; a PNG file has hardly more."""
    return {name: (raw.size if name in pictures else raw.nbytes) // max(1, len(raw)) for name, raw in outputs.items()}


def too_large(answer: int) -> ModelFault | None:
    """What is wrong with an answer whose outputs have so many bytes."""
    if answer <= MAX_ANSWER_BYTES:
        return None
    most = f"a result holds at most {MAX_ANSWER_BYTES:,}: ask for fewer outputs, or send a smaller input"
    return ModelFault(f"the outputs that this job asks for have {answer:,} bytes; {most}")
