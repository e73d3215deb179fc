"""What a graph takes besides the picture: the size of its input, factors of 1, thresholds. The same for every job of a batch.

All of it is about the network's input and never about the picture of a job: so jobs of all sizes share a batch, and what comes
out is in pixels of that input.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from convq.engine.graph_io.nodes import Node, dtype_of, sides_of
from convq.errors import ModelBroken
from convq.printable import brief, brief_list
from convq.repository.manifest import Given

FED_DTYPES: Final = ("float32", "float16", "float64", "int32", "int64", "uint8", "bool")
KNOWN: Final[Mapping[str, Given]] = {"im_shape": "size", "scale_factor": "ones", "orig_target_sizes": "size_wh"}
"""Names by which exporters of detectors call them -> what they mean; as of PaddleDetection and RT-DETR."""
_TABLE_RANK: Final = 2
"""From so many axes on the first one may be the batch."""


@dataclass(frozen=True, slots=True)
class ExtraInput:
    """One of them, and how it is filled."""

    given: Given
    dtype: str
    sides: tuple[int | None, ...]
    """Without the batch axis, where it has one. None: the height and the width of the network's input, in this order."""
    per_job: bool
    """Whether its first axis is the batch."""

    def values(self, rows: int, size: tuple[int, ...]) -> NDArray[Any]:
        """For a batch of `rows` and a network's input of `size`, height and width: [rows, *sides], or [*sides]."""
        free = iter(size)
        shape = tuple(next(free) if side is None else side for side in self.sides)
        whole = (rows, *shape) if self.per_job else shape
        if self.given == "ones":
            return np.ones(whole, dtype=self.dtype)
        numbers = size if self.given == "size" else size[::-1] if self.given == "size_wh" else self.given
        one = np.array(numbers, dtype=self.dtype).reshape(shape)
        return np.array(np.broadcast_to(one, whole))


def picture_of(inputs: Sequence[Node], extra: Mapping[str, Given]) -> Node:
    """The one input that jobs bring: the only one that is none of `extra`.

    Raises ModelBroken, in words that go on after the file's name.
    """
    known = [node.name for node in inputs]
    if missing := [one for one in extra if one not in known]:
        there = brief_list(known) or "none"
        raise ModelBroken(f"the graph has no input {brief(missing[0])}, which extra_inputs names; it has {there}")
    left = [node for node in inputs if node.name not in extra]
    if len(left) != 1:
        names = brief_list(node.name for node in left) or "none"
        besides = " besides those of [extra_inputs]" if extra or left else ""
        raise ModelBroken(f"the graph has {len(left)} inputs ({names}); expected exactly one{besides}")
    return left[0]


def extra_inputs_of(
    inputs: Sequence[Node], extra: Mapping[str, Given], picture: Node, *, takes_images: bool
) -> dict[str, ExtraInput]:
    """How each of `extra` is filled, as the graph declares it. Raises ModelBroken as `picture_of` does."""
    return {
        node.name: _filled(node, extra[node.name], picture, takes_images=takes_images)
        for node in inputs
        if node.name in extra
    }


def _filled(node: Node, given: Given, picture: Node, *, takes_images: bool) -> ExtraInput:
    where, dtype, sides = f"input {brief(node.name)}", dtype_of(node), sides_of(node)
    if dtype not in FED_DTYPES:
        raise ModelBroken(f"{where} is a {brief(node.type)}; expected a tensor of {', '.join(FED_DTYPES)}")
    if given in ("size", "size_wh"):
        if not takes_images:
            raise ModelBroken(f"{where} is given {given!r}, and the model takes no images; expected 'ones' or numbers")
        if dtype in ("uint8", "bool"):
            raise ModelBroken(f"{where} is {dtype}, which holds no {given!r} of more than 255 pixels")
    per_job = _counts_jobs(node, picture)
    rest = sides[1:] if per_job else sides
    if given == "ones":
        if rest.count(None) not in ((0, 2) if takes_images else (0,)):
            raise ModelBroken(f"{where} leaves sides free; expected none, or a height and a width, as it is given ones")
        return ExtraInput(given, dtype, tuple(rest), per_job)
    count = len(given) if isinstance(given, tuple) else 2
    fixed = math.prod(side for side in rest if side is not None)
    if rest.count(None) > 1 or count % max(fixed, 1) or (None not in rest and count != fixed):
        shown = [("any" if side is None else side) for side in sides]
        raise ModelBroken(f"{where} is {shown}; extra_inputs gives it {count} value{'s'[: count > 1]}")
    if isinstance(given, tuple) and not _holds(dtype, given):
        raise ModelBroken(f"{where} is {dtype}; extra_inputs gives it {', '.join(f'{one:g}' for one in given)}")
    return ExtraInput(given, dtype, tuple(count // fixed if side is None else side for side in rest), per_job)


def _counts_jobs(node: Node, picture: Node) -> bool:
    """Whether its first axis is the batch: of a table one that is free or as long as the picture's, of a row one that is called so."""
    batch = picture.shape[0] if picture.shape else None
    if len(node.shape) < _TABLE_RANK:
        return bool(node.shape) and isinstance(node.shape[0], str) and node.shape[0] == batch
    return not isinstance(node.shape[0], int) or node.shape[0] == batch != 1


def _holds(dtype: str, numbers: Sequence[float]) -> bool:
    """Whether these are numbers of that type: whole and in range for integers, finite for floating point."""
    if dtype == "bool":
        return set(numbers) <= {0.0, 1.0}
    if np.dtype(dtype).kind == "f":
        return max(map(abs, numbers)) <= float(np.finfo(dtype).max)
    bounds = np.iinfo(dtype)
    return all(one.is_integer() and bounds.min <= one <= bounds.max for one in numbers)
