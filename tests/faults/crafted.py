"""lenet with a network that misbehaves natively on a magic corner pixel: it is slow, hangs, is refused, or yields NaN.

The corner of every real input is padding, black; a job of the books says what it wants with `pixel`. The graph is lenet's
own with a few nodes before its outputs, so what is slow or hangs is onnxruntime itself, with the interpreter lock let go.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from services import MODELS

SLOW, HANG, REFUSED, NAN = 250, 251, 252, 253
SLOW_TURNS, ENDLESS_TURNS = 2_000_000, 1 << 60  # the first: two to eight seconds, by what was seen so far
FLOAT, INT64, BOOL = 1, 7, 9


def crafted(folder: Path, max_batch_s: float = 30.0) -> Path:
    """A repository with this one model, called lenet; counts as hung after `max_batch_s`."""
    onnx = pytest.importorskip("onnx")
    shutil.copytree(MODELS / "lenet", folder / "lenet")
    manifest = folder / "lenet" / "manifest.toml"
    manifest.write_text(manifest.read_text().replace("[limits]", f"[limits]\nmax_batch_s = {max_batch_s}"))
    path = folder / "lenet" / "1" / "model.onnx"
    model = onnx.load(path)
    _misbehave(onnx.helper, model.graph)
    path.write_bytes(model.SerializeToString())
    report = path.with_name("report.json")
    facts = json.loads(report.read_text())
    facts["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    report.write_text(json.dumps(facts))
    return folder


def _misbehave(helper: Any, graph: Any) -> None:
    """Corner pixel -> turns of a loop, an index out of bounds, a NaN; added to the logits as nothing otherwise."""
    logits, image = graph.output[0].name, graph.input[0].name
    for node in graph.node:
        for position, name in enumerate(node.output):
            if name == logits:
                node.output[position] = "m_logits"

    def constant(name: str, kind: int, shape: list[int], values: list[Any]) -> None:
        graph.initializer.append(helper.make_tensor(name, kind, shape, values))

    constant("m_start", INT64, [4], [0, 0, 0, 0])
    constant("m_end", INT64, [4], [1 << 40, 1, 1, 1])
    constant("m_column", INT64, [2], [-1, 1])
    constant("m_slow", FLOAT, [], [SLOW])
    constant("m_hang", FLOAT, [], [HANG])
    constant("m_refused", FLOAT, [], [REFUSED])
    constant("m_nan", FLOAT, [], [NAN])
    constant("m_not_a_number", FLOAT, [], [float("nan")])
    constant("m_zero", FLOAT, [], [0.0])
    constant("m_no_turns", INT64, [], [0])
    constant("m_slow_turns", INT64, [], [SLOW_TURNS])
    constant("m_endless", INT64, [], [ENDLESS_TURNS])
    constant("m_true", BOOL, [], [True])
    constant("m_table", FLOAT, [1], [0.0])
    constant("m_far", INT64, [], [1000])
    graph.node.extend(
        [
            helper.make_node("Slice", [image, "m_start", "m_end"], ["m_corner"]),
            helper.make_node("Cast", ["m_corner"], ["m_as_float"], to=FLOAT),
            helper.make_node("Reshape", ["m_as_float", "m_column"], ["m_pixel"]),
            # how often to turn: the most that any job of the batch wants
            helper.make_node("Equal", ["m_pixel", "m_slow"], ["m_is_slow"]),
            helper.make_node("Equal", ["m_pixel", "m_hang"], ["m_is_hang"]),
            helper.make_node("Where", ["m_is_slow", "m_slow_turns", "m_no_turns"], ["m_turns_1"]),
            helper.make_node("Where", ["m_is_hang", "m_endless", "m_turns_1"], ["m_turns_2"]),
            helper.make_node("ReduceMax", ["m_turns_2"], ["m_turns"], keepdims=0),
            helper.make_node("Loop", ["m_turns", "m_true", "m_zero"], ["m_dizzy"], body=_turn(helper)),
            helper.make_node("Mul", ["m_dizzy", "m_zero"], ["m_nothing_1"]),
            # an index that is out of bounds: onnxruntime refuses the batch
            helper.make_node("Equal", ["m_pixel", "m_refused"], ["m_is_refused"]),
            helper.make_node("Where", ["m_is_refused", "m_far", "m_no_turns"], ["m_index"]),
            helper.make_node("Gather", ["m_table", "m_index"], ["m_nothing_2"]),
            # not a number, for that job alone
            helper.make_node("Equal", ["m_pixel", "m_nan"], ["m_is_nan"]),
            helper.make_node("Where", ["m_is_nan", "m_not_a_number", "m_zero"], ["m_nothing_3"]),
            helper.make_node("Add", ["m_logits", "m_nothing_1"], ["m_sum_1"]),
            helper.make_node("Add", ["m_sum_1", "m_nothing_2"], ["m_sum_2"]),
            helper.make_node("Add", ["m_sum_2", "m_nothing_3"], [logits]),
        ]
    )


def _turn(helper: Any) -> Any:
    """The body of a loop: a cosine, and on."""
    return helper.make_graph(
        [
            helper.make_node("Identity", ["b_go"], ["b_on"]),
            helper.make_node("Cos", ["b_in"], ["b_out"]),
        ],
        "turn",
        [
            helper.make_tensor_value_info("b_turn", INT64, []),
            helper.make_tensor_value_info("b_go", BOOL, []),
            helper.make_tensor_value_info("b_in", FLOAT, []),
        ],
        [helper.make_tensor_value_info("b_on", BOOL, []), helper.make_tensor_value_info("b_out", FLOAT, [])],
    )
