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

from convq.layers import names, sums
from convq.layers.flow import ARITHMETIC, MOVES, NO_WEIGHTS, OUTSIDE, Flow, Made
from convq.layers.reading import Network, Op
from convq.layers.table import Layer, Shape, Weight

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
_MOST_POINTWISE: Final = 64
"""Operators that are read as one activation; the longest that is known has five."""
_MOST_CHARACTERS: Final = 1000
"""Of a name."""


def rows_of(network: Network) -> list[Layer]:
    """The layers in the order in which they run."""
    return _Reader(Flow(network)).rows()


class _Reader:
    """One pass over a network whose flow is known."""

    def __init__(self, flow: Flow) -> None:
        self.flow, self.network = flow, flow.network
        self.pointwise: dict[str, bool] = {}
        self.counted: set[str | Made] = set()
        self.folded: set[int] = set()
        self.unnamed: dict[str, count[int]] = defaultdict(count)

    # -- rows -------------------------------------------------------------------------------------------------------

    def rows(self) -> list[Layer]:
        """The rows, in order; of their names without the part that all weights have in common."""
        made = [self._row(index) for index in range(len(self.flow.ops)) if index not in self.folded]
        shared = names.shared_prefix([layer.name for layer in made if layer.weights])
        return [layer.model_copy(update={"name": layer.name.removeprefix(shared)}) for layer in made]

    def _row(self, index: int) -> Layer:
        op = self.flow.ops[index]
        weights, activations = self._weights(op), [op.attributes.get("activation", b"").decode()]
        ends = [name for name in op.outputs if self.flow.users[name]] or [*op.outputs[:1]]
        if self._is_pointwise(op) and len(self.flow.data_of[op.outputs[0]]) == 1:
            region = self._region(self.flow.data(op)[0], whole=False)
            kind, ends[0] = self._fold(region if region[:1] == [index] else [index])
        else:
            kind = self._kind(op, weights)
            if len(ends) == 1:
                ends[0] = self._fold_bias(op, weights, ends[0])
                if region := self._region(ends[0], whole=True):
                    said, ends[0] = self._fold(region)
                    activations.append(said)
        return Layer(
            name=self._name(op, weights)[:_MOST_CHARACTERS],
            kind=kind[:_MOST_CHARACTERS],
            activation=", ".join(names.ACTIVATIONS.get(one, one) for one in activations if one) or None,
            **self._window(op),
            inputs=tuple(map(self._image, self.flow.data(op))),
            outputs=tuple(map(self._image, ends)),
            weights=tuple(weights),
            parameters=self._count(weights),
            macs=self._macs(op),
        )

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

    def _weights(self, op: Op) -> dict[Weight, Made]:
        """What an operator shows as weights -> the constants that these are made of.

        No weights are single numbers, and in arithmetic neither are numbers that stand in the graph as literals, nor
        those that prepare the image.
        """
        slots = range(len(op.inputs)) if op.domain else _WEIGHT_SLOTS.get(op.kind, ())
        tensors = [op.inputs[slot] for slot in slots if slot < len(op.inputs)]
        if op.kind in _SUBGRAPHS:
            tensors = [*op.inputs, *sorted(op.captured)]
        if op.kind in ARITHMETIC | MOVES:
            prepares = op.outputs[0] in self.flow.pixels
            tensors = [name for name in tensors if not prepares and name not in self.network.literals]
        found = {one: Made(one) for one in op.held if one.shape and one.dtype not in NO_WEIGHTS}
        for name in tensors:
            made = self.flow.fixed.get(name, Made())
            shape = self.network.shapes.get(name) or (made.learned.shape if made.learned else ())
            if made.learned is not None and shape:
                known = made.learned.shape if None in shape else tuple(side or 0 for side in shape)
                found[made.learned.model_copy(update={"shape": known})] = made
        return found

    def _count(self, weights: Mapping[Weight, Made]) -> int:
        """Numbers in weights that no row before has counted."""
        total, pending = 0, list(weights.values())
        while pending:
            made = pending.pop()
            if made in self.counted:
                continue
            self.counted.add(made)
            pending += made.parts
            if not made.parts and made.learned is not None and made.learned.name not in self.counted:
                self.counted.add(made.learned.name)
                total += prod(made.learned.shape)
        return total

    def _fold_bias(self, op: Op, weights: dict[Weight, Made], end: str) -> str:
        """Where one number a channel is added to a layer without a bias: make it its bias. Returns where the layer ends."""
        users = self.flow.users[end]
        if op.kind not in _CONVOLUTIONS | _LINEAR or len(weights) != 1 or len(users) != 1 or users[0] == OUTSIDE:
            return end
        add, shape = self.flow.ops[users[0]], self._image(end)
        channels = shape[0 if op.kind in _CONVOLUTIONS else -1] if shape else None
        for name in add.inputs if add.kind == "Add" else ():
            made = self.flow.fixed.get(name, Made())
            if made.weight is not None and prod(made.weight.shape) == channels:
                weights[made.weight.model_copy(update={"shape": (channels,)})] = made
                self.folded.add(users[0])
                return add.outputs[0]
        return end

    # -- activations ------------------------------------------------------------------------------------------------

    def _is_pointwise(self, op: Op) -> bool:
        """Whether it changes every number by itself, with nothing that was learned."""
        if op.domain or (op.kind not in names.ACTIVATIONS and op.kind not in ARITHMETIC):
            return False
        known = self.pointwise.get(op.outputs[0])
        if known is None:
            known = self.pointwise[op.outputs[0]] = not self._weights(op)
        return known

    def _region(self, source: str, *, whole: bool) -> list[int]:
        """The longest run of pointwise operators that starts at `source` alone and ends in one tensor.

        With `whole` nothing else may use `source`. Every tensor in between is used inside only. At most `_MOST_POINTWISE`
        of them, so that a graph of any form is read in a time that grows with its size alone.
        """
        region = self._reachable(source)
        places, furthest, longest = {index: place for place, index in enumerate(region)}, -1, 0
        inner = [source] * whole
        for place, index in enumerate(region):
            for name in inner:
                users = self.flow.users[name]
                last = max((places.get(user, _MOST_POINTWISE) for user in users), default=-1)
                furthest = max(furthest, last)
            if furthest <= place:
                longest = place + 1
            inner = [self.flow.ops[index].outputs[0]]
        return region[:longest]

    def _reachable(self, source: str) -> list[int]:
        """Pointwise operators that need nothing but `source` and each other, in the order in which they run."""
        users = {*self.flow.users[source]} - {OUTSIDE} if len(self.flow.users[source]) <= _MOST_POINTWISE else set()
        pending, known, region = sorted(users - self.folded), {source}, list[int]()
        while pending and len(region) < _MOST_POINTWISE:
            index = heappop(pending)
            op = self.flow.ops[index]
            if region[-1:] != [index] and self._is_pointwise(op) and self.flow.data_of[op.outputs[0]] <= known:
                region.append(index)
                known.add(op.outputs[0])
                users = (
                    {*self.flow.users[op.outputs[0]]}
                    if len(self.flow.users[op.outputs[0]]) <= _MOST_POINTWISE
                    else set()
                )
                for user in users - {OUTSIDE}:
                    heappush(pending, user)
        return region

    def _fold(self, region: Sequence[int]) -> tuple[str, str]:
        """What pointwise operators are called together, and the tensor in which they end."""
        self.folded.update(region)
        ops = [self.flow.ops[index] for index in region]
        return names.of_pointwise(ops, self.network.numbers), ops[-1].outputs[0]

    # -- numbers ----------------------------------------------------------------------------------------------------

    def _shape(self, op: Op, slot: int) -> Shape | None:
        """The shape of an input, weights or not."""
        name = op.inputs[slot] if slot < len(op.inputs) else ""
        weight = self.flow.fixed.get(name, Made()).weight
        return self.network.shapes.get(name) or (weight.shape if weight is not None else None)

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
        if op.kind in ARITHMETIC and op.outputs[0] in self.flow.pixels:
            return self.flow.data(op)[0]
        made_of = next(iter(weights)).name if weights and not op.held else ""
        if name := names.of_weight(made_of) or names.of_node(op):
            return name
        number = next(self.unnamed[op.kind])
        return f"{op.kind.lower()}_{number}" if number else op.kind.lower()
