"""What a graph is tried with: inputs whose answers should be far apart, and others as no picture makes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from convq.engine.image import normalise
from convq.repository.manifest import Input

INPUTS: Final = 8
WILD: Final = 5
"""Inputs of quite other magnitudes, at most."""
BLANK: Final = 1
"""The number of the one that is black."""
FEW: Final = 4
"""So many are enough for a batch that is no larger."""


def varied(spec: Input, shape: Sequence[int], dtype: str, count: int) -> list[NDArray[Any]]:
    """`count` inputs of `shape` whose answers should be far apart: they differ in forms, contrast, brightness and noise.

    As the graph takes them: uint8, or float32 as the manifest normalises images; tensors from 0 to 1 and from -2 to 2 in turns.
    """
    made: list[NDArray[Any]] = []
    for number in range(count):
        rng = np.random.default_rng([7, number])
        sides = [min(2 + number % 5, side) for side in shape]
        coarse = rng.random(sides, dtype=np.float32)
        if number % 2:
            coarse = np.round(coarse)
        forms = coarse[np.ix_(*(np.arange(side) * few // side for side, few in zip(shape, sides, strict=True)))]
        noise, low = rng.uniform(0.05, 0.4), number % 3 / 6
        levels = 255 * (low + (1 - low) * ((1 - noise) * forms + noise * rng.random(shape, dtype=np.float32)))
        if number == BLANK:
            levels[...] = 0  # nothing else is as far from the rest
        pixels = levels.astype(np.uint8)
        if dtype == "uint8":
            made.append(pixels)
        elif spec.color != "none":
            made.append(normalise(pixels, spec))
        else:
            made.append((levels / 256 if number % 2 else levels / 64 - 2).astype(np.float32))
    return made


def wild(shape: Sequence[int], dtype: str) -> dict[str, NDArray[Any]]:
    """Up to `WILD` inputs of `shape` as no picture makes them, and as `tensor` jobs may bring them: what they hold -> input.

    Finite all of them: what a graph's operators make of NaN may end the process, and says little of other jobs.
    """
    if dtype == "uint8":
        return {f"a job of nothing but {level}": np.full(shape, level, np.uint8) for level in (0, 1, 255)}
    noise = np.random.default_rng([7, WILD]).uniform(0.1, 1, shape).astype(np.float32)
    return {
        "a job with values of 1e6": noise * np.float32(1e6),
        "a job with values of -1000": noise * np.float32(-1e3),
        "a job with values of 0.001": noise * np.float32(1e-3),
        "a job of nothing but 1": np.ones(shape, np.float32),
        "a job of nothing but -100": np.full(shape, -100, np.float32),
    }


def inputs_for(largest: int) -> int:
    """How many inputs are enough for batches of up to `largest`."""
    return 2 if largest == 1 else FEW if largest <= FEW else INPUTS
