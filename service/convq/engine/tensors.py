"""Raw tensors of jobs: admitted when they are exactly what the graph takes, refused with what was expected otherwise."""

from __future__ import annotations

import math
import re
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convq.answers.coordinates import Placement
from convq.engine.image import normalise
from convq.engine.signature import Graph
from convq.errors import BadTensor
from convq.printable import excerpt

ITEM_BYTES = {"uint8": 1, "float32": 4}
MAX_AXES = 8


class Prepared(NamedTuple):
    """One job's input, ready for a batch. Only inputs of equal `shape` share one.

    A named tuple, because one is made for every job, and a frozen dataclass takes more than twice as long to make.
    """

    data: bytes | NDArray[np.generic]
    """The graph's dtype, C order: bytes as they came, or a C-contiguous array."""
    shape: tuple[int, ...]
    """Without the batch axis."""
    placement: Placement | None = None
    """How the picture lies in it; None where there is none, or it is the input itself."""


def admit_slowly(tensor: bytes, dtype: str, shape: str, graph: Graph, max_pixels: int) -> Prepared:
    """Every case but the common one, which `Engine.admit` recognises by comparing: see there."""
    if dtype not in ITEM_BYTES:
        raise BadTensor(f"dtype is '{_brief(dtype)}'; expected {_dtypes(graph)}")
    if dtype != graph.dtype and (graph.dtype == "uint8" or not graph.takes_images):
        raise BadTensor(f"dtype is {dtype}; this model takes {graph.dtype}")
    sides = _parse(shape, graph)
    _check_sides(sides, graph, max_pixels)
    expected = math.prod(sides) * ITEM_BYTES[dtype]
    if len(tensor) != expected:
        raise BadTensor(f"the tensor has {len(tensor)} bytes; {dtype} of shape {_join(sides)} has {expected}")
    if dtype == graph.dtype:
        return Prepared(tensor, sides)
    # A uint8 tensor for a float32 graph: a decoded image, of which only the last step of `prepare` is left to do.
    pixels = np.frombuffer(tensor, dtype=np.uint8).reshape(sides)
    return Prepared(normalise(pixels, graph.input), sides)


def is_finite(data: bytes | NDArray[np.generic], dtype: str | np.dtype[Any], cast_to: str | None = None) -> bool:
    """Whether a tensor's values, in C order, hold no NaN and no infinity, also when cast. Integers hold none."""
    values = np.frombuffer(data, dtype=dtype)
    if cast_to is not None:
        with np.errstate(over="ignore"):
            values = values.astype(cast_to)
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())


def largest_bytes(graph: Graph, max_pixels: int) -> int:
    """Bytes of the largest tensor that a job may bring."""
    item_bytes = ITEM_BYTES[graph.dtype]
    fixed = [side for side in graph.shape if side is not None]
    if len(fixed) == len(graph.shape):
        return item_bytes * math.prod(fixed)
    return item_bytes * max_pixels * (graph.input.channels if graph.takes_images else 1)


def read_npy(content: bytes) -> tuple[bytes, str, str]:
    """A NumPy file as the `tensor`, `dtype` and `shape` of a job. Raises BadTensor for what is none."""
    try:
        array = np.lib.format.read_array(BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError) as err:
        raise BadTensor(f"not a NumPy file with numbers: {err}") from None
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return little.tobytes(), array.dtype.name, _join(array.shape)


def _parse(shape: str, graph: Graph) -> tuple[int, ...]:
    if not re.fullmatch(r"[0-9]{1,9}(,[0-9]{1,9})*", shape) or shape.count(",") >= MAX_AXES:
        raise BadTensor(f"shape is '{_brief(shape)}'; expected {_expected(graph)}")
    return tuple(map(int, shape.split(",")))


def _check_sides(sides: tuple[int, ...], graph: Graph, max_pixels: int) -> None:
    fits = len(sides) == len(graph.shape) and all(
        side == wanted if wanted is not None else side > 0 and side % graph.input.multiple_of == 0
        for side, wanted in zip(sides, graph.shape, strict=True)
    )
    if not fits:
        raise BadTensor(f"shape is {_join(sides)}; expected {_expected(graph)}")
    most, what = (max_pixels * graph.input.channels, "pixels") if graph.takes_images else (max_pixels, "elements")
    if math.prod(sides) > most:
        raise BadTensor(f"shape {_join(sides)} has more than the {max_pixels} {what} that are accepted")


def _expected(graph: Graph) -> str:
    step = graph.input.multiple_of
    free = "any" if step == 1 else f"a multiple of {step}"
    return ",".join(free if side is None else str(side) for side in graph.shape)


def _dtypes(graph: Graph) -> str:
    return "float32 or uint8" if graph.dtype == "float32" and graph.takes_images else graph.dtype


def _join(sides: tuple[int, ...]) -> str:
    return ",".join(map(str, sides))


def _brief(text: str) -> str:
    """What a client wrote, short and printable."""
    return excerpt(text, 24)
