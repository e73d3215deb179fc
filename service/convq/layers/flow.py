"""What of a graph depends on the image, and what is made of constants: the ground on which rows are told apart from weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from convq.layers.reading import Network, Op
from convq.layers.table import Weight

_TYPE_ONLY: Final = frozenset(
    ["Cast", "CastLike", "Identity", "Dropout", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"]
)
_MEASURES: Final = frozenset(["Shape", "Size"])
ARITHMETIC: Final = frozenset(
    ["Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Neg", "Abs", "Exp", "Min", "Max", "Reciprocal"]
)
MOVES: Final = frozenset(["Transpose", "Reshape", "Squeeze", "Unsqueeze", "Pad", "Slice", "Concat", "Split", "Resize"])
NO_WEIGHTS: Final = frozenset(["int64", "bool", "string"])
OUTSIDE: Final = -1


@dataclass(frozen=True, eq=False, slots=True)
class Made:
    """What a tensor that does not depend on the image is made of: a constant, or parts that are.

    Each knows its parts alone, and not all constants behind them: of a chain of operators these would be ever more.
    """

    weight: Weight | None = None
    """The constant, or the first one that was learned."""
    parts: tuple[Made, ...] = ()

    @property
    def learned(self) -> Weight | None:
        """`weight`, if its numbers can be some that were learned."""
        return self.weight if self.weight is not None and self.weight.dtype not in NO_WEIGHTS else None


class Flow:
    """One pass over a network: which operators work on the image, what does not depend on it, who uses what."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.ops: list[Op] = []
        """Those that work on the image."""
        self.same: dict[str, str] = {}
        """Tensor -> the one that it is but for its type."""
        self.fixed: dict[str, Made] = {name: Made(one) for name, one in network.constants.items()}
        """Tensors that do not depend on the image."""
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
            self.users[self.same.get(output, output)].append(OUTSIDE)
        self.data_of: dict[str, frozenset[str]] = {
            op.outputs[0]: frozenset(self.data(op)) for op in self.ops if op.outputs
        }
        """First output of an operator -> `data` of it."""

    def _sort(self, op: Op) -> None:
        """Whether an operator belongs to the way of the image, or to its constants, or to neither."""
        inputs = tuple(self.same.get(name, name) for name in op.inputs)
        captured = frozenset(self.same.get(name, name) for name in op.captured)
        used = [name for name in (*inputs, *captured) if name]
        if op.kind in _TYPE_ONLY and not op.domain:
            self.same[op.outputs[0]] = inputs[0]
            for name in op.outputs[1:]:
                self.fixed[name] = Made()
                self.measured.add(name)
        elif op.kind in _MEASURES or all(name in self.fixed for name in used):
            self._fix(op, used)
        elif op.kind == "Mul" and self.measured & set(used):  # back from the range of a quantised layer
            self.same[op.outputs[0]] = next(name for name in used if name not in self.fixed)
        else:
            kept = Op(op.kind, op.domain, op.name, inputs, op.outputs, op.attributes, captured, op.held)
            self.ops.append(kept)
            prepares = (op.kind in ARITHMETIC or op.kind in MOVES) and not op.domain
            if prepares and all(name in self.fixed or name in self.pixels for name in used):
                self.pixels.update(op.outputs)

    def _fix(self, op: Op, used: Sequence[str]) -> None:
        parts = tuple(self.fixed[name] for name in used) if op.kind not in _MEASURES else ()
        parts = tuple(one for one in parts if one.learned is not None)
        if self.measured & set(used) or op.kind in _MEASURES:
            parts = ()
            self.measured.update(op.outputs)
        for name in op.outputs:
            made = Made(parts[0].learned, parts) if parts else Made()
            shape = self.network.shapes.get(name, ())
            if op.kind == "ConstantOfShape" and name not in self.measured and None not in shape:
                made = Made(Weight(name=name, shape=tuple(side or 0 for side in shape), dtype="float32"))
            self.fixed.setdefault(name, made)

    def data(self, op: Op) -> list[str]:
        """What an operator takes that depends on the image."""
        return [name for name in (*op.inputs, *sorted(op.captured)) if name and name not in self.fixed]
