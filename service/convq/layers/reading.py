"""From an ONNX file to a Network: its operators, constants and shapes. It and `sizes` alone need onnx."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from typing import Any, Final

import onnx
import onnx.inliner

from convq.errors import ModelBroken
from convq.layers import sums
from convq.layers.sizes import KEPT_NUMBERS, compute_sizes, keeps_values_small
from convq.layers.table import Shape, Weight
from convq.layers.unfolding import fits_unfolded

_RUNTIMES_DOMAIN: Final = "com.microsoft"
_QUANTISED: Final = ("Sigmoid", "LeakyRelu", "Softmax", "AveragePool", "GlobalAveragePool")
_STANDS_FOR: Final[Mapping[str, tuple[str, slice | tuple[int, ...]]]] = {
    "ConvInteger": ("Conv", (0, 1)),
    "QLinearConv": ("Conv", (0, 3, 8)),
    "MatMulInteger": ("MatMul", (0, 1)),
    "QLinearMatMul": ("MatMul", (0, 3)),
    "FusedConv": ("Conv", (0, 1, 2)),
    "FusedGemm": ("Gemm", (0, 1, 2)),
    "FusedMatMul": ("MatMul", (0, 1)),
    "QGemm": ("Gemm", (0, 3, 6)),
    "QLinearAdd": ("Add", (0, 3)),
    "QLinearMul": ("Mul", (0, 3)),
    "QLinearConcat": ("Concat", slice(2, None, 3)),
    **{f"QLinear{kind}": (kind, (0,)) for kind in _QUANTISED},
    **dict.fromkeys(("Gelu", "FastGelu", "QuickGelu"), ("Gelu", (0,))),
    **{kind: (kind, (0,)) for kind in ("QuantizeLinear", "DequantizeLinear")},
}
"""Quantised or fused operator -> the plain one of the same shapes, and which of the inputs that one takes: the others
are scales and zero points."""

_LITERALS: Final = {"value_float": "FLOAT", "value_floats": "FLOAT", "value_int": "INT64", "value_ints": "INT64"}
_SINGLE: Final = frozenset([onnx.TensorProto.FLOAT, onnx.TensorProto.INT32, onnx.TensorProto.INT64])
_MOST_ROUNDS: Final = 64
"""Of inference for poolings behind each other: each halves its sides, which have at most 63 bits."""


@dataclass(frozen=True, slots=True)
class Op:
    """One node of a graph. Quantised and fused operators appear as the plain one that they stand for."""

    kind: str
    domain: str
    """Empty for ONNX's own operators, and for those that are said as one of them."""
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    captured: frozenset[str] = frozenset()
    """Tensors of the graph that its subgraphs use."""
    held: tuple[Weight, ...] = ()
    """Initializers of its subgraphs."""


@dataclass(frozen=True, slots=True)
class Network:
    """A graph without its bytes."""

    ops: tuple[Op, ...]
    """In an order in which they can run."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, Weight]
    """Initializers, and the values of Constant nodes."""
    literals: frozenset[str]
    """Which of the constants came from Constant nodes."""
    numbers: Mapping[str, float]
    """The value of every constant that is a single number."""
    shapes: Mapping[str, Shape]
    """With the batch axis, for a batch of one."""


def read(model: bytes, sides: Sequence[int | None]) -> Network:
    """The network in an ONNX file, with shapes for one image of `sides`. Raises ModelBroken for anything else."""
    try:
        proto = onnx.load_model_from_string(model)
    except Exception:  # noqa: BLE001 - protobuf's own class, which has moved between its releases
        raise ModelBroken("is no ONNX file") from None
    if not proto.graph.node:
        raise ModelBroken("is no ONNX file with a graph in it")
    try:
        return _read(_prepared(proto), sides)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ModelBroken(f"holds a graph that contradicts itself ({type(error).__name__})") from error


def _prepared(proto: Any) -> Any:
    """The same without the bytes of large weights and without functions of its own."""
    for tensor in proto.graph.initializer:
        if prod(tensor.dims) > KEPT_NUMBERS:
            tensor.CopyFrom(onnx.TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type))
    if proto.functions and fits_unfolded(proto):
        with suppress(Exception):  # a row for each call is better than no table
            return onnx.inliner.inline_local_functions(proto)
    del proto.functions[:]  # inference would look into each call of each call
    return proto


def _read(proto: Any, sides: Sequence[int | None]) -> Network:
    graph = proto.graph
    literals = {node.output[0]: value for node in graph.node if (value := _literal(node)) is not None}
    tensors = {**{one.name: one for one in graph.initializer}, **literals}
    inputs = tuple(one.name for one in graph.input if one.name not in tensors)
    return Network(
        ops=tuple(map(_op, graph.node)),
        inputs=inputs,
        outputs=tuple(one.name for one in graph.output),
        constants={name: _weight(name, tensor) for name, tensor in tensors.items()},
        literals=frozenset(literals),
        numbers={
            name: float(onnx.numpy_helper.to_array(tensor).reshape(-1)[0])
            for name, tensor in tensors.items()
            if prod(tensor.dims) == 1 and tensor.data_type in _SINGLE and not tensor.external_data
        },
        shapes=_shapes(proto, inputs, sides),
    )


# -- operators and constants ---------------------------------------------------------------------------------------------


def _literal(node: Any) -> Any:
    """The tensor of a Constant node, or None."""
    for one in node.attribute if node.op_type == "Constant" else ():
        value = onnx.helper.get_attribute_value(one)
        if one.name == "value":
            return value
        if one.name in _LITERALS:
            values = list(value) if one.name.endswith("s") else [value]
            shape = [len(values)] if one.name.endswith("s") else []
            return onnx.helper.make_tensor("", getattr(onnx.TensorProto, _LITERALS[one.name]), shape, values)
    return None


def _weight(name: str, tensor: Any) -> Weight:
    dtype = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
    dtype = {"float": "float32", "double": "float64"}.get(dtype, dtype)
    return Weight(name=name, shape=tuple(tensor.dims), dtype=dtype)


def _op(node: Any) -> Op:
    attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    values = [one for value in attributes.values() for one in (value if isinstance(value, list) else [value])]
    captured: set[str] = set()
    held: list[Weight] = []
    for graph in (one for one in values if isinstance(one, onnx.GraphProto)):
        inner = [_op(one) for one in graph.node]
        own = {name for op in inner for name in op.outputs} | {one.name for one in (*graph.input, *graph.initializer)}
        used = {name for op in inner for name in (*op.inputs, *op.captured)} | {one.name for one in graph.output}
        captured |= used - own - {""}
        held += [_weight(one.name, one) for one in graph.initializer] + [one for op in inner for one in op.held]
    kind, domain, inputs = _plain(node)
    return Op(kind, domain, node.name, inputs, tuple(node.output), attributes, frozenset(captured), tuple(held))


def _plain(node: Any) -> tuple[str, str, tuple[str, ...]]:
    """The operator that a node stands for, its domain, and the inputs that this one takes."""
    domain, inputs = "" if node.domain == "ai.onnx" else node.domain, tuple(node.input)
    if domain not in {"", _RUNTIMES_DOMAIN} or node.op_type not in _STANDS_FOR:
        return node.op_type, domain, inputs
    kind, slots = _STANDS_FOR[node.op_type]
    return kind, "", inputs[slots] if isinstance(slots, slice) else tuple(inputs[i] for i in slots if i < len(inputs))


# -- shapes --------------------------------------------------------------------------------------------------------------


def _shapes(proto: Any, inputs: Sequence[str], sides: Sequence[int | None]) -> dict[str, Shape]:
    """The shape of every tensor for a batch of one, as far as onnx infers it. Changes `proto` to that end."""
    graph = proto.graph
    known = _fix_sides(graph, inputs, sides)
    inferable = {name for node in graph.node if not _plain(node)[1] for name in node.output}
    said = [one for one in graph.value_info if one.name not in inferable]
    del graph.value_info[:]  # they speak of a free batch, and inferred anew they are numbers
    for one in said:
        _fill(one, known)
        graph.value_info.append(one)
    for one in graph.output:
        one.ClearField("type")
    for node in graph.node:
        kind, domain, taken = _plain(node)
        if node.domain != domain and not domain:
            # Gelu came late to ONNX itself; as far as shapes go, the identity is the same.
            node.op_type, node.domain, node.input[:] = "Identity" if kind == "Gelu" else kind, "", taken
    with suppress(Exception):  # then inference will find fewer shapes
        compute_sizes(proto)
    with_values = keeps_values_small(graph)
    shapes = _inferred(proto, with_values=with_values)
    for _ in range(_MOST_ROUNDS):
        if not _round_down(graph, shapes):
            break
        shapes = _inferred(proto, with_values=with_values)
    return shapes


def _inferred(proto: Any, *, with_values: bool) -> dict[str, Shape]:
    graph = proto.graph
    with suppress(Exception):  # it stumbles over few models; of those only the input's shape is known
        graph = onnx.shape_inference.infer_shapes(proto, strict_mode=False, data_prop=with_values).graph
    return {
        one.name: tuple(side.dim_value if side.HasField("dim_value") else None for side in _dims(one))
        for one in (*graph.value_info, *graph.input, *graph.output)
        if one.type.tensor_type.HasField("shape")
    }


def _round_down(graph: Any, shapes: Mapping[str, Shape]) -> bool:
    """Say poolings that round up as ones that do not, where onnx's rule counts a window that no pooling computes.

    Returns whether there were any; the shapes behind them are wrong then.
    """
    found = False
    for node in graph.node:
        how = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        if not how.get("ceil_mode") or how.get("auto_pad", b"NOTSET") != b"NOTSET":
            continue
        before, after = (shapes.get(name, ())[2:] for name in (node.input[0], node.output[0]))
        known = [side for side in before if side is not None]
        if not len(known) == len(before) == len(how.get("kernel_shape", ())):
            continue
        sides, pads = sums.rounded_up(known, how)
        if sides != after:
            found = True
            kept = [one for one in node.attribute if one.name not in {"ceil_mode", "pads"}]
            del node.attribute[:]
            node.attribute.extend([*kept, onnx.helper.make_attribute("pads", pads)])
    return found


def _fix_sides(graph: Any, inputs: Sequence[str], sides: Sequence[int | None]) -> dict[str, int]:
    """A batch of one, and `sides` where the first input leaves them free; what the free axes' names stand for then."""
    known: dict[str, int] = {}
    for one in graph.input:
        axes = _dims(one)
        wanted = [1, *sides] if inputs[:1] == (one.name,) and len(axes) == len(sides) + 1 else [1]
        for axis, side in zip(axes, wanted, strict=False):
            if one.name in inputs and side is not None and not axis.HasField("dim_value"):
                if axis.dim_param:
                    known[axis.dim_param] = side
                axis.dim_value = side
    for one in graph.input:
        _fill(one, known)
    return known


def _fill(value: Any, known: Mapping[str, int]) -> None:
    for axis in _dims(value):
        if axis.dim_param in known:
            axis.dim_value = known[axis.dim_param]


def _dims(value: Any) -> Any:
    return value.type.tensor_type.shape.dim
