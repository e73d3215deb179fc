"""Values that operators make of constants alone, as far as they are sizes: what inference of shapes does not follow.

What it computes is bounded: a graph that a stranger made may ask for anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from math import prod
from typing import Any, Final

import onnx
import onnx.reference

_SIZE_SLOTS: Final[Mapping[str, tuple[int, ...]]] = {
    "Slice": (1, 2, 3, 4),
    "Resize": (1, 2, 3),
    **dict.fromkeys(("Pad", "Reshape", "Expand", "Tile", "Upsample", "Squeeze", "Unsqueeze"), (1,)),
    **dict.fromkeys(("ReduceMean", "ReduceMax", "ReduceSum", "ReduceL2"), (1,)),
}
"""Inputs whose values decide about shapes."""

_OF_SIZES: Final = frozenset(
    [
        *(
            "Concat",
            "Reshape",
            "Slice",
            "Transpose",
            "Cast",
            "Gather",
            "Squeeze",
            "Unsqueeze",
            "Identity",
            "Shape",
            "Size",
        ),
        *("Add", "Sub", "Mul", "Div", "Mod", "Neg", "Abs", "Floor", "Ceil", "Min", "Max", "Pow", "Sqrt", "Where"),
        *(
            "Equal",
            "Less",
            "Greater",
            "Not",
            "And",
            "Or",
            "ReduceProd",
            "ReduceSum",
            "Expand",
            "ConstantOfShape",
            "Range",
        ),
    ]
)
"""Operators that exporters make sizes with. No other one is computed: a loop of constants may never end."""
_AS_LARGE_AS_SAID: Final = {"ConstantOfShape": 0, "Expand": 1}
"""Which input says how many numbers come out."""
_MOST_COMPUTED: Final = 1 << 20
_MOST_AXES: Final = 64
"""Of a tensor whose shape is not known; ONNX's own operators have no more than eight."""
KEPT_NUMBERS: Final = 1024
"""Constants with more elements are no sizes, and shape inference is quicker without their bytes."""


def keeps_values_small(graph: Any) -> bool:
    """Whether inference may follow the values of sizes: it joins them as often as the graph says, and so without end."""
    counts = {one.name: prod(one.dims) for one in graph.initializer if prod(one.dims) <= KEPT_NUMBERS}
    for node in graph.node:
        if node.op_type not in _OF_SIZES:
            continue
        taken = [counts.get(name, 0) for name in node.input]
        made = sum(taken) if node.op_type == "Concat" else max(taken, default=KEPT_NUMBERS)
        counts.update(dict.fromkeys(node.output, _MOST_AXES if node.op_type == "Shape" else made))
        if made > _MOST_COMPUTED:
            return False
    return True


def compute_sizes(proto: Any) -> None:
    """Put values in the place of operators that only make sizes out of constants, which inference does not follow.

    PyTorch's older exporter assembles the padding of every Pad in that way.
    """
    graph = proto.graph
    fixed = {
        one.name: one
        for one in graph.initializer
        if prod(one.dims) <= KEPT_NUMBERS and one.data_type != onnx.TensorProto.STRING
    }
    makers: dict[str, Any] = {}
    for node in graph.node:
        is_of_sizes = len(node.output) == 1 and not node.domain and node.op_type in _OF_SIZES
        if is_of_sizes and all(name in fixed or name in makers or not name for name in node.input):
            makers[node.output[0]] = node
    wanted = {node.input[i] for node in graph.node for i in _SIZE_SLOTS.get(node.op_type, ()) if i < len(node.input)}
    ends = {name for name in wanted if name in makers and makers[name].op_type != "Constant"}
    needed, names = list[Any](), {*ends}
    for name, node in reversed(makers.items()):
        if name in names:
            needed.append(node)
            names.update(node.input)
    values = {name: onnx.numpy_helper.to_array(fixed[name]) for name in names & fixed.keys()}
    for node in reversed(needed):
        with suppress(Exception):  # then what depends on it is not known
            values[node.output[0]] = _computed(node, values, proto.opset_import)
    known = ends & values.keys()
    if not known:
        return
    kept = [node for node in graph.node if not (len(node.output) == 1 and node.output[0] in known)]
    del graph.node[:]
    graph.node.extend(kept)
    graph.initializer.extend(onnx.numpy_helper.from_array(values[name], name) for name in sorted(known))


def _computed(node: Any, values: Mapping[str, Any], opsets: Any) -> Any:
    """What an operator makes of constants. Raises ValueError where that is more than sizes take, and whatever onnx does."""
    taken = {name: values[name] for name in node.input if name}
    sizes = [max(1, values[name].size) for name in node.input if name]
    said = _AS_LARGE_AS_SAID.get(node.op_type)
    if said is not None:
        most = prod(map(int, values[node.input[said]].reshape(-1)))
    elif node.op_type == "Range":
        start, limit, step = (float(values[name].reshape(())) for name in node.input)
        most = int((limit - start) / step)
    else:
        most = sum(sizes) if node.op_type == "Concat" else prod(sizes)
    if most > (_MOST_COMPUTED if said is None else KEPT_NUMBERS):
        raise ValueError("is no size")
    part = onnx.helper.make_graph([node], "size", [], [onnx.ValueInfoProto(name=node.output[0])])
    model = onnx.helper.make_model(part, opset_imports=opsets)
    made = onnx.reference.ReferenceEvaluator(model).run(None, taken)[0]
    if made.size > KEPT_NUMBERS:
        raise ValueError("is no size")
    return made
