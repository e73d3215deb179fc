"""Small ONNX classifiers that lie about their batch: alone each answers well, beside other jobs not, or never twice the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnx_models import FLOAT, INT64, graph, model_folder

CLASSES = 5
MANIFEST = '[input]\ncolor = "gray"\n'
Nodes = Sequence[tuple[Any, ...]]

SIZE: Nodes = [("Shape", ["x"], ["sides"]), ("Gather", ["sides", "zero"], ["n"])]
FIRST: Nodes = [("Gather", ["f", "zero_list"], ["first"])]
PLACES: Nodes = [
    *SIZE,
    ("Range", ["zero", "n", "one"], ["places"]),
    ("Unsqueeze", ["places", "one_list"], ["place"]),
    ("Sub", ["n", "one"], ["last"]),
]

BATCH_LIES: Mapping[str, Nodes] = {
    "every row is the first": [*FIRST, ("Mul", ["f", "nothing"], ["flat"]), ("Add", ["flat", "first"], ["y"])],
    "right up to 6": [*FIRST, *SIZE, ("Less", ["n", "seven"], ["few"]), ("Where", ["few", "f", "first"], ["y"])],
    "right from 4 on": [*FIRST, *SIZE, ("Less", ["n", "four"], ["few"]), ("Where", ["few", "first", "f"], ["y"])],
    "wrong at odd sizes": [
        *FIRST,
        *SIZE,
        ("Mod", ["n", "two"], ["rest"]),
        ("Cast", ["rest"], ["odd"], {"to": 9}),
        ("Where", ["odd", "first", "f"], ["y"]),
    ],
    "the mean of the batch is taken off": [
        ("ReduceMean", ["f"], ["mean"], {"axes": [0]}),
        ("Mul", ["mean", "half"], ["part"]),
        ("Sub", ["f", "part"], ["y"]),
    ],
    "softmax over the batch": [("Softmax", ["f"], ["y"], {"axis": 0})],
    "running sums": [("CumSum", ["f", "zero"], ["y"])],
    "sorted rows": [*SIZE, ("Unsqueeze", ["n", "zero_list"], ["k"]), ("TopK", ["f", "k"], ["y", "where"], {"axis": 0})],
    "rows the other way round": [("Slice", ["f", "end", "begin", "zero_list", "back"], ["y"])],
    "rows moved by one": [
        ("Slice", ["f", "one_list", "far", "zero_list"], ["rest"]),
        *FIRST,
        ("Concat", ["rest", "first"], ["y"], {"axis": 0}),
    ],
    "the last row is the first": [
        *FIRST,
        *PLACES,
        ("Equal", ["place", "last"], ["is_last"]),
        ("Where", ["is_last", "first", "f"], ["y"]),
    ],
    "one row in the middle": [
        *FIRST,
        *PLACES,
        ("Equal", ["place", "two"], ["is_third"]),
        ("Where", ["is_third", "first", "f"], ["y"]),
    ],
    "the size is part of the answer": [
        *SIZE,
        ("Cast", ["n"], ["size"], {"to": FLOAT}),
        ("Log", ["size"], ["more"]),
        ("Add", ["f", "more"], ["y"]),
    ],
    "far apart from the numbers around them": [
        *FIRST,
        ("Mul", ["f", "nothing"], ["flat"]),
        ("Add", ["flat", "first"], ["same"]),
        ("Add", ["same", "hundred"], ["y"]),
    ],
    "the class of the first": [
        *FIRST,
        ("Mul", ["f", "nothing"], ["flat"]),
        ("Add", ["flat", "first"], ["same"]),
        ("ArgMax", ["same"], ["y"], {"axis": 1}),
    ],
}
"""What it does with its batch -> the nodes that make `y` of `f`, the right answers."""

ROW_RANGE: Nodes = [
    *FIRST,
    ("ReduceMax", ["x"], ["most"], {"axes": [1, 2, 3]}),
    ("ReduceMin", ["x"], ["least"], {"axes": [1, 2, 3]}),
]
FIRST_IF_ANY: Nodes = [
    ("Cast", ["odd"], ["odd_number"], {"to": FLOAT}),
    ("ReduceMax", ["odd_number"], ["any_odd"], {"keepdims": 0}),
    ("Cast", ["any_odd"], ["any"], {"to": 9}),
    ("Where", ["any", "first", "f"], ["y"]),
]

BESIDE_LIES: Mapping[str, Nodes] = {
    "one scale of 16 bits for all": [
        ("Abs", ["f"], ["size"]),
        ("ReduceMax", ["size"], ["largest"], {"keepdims": 0}),
        ("Max", ["largest", "hundredth"], ["whole"]),
        ("Div", ["whole", "levels"], ["step"]),
        ("Div", ["f", "step"], ["steps"]),
        ("Round", ["steps"], ["level"]),
        ("Mul", ["level", "step"], ["y"]),
    ],
    "beside large numbers": [*ROW_RANGE, ("Less", ["thousand", "most"], ["odd"]), *FIRST_IF_ANY],
    "beside negative numbers": [*ROW_RANGE, ("Less", ["least", "minus"], ["odd"]), *FIRST_IF_ANY],
    "beside small numbers": [
        *ROW_RANGE,
        ("Less", ["most", "hundredth"], ["small"]),
        ("Less", ["zero_float", "most"], ["some"]),
        ("And", ["small", "some"], ["odd"]),
        *FIRST_IF_ANY,
    ],
    "beside one that is the same everywhere": [
        *ROW_RANGE,
        ("Equal", ["most", "least"], ["flat_row"]),
        ("Less", ["zero_float", "most"], ["some"]),
        ("And", ["flat_row", "some"], ["odd"]),
        *FIRST_IF_ANY,
    ],
}
"""As above, but only beside a job whose numbers are no picture's."""

RANDOM: Mapping[str, Nodes] = {
    "noise is added": [("RandomNormalLike", ["f"], ["noise"]), ("Add", ["f", "noise"], ["y"])],
    "noise with a seed": [("RandomUniformLike", ["f"], ["noise"], {"seed": 1.0}), ("Mul", ["f", "noise"], ["y"])],
    "dropout as in training": [("Dropout", ["f", "half", "yes"], ["y"])],
    "dropout whose mode is computed": [("Not", ["no"], ["on"]), ("Dropout", ["f", "half", "on"], ["y"])],
    "a class is drawn": [
        ("Mul", ["f", "nothing"], ["even"]),
        ("Multinomial", ["even"], ["y"], {"sample_size": 40}),
    ],
}

HONEST: Mapping[str, Nodes] = {
    "as it is": [("Identity", ["f"], ["y"])],
    "probabilities": [("Softmax", ["f"], ["y"], {"axis": 1})],
    "one class": [("ArgMax", ["f"], ["y"], {"axis": 1})],
    "far from nothing": [("Add", ["f", "hundred"], ["y"])],
    "always the same": [("Mul", ["f", "nothing"], ["y"])],
    "dropout as in service": [("Dropout", ["f", "half", "no"], ["y"])],
    "dropout without a word": [("Dropout", ["f"], ["y"])],
}

NEVER_FINITE: Mapping[str, Nodes] = {
    "not a number": [("Log", ["minus"], ["nan"]), ("Mul", ["f", "nan"], ["y"])],
    "infinity": [("Mul", ["f", "nothing"], ["flat"]), ("Reciprocal", ["flat"], ["y"])],
}


def bytes_of(nodes: Nodes) -> bytes:
    """The model: x [n, 1, 8, 8] in, y [n, 5] out, or whatever the nodes make of f."""
    rng = np.random.default_rng(3)
    int64 = {"zero": 0, "one": 1, "two": 2, "four": 4, "seven": 7}
    lists = {"zero_list": 0, "one_list": 1, "end": -1, "begin": -(1 << 40), "back": -1, "far": 1 << 40}
    weights: dict[str, Any] = {
        **{name: np.array(value, np.int64) for name, value in int64.items()},
        **{name: np.array([value], np.int64) for name, value in lists.items()},
        "nothing": np.float32(0),
        "half": np.float32(0.5),
        "hundred": np.float32(100),
        "minus": np.float32(-1),
        "yes": np.array(True),
        "no": np.array(False),
        "zero_float": np.float32(0),
        "hundredth": np.float32(0.01),
        "thousand": np.float32(1000),
        "levels": np.float32(32767),
        "w": rng.normal(0, 0.3, (64, CLASSES)).astype(np.float32),
    }
    used = {name for node in nodes for name in node[1]} | {"w"}
    weights["w"] -= weights["w"].mean(axis=0)
    weights["w"] /= 4  # as large as what is added above, whether pixels come as 0 to 255 or as 0 to 1
    made = [("Flatten", ["x"], ["flat_x"]), ("MatMul", ["flat_x", "w"], ["f"]), *nodes]
    kind = INT64 if nodes[-1][0] == "ArgMax" else 6 if nodes[-1][0] == "Multinomial" else FLOAT
    tensors = {name: np.asarray(value) for name, value in weights.items() if name in used}
    return graph(made, [("x", FLOAT, ["n", 1, 8, 8])], [("y", kind, None)], tensors)


def folder_of(nodes: Nodes, folder: Path, more: str = "") -> Path:
    """A model's folder with that as version 1."""
    return model_folder(folder, MANIFEST + more, bytes_of(nodes))
