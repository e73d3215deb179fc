"""Feature maps: from a graph of their own where a version has one, and only when somebody asks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from convq.engine.engine import Engine
from convq.engine.postprocess import agrees, finite
from convq.errors import ModelBroken
from onnx_models import FLOAT, UINT8, graph, identity, model_folder, resealed
from services import MODELS, digits, seven, tensor_of

SIDE = ["n", 3, 2, 2]
Y = "[[outputs]]\nname = 'y'\n"
MAPS = "[feature_maps]\nfirst = 'relu:0'\n"


def relu(*outputs: str, side: list[Any] = SIDE, name: str = "x") -> bytes:
    """y = -relu(x), with these outputs."""
    nodes = [("Relu", [name], ["relu:0"]), ("Neg", ["relu:0"], ["y"])]
    return graph(nodes, [(name, FLOAT, side)], [(output, FLOAT, side) for output in outputs])


@pytest.fixture(scope="module")
def lenet() -> Engine:
    engine = Engine.load(MODELS / "lenet", 1)
    engine.warm_up()
    return engine


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A lenet of this test's own."""
    return Path(shutil.copytree(MODELS / "lenet", tmp_path / "lenet"))


def test_the_maps_of_lenet_are_those_of_its_convolutions(lenet: Engine) -> None:
    inputs = [lenet.admit(tensor_of(digit), "uint8", "1,32,32") for digit in digits()[:5]]
    batch = np.pad(digits()[:5], ((0, 0), (2, 2), (2, 2)))[:, None]
    file = lenet._file.with_name("features.onnx")
    direct = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    expected = direct.run(["logits", "conv1", "conv2"], {"image": batch})

    made = lenet.run(inputs, {"conv2", "conv1"})

    for name, values in zip(("logits", "conv1", "conv2"), expected, strict=True):
        np.testing.assert_array_equal(values, made[name])
    assert [(5, 6, 30, 30), (5, 16, 13, 13)] == [made[name].shape for name in ("conv1", "conv2")]


def test_it_says_which_maps_there_are(lenet: Engine) -> None:
    described: Any = json.loads(json.dumps(lenet.describe()))["outputs"]

    assert ("logits", "conv1", "conv2") == lenet.outputs
    assert frozenset({"conv1", "conv2"}) == lenet.feature_maps
    assert () == lenet.default_outputs
    assert [("logits", "classes"), ("conv1", "feature_map"), ("conv2", "feature_map")] == [
        (one["name"], one["meaning"]) for one in described
    ]


def test_only_a_batch_in_which_somebody_asks_runs_on_the_other_graph(tmp_path: Path) -> None:
    # The graph with the maps adds a little, so that one can see which of the two has run.
    shifted = graph(
        [("Relu", ["x"], ["relu:0"]), ("Neg", ["relu:0"], ["minus"]), ("Add", ["minus", "little"], ["y"])],
        [("x", FLOAT, SIDE)],
        [("y", FLOAT, SIDE), ("relu:0", FLOAT, SIDE)],
        {"little": np.array([0.001], dtype=np.float32)},
    )
    engine = Engine.load(model_folder(tmp_path / "m", Y + MAPS, relu("y"), shifted), 1)
    engine.warm_up()
    inputs = [engine.admit(np.ones((3, 2, 2), dtype="<f4").tobytes(), "float32", "3,2,2")]

    plain, other = engine.run(inputs, {"y"}), engine.run(inputs, {"first"})

    assert (["y"], -1.0) == (list(plain), plain["y"].max())
    assert ["y", "first"] == list(other)
    assert -0.999 == pytest.approx(float(other["y"].max()))
    assert ["y"] == list(engine.run(inputs, ()))
    assert ["y", "first"] == list(engine.run(inputs))


def test_a_graph_of_its_own_may_have_maps_that_the_first_has_not_and_only_the_wanted_are_fetched(
    lenet: Engine,
) -> None:
    inputs = [lenet.prepare(lenet.decode(seven()))]

    assert ["logits"] == list(lenet.run(inputs, {"logits"}))
    assert ["logits", "conv2"] == list(lenet.run(inputs, {"conv2"}))
    assert 7 == lenet.run(inputs, {"conv2"})["logits"].argmax()


def test_without_declared_outputs_every_output_but_the_maps_comes_by_itself(tmp_path: Path) -> None:
    engine = Engine.load(model_folder(tmp_path / "m", MAPS, relu("y", "relu:0")), 1)
    engine.warm_up()

    assert (("y", "first"), ("y",)) == (engine.outputs, engine.default_outputs)
    with pytest.raises(ModelBroken, match="all outputs of the graph are feature maps"):
        Engine.load(model_folder(tmp_path / "all", "[feature_maps]\nfirst = 'y'\n", relu("y")), 1)
    with pytest.raises(ModelBroken, match="y is an output of the graph, and the manifest calls a feature map so"):
        Engine.load(model_folder(tmp_path / "both", "[feature_maps]\ny = 'relu:0'\n", relu("y", "relu:0")), 1)


WRONG = {
    "no such map": (relu("y"), r"features\.onnx: the graph has no output relu:0, which the manifest names; it has y"),
    "no such output": (relu("relu:0"), r"features\.onnx: the graph has no output y, which the manifest names"),
    "another name of the input": (
        relu("y", "relu:0", name="z"),
        r"features\.onnx: its input is z, float32; model\.onnx has x, float32",
    ),
    "another dtype": (
        graph(
            [("Cast", ["x"], ["relu:0"], {"to": FLOAT}), ("Neg", ["relu:0"], ["y"])],
            [("x", UINT8, SIDE)],
            [("y", FLOAT, SIDE), ("relu:0", FLOAT, SIDE)],
        ),
        r"features\.onnx: its input is x, uint8; model\.onnx has x, float32",
    ),
    "other sides": (
        relu("y", "relu:0", side=["n", 3, 2, 4]),
        r"features\.onnx: its input is \[batch, 3, 2, 4\]; model\.onnx has \[batch, 3, 2, 2\]",
    ),
    "a fixed batch": (
        relu("y", "relu:0", side=[1, 3, 2, 2]),
        r"features\.onnx: its input is \[1, 3, 2, 2\]; model\.onnx has \[batch, 3, 2, 2\]",
    ),
    "another output": (
        graph(
            [("Relu", ["x"], ["relu:0"]), ("Flatten", ["relu:0"], ["y"])],
            [("x", FLOAT, SIDE)],
            [("y", FLOAT, ["n", 12]), ("relu:0", FLOAT, SIDE)],
        ),
        r"features\.onnx: output y is float32 \[12\]; model\.onnx has float32 \[3, 2, 2\]",
    ),
    "a map of words": (
        graph(
            [("Relu", ["x"], ["r"]), ("Neg", ["r"], ["y"]), ("Cast", ["r"], ["relu:0"], {"to": 8})],
            [("x", FLOAT, SIDE)],
            [("y", FLOAT, SIDE), ("relu:0", 8, SIDE)],
        ),
        r"output relu:0 is a tensor\(string\); expected a tensor of numbers",
    ),
    "no graph": (b"features", r"features\.onnx: is "),
    "two inputs": (
        graph(
            [("Add", ["x", "b"], ["relu:0"]), ("Neg", ["relu:0"], ["y"])],
            [("x", FLOAT, SIDE), ("b", FLOAT, SIDE)],
            [("y", FLOAT, SIDE), ("relu:0", FLOAT, SIDE)],
        ),
        r"features\.onnx: the graph has 2 inputs",
    ),
}


@pytest.mark.parametrize(("features", "expected"), WRONG.values(), ids=WRONG.keys())
def test_a_graph_that_does_not_fit_the_first_is_refused(tmp_path: Path, features: bytes, expected: str) -> None:
    with pytest.raises(ModelBroken, match=expected):
        Engine.load(model_folder(tmp_path / "m", Y + MAPS, relu("y"), features), 1)


def test_a_graph_of_another_network_fails_the_warm_up(tmp_path: Path) -> None:
    other = graph(
        [("Relu", ["x"], ["relu:0"]), ("Exp", ["relu:0"], ["y"])],
        [("x", FLOAT, SIDE)],
        [("y", FLOAT, SIDE), ("relu:0", FLOAT, SIDE)],
    )
    engine = Engine.load(model_folder(tmp_path / "m", Y + MAPS, relu("y"), other), 1)

    with pytest.raises(ModelBroken, match=r"features\.onnx: y is not what model\.onnx gives for the same input"):
        engine.warm_up()


def test_another_network_is_seen_without_a_sample_and_whatever_the_limits_are(tmp_path: Path) -> None:
    manifest = Y + MAPS + "[input]\nmean = 100\nresize = 'none'\n[limits]\nmax_pixels = 4\nmax_batch = 1\n"
    side = ["n", 3, "h", "w"]
    same = relu("y", "relu:0", side=side)
    other = graph(
        [("Abs", ["x"], ["relu:0"]), ("Neg", ["relu:0"], ["y"])],
        [("x", FLOAT, side)],
        [("y", FLOAT, side), ("relu:0", FLOAT, side)],
    )

    Engine.load(model_folder(tmp_path / "same", manifest, relu("y", side=side), same), 1).warm_up()
    with pytest.raises(ModelBroken, match=r"features\.onnx: y is not what model\.onnx gives"):
        Engine.load(model_folder(tmp_path / "other", manifest, relu("y", side=side), other), 1).warm_up()


def test_a_map_whose_first_axis_is_not_the_batch_fails_the_warm_up(tmp_path: Path) -> None:
    turned = graph(
        [("Transpose", ["x"], ["relu:0"], {"perm": [1, 0, 2, 3]}), ("Relu", ["x"], ["r"]), ("Neg", ["r"], ["y"])],
        [("x", FLOAT, SIDE)],
        [("y", FLOAT, SIDE), ("relu:0", FLOAT, None)],
    )
    engine = Engine.load(model_folder(tmp_path / "m", Y + MAPS, relu("y"), turned), 1)

    with pytest.raises(ModelBroken, match=r"features\.onnx: warm-up failed: output first has shape \[3, 1, 2, 2\] for"):
        engine.warm_up()


def test_the_second_graph_has_a_checksum_of_its_own(copy: Path) -> None:
    features, report = copy / "1" / "features.onnx", copy / "1" / "report.json"
    features.write_bytes(features.read_bytes()[:-1])

    with pytest.raises(ModelBroken, match=r"features\.onnx: its SHA-256 is [0-9a-f]{64}; report\.json says"):
        Engine.load(copy, 1)
    sealed = json.loads(report.read_text())
    report.write_text(json.dumps({"sha256": sealed["sha256"]}))
    with pytest.raises(
        ModelBroken, match=r"report\.json: is not a JSON object with the features_sha256 of features\.onnx"
    ):
        Engine.load(copy, 1)


def test_a_second_graph_is_not_looked_at_where_the_manifest_names_no_maps(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", "", identity(SIDE))
    (folder / "1" / "features.onnx").write_bytes(b"whatever")

    assert ("y",) == Engine.load(folder, 1).outputs


def test_a_map_that_the_version_has_not_is_named(copy: Path) -> None:
    (copy / "1" / "features.onnx").unlink()

    with pytest.raises(ModelBroken, match=r"model\.onnx: the graph has no output conv1, which the manifest names"):
        Engine.load(resealed(copy), 1)


def test_a_map_that_is_not_finite_fails_only_those_who_asked_for_it() -> None:
    logits, maps = np.zeros((3, 2), dtype=np.float32), np.zeros((3, 1, 2, 2), dtype=np.float32)
    maps[1:] = np.inf
    logits[0] = np.nan

    fine = finite({"logits": logits, "maps": maps}, {"maps"}, [(), ("maps",), ("logits",)])

    assert [False, False, True] == fine.tolist()


def test_two_runs_agree_but_for_roundings() -> None:
    values = np.array([[1000.0, 0.5, np.nan]], dtype=np.float32)

    assert agrees(values, values + np.float32(9))
    assert not agrees(values, values + np.float32(11))
    assert not agrees(values, np.array([[1000.0, 0.5, 1.0]], dtype=np.float32))
    assert not agrees(values, values[:, :2])
    assert not agrees(np.zeros(2, dtype=np.float32), np.full(2, 1e-9, dtype=np.float32))
    assert agrees(np.array([1, 2]), np.array([2, 1]))
    assert agrees(np.zeros((0, 3), dtype=np.float32), np.zeros((0, 3), dtype=np.float32))
