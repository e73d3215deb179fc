"""Graphs that were made to cost whoever looks into them time or memory: their layers are read all the same, or it is said why not."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convq.errors import ModelBroken
from convq.importer.inspection import inspect
from convq.layers import layers_of
from onnx_models import FLOAT, INT64, graph, model_folder

onnx = pytest.importorskip("onnx")
helper = onnx.helper
Nodes = list[tuple[Any, ...]]
SIDES = (3, 32, 32)
MANIFEST = "[input]\nheight = 32\nwidth = 32\n"


def network(nodes: Nodes, **weights: Any) -> bytes:
    return graph(nodes, [("x", FLOAT, ["n", *SIDES])], [("y", FLOAT, None)], weights)


def names(count: int) -> list[str]:
    """Of the tensors of a chain, from x to y."""
    return ["x", *(f"t{i}" for i in range(count - 1)), "y"]


def chain(count: int) -> bytes:
    between = names(count)
    return network([("Relu", [between[i]], [between[i + 1]]) for i in range(count)])


def learned(count: int) -> bytes:
    """Every operator with numbers of its own."""
    between = names(count)
    nodes: Nodes = [("Mul", [between[i], f"w{i}"], [between[i + 1]]) for i in range(count)]
    return network(nodes, **{f"w{i}": np.ones((3, 1, 1), np.float32) for i in range(count)})


def constants(count: int) -> bytes:
    """One weight that is the sum of very many."""
    nodes: Nodes = [("Add", [f"s{i}", f"w{i}"], [f"s{i + 1}"]) for i in range(count)]
    weights = {f"w{i}": np.ones((3, 1, 1), np.float32) for i in range(count)}
    return network([*nodes, ("Add", ["x", f"s{count}"], ["y"])], s0=np.ones((3, 1, 1), np.float32), **weights)


def tapped(count: int) -> bytes:
    """A chain of which something else uses every tensor."""
    between = names(count // 2)
    pairs = pairwise(between)
    return network([one for a, b in pairs for one in (("Relu", [a], [b]), ("GlobalAveragePool", [b], [f"p{b}"]))])


def fan(count: int) -> bytes:
    """A tensor that all use, and an operator that uses all."""
    nodes: Nodes = [("Relu", ["x"], [f"t{i}"]) for i in range(count)]
    return network([*nodes, ("Max", [f"t{i}" for i in range(count)], ["y"])])


def sizes(count: int) -> bytes:
    """Every shape is made of constants."""
    steps = count // 3
    between = names(steps)
    nodes: Nodes = []
    for i in range(steps):
        nodes += [("Concat", ["a", "b"], [f"c{i}"], {"axis": 0}), ("Identity", [f"c{i}"], [f"d{i}"])]
        nodes += [("Reshape", [between[i], f"d{i}"], [between[i + 1]])]
    return network(nodes, a=np.array([-1, 3]), b=np.array([32, 32]))


def deep_names(count: int) -> bytes:
    between = names(8)
    path = "a." * count
    nodes: Nodes = [("Conv", [between[i], f"{path}l{i}.weight"], [between[i + 1]]) for i in range(8)]
    return network(nodes, **{f"{path}l{i}.weight": np.zeros((3, 3, 1, 1), np.float32) for i in range(8)})


@pytest.mark.parametrize("made", [chain, learned, constants, tapped, fan, sizes, deep_names])
def test_the_time_to_read_a_graph_grows_with_its_size_alone(made: Callable[[int], bytes]) -> None:
    small, large = made(500), made(3_000)
    layers_of(small, SIDES)  # what is imported then counts for neither

    def seconds(model: bytes) -> float:
        """Of processor time; the least of a few, which other processes disturb least."""
        taken = []
        for _ in range(2):
            began = time.process_time()
            layers_of(model, SIDES)
            taken.append(time.process_time() - began)
        return min(taken)

    assert seconds(large) < 15 * seconds(small) + 0.1, "36 times as long would be the square"


def endless_loop() -> bytes:
    """The shape of a Reshape comes out of a loop of constants."""
    value, info = helper.make_tensor_value_info, [("i", INT64, []), ("c", 9, []), ("v", INT64, [2])]
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["co"]), helper.make_node("Add", ["v", "v"], ["vo"])],
        "body",
        [value(*one) for one in info],
        [value("co", 9, []), value("vo", INT64, [2])],
    )
    nodes: Nodes = [("Loop", ["trip", "go", "start"], ["s"], {"body": body}), ("Reshape", ["x", "s"], ["y"])]
    return network(nodes, trip=np.array(2**62), go=np.array(True), start=np.array([1, 1]))


def doubled() -> bytes:
    """The shape of a Reshape is joined with itself, forty times."""
    nodes: Nodes = [("Concat", [f"s{i}", f"s{i}"], [f"s{i + 1}"], {"axis": 0}) for i in range(40)]
    return network([*nodes, ("Reshape", ["x", "s40"], ["y"])], s0=np.arange(1000))


def filled() -> bytes:
    nodes: Nodes = [("ConstantOfShape", ["many"], ["s"]), ("Reshape", ["x", "s"], ["y"])]
    return network(nodes, many=np.array([2**40]))


def counted_up() -> bytes:
    nodes: Nodes = [("Range", ["from", "to", "step"], ["s"]), ("Reshape", ["x", "s"], ["y"])]
    return network(nodes, **{"from": np.array(0), "to": np.array(2**40), "step": np.array(1)})


def with_functions(calls: Callable[[int], list[str]], count: int) -> bytes:
    """A network whose functions call others: `calls(i)` are those that function i calls."""
    made = []
    for i in range(count):
        called = calls(i) or ["Relu"]
        between = ["a", *(f"t{k}" for k in range(len(called) - 1)), "c"]
        nodes = [
            helper.make_node(one, [between[k]], [between[k + 1]], domain="" if one == "Relu" else "my")
            for k, one in enumerate(called)
        ]
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my", 1)]
        made.append(helper.make_function("my", f"F{i}", ["a"], ["c"], nodes, opsets))
    ends = [[helper.make_tensor_value_info(name, FLOAT, ["n", *SIDES])] for name in "xy"]
    whole = helper.make_graph([helper.make_node("F0", ["x"], ["y"], domain="my")], "g", *ends)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my", 1)]
    return bytes(helper.make_model(whole, opset_imports=opsets, functions=made, ir_version=8).SerializeToString())


def unfolding() -> bytes:
    """Forty functions, each of which calls the next one twice."""
    return with_functions(lambda i: [f"F{i + 1}"] * 2 if i < 39 else [], 40)


def calling_itself() -> bytes:
    return with_functions(lambda i: [f"F{1 - i}"], 2)


@pytest.mark.parametrize("made", [endless_loop, doubled, filled, counted_up, unfolding, calling_itself])
def test_what_never_ends_or_has_no_end_of_memory_is_a_row_like_any_other(
    made: Callable[[], bytes], tmp_path: Path
) -> None:
    folder = model_folder(tmp_path / "odd", MANIFEST, made())

    table = inspect(folder / "1" / "model.onnx", folder, SIDES, within_s=120, memory_limit_bytes=1 << 30)

    assert 1 <= len(table.layers) <= 2


def test_functions_that_are_called_twice_are_read_as_what_they_do() -> None:
    table = layers_of(with_functions(lambda i: ["F1", "F1"] if i == 0 else [], 2), SIDES)

    assert ("ReLU, ReLU") in {f"{one.kind}, {one.activation}" for one in table.layers} | {
        one.kind for one in table.layers
    }


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"within_s": 0.05}, "did not end within 0.05 s; --within gives it longer"),
        ({"within_s": 120, "memory_limit_bytes": 40 << 20}, "of memory that it may take|could not start a thread"),
    ],
)
def test_a_graph_that_takes_too_much_ends_with_a_reason(limits: dict[str, Any], expected: str, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "odd", MANIFEST, chain(2))

    with pytest.raises(ModelBroken, match=expected):
        inspect(folder / "1" / "model.onnx", folder, SIDES, **limits)
