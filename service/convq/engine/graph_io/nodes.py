"""Inputs and outputs of a graph in onnxruntime's words: a name, a type such as "tensor(uint8)", and a shape.

Free axes of a shape are text or None. `Node` is just that, so whoever looks at graphs imports no runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

DTYPES: Final = {"tensor(uint8)": "uint8", "tensor(float)": "float32", "tensor(float16)": "float32"}
"""The types of an input that are served -> what a job's input is made as, one of those of the protocol's `tensor` field."""
HALF: Final = "tensor(float16)"
"""The one that a batch is cast to."""
_LONG: Final = {"float": "float32", "double": "float64"}


class Node(Protocol):
    """One input or output of a graph, as onnxruntime describes it."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def type(self) -> str: ...  # noqa: D102
    @property
    def shape(self) -> Sequence[Any]: ...  # noqa: D102


def dtype_of(node: Node) -> str:
    """Its type in numpy's words where it is a tensor of numbers, as float32."""
    short = node.type.removeprefix("tensor(").removesuffix(")")
    return _LONG.get(short, short)


def sides_of(node: Node) -> list[int | None]:
    """Its shape, with None for every free axis."""
    return [side if isinstance(side, int) else None for side in node.shape]
