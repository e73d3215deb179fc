"""What the operators of a graph say of its answers, read without running it; written by the package onnx."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from convq.repository.operators import operators_of

onnx = pytest.importorskip("onnx")
helper = onnx.helper
numpy_helper = onnx.numpy_helper
FLOAT, BOOL = onnx.TensorProto.FLOAT, onnx.TensorProto.BOOL


def model(nodes: Sequence[Any], constants: Mapping[str, Any] | None = None, functions: Sequence[Any] = ()) -> bytes:
    """x in, y out; not every one of them would run."""
    ends = [[helper.make_tensor_value_info(name, FLOAT, ["n", 4])] for name in "xy"]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "g", *ends, tensors)
    return bytes(helper.make_model(graph, functions=list(functions)).SerializeToString())


def node(kind: str, takes: Sequence[str] = ("x",), gives: Sequence[str] = ("y",), **more: Any) -> Any:
    return helper.make_node(kind, list(takes), list(gives), **more)


def branch(*nodes: Any) -> Any:
    return helper.make_graph(list(nodes), "branch", [], [helper.make_tensor_value_info("y", FLOAT, None)])


def function(name: str, *nodes: Any, domain: str = "mine") -> Any:
    return helper.make_function(domain, name, ["x"], ["y"], list(nodes), [helper.make_opsetid("", 17)])


DRAWS: Mapping[str, Callable[[], bytes]] = {
    **{
        kind: lambda kind=kind: model([node(kind)])  # type: ignore[misc]
        for kind in ("RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial")
    },
    **{
        kind: lambda kind=kind: model([node(kind, (), shape=[4], seed=1.0)])  # type: ignore[misc]
        for kind in ("RandomNormal", "RandomUniform")
    },
    "the domain by its name": lambda: model([node("RandomNormalLike", domain="ai.onnx")]),
    "in a branch": lambda: model([node("If", ("c",), then_branch=branch(node("Bernoulli")))]),
    "three branches deep": lambda: model(
        [
            node(
                "If",
                ("c",),
                else_branch=branch(node("If", ("c",), then_branch=branch(node("RandomNormalLike")))),
            )
        ]
    ),
    "in a function": lambda: model([node("noisy", domain="mine")], functions=[function("noisy", node("Bernoulli"))]),
    "in a function of a function": lambda: model(
        [node("outer", domain="mine")],
        functions=[function("outer", node("inner", domain="mine")), function("inner", node("Bernoulli"))],
    ),
    "dropout": lambda: model([node("Dropout", ("x", "half", "on"))], {"half": np.float32(0.5), "on": True}),
    "dropout without a ratio": lambda: model([node("Dropout", ("x", "", "on"))], {"on": True}),
    "dropout by a constant node": lambda: model(
        [
            node("Constant", (), ("on",), value=helper.make_tensor("on", BOOL, [], [True])),
            node("Dropout", ("x", "", "on")),
        ]
    ),
    "dropout by way of others": lambda: model(
        [
            node("Cast", ("one",), ("cast",), to=BOOL),
            node("Identity", ("cast",), ("on",)),
            node("Dropout", ("x", "", "on")),
        ],
        {"one": np.int64(1)},
    ),
    "dropout in a branch, its constant outside": lambda: model(
        [node("If", ("c",), then_branch=branch(node("Dropout", ("x", "", "on"))))], {"on": True}
    ),
}
QUIET: Mapping[str, Callable[[], bytes]] = {
    "dropout in service": lambda: model([node("Dropout", ("x", "", "on"))], {"on": False}),
    "dropout alone": lambda: model([node("Dropout")]),
    "dropout that a nearer constant turns off": lambda: model(
        [
            node(
                "If",
                ("c",),
                then_branch=branch(
                    node("Constant", (), ("on",), value=helper.make_tensor("on", BOOL, [], [False])),
                    node("Dropout", ("x", "", "on")),
                ),
            )
        ],
        {"on": True},
    ),
    "another domain's": lambda: model([node("RandomNormal", domain="com.example")]),
    "a function's name": lambda: model(
        [node("Bernoulli", domain="mine")], functions=[function("Bernoulli", node("Identity"))]
    ),
    "a function that nobody calls": lambda: model([node("Identity")], functions=[function("noisy", node("Bernoulli"))]),
    "a node's name": lambda: model([node("Identity", name="RandomNormal")]),
}
SHARED: Mapping[str, Callable[[], bytes]] = {
    "DynamicQuantizeLinear": lambda: model([node("DynamicQuantizeLinear", gives=("q", "s", "z"))]),
    "of Microsoft": lambda: model([node("DynamicQuantizeMatMul", domain="com.microsoft")]),
    "in a function": lambda: model(
        [node("f", domain="mine")], functions=[function("f", node("DynamicQuantizeLinear", gives=("y", "s", "z")))]
    ),
    "normalised as in training": lambda: model(
        [node("BatchNormalization", ("x", "a", "b", "m", "v"), ("y", "m2", "v2"), training_mode=1)]
    ),
}


@pytest.mark.parametrize("kind", DRAWS)
def test_what_draws_random_numbers_is_named(kind: str) -> None:
    found = operators_of(DRAWS[kind]())
    assert found.random
    assert found.random[0].removesuffix(" in training mode") in found.random_fault()
    assert not found.shared


@pytest.mark.parametrize("kind", QUIET)
def test_what_draws_none_is_not(kind: str) -> None:
    found = operators_of(QUIET[kind]())
    assert ((), ()) == (found.random, found.shared)
    assert ("", "") == (found.random_fault(), found.shared_fault())


@pytest.mark.parametrize("kind", SHARED)
def test_what_computes_with_the_whole_batch_is_named(kind: str) -> None:
    found = operators_of(SHARED[kind]())
    assert 1 == len(found.shared)
    assert found.shared[0] in found.shared_fault()
    assert not found.random


def test_normalisation_in_service_shares_nothing() -> None:
    assert not operators_of(model([node("BatchNormalization", ("x", "a", "b", "m", "v"), training_mode=0)])).shared


def test_a_function_that_calls_itself_ends() -> None:
    endless = function("f", node("f", domain="mine"), node("Bernoulli"))
    assert ("Bernoulli",) == operators_of(model([node("f", domain="mine")], functions=[endless])).random


def test_it_takes_time_as_the_file_has_fields() -> None:
    """Every dropout asks for a constant of its own, at the end of as long a row: looked for one by one that is a square."""

    def spent_s(count: int) -> float:
        nodes = [node("Dropout", ("x", "", f"on{one}")) for one in range(count)]
        content = model(nodes, {f"on{one}": False for one in range(count)})
        began_s = time.process_time()
        operators_of(content)
        return time.process_time() - began_s

    few_s = min(spent_s(500) for _ in range(3))
    assert spent_s(8000) < 100 * few_s  # 16 as a line, 256 as a square
