"""A network in PyTorch as something that can be asked and run like a graph, so that one mind guesses about both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from convq.errors import ExportRefused, ModelFault
from convq.exporter.graphs import reason, tensors

INPUT = "image"


@dataclass(frozen=True, slots=True)
class Node:
    """An input or output, as onnxruntime would describe it."""

    name: str
    type: str
    shape: Sequence[Any]


@dataclass(frozen=True, slots=True)
class TorchGraph:
    """The network, and the names of what it returned when it was tried."""

    net: nn.Module
    channels: int
    dtype: str
    """uint8 or float32."""
    outputs: Sequence[Node]

    @classmethod
    def tried(cls, net: nn.Module, shape: tuple[int, int, int], dtype: str) -> TorchGraph:
        """With what the network returns for two blank images of `shape`, [C, H, W].

        Raises ExportRefused where it returns no tensors, ModelFault where it does not run on them.
        """
        made = _run(net, torch.zeros((2, *shape), dtype=getattr(torch, dtype)))
        outputs = [Node(name, _type(one), [None, *one.shape[1:]]) for name, one in made.items()]
        return cls(net, shape[0], dtype, outputs)

    @property
    def inputs(self) -> Sequence[Node]:
        """One, of free sides."""
        return [
            Node(
                INPUT, "tensor(uint8)" if self.dtype == "uint8" else "tensor(float)", [None, self.channels, None, None]
            )
        ]

    def run(self, batch: NDArray[Any]) -> list[Any]:
        """The outputs, in order. Raises ModelFault where the network refuses the batch."""
        return [one.numpy() for one in _run(self.net, torch.from_numpy(np.ascontiguousarray(batch))).values()]


def _run(net: nn.Module, batch: torch.Tensor) -> dict[str, torch.Tensor]:
    try:
        with torch.no_grad():
            return tensors(net(batch))
    except ExportRefused:
        raise
    except Exception as err:
        # Somebody else's network: it may raise anything.
        raise ModelFault(reason(err)) from err


def _type(made: torch.Tensor) -> str:
    names = {"float32": "float", "float64": "double"}
    name = str(made.dtype).removeprefix("torch.")
    return f"tensor({names.get(name, name)})"
