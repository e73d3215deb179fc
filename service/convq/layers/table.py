"""The table of a network's layers, as data: what a report can hold, and what reading it back needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from convq.errors import ModelBroken

Shape = tuple[int | None, ...]
"""Without the batch axis, if there is one; None is a side that is not known before there is an image."""


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Weight(_Row):
    """One tensor of numbers that a layer has learned or was given."""

    name: str
    shape: tuple[int, ...]
    """As the layer uses it: [channels out, channels in / groups, kernel…] of a convolution."""
    dtype: str


class Layer(_Row):
    """One row of the table: an operator with its bias and the activation that follows at once."""

    name: str
    """What the weights or the graph call it."""
    kind: str
    """The operator as ONNX calls it, but for `Linear` (Gemm, MatMul with weights) and `depthwise Conv`."""
    activation: str | None = None
    """What is done to every number of the output by itself: `ReLU`, or several, such as `Mul, Add`."""
    kernel: tuple[int, ...] | None = None
    stride: tuple[int, ...] | None = None
    padding: tuple[int, ...] | None = None
    """As ONNX has it: what is added at the beginning of every axis, then at the end of every axis; None where that
    depends on the image."""
    dilation: tuple[int, ...] | None = None
    groups: int | None = None
    ceil: bool = False
    """Whether a pooling rounds its sides up."""
    inputs: tuple[Shape | None, ...]
    """Of everything that is not weights; None where not even the number of axes is known."""
    outputs: tuple[Shape | None, ...]
    weights: tuple[Weight, ...] = ()
    parameters: int
    """Numbers in `weights`; weights that an earlier row has too count there only."""
    macs: int | None
    """Multiplications with an addition for one image; None where the row's shapes or its operator are not known."""


_layers = TypeAdapter(tuple[Layer, ...])


@dataclass(frozen=True, slots=True)
class Architecture:
    """The table, in the order in which the layers run."""

    layers: tuple[Layer, ...]

    @property
    def parameters(self) -> int:
        """All of them: weights and biases, each tensor once."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def macs(self) -> int | None:
        """Multiply-accumulates for one image; None where one layer's are not known."""
        known = [layer.macs for layer in self.layers if layer.macs is not None]
        return sum(known) if len(known) == len(self.layers) else None

    @property
    def sides(self) -> tuple[Shape, ...]:
        """Height and width on their way through the layers that change them, the input's first."""
        spatial = [layer for layer in self.layers if layer.kernel or layer.kind in {"Resize", "Upsample"}]
        shapes = [*(layer.inputs[0] for layer in spatial[:1] if layer.inputs), *(one.outputs[0] for one in spatial)]
        return tuple(side for side, _ in groupby(shape[1:] for shape in shapes if shape))

    @property
    def widths(self) -> tuple[int | None, ...]:
        """Numbers that go into the first linear layer, then those that come out of each."""
        linear = [layer for layer in self.layers if layer.kind == "Linear"]
        shapes = [*(layer.inputs[0] for layer in linear[:1] if layer.inputs), *(one.outputs[0] for one in linear)]
        return tuple(width for width, _ in groupby(shape[-1] for shape in shapes if shape))

    def to_json(self) -> list[dict[str, Any]]:
        """One plain dict a layer, without what does not apply to it: what a report has under `layers`."""
        rows: list[dict[str, Any]] = _layers.dump_python(self.layers, mode="json", exclude_defaults=True)
        return rows

    @classmethod
    def from_json(cls, rows: Sequence[Mapping[str, Any]]) -> Architecture:
        """The table that `to_json` wrote. Raises ModelBroken where it is none."""
        try:
            return cls(_layers.validate_python(rows))
        except ValidationError as err:
            where = ".".join(map(str, err.errors()[0]["loc"]))
            raise ModelBroken(f"layers{'.' if where else ''}{where}: {err.errors()[0]['msg']}") from None
