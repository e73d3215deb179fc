"""How many jobs a batch may have, so that what comes of it has room in the memory of its worker."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

from numpy.typing import NDArray

TOGETHER_BYTES: Final = 60 * 2**20
"""What comes of one batch may take so much where nobody says otherwise: an eighth of what a worker plans with."""
DOCUMENT_PARTS: Final = (7, 3)
"""What a job's outputs take, and what is written of them in base64: so many thirds of the outputs alone."""

SHAPES_KNOWN: Final = 256
"""Shapes of inputs whose outputs are remembered: clients choose them where sides are free."""


def taken_bytes(job_bytes: int, jobs: int = 1) -> int:
    """What the outputs of so many jobs take, `job_bytes` for each, together with the documents that are made of them."""
    return job_bytes * jobs * DOCUMENT_PARTS[0] // DOCUMENT_PARTS[1]


def fitting(job_bytes: int, largest: int, together_bytes: int) -> int:
    """The most jobs, up to `largest` and at least one, that take no more than `together_bytes` with what comes of them."""
    return max(1, min(largest, together_bytes // max(1, taken_bytes(job_bytes))))


def remark(job_bytes: int, largest: int, together_bytes: int) -> str:
    """Why fewer than `largest` jobs share a batch; empty where they do not."""
    fits = fitting(job_bytes, largest, together_bytes)
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
