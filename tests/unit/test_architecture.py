"""The table of layers, of graphs built here node by node; what it says of shapes is what onnxruntime really makes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from convq.errors import ModelBroken
from convq.layers import Architecture, Layer, layers_of
from convq.repository.model_folders import default_root

if not os.environ.get("CI"):
    pytest.importorskip("onnx")  # at a desk without it these are skipped; in CI its absence is a failure

import onnx
from onnx import helper

Node = tuple[Any, ...]
"""Operator, inputs, outputs, and attributes where there are any."""

LENET = default_root() / "lenet"
FLOAT, UINT8, INT64, BOOL = (getattr(onnx.TensorProto, kind) for kind in ("FLOAT", "UINT8", "INT64", "BOOL"))


def ones(*shape: int) -> NDArray[np.float32]:
    return np.ones(shape, dtype=np.float32)


def graph(
    nodes: Sequence[Node],
    weights: Mapping[str, NDArray[Any]] | None = None,
    shape: Sequence[Any] = ("n", 3, 32, 32),
    *,
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
    kind: int = FLOAT,
    functions: Sequence[Any] = (),
    said: Mapping[str, Sequence[Any]] | None = None,
) -> bytes:
    """A model with the one input x and float32 outputs of unknown shape; `said` are shapes that it declares in between."""
    made = [made_of(node) for node in nodes]
    ends = [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs]
    tensors = [onnx.numpy_helper.from_array(values, name) for name, values in (weights or {}).items()]
    infos = [helper.make_tensor_value_info(name, FLOAT, sides) for name, sides in (said or {}).items()]
    start = [helper.make_tensor_value_info("x", kind, shape)]
    whole = helper.make_graph(made, "g", start, ends, tensors, value_info=infos)
    domains = [("", opset), ("com.microsoft", 1), ("com.example", 1)]
    opsets = [helper.make_opsetid(*domain) for domain in domains]
    model = helper.make_model(whole, opset_imports=opsets, ir_version=8, functions=list(functions))
    return bytes(model.SerializeToString())


def made_of(node: Node) -> Any:
    operator, inputs, outputs, *rest = node
    attributes = dict(rest[0]) if rest else {}
    return helper.make_node(operator, inputs.split(","), outputs.split(","), **attributes)


def only(model: bytes, sides: Sequence[int | None] = ()) -> Layer:
    (layer,) = layers_of(model, sides).layers
    return layer


def kinds(table: Architecture) -> list[str]:
    return [", ".join(filter(None, (layer.kind, layer.activation))) for layer in table.layers]


def ran(model: bytes, image: NDArray[Any]) -> list[NDArray[Any]]:
    """All outputs of the model for one image, from onnxruntime itself."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return list(session.run(None, {"x": image}))


# -- one layer -----------------------------------------------------------------------------------------------------------


def test_a_convolution_says_kernel_stride_padding_dilation_groups_shapes_weights_and_work() -> None:
    how = {"strides": [2, 1], "pads": [1, 0, 2, 3], "dilations": [1, 2], "group": 2, "kernel_shape": [3, 3]}
    weights = {"stem.conv.weight": ones(8, 2, 3, 3), "stem.conv.bias": ones(8)}
    layer = only(graph([("Conv", "x,stem.conv.weight,stem.conv.bias", "y", how)], weights, ("n", 4, 32, 20)))

    assert ("conv", "Conv") == (layer.name, layer.kind)
    assert ((3, 3), (2, 1), (1, 0, 2, 3), (1, 2), 2) == (
        layer.kernel,
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.groups,
    )
    assert ((4, 32, 20),) == layer.inputs
    assert ((8, 17, 19),) == layer.outputs  # floor((32+3-2-1)/2)+1, floor((20+3-4-1)/1)+1
    assert [(8, 2, 3, 3), (8,)] == [weight.shape for weight in layer.weights]
    assert 8 * 2 * 3 * 3 + 8 == layer.parameters
    assert 8 * 17 * 19 * (4 // 2) * 3 * 3 == layer.macs


def test_a_convolution_without_attributes_has_the_usual_ones() -> None:
    layer = only(graph([("Conv", "x,w", "y")], {"w": ones(5, 3, 5, 5)}))

    assert ((5, 5), (1, 1), (0, 0, 0, 0), (1, 1), 1) == (
        layer.kernel,
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.groups,
    )
    assert ((5, 28, 28),) == layer.outputs


def test_a_convolution_that_keeps_channels_apart_is_called_depthwise() -> None:
    layer = only(graph([("Conv", "x,w", "y", {"group": 3})], {"w": ones(6, 1, 3, 3)}))

    assert "depthwise Conv" == layer.kind
    assert 6 * 30 * 30 * 3 * 3 == layer.macs
    assert 54 == layer.parameters


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (2, 1), (5, 3), (4, 4), (1, 3)])
def test_padding_that_follows_a_rule_is_the_one_that_onnxruntime_takes(auto_pad: str, kernel: int, stride: int) -> None:
    random = np.random.default_rng(kernel)
    weights = {"w": random.normal(size=(2, 3, kernel, kernel)).astype(np.float32)}
    how = {"strides": [stride] * 2}
    image = random.normal(size=(1, 3, 15, 16)).astype(np.float32)
    by_rule = graph([("Conv", "x,w", "y", how | {"auto_pad": auto_pad})], weights, ("n", 3, 15, 16))

    layer = only(by_rule)
    assert layer.padding is not None
    by_numbers = graph([("Conv", "x,w", "y", how | {"pads": list(layer.padding)})], weights, ("n", 3, 15, 16))

    np.testing.assert_array_equal(ran(by_rule, image)[0], ran(by_numbers, image)[0])
    assert ((2, -(-15 // stride), -(-16 // stride)),) == layer.outputs


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
def test_padding_of_a_transposed_convolution_is_the_one_that_onnxruntime_takes(auto_pad: str) -> None:
    random = np.random.default_rng(3)
    weights = {"w": random.normal(size=(3, 2, 5, 4)).astype(np.float32)}
    image = random.normal(size=(1, 3, 7, 6)).astype(np.float32)
    how = {"strides": [2, 3]}
    by_rule = graph([("ConvTranspose", "x,w", "y", how | {"auto_pad": auto_pad})], weights, ("n", 3, 7, 6))

    layer = only(by_rule)
    assert layer.padding is not None
    assert ((2, 14, 18),) == layer.outputs
    by_numbers = graph([("ConvTranspose", "x,w", "y", how | {"pads": list(layer.padding)})], weights, ("n", 3, 7, 6))

    np.testing.assert_array_equal(ran(by_rule, image)[0], ran(by_numbers, image)[0])


def test_padding_by_a_rule_is_not_known_where_the_sides_are_free() -> None:
    model = graph([("Conv", "x,w", "y", {"auto_pad": "SAME_UPPER"})], {"w": ones(2, 3, 4, 4)}, ("n", 3, "h", "w"))

    assert None is only(model).padding
    assert (1, 1, 2, 2) == only(model, (3, 9, 9)).padding


def test_a_pooling_that_rounds_up_says_so() -> None:
    how = {"kernel_shape": [3, 3], "strides": [2, 2]}
    down = only(graph([("MaxPool", "x", "y", how)]))
    up = only(graph([("MaxPool", "x", "y", how | {"ceil_mode": 1})]))

    assert (False, ((3, 15, 15),)) == (down.ceil, down.outputs)
    assert (True, ((3, 16, 16),)) == (up.ceil, up.outputs)
    assert (0, 0, None) == (up.parameters, up.macs, up.groups)


def test_a_pooling_that_rounds_up_counts_no_window_that_begins_behind_the_image() -> None:
    """Two of them, so that the second is right only if what the first passes on is."""
    how = {"kernel_shape": [2, 2], "strides": [3, 3], "ceil_mode": 1}
    nodes: list[Node] = [
        ("MaxPool", "x", "a", how),
        ("Conv", "a,w", "b", {"pads": [4, 4, 4, 4]}),
        ("AveragePool", "b", "y", how | {"pads": [0, 1, 1, 0]}),
    ]
    model = graph(nodes, {"w": ones(2, 3, 1, 1)}, ("n", 3, 9, 8))

    table = layers_of(model)

    assert [((3, 3, 3),), ((2, 11, 11),), ((2, 4, 4),)] == [layer.outputs for layer in table.layers]
    assert (1, 2, 4, 4) == ran(model, ones(1, 3, 9, 8))[0].shape
    assert (True, (0, 1, 1, 0)) == (table.layers[2].ceil, table.layers[2].padding)


def test_weights_times_inputs_are_a_linear_layer_whichever_way_they_are_written() -> None:
    weights = {"fc.weight": ones(10, 4), "turned.weight": ones(4, 10), "fc.bias": ones(10)}
    written: list[list[Node]] = [
        [("Gemm", "x,fc.weight,fc.bias", "y", {"transB": 1})],
        [("Gemm", "x,turned.weight", "z"), ("Add", "z,fc.bias", "y")],
        [("MatMul", "x,turned.weight", "z"), ("Add", "fc.bias,z", "y")],
    ]

    for nodes in written:
        layer = only(graph(nodes, weights, ("n", 4)))
        assert ("Linear", ((4,),), ((10,),), 50, 40) == (
            layer.kind,
            layer.inputs,
            layer.outputs,
            layer.parameters,
            layer.macs,
        )
        assert (10,) == layer.weights[1].shape


def test_a_product_of_two_tensors_of_the_image_is_no_linear_layer() -> None:
    layer = only(graph([("MatMul", "x,x", "y")], {}, ("n", 5, 7, 7)))

    assert ("MatMul", 0, 5 * 7 * 7 * 7) == (layer.kind, layer.parameters, layer.macs)
    assert ((5, 7, 7), (5, 7, 7)) == layer.inputs


# -- the shape rule, against onnxruntime ---------------------------------------------------------------------------------


@st.composite
def windows(draw: st.DrawFn, operator: str, channels: int) -> tuple[Node, NDArray[np.float32] | None]:
    """A convolution or pooling of 2 axes with random attributes; its weights, where it has any."""
    kernel = [draw(st.integers(1, 4)) for _ in range(2)]
    how: dict[str, Any] = {"strides": [draw(st.integers(1, 3)) for _ in range(2)], "kernel_shape": kernel}
    auto_pad = draw(st.sampled_from(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    if auto_pad.startswith("SAME"):  # onnxruntime refuses windows that leave gaps, and dilated ones
        how["strides"] = [min(pair) for pair in zip(how["strides"], kernel, strict=True)]
    if auto_pad == "NOTSET":
        how["pads"] = [draw(st.integers(0, (side - 1) // 2)) for side in (*kernel, *kernel)]
    else:
        how["auto_pad"] = auto_pad
    if operator == "MaxPool" and auto_pad == "NOTSET":
        how["ceil_mode"] = draw(st.integers(0, 1))
    if operator in {"Conv", "ConvTranspose"}:
        how["dilations"] = [draw(st.integers(1, 2)) for _ in range(2)] if auto_pad in {"NOTSET", "VALID"} else [1, 1]
        how["group"] = draw(st.sampled_from([1, channels]))
        many = channels * draw(st.integers(1, 2))
        shape = (many, channels // how["group"], *kernel) if operator == "Conv" else (channels, 2, *kernel)
        return (operator, "x,w", "y", how), ones(*shape)
    return (operator, "x", "y", how), None


@given(data=st.data(), operator=st.sampled_from(["Conv", "ConvTranspose", "MaxPool", "AveragePool"]))
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_shapes_and_parameters_are_those_of_what_onnxruntime_makes(data: st.DataObject, operator: str) -> None:
    sides = (2, data.draw(st.integers(9, 24)), data.draw(st.integers(9, 24)))
    node, weights = data.draw(windows(operator, channels=2))
    model = graph([node], {} if weights is None else {"w": weights}, ("n", *sides))

    layer = only(model)

    (made,) = ran(model, ones(1, *sides))
    assert (sides,) == layer.inputs
    assert (made.shape[1:],) == layer.outputs
    assert (0 if weights is None else weights.size) == layer.parameters


@given(data=st.data(), operator=st.sampled_from(["Conv", "ConvTranspose"]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_macs_are_what_a_convolution_of_ones_adds_up_to(data: st.DataObject, operator: str) -> None:
    """Every multiply-accumulate adds 1 to the output, unless padding puts zeros in or cuts the output."""
    (name, inputs, output, how), weights = data.draw(windows(operator, channels=2))
    bare = {key: value for key, value in how.items() if key not in {"pads", "auto_pad"}}
    assert weights is not None
    model = graph([(name, inputs, output, bare)], {"w": weights}, ("n", 2, 14, 13))

    assert int(ran(model, ones(1, 2, 14, 13))[0].sum()) == only(model).macs


def test_a_whole_network_has_the_shapes_that_onnxruntime_makes() -> None:
    nodes: list[Node] = [
        ("Conv", "x,a.weight", "a", {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("Relu", "a", "b"),
        ("MaxPool", "b", "c", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
        ("Conv", "c,b.weight", "d", {"group": 4, "auto_pad": "SAME_UPPER"}),
        ("Concat", "c,d", "e", {"axis": 1}),
        ("ConvTranspose", "e,c.weight", "f", {"strides": [2, 2]}),
        ("GlobalAveragePool", "f", "g"),
        ("Flatten", "g", "h"),
        ("Gemm", "h,fc.weight", "y", {"transB": 1}),
    ]
    weights = {
        "a.weight": ones(4, 3, 3, 3),
        "b.weight": ones(4, 1, 2, 2),
        "c.weight": ones(8, 5, 3, 3),
        "fc.weight": ones(7, 5),
    }
    seen = [node[2] for node in nodes if node[2] != "a"]

    layers = layers_of(graph(nodes, weights, ("n", 3, 41, 38))).layers

    made = ran(graph(nodes, weights, ("n", 3, 41, 38), outputs=seen), ones(1, 3, 41, 38))
    assert [one.shape[1:] for one in made] == [layer.outputs[0] for layer in layers]
    assert ["Conv", "MaxPool", "depthwise Conv", "Concat"] == [layer.kind for layer in layers[:4]]
    assert (made[1].shape[1:], made[2].shape[1:]) == layers[3].inputs


# -- what is not fixed, and what onnx does not know ------------------------------------------------------------------------


def test_free_sides_are_unknown_until_they_are_given() -> None:
    nodes = [("Conv", "x,w", "a"), ("MaxPool", "a", "y", {"kernel_shape": [2, 2], "strides": [2, 2]})]
    model = graph(nodes, {"w": ones(4, 3, 3, 3)}, ("n", 3, "height", "width"))

    free, known = layers_of(model), layers_of(model, (3, 10, None))

    assert [((4, None, None),), ((4, None, None),)] == [layer.outputs for layer in free.layers]
    assert (None, 108) == (free.macs, free.parameters)
    assert [((4, 8, None),), ((4, 4, None),)] == [layer.outputs for layer in known.layers]
    assert 4 * 8 * 8 * 27 == layers_of(model, (3, 10, 10)).macs


def test_sides_that_the_graph_fixes_stay_as_they_are() -> None:
    model = graph([("Conv", "x,w", "y")], {"w": ones(4, 3, 3, 3)}, ("n", 3, 32, "width"))

    assert ((4, 30, 18),) == only(model, (3, 99, 20)).outputs


def test_a_graph_with_channels_last_is_turned_and_goes_on() -> None:
    nodes = [("Transpose", "x", "a", {"perm": [0, 3, 1, 2]}), ("Conv", "a,w", "y")]
    table = layers_of(graph(nodes, {"w": ones(4, 3, 3, 3)}, ("n", None, None, 3)), (20, 24, 3))

    assert ["Transpose", "Conv"] == kinds(table)
    assert [((20, 24, 3),), ((3, 20, 24),)] == [layer.inputs for layer in table.layers]
    assert ((20, 24), (18, 22)) == table.sides


def test_an_unknown_operator_is_a_row_behind_which_shapes_are_unknown_unless_the_graph_says_them() -> None:
    nodes = [("Odd", "x,w", "a", {"domain": "com.example"}), ("GlobalMaxPool", "a", "y")]
    weights = {"w": ones(5, 4)}

    silent = layers_of(graph(nodes, weights))
    telling = layers_of(graph(nodes, weights, said={"a": ["n", 8, "side", 3]}))

    assert [("com.example.Odd", (None,), 20, None), ("GlobalMaxPool", (None,), 0, 0)] == [
        (layer.kind, layer.outputs, layer.parameters, layer.macs) for layer in silent.layers
    ]
    assert None is silent.macs
    assert [((8, None, 3),), ((8, 1, 1),)] == [layer.outputs for layer in telling.layers]


def test_operators_that_onnxruntime_has_fused_are_said_plainly() -> None:
    ours = {"domain": "com.microsoft"}
    nodes = [
        ("FusedConv", "x,c.weight,c.bias", "a", ours | {"activation": "Relu", "pads": [1, 1, 1, 1]}),
        ("Gelu", "a", "b", ours),
        ("MaxPool", "b", "y", {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ]
    table = layers_of(graph(nodes, {"c.weight": ones(4, 3, 3, 3), "c.bias": ones(4)}))

    assert ["Conv, ReLU, GELU", "MaxPool"] == kinds(table)
    assert ((4, 16, 16),) == table.layers[-1].outputs
    assert (112, 4 * 32 * 32 * 27) == (table.parameters, table.macs)


def test_a_loop_is_one_row_with_the_weights_that_it_uses() -> None:
    """A body that convolves with a weight from outside and adds one of its own."""
    inner = [made_of(("Conv", "state,outer", "z", {"pads": [1, 1, 1, 1]})), made_of(("Add", "z,inner", "state_out"))]
    inner.append(made_of(("Identity", "go", "go_out")))
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        inner,
        "body",
        [value("turn", INT64, []), value("go", BOOL, []), value("state", FLOAT, None)],
        [value("go_out", BOOL, []), value("state_out", FLOAT, None)],
        [onnx.numpy_helper.from_array(ones(1, 3, 1, 1), "inner")],
    )
    weights = {"outer": ones(3, 3, 3, 3), "turns": np.array(4), "go_on": np.array(True)}
    nodes = [("Loop", "turns,go_on,x", "a", {"body": body}), ("Relu", "a", "b"), ("Conv", "b,outer", "y")]

    table = layers_of(graph(nodes, weights))

    assert ["Loop, ReLU", "Conv"] == kinds(table)
    assert [81 + 3, 0] == [layer.parameters for layer in table.layers]
    assert None is table.layers[0].macs
    assert {(3, 3, 3, 3), (1, 3, 1, 1)} == {weight.shape for weight in table.layers[0].weights}


def test_functions_of_the_model_are_looked_into() -> None:
    block = helper.make_function(
        "com.example",
        "Block",
        ["image", "kernel"],
        ["out"],
        [made_of(("Conv", "image,kernel", "c")), made_of(("Relu", "c", "out"))],
        [helper.make_opsetid("", 17)],
    )
    ours = {"domain": "com.example"}
    nodes = [("Block", "x,a.weight", "z", ours), ("Block", "z,b.weight", "y", ours)]

    table = layers_of(graph(nodes, {"a.weight": ones(4, 3, 3, 3), "b.weight": ones(2, 4, 3, 3)}, functions=[block]))

    assert ["Conv, ReLU", "Conv, ReLU"] == kinds(table)
    assert ["a", "b"] == [layer.name for layer in table.layers]
    assert ((2, 28, 28),) == table.layers[1].outputs


# -- weights -------------------------------------------------------------------------------------------------------------


def test_weights_that_two_layers_share_count_once() -> None:
    nodes = [("Conv", "x,w", "a", {"pads": [1, 1, 1, 1]}), ("Conv", "a,w", "y")]
    table = layers_of(graph(nodes, {"w": ones(3, 3, 3, 3)}))

    assert [81, 0] == [layer.parameters for layer in table.layers]
    assert table.layers[0].weights == table.layers[1].weights
    assert 81 == table.parameters


def test_neither_statistics_nor_sizes_nor_the_numbers_that_prepare_the_image_are_parameters() -> None:
    weights = {
        "mean": ones(3, 1, 1),
        "scale": np.array(0.5, dtype=np.float32),
        "conv.weight": ones(4, 3, 3, 3),
        "bn.weight": ones(4),
        "bn.bias": ones(4),
        "bn.running_mean": ones(4),
        "bn.running_var": ones(4),
        "gain": ones(4, 1, 1),
        "half": np.array(0.5, dtype=np.float32),
        "flat": np.array([0, -1]),
    }
    nodes = [
        ("Cast", "x", "a", {"to": FLOAT}),
        ("Mul", "a,scale", "b"),
        ("Sub", "b,mean", "c"),
        ("Conv", "c,conv.weight", "d"),
        ("BatchNormalization", "d,bn.weight,bn.bias,bn.running_mean,bn.running_var", "e"),
        ("Mul", "e,half", "f"),
        ("Mul", "f,gain", "g"),
        ("Reshape", "g,flat", "y"),
    ]
    table = layers_of(graph(nodes, weights, kind=UINT8))

    assert ["Mul, Sub", "Conv", "BatchNormalization, Mul", "Mul", "Flatten"] == kinds(table)
    assert ["x", "conv", "bn", "mul", "flatten"] == [layer.name.replace("reshape", "flatten") for layer in table.layers]
    assert [0, 108, 8, 4, 0] == [layer.parameters for layer in table.layers]
    assert ((4 * 30 * 30,),) == table.layers[-1].outputs


def test_weights_are_found_behind_what_is_computed_from_constants() -> None:
    nodes = [
        ("Constant", "", "literal", {"value": onnx.numpy_helper.from_array(ones(4, 3, 3, 3))}),
        ("Conv", "x,literal", "a"),
        ("Constant", "", "shape", {"value_ints": [6, 4, 3, 3]}),
        ("ConstantOfShape", "shape", "filled", {"value": onnx.numpy_helper.from_array(ones(1))}),
        ("Conv", "a,filled", "b"),
        ("Transpose", "w", "turned", {"perm": [1, 0, 2, 3]}),
        ("Conv", "b,turned", "y"),
    ]
    nodes = [(one[0], one[1], *one[2:]) for one in nodes]
    model = graph(nodes, {"w": ones(6, 2, 3, 3)})

    layers = layers_of(drop_empty_inputs(model)).layers

    assert [108, 216, 108] == [layer.parameters for layer in layers]
    assert [(4, 3, 3, 3), (6, 4, 3, 3), (2, 6, 3, 3)] == [layer.weights[0].shape for layer in layers]
    assert ((2, 26, 26),) == layers[-1].outputs


def drop_empty_inputs(model: bytes) -> bytes:
    """Constant nodes have no inputs at all; `made_of` gave them one without a name."""
    proto = onnx.load_model_from_string(model)
    for node in proto.graph.node:
        if node.op_type == "Constant":
            del node.input[:]
    return bytes(proto.SerializeToString())


def test_padding_that_is_put_together_from_pieces_is_followed() -> None:
    weights = {"lower": np.array([0, 0, 1]), "upper": np.array([2]), "zeros": np.array([0, 0, 3, 0])}
    nodes = [
        ("Concat", "lower,upper,zeros", "pads", {"axis": 0}),
        ("Pad", "x,pads", "a"),
        ("Conv", "a,w", "y"),
    ]
    model = graph(nodes, weights | {"w": ones(4, 3, 3, 3)})

    table = layers_of(model)

    assert [((3, 36, 34),), ((4, 34, 32),)] == [layer.outputs for layer in table.layers]
    assert (1, 4, 34, 32) == ran(model, ones(1, 3, 32, 32))[0].shape


@pytest.mark.parametrize("form", ["QDQ", "QOperator", "ConvInteger"])
def test_a_quantised_layer_reads_like_the_plain_one(form: str) -> None:
    scale, zero = np.array(0.1, dtype=np.float32), np.array(3, dtype=np.uint8)
    weights: dict[str, NDArray[Any]] = {
        "c.weight_quantized": np.ones((4, 3, 3, 3), dtype=np.uint8),
        "c.bias_quantized": np.ones(4, dtype=np.int32),
        "c.bias": ones(4, 1, 1)[None],
        "s": scale,
        "z": zero,
    }
    nodes: dict[str, list[Node]] = {
        "QDQ": [
            ("QuantizeLinear", "x,s,z", "xq"),
            ("DequantizeLinear", "xq,s,z", "xd"),
            ("DequantizeLinear", "c.weight_quantized,s,z", "w"),
            ("DequantizeLinear", "c.bias_quantized,s", "b"),
            ("Conv", "xd,w,b", "a"),
            ("Relu", "a", "y"),
        ],
        "QOperator": [
            ("QuantizeLinear", "x,s,z", "xq"),
            ("QLinearConv", "xq,s,z,c.weight_quantized,s,z,s,z,c.bias_quantized", "aq"),
            ("DequantizeLinear", "aq,s,z", "a"),
            ("Relu", "a", "y"),
        ],
        "ConvInteger": [
            ("DynamicQuantizeLinear", "x", "xq,xs,xz"),
            ("ConvInteger", "xq,c.weight_quantized,xz,z", "ai"),
            ("Cast", "ai", "af", {"to": FLOAT}),
            ("Mul", "xs,s", "both"),
            ("Mul", "af,both", "as"),
            ("Add", "as,c.bias", "a"),
            ("Relu", "a", "y"),
        ],
    }
    model = graph(nodes[form], weights)

    layer = only(model)

    assert (1, *layer.outputs[0]) == ran(model, ones(1, 3, 32, 32))[0].shape  # type: ignore[misc]
    assert ("c", "Conv", "ReLU", (3, 3)) == (layer.name, layer.kind, layer.activation, layer.kernel)
    assert [(4, 3, 3, 3), (4,)] == [weight.shape for weight in layer.weights]
    assert "uint8" == layer.weights[0].dtype
    assert (112, 4 * 30 * 30 * 27) == (layer.parameters, layer.macs)


# -- what is folded, and what it is called -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "name"),
    [
        ([("Relu", "a", "y")], "ReLU"),
        ([("Clip", "a,zero,six", "y")], "ReLU6"),
        ([("Clip", "a,zero", "y")], "ReLU"),
        ([("Clip", "a,zero,half", "y")], "Clip"),
        ([("Sigmoid", "a", "b"), ("Mul", "a,b", "y")], "SiLU"),
        ([("HardSigmoid", "a", "b"), ("Mul", "b,a", "y")], "HardSwish"),
        (
            [("Add", "a,three", "b"), ("Clip", "b,zero,six", "c"), ("Mul", "a,c", "d"), ("Div", "d,six", "y")],
            "HardSwish",
        ),
        ([("Mul", "a,half", "b"), ("Tanh", "b", "y")], "Mul, Tanh"),
    ],
)
def test_activations_belong_to_the_layer_before_however_they_are_written(nodes: list[Node], name: str) -> None:
    numbers = {"zero": 0.0, "half": 0.5, "three": 3.0, "six": 6.0}
    weights = {key: np.array(value, dtype=np.float32) for key, value in numbers.items()} | {"w": ones(4, 3, 3, 3)}

    layer = only(graph([("Conv", "x,w", "a"), *nodes], weights))

    assert ("Conv", name) == (layer.kind, layer.activation)


def test_an_activation_of_what_is_used_elsewhere_too_has_a_row_of_its_own() -> None:
    nodes = [("Conv", "x,w", "a"), ("Sigmoid", "a", "b"), ("Mul", "a,b", "c"), ("Add", "a,c", "y")]
    table = layers_of(
        graph([*nodes[:2], ("Neg", "b", "c"), ("Concat", "a,c", "y", {"axis": 1})], {"w": ones(4, 3, 3, 3)})
    )
    gated = layers_of(graph([*nodes, ("Identity", "a", "z")], {"w": ones(4, 3, 3, 3)}, outputs=("y", "z")))

    assert ["Conv", "Sigmoid, Neg", "Concat"] == kinds(table)
    assert ["Conv", "Sigmoid, Mul, Add"] == kinds(gated)


def test_feature_maps_keep_their_layer_and_its_activation_apart() -> None:
    nodes = [("Conv", "x,w", "a"), ("Relu", "a", "y")]

    assert ["Conv, ReLU"] == kinds(layers_of(graph(nodes, {"w": ones(4, 3, 3, 3)})))
    assert ["Conv", "ReLU"] == kinds(layers_of(graph(nodes, {"w": ones(4, 3, 3, 3)}, outputs=("a", "y"))))


@pytest.mark.parametrize(
    ("weights", "nodes", "expected"),
    [
        (("net.stem.weight", "net.head.weight"), ("", ""), ["stem", "head"]),
        (("net.0.weight", "net.2.weight"), ("", ""), ["net.0", "net.2"]),
        (("gpu_0/conv1_w_0", "gpu_0/conv2_w_0"), ("", ""), ["conv1", "conv2"]),
        (
            ("onnx::Conv_12", "onnx::Conv_13"),
            ("/layer1/layer1.0/conv1/Conv", "/head/Conv_1"),
            ["layer1.0.conv1", "head"],
        ),
        (("1", "2"), ("model/conv2d/Conv2D", "model/conv2d_1/Conv2D__6"), ["conv2d", "conv2d_1"]),
        (("1", "2"), ("node_conv2d", ""), ["conv2d", "conv"]),
        (("1", "2"), ("", ""), ["conv", "conv_1"]),
    ],
)
def test_layers_are_named_by_their_weights_or_else_by_their_nodes(
    weights: tuple[str, str], nodes: tuple[str, str], expected: list[str]
) -> None:
    first, second = weights
    chain = [("Conv", f"x,{first}", "a", {"name": nodes[0]}), ("Conv", f"a,{second}", "y", {"name": nodes[1]})]
    table = layers_of(graph(chain, {first: ones(4, 3, 3, 3), second: ones(4, 4, 3, 3)}))

    assert expected == [layer.name for layer in table.layers]


@pytest.mark.parametrize("opset", range(9, 23))
def test_every_opset_that_is_served_gives_the_same_table(opset: int) -> None:
    bounds: dict[str, Any] = {} if opset >= 11 else {"min": 0.0, "max": 6.0}
    weights: dict[str, NDArray[Any]] = {
        "conv.weight": ones(4, 3, 3, 3),
        "fc.weight": ones(10, 4 * 15 * 15),
        "shape": np.array([-1, 900]),
        "low": np.array(0, dtype=np.float32),
        "high": np.array(6, dtype=np.float32),
    }
    nodes = [
        ("Conv", "x,conv.weight", "a"),
        ("Clip", "a,low,high" if opset >= 11 else "a", "b", bounds),
        ("MaxPool", "b", "c", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("Reshape", "c,shape", "d"),
        ("Gemm", "d,fc.weight", "y", {"transB": 1}),
    ]
    table = layers_of(graph(nodes, weights, opset=opset))

    assert ["Conv, ReLU6", "MaxPool", "Flatten", "Linear"] == kinds(table)
    assert [((4, 30, 30),), ((4, 15, 15),), ((900,),), ((10,),)] == [layer.outputs for layer in table.layers]
    assert (9108, 4 * 30 * 30 * 27 + 9000) == (table.parameters, table.macs)


# -- whole networks ------------------------------------------------------------------------------------------------------


def test_lenet_is_the_network_of_the_lesson() -> None:
    table = layers_of((LENET / "1" / "model.onnx").read_bytes())
    by_name = {layer.name: layer for layer in table.layers}

    assert 81_194 == table.parameters
    assert 6 * 30 * 30 * 9 + 16 * 13 * 13 * 54 + 576 * 120 + 120 * 84 + 84 * 10 == table.macs
    assert (6, 1, 3, 3) == by_name["conv1"].weights[0].shape
    assert (16, 6, 3, 3) == by_name["conv2"].weights[0].shape
    assert [(side, side) for side in (32, 30, 15, 13, 6)] == list(table.sides)
    assert (576, 120, 84, 10) == table.widths
    chain = [layer.outputs[0] for layer in table.layers if layer.kind != "Mul, Add"]
    assert [(6, 30, 30), (6, 15, 15), (16, 13, 13), (16, 6, 6), (576,), (120,), (84,), (10,)] == chain


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [("resnet50", 25_557_032, 4_089_184_256), ("vgg19", 143_667_240, 19_632_062_464), ("squeezenet", 1_235_496, None)],
)
def test_well_known_networks_have_the_well_known_numbers(name: str, parameters: int, macs: int | None) -> None:
    file = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / f"light_{name}.onnx"

    table = layers_of(file.read_bytes())

    assert parameters == table.parameters
    assert (1000,) == tuple(side for side in table.layers[-1].outputs[0] or () if side != 1)
    assert macs in (None, table.macs)


# -- as JSON, and when it is none ------------------------------------------------------------------------------------------


def test_the_table_comes_back_from_json_as_it_was() -> None:
    table = layers_of((LENET / "1" / "model.onnx").read_bytes())

    assert table == Architecture.from_json(table.to_json())
    assert [6, 1, 3, 3] == table.to_json()[1]["weights"][0]["shape"]


@pytest.mark.parametrize("rows", [[{}], [{"name": 1}], "layers", [{"name": "a", "kind": "b", "parameters": "many"}]])
def test_json_that_is_no_table_is_refused(rows: Any) -> None:
    with pytest.raises(ModelBroken, match=r"^layers"):
        Architecture.from_json(rows)


@pytest.mark.parametrize("content", [b"", b"hello", bytes(100), b"\x08\x07"])
def test_bytes_that_are_no_graph_are_refused(content: bytes) -> None:
    with pytest.raises(ModelBroken, match="no ONNX file"):
        layers_of(content)


def test_a_graph_that_contradicts_itself_is_refused_or_shown_but_never_a_crash() -> None:
    nodes = [("Cast", "x", "a", {"to": FLOAT}), ("Conv", "a,w", "y")]
    proto = onnx.load_model_from_string(graph(nodes, {"w": ones(4, 3, 3, 3)}))
    del proto.graph.node[0].input[:]

    with pytest.raises(ModelBroken, match="contradicts itself"):
        layers_of(proto.SerializeToString())


def test_only_reading_a_graph_needs_onnx() -> None:
    program = """
import sys
sys.modules["onnx"] = None
from convq.layers import Architecture, layers_of
print(Architecture.from_json([]).parameters)
try:
    layers_of(b"")
except ModuleNotFoundError as error:
    print(error.name.partition(".")[0])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert ["0", "onnx"] == done.stdout.split()


def test_the_total_is_the_number_of_float_initializers_of_a_plain_network() -> None:
    proto = onnx.load_model_from_string((LENET / "1" / "model.onnx").read_bytes())
    floats = [prod(one.dims) for one in proto.graph.initializer if one.data_type == FLOAT and one.dims]

    assert sum(floats) == layers_of(proto.SerializeToString()).parameters
