"""What layers and activations are called: by their weights, their nodes, their operators."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Final

from convq.layers.reading import Op

ACTIVATIONS: Final[Mapping[str, str]] = {
    "Relu": "ReLU",
    "LeakyRelu": "LeakyReLU",
    "PRelu": "PReLU",
    "Elu": "ELU",
    "Selu": "SELU",
    "Celu": "CELU",
    "Gelu": "GELU",
    "Swish": "SiLU",
    **{
        kind: kind
        for kind in ("Sigmoid", "Tanh", "Softplus", "Softsign", "HardSigmoid", "HardSwish", "Mish", "Clip", "Erf")
    },
}
_SPELT_OUT: Final[Mapping[tuple[str, ...], str]] = {
    ("Sigmoid", "Mul"): "SiLU",
    ("HardSigmoid", "Mul"): "HardSwish",
    ("Softplus", "Tanh", "Mul"): "Mish",
    ("Add", "Clip", "Div"): "HardSigmoid",
    ("Add", "Clip", "Mul", "Div"): "HardSwish",
    ("Add", "Clip", "Div", "Mul"): "HardSwish",
    ("Div", "Erf", "Add", "Mul", "Mul"): "GELU",
    ("Mul", "Erf", "Add", "Mul", "Mul"): "GELU",
}
"""Activations that exporters write as several operators."""

_WEIGHT_NAME: Final = re.compile(
    r"(.+?)[./_](?:weights?|kernel|filters?|gamma|scale|[ws])(?:[_:]\d+)*(?:_(?:quantized|transposed))*", re.IGNORECASE
)
_PART: Final = re.compile(r"[^./]+[./]")


def of_weight(name: str) -> str:
    """The layer that a tensor's name says it belongs to; empty where it says none."""
    found = _WEIGHT_NAME.fullmatch(name)
    return found[1] if found else ""


def of_node(op: Op) -> str:
    """The node's name as a path with dots, without the operator at its end and without parts that the next one repeats."""
    parts = [part for part in op.name.split("/") if part]
    if len(parts) > 1 and re.sub(r"[_\d]+$", "", parts[-1]).lower().startswith(op.kind.lower()):
        del parts[-1]
    kept = [part for part, after in zip_longest(parts, parts[1:], fillvalue="") if not after.startswith(f"{part}.")]
    return ".".join(kept).removeprefix("node_")


def shared_prefix(names: Sequence[str]) -> str:
    """What all names begin with, up to a separator; never all of a name, and nothing would begin with a digit without it."""
    if not names:
        return ""
    least, most = min(names), max(names)  # what these two have in common, all have
    common = next((i for i, (a, b) in enumerate(zip(least, most, strict=False)) if a != b), len(least))
    end = 0
    for part in _PART.finditer(least[:common]):
        after = {name[part.end() : part.end() + 1] for name in names} if part.end() == common else {least[part.end()]}
        if part.start() != end or any(not one or one.isdecimal() or one in "./" for one in after):
            break
        end = part.end()
    return least[:end]


def of_pointwise(ops: Sequence[Op], numbers: Mapping[str, float]) -> str:
    """The activation that these operators are together, or else their names. `numbers` are the constants they may use."""
    return _SPELT_OUT.get(tuple(op.kind for op in ops)) or ", ".join(_of_one(op, numbers) for op in ops)


def _of_one(op: Op, numbers: Mapping[str, float]) -> str:
    if op.kind != "Clip":
        return ACTIVATIONS.get(op.kind, op.kind)
    low, high = (
        op.attributes.get(side, numbers.get(op.inputs[slot] if slot < len(op.inputs) else ""))
        for slot, side in ((1, "min"), (2, "max"))
    )
    return "ReLU6" if (low, high) == (0, 6) else "ReLU" if (low, high) == (0, None) else "Clip"
