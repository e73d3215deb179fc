"""What a graph takes and yields, held against what its manifest claims. Knows nothing of onnxruntime but two shapes.

onnxruntime describes each input and output by a name, a type such as "tensor(uint8)", and a shape whose free axes are
text or None; `Node` is just that, so this module imports no runtime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from convq.errors import ModelBroken
from convq.inference.manifest import Input, Manifest

DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
"""The input types that are served: those of the protocol's `tensor` field."""

IMAGE_RANK = 4
NUMERIC = frozenset(
    ["bool", "float16", "float", "double", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
)


class Node(Protocol):
    """One input or output of a graph, as onnxruntime describes it."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def type(self) -> str: ...  # noqa: D102
    @property
    def shape(self) -> Sequence[Any]: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph and its manifest, found to agree."""

    name: str
    """The graph's name of its input."""
    dtype: str
    """uint8 or float32."""
    shape: tuple[int | None, ...]
    """One image in the layout of the model, without the batch axis; None is a free side."""
    input: Input
    """The manifest's input with the graph's sizes filled in."""
    max_batch: int
    fetched: tuple[str, ...]
    """The outputs that every batch yields."""
    feature_maps: Mapping[str, str]
    """Name that jobs use -> the graph's output."""
    nodes: Mapping[str, dict[str, Any]]
    """The graph's outputs: dtype, and shape without the batch axis."""

    def example_shape(self) -> tuple[int, ...]:
        """A shape to warm up with: 224 or so for every free side."""
        step = self.input.multiple_of
        return tuple(side if side is not None else max(1, 224 // step) * step for side in self.shape)


def agree(manifest: Manifest, inputs: Sequence[Node], outputs: Sequence[Node], file: str) -> Graph:
    """Hold the manifest against the graph. Raises ModelBroken, beginning with `file`, where one contradicts the other."""
    if len(inputs) != 1:
        names = ", ".join(node.name for node in inputs) or "none"
        raise ModelBroken(f"{file}: the graph has {len(inputs)} inputs ({names}); expected exactly one, the image")
    node = inputs[0]
    _check_input(manifest.input, node, file)
    batch, *sides = [side if isinstance(side, int) else None for side in node.shape]
    if batch is not None and batch != 1:
        raise ModelBroken(
            f"{file}: input {node.name}: the batch axis is fixed at {batch}; expected free, or fixed at 1"
        )
    spec, shape = _sized(manifest.input, sides, f"{file}: input {node.name}")
    known = {output.name: output for output in outputs}
    fetched = tuple(output.name for output in manifest.outputs) or tuple(known)
    for name in (*fetched, *manifest.feature_maps.values()):
        if name not in known:
            raise ModelBroken(
                f"{file}: the graph has no output {name}, which the manifest names; it has {_list(known)}"
            )
        kind = known[name].type
        if kind.removeprefix("tensor(").removesuffix(")") not in NUMERIC:
            raise ModelBroken(f"{file}: output {name} is a {kind}; expected a tensor of numbers")
    return Graph(
        name=node.name,
        dtype=DTYPES[node.type],
        shape=shape,
        input=spec,
        max_batch=1 if batch == 1 else manifest.limits.max_batch,
        fetched=fetched,
        feature_maps=dict(manifest.feature_maps),
        nodes={name: _describe(known[name]) for name in (*fetched, *manifest.feature_maps.values())},
    )


def _check_input(spec: Input, node: Node, file: str) -> None:
    where = f"{file}: input {node.name}"
    if spec.name not in (None, node.name):
        raise ModelBroken(f"{file}: the graph's input is {node.name}; the manifest says input.name = {spec.name}")
    if node.type not in DTYPES:
        raise ModelBroken(f"{where} is a {node.type}; expected {' or '.join(DTYPES)}")
    dtype = DTYPES[node.type]
    if spec.dtype not in (None, dtype):
        raise ModelBroken(f"{where} is {dtype}; the manifest says input.dtype = {spec.dtype}")
    if dtype == "uint8" and spec.normalises:
        raise ModelBroken(f"{where} is uint8 and gets pixels as they are; the manifest has a scale, mean or std")
    if len(node.shape) != IMAGE_RANK:
        raise ModelBroken(f"{where} has {len(node.shape)} axes; expected 4 ({spec.layout})")


def _sized(spec: Input, sides: Sequence[int | None], where: str) -> tuple[Input, tuple[int | None, ...]]:
    """The manifest's input and the shape of one image, once channels and sizes agree."""
    channels, height, width = sides if spec.layout == "NCHW" else (sides[2], sides[0], sides[1])
    if channels not in (None, spec.channels):
        hint = "; is its layout right?" if spec.channels in sides else ""
        raise ModelBroken(
            f"{where} has {channels} channels; the manifest's color {spec.color} has {spec.channels}{hint}"
        )
    for name, claimed, actual in (("height", spec.height, height), ("width", spec.width, width)):
        if claimed is not None and actual is not None and claimed != actual:
            raise ModelBroken(f"{where} has a {name} of {actual}; the manifest says input.{name} = {claimed}")
    try:
        sized = spec.sized(height, width)
    except ValueError:
        raise ModelBroken(
            f"{where}: its {width} x {height} pixels do not go with the manifest's resize and pad"
        ) from None
    if sized.lacks:
        raise ModelBroken(f"{where}: resize = '{spec.resize}' needs input.{sized.lacks}, which the graph leaves free")
    image = (sized.height, sized.width)
    return sized, (spec.channels, *image) if spec.layout == "NCHW" else (*image, spec.channels)


def _describe(node: Node) -> dict[str, Any]:
    dtype = node.type.removeprefix("tensor(").removesuffix(")")
    shape = [side if isinstance(side, int) else None for side in node.shape[1:]]
    return {"dtype": {"float": "float32", "double": "float64"}.get(dtype, dtype), "shape": shape}


def _list(names: Mapping[str, Node]) -> str:
    return ", ".join(names)
