"""From the operators of a graph to the rows that people read: what is folded, what counts as a weight, what a row costs.

Folded into the layer before: a bias that is added apart, and what is done to every number by itself (activations,
arithmetic with fixed numbers). Left out: what only changes the type (casts, quantisation), and whatever is computed from
constants and shapes alone, so that weights are found behind it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from heapq import heappop, heappush
from itertools import count
from math import prod
from typing import Any, Final

from convq.inference.architecture import names, sums
from convq.inference.architecture.reading import Network, Op
from convq.inference.architecture.table import Layer, Shape, Weight

_TYPE_ONLY: Final = frozenset(
    ["Cast", "CastLike", "Identity", "Dropout", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"]
)
_MEASURES: Final = frozenset(["Shape", "Size"])
_ARITHMETIC: Final = frozenset(
    ["Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Neg", "Abs", "Exp", "Min", "Max", "Reciprocal"]
)
_MOVES: Final = frozenset(["Transpose", "Reshape", "Squeeze", "Unsqueeze", "Pad", "Slice", "Concat", "Split", "Resize"])
_CONVOLUTIONS: Final = frozenset(["Conv", "ConvTranspose"])
_LINEAR: Final = frozenset(["Gemm", "MatMul"])
_POOLS: Final = frozenset(["MaxPool", "AveragePool", "LpPool"])
_WEIGHT_SLOTS: Final[Mapping[str, tuple[int, ...]]] = {
    **dict.fromkeys(("Conv", "ConvTranspose"), (1, 2)),
    "DeformConv": (1, 3),
    "Gemm": (0, 1, 2),
    **dict.fromkeys(("MatMul", "Add", "Sub", "Mul", "Div"), (0, 1)),
    # The running mean and variance of a batch normalisation are statistics, as in PyTorch's count.
    **dict.fromkeys(
        ("BatchNormalization", "InstanceNormalization", "GroupNormalization", "LayerNormalization"), (1, 2)
    ),
    **dict.fromkeys(("PRelu", "RMSNormalization"), (1,)),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), (1, 2, 3, 7)),
    "Gather": (0,),
    **dict.fromkeys(("Concat", "Einsum"), tuple(range(64))),
}
_SUBGRAPHS: Final = frozenset(["Loop", "If", "Scan", "SequenceMap"])
_UNKNOWN_WORK: Final = frozenset(["LSTM", "GRU", "RNN", "Einsum", "Attention", "DeformConv"]) | _SUBGRAPHS
_NO_WEIGHTS: Final = frozenset(["int64", "bool", "string"])
_OUTSIDE: Final = -1


def rows_of(network: Network) -> list[Layer]:
    """The layers in the order in which they run."""
    return _Reader(network).rows()


class _Reader:
    """One pass over a network: first what is constant and what uses what, then the rows."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.ops: list[Op] = []
        """Those that work on the image."""
        self.same: dict[str, str] = {}
        """Tensor -> the one that it is but for its type."""
        self.fixed: dict[str, tuple[Weight, ...]] = {name: (one,) for name, one in network.constants.items()}
        """Tensor that does not depend on the image -> the constants that it is made of."""
        self.measured: set[str] = set()
        """Which of those depend on shapes or ranges, and so are no weights."""
        self.pixels = set(network.inputs)
        """The input, and what arithmetic alone makes of it: numbers there prepare the image, they are no weights."""
        self.users: dict[str, list[int]] = defaultdict(list)
        for op in network.ops:
            self._sort(op)
        for index, op in enumerate(self.ops):
            for tensor in {*op.inputs, *op.captured}:
                self.users[tensor].append(index)
        for output in network.outputs:
            self.users[self.same.get(output, output)].append(_OUTSIDE)
        self.counted: set[str] = set()
        self.folded: set[int] = set()
        self.unnamed: dict[str, count[int]] = defaultdict(count)

    def _sort(self, op: Op) -> None:
        """Whether an operator belongs to the way of the image, or to its constants, or to neither."""
        inputs = tuple(self.same.get(name, name) for name in op.inputs)
        captured = frozenset(self.same.get(name, name) for name in op.captured)
        used = [name for name in (*inputs, *captured) if name]
        if op.kind in _TYPE_ONLY and not op.domain:
            self.same[op.outputs[0]] = inputs[0]
            for name in op.outputs[1:]:
                self.fixed[name] = ()
                self.measured.add(name)
        elif op.kind in _MEASURES or all(name in self.fixed for name in used):
            self._fix(op, used)
        elif op.kind == "Mul" and self.measured & set(used):  # back from the range of a quantised layer
            self.same[op.outputs[0]] = next(name for name in used if name not in self.fixed)
        else:
            kept = Op(op.kind, op.domain, op.name, inputs, op.outputs, op.attributes, captured, op.held)
            self.ops.append(kept)
            prepares = (op.kind in _ARITHMETIC or op.kind in _MOVES) and not op.domain
            if prepares and {*used} - self.fixed.keys() <= self.pixels:
                self.pixels.update(op.outputs)

    def _fix(self, op: Op, used: Sequence[str]) -> None:
        made_of = {one.name: one for name in used for one in self.fixed[name]} if op.kind not in _MEASURES else {}
        roots = tuple(one for one in made_of.values() if one.dtype not in _NO_WEIGHTS)
        if op.kind in _MEASURES or self.measured & set(used):
            roots = ()
            self.measured.update(op.outputs)
        for name in op.outputs:
            shape = self.network.shapes.get(name, ())
            if op.kind == "ConstantOfShape" and name not in self.measured and None not in shape:
                roots = (Weight(name=name, shape=tuple(side or 0 for side in shape), dtype="float32"),)
            self.fixed.setdefault(name, roots)

    # -- rows -------------------------------------------------------------------------------------------------------

    def rows(self) -> list[Layer]:
        """The rows, in order; of their names without the part that all weights have in common."""
        made = [self._row(index) for index in range(len(self.ops)) if index not in self.folded]
        shared = names.shared_prefix([layer.name for layer in made if layer.weights])
        return [layer.model_copy(update={"name": layer.name.removeprefix(shared)}) for layer in made]

    def _row(self, index: int) -> Layer:
        op = self.ops[index]
        weights, activations = self._weights(op), [op.attributes.get("activation", b"").decode()]
        ends = [name for name in op.outputs if self.users[name]] or [*op.outputs[:1]]
        if self._is_pointwise(op) and len({*self._data(op)}) == 1:
            region = self._region(self._data(op)[0], whole=False)
            kind, ends[0] = self._fold(region if region[:1] == [index] else [index])
        else:
            kind = self._kind(op, weights)
            if len(ends) == 1:
                ends[0] = self._fold_bias(op, weights, ends[0])
                if region := self._region(ends[0], whole=True):
                    said, ends[0] = self._fold(region)
                    activations.append(said)
        return Layer(
            name=self._name(op, weights),
            kind=kind,
            activation=", ".join(names.ACTIVATIONS.get(one, one) for one in activations if one) or None,
            **self._window(op),
            inputs=tuple(map(self._image, self._data(op))),
            outputs=tuple(map(self._image, ends)),
            weights=tuple(weights),
            parameters=self._count(weights),
            macs=self._macs(op),
        )

    def _data(self, op: Op) -> list[str]:
        """What an operator takes that depends on the image."""
        return [name for name in (*op.inputs, *sorted(op.captured)) if name and name not in self.fixed]

    def _image(self, name: str) -> Shape | None:
        shape = self.network.shapes.get(name)
        return shape[1:] if shape and shape[0] in {1, None} else shape

    def _kind(self, op: Op, weights: Mapping[Weight, Any]) -> str:
        if op.kind == "Conv" and op.attributes.get("group", 1) > 1:
            kernel = self._shape(op, 1)
            return "depthwise Conv" if kernel is not None and kernel[1] == 1 else "Conv"
        if op.kind in _LINEAR:
            return "Linear" if weights else "MatMul"
        if op.kind == "Reshape" and len(self._image(op.outputs[0]) or ()) == 1:
            return "Flatten"
        return f"{op.domain}.{op.kind}" if op.domain else names.ACTIVATIONS.get(op.kind, op.kind)

    # -- weights ----------------------------------------------------------------------------------------------------

    def _weights(self, op: Op) -> dict[Weight, tuple[Weight, ...]]:
        """What an operator shows as weights -> the constants that these are made of.

        No weights are single numbers, and in arithmetic neither are numbers that stand in the graph as literals, nor
        those that prepare the image.
        """
        slots = range(len(op.inputs)) if op.domain else _WEIGHT_SLOTS.get(op.kind, ())
        tensors = [op.inputs[slot] for slot in slots if slot < len(op.inputs)]
        if op.kind in _SUBGRAPHS:
            tensors = [*op.inputs, *sorted(op.captured)]
        if op.kind in _ARITHMETIC | _MOVES:
            prepares = op.outputs[0] in self.pixels
            tensors = [name for name in tensors if not prepares and name not in self.network.literals]
        found: dict[Weight, tuple[Weight, ...]] = {
            one: (one,) for one in op.held if one.shape and one.dtype not in _NO_WEIGHTS
        }
        for name in tensors:
            roots = tuple(one for one in self.fixed.get(name, ()) if one.dtype not in _NO_WEIGHTS)
            shape = self.network.shapes.get(name) or (roots[0].shape if roots else ())
            if roots and shape:
                known = roots[0].shape if None in shape else tuple(side or 0 for side in shape)
                found[roots[0].model_copy(update={"shape": known})] = roots
        return found

    def _count(self, weights: Mapping[Weight, Sequence[Weight]]) -> int:
        """Numbers in weights that no row before has counted."""
        new = {one.name: one for roots in weights.values() for one in roots if one.name not in self.counted}
        self.counted.update(new)
        return sum(prod(one.shape) for one in new.values())

    def _fold_bias(self, op: Op, weights: dict[Weight, tuple[Weight, ...]], end: str) -> str:
        """Where one number a channel is added to a layer without a bias: make it its bias. Returns where the layer ends."""
        users = self.users[end]
        if op.kind not in _CONVOLUTIONS | _LINEAR or len(weights) != 1 or len(users) != 1 or users[0] == _OUTSIDE:
            return end
        add, shape = self.ops[users[0]], self._image(end)
        channels = shape[0 if op.kind in _CONVOLUTIONS else -1] if shape else None
        for name in add.inputs if add.kind == "Add" else ():
            roots = self.fixed.get(name, ())
            if roots and prod(roots[0].shape) == channels:
                weights[roots[0].model_copy(update={"shape": (channels,)})] = roots
                self.folded.add(users[0])
                return add.outputs[0]
        return end

    # -- activations ------------------------------------------------------------------------------------------------

    def _is_pointwise(self, op: Op) -> bool:
        """Whether it changes every number by itself, with nothing that was learned."""
        return not op.domain and (op.kind in names.ACTIVATIONS or op.kind in _ARITHMETIC) and not self._weights(op)

    def _region(self, source: str, *, whole: bool) -> list[int]:
        """The longest run of pointwise operators that starts at `source` alone and ends in one tensor.

        With `whole` nothing else may use `source`. Every tensor in between is used inside only.
        """
        pending, known, region = sorted({*self.users[source]} - {_OUTSIDE} - self.folded), {source}, list[int]()
        while pending:
            index = heappop(pending)
            op = self.ops[index]
            if index not in region and self._is_pointwise(op) and {*self._data(op)} <= known:
                region.append(index)
                known.add(op.outputs[0])
                for user in self.users[op.outputs[0]]:
                    if user != _OUTSIDE:
                        heappush(pending, user)
        while region:
            inner = [self.ops[index].outputs[0] for index in region[:-1]] + [source] * whole
            if all({*self.users[name]} <= {*region} for name in inner):
                break
            region.pop()
        return region

    def _fold(self, region: Sequence[int]) -> tuple[str, str]:
        """What pointwise operators are called together, and the tensor in which they end."""
        self.folded.update(region)
        ops = [self.ops[index] for index in region]
        return names.of_pointwise(ops, self.network.numbers), ops[-1].outputs[0]

    # -- numbers ----------------------------------------------------------------------------------------------------

    def _shape(self, op: Op, slot: int) -> Shape | None:
        """The shape of an input, weights or not."""
        name = op.inputs[slot] if slot < len(op.inputs) else ""
        roots = self.fixed.get(name, ())
        return self.network.shapes.get(name) or (roots[0].shape if roots else None)

    def _window(self, op: Op) -> dict[str, Any]:
        """Kernel, stride, padding, dilation, groups of a convolution or pooling; nothing for other operators."""
        if op.kind not in _CONVOLUTIONS | _POOLS:
            return {}
        weights = self._shape(op, 1) if op.kind in _CONVOLUTIONS else None
        kernel = tuple(op.attributes.get("kernel_shape", (weights or ())[2:]))
        if not kernel or None in kernel:
            return {}
        ones = (1,) * len(kernel)
        found: dict[str, Any] = {"kernel": kernel, "ceil": bool(op.attributes.get("ceil_mode", 0))}
        found["stride"] = tuple(op.attributes.get("strides", ones))
        found["dilation"] = tuple(op.attributes.get("dilations", ones))
        found["groups"] = op.attributes.get("group", 1) if op.kind in _CONVOLUTIONS else None
        before, after = ((self.network.shapes.get(name) or ())[2:] for name in (op.inputs[0], op.outputs[0]))
        return {**found, "padding": sums.padding(op.kind, op.attributes, found, before, after)}

    def _macs(self, op: Op) -> int | None:
        """Multiply-accumulates for one image, as `sums` counts them; 0 for what is mostly no multiplication."""
        if op.domain or op.kind in _UNKNOWN_WORK:
            return None
        after = self._image(op.outputs[0])
        if op.kind in _CONVOLUTIONS:
            return sums.convolution_macs(op.kind, self._image(op.inputs[0]), after, self._shape(op, 1))
        if op.kind in _LINEAR:
            return sums.linear_macs(op.attributes, self._shape(op, 0), self._shape(op, 1), after)
        return 0

    def _name(self, op: Op, weights: Mapping[Weight, Any]) -> str:
        if op.kind in _ARITHMETIC and op.outputs[0] in self.pixels:
            return self._data(op)[0]
        made_of = next(iter(weights)).name if weights and not op.held else ""
        if name := names.of_weight(made_of) or names.of_node(op):
            return name
        number = next(self.unnamed[op.kind])
        return f"{op.kind.lower()}_{number}" if number else op.kind.lower()
