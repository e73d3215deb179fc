"""The engine on real onnxruntime: answers equal to calling it directly, and broken models that say what is broken."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from PIL import Image

from convq.errors import BadTensor, ModelBroken, ModelFault, SettingsError
from convq.inference.outputs import rank
from convq.inference.repository import default_root
from convq.inference.session import Engine, Prepared

LENET = default_root() / "lenet"
SAMPLE = LENET / "sample"


@pytest.fixture(scope="module")
def engine() -> Engine:
    loaded = Engine.load(LENET, 1)
    loaded.warm_up()
    return loaded


@pytest.fixture(scope="module")
def digits() -> NDArray[np.uint8]:
    raw = gzip.decompress((SAMPLE / "t10k-1000-images-idx3-ubyte.gz").read_bytes())
    return np.frombuffer(raw, dtype=np.uint8, offset=16).reshape(-1, 28, 28)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A lenet of this test's own."""
    return Path(shutil.copytree(LENET, tmp_path / "lenet", ignore=shutil.ignore_patterns("t10k*", "__pycache__")))


def direct(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(LENET / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    logits: NDArray[np.float32] = session.run(["logits"], {"image": batch})[0]
    return logits


def png(image: NDArray[np.uint8]) -> bytes:
    out = BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


def padded(digits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.pad(digits, ((0, 0), (2, 2), (2, 2)))[:, None]


def test_it_says_what_it_is(engine: Engine) -> None:
    report = json.loads((LENET / "1" / "report.json").read_text())

    assert ("lenet", 1, "cpu", "auto") == (engine.name, engine.version, engine.provider, engine.requested_provider)
    assert tuple("0123456789") == engine.labels
    assert (("logits",), "logits", (), "softmax") == (
        engine.outputs,
        engine.classes,
        engine.default_outputs,
        engine.activation,
    )
    assert report["sha256"] == engine.sha256
    assert 128 == engine.max_batch
    assert 0 < engine.load_s < 30
    described: Any = json.loads(json.dumps(engine.describe()))
    assert [1, 32, 32] == described["inputs"][0]["shape"]
    assert (10, 128) == (described["labels"], described["limits"]["max_batch"])
    assert [{"name": "logits", "dtype": "float32", "shape": [10]}] == described["outputs"]


@pytest.mark.parametrize("size", [1, 2, 7, 64, 128])
def test_a_batch_of_tensors_gives_what_onnxruntime_gives(engine: Engine, digits: NDArray[np.uint8], size: int) -> None:
    batch = padded(digits[:size])
    inputs = [engine.admit(image.tobytes(), "uint8", "1,32,32") for image in batch]

    np.testing.assert_array_equal(direct(batch), engine.run(inputs)["logits"])


def test_images_and_tensors_share_a_batch_and_keep_their_order(engine: Engine, digits: NDArray[np.uint8]) -> None:
    batch = padded(digits[:6])
    inputs = [
        engine.prepare(engine.decode(png(digits[i]))) if i % 2 else engine.admit(batch[i].tobytes(), "uint8", "1,32,32")
        for i in range(6)
    ]

    assert {(1, 32, 32)} == {item.shape for item in inputs}
    np.testing.assert_array_equal(direct(batch), engine.run(inputs)["logits"])


def test_the_sample_digits_are_recognised(engine: Engine, digits: NDArray[np.uint8]) -> None:
    labels = np.frombuffer(
        gzip.decompress((SAMPLE / "t10k-1000-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8
    )
    found: list[int] = []

    for start in range(0, 1000, 100):
        inputs = [engine.prepare(engine.decode(png(image))) for image in digits[start : start + 100]]
        found += rank(engine.run(inputs)["logits"], "softmax", 1).indices[:, 0].tolist()

    assert 985 <= (np.array(found) == labels).sum()


def test_a_tensor_as_the_graph_takes_it_is_not_copied(engine: Engine) -> None:
    tensor = bytes(1024)

    admitted = engine.admit(tensor, "uint8", "1,32,32")

    assert tensor is admitted.data
    assert (1, 32, 32) == admitted.shape


@pytest.mark.parametrize(
    ("length", "dtype", "shape", "expected"),
    [
        (1023, "uint8", "1,32,32", "has 1023 bytes; uint8 of shape 1,32,32 has 1024"),
        (0, "uint8", "1,32,32", "has 0 bytes"),
        (4096, "float32", "1,32,32", "dtype is float32; this model takes uint8"),
        (1024, "int8", "1,32,32", "dtype is 'int8'; expected uint8"),
        (1024, "", "1,32,32", "dtype is ''; expected uint8"),
        (1024, "uint8", "32,32,1", "shape is 32,32,1; expected 1,32,32"),
        (1024, "uint8", "1,1,32,32", "shape is 1,1,32,32; expected 1,32,32"),
        (1024, "uint8", "", "shape is ''; expected 1,32,32"),
        (1024, "uint8", "1,32,-32", "shape is '1,32,-32'; expected"),
        (1024, "uint8", "1, 32, 32", "shape is '1, 32, 32'; expected"),
        (1024, "uint8", "1,32,99999999999999999999", "shape is '1,32,"),
        (1024, "uint8", "1,32,\u0663\u0662", "shape is '1,32,"),
        (1024, "\n<script>", "1,32,32", "dtype is '?<script>'"),
    ],
)
def test_any_other_tensor_is_refused_with_what_was_expected(
    engine: Engine, length: int, dtype: str, shape: str, expected: str
) -> None:
    with pytest.raises(BadTensor) as caught:
        engine.admit(bytes(length), dtype, shape)

    assert expected in str(caught.value)


def test_a_batch_that_onnxruntime_refuses_is_a_fault_without_a_path(engine: Engine) -> None:
    with pytest.raises(ModelFault) as caught:
        engine.run([Prepared(bytes(1024), (4, 16, 16))])

    assert "Got: 4 Expected: 1" in str(caught.value)
    assert "/" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_importing_the_package_turns_the_telemetry_of_onnxruntime_off_first() -> None:
    program = (
        "import sys, os; os.environ.pop('ORT_DISABLE_TELEMETRY', None)\n"
        "class Watch:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'onnxruntime': print(os.environ.get('ORT_DISABLE_TELEMETRY'))\n"
        "sys.meta_path.insert(0, Watch())\n"
        "import convq.inference.session\n"
        "print(sorted(name for name in ('torch', 'onnx') if name in sys.modules))\n"
    )
    path = {"PYTHONPATH": str(LENET.parents[1] / "service"), "PATH": ""}

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=path)

    assert ["1", "[]"] == done.stdout.splitlines()


def resealed(folder: Path) -> Path:
    """The report fits the model again, as if this had been exported."""
    digest = hashlib.sha256((folder / "1" / "model.onnx").read_bytes()).hexdigest()
    (folder / "1" / "report.json").write_text(json.dumps({"sha256": digest}))
    return folder


def edited(folder: Path, old: str, new: str) -> Path:
    manifest = folder / "manifest.toml"
    text = manifest.read_text()
    assert old in text
    manifest.write_text(text.replace(old, new))
    return folder


def test_a_model_that_is_not_the_reported_one_is_refused(copy: Path) -> None:
    model = copy / "1" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"\0")

    with pytest.raises(ModelBroken, match=r"model\.onnx: its SHA-256 is [0-9a-f]{64}; report\.json says"):
        Engine.load(copy, 1)


def test_a_truncated_graph_is_refused(copy: Path) -> None:
    model = copy / "1" / "model.onnx"
    model.write_bytes(model.read_bytes()[:1000])

    with pytest.raises(ModelBroken, match=r"model\.onnx: onnxruntime refuses it: "):
        Engine.load(resealed(copy), 1)


@pytest.mark.parametrize("name", ["model.onnx", "report.json"])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / "1" / name).unlink()

    with pytest.raises(ModelBroken, match=f"1/{name}: cannot be read: No such file"):
        Engine.load(copy, 1)


@pytest.mark.parametrize("report", ["", "[]", "{}", '{"sha256"'])
def test_a_report_without_a_checksum_is_refused(copy: Path, report: str) -> None:
    (copy / "1" / "report.json").write_text(report)

    with pytest.raises(ModelBroken, match=r"report\.json: is not a JSON object with the sha256"):
        Engine.load(copy, 1)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('name = "image"', 'name = "pixels"', "the graph's input is image; the manifest says input.name = pixels"),
        ('dtype = "uint8"', 'dtype = "float32"', "input image is uint8; the manifest says input.dtype = float32"),
        ('color = "gray"', 'color = "rgb"', "has 1 channels; the manifest's color rgb has 3"),
        ("height = 32", "height = 48", "has a height of 32; the manifest says input.height = 48"),
        ("background = 0", "scale = 0.5", "gets pixels as they are; the manifest has a scale, mean or std"),
        (
            "pad = 2",
            'pad = 2\nlayout = "NHWC"',
            "has 32 channels; the manifest's color gray has 1; is its layout right?",
        ),
        (
            'name = "logits"',
            'name = "scores"',
            "the graph has no output scores, which the manifest names; it has logits",
        ),
    ],
)
def test_a_manifest_that_contradicts_its_graph_is_refused(copy: Path, old: str, new: str, expected: str) -> None:
    with pytest.raises(ModelBroken) as caught:
        Engine.load(edited(copy, old, new), 1)

    assert expected in str(caught.value)
    assert str(copy / "1" / "model.onnx") in str(caught.value)


def test_sizes_that_the_manifest_leaves_out_are_the_graphs(copy: Path, digits: NDArray[np.uint8]) -> None:
    edited(edited(copy, "height = 32\n", ""), "width = 32\n", "")
    engine = Engine.load(copy, 1)
    engine.warm_up()

    made = engine.run([engine.prepare(engine.decode(png(digits[0])))])

    np.testing.assert_array_equal(direct(padded(digits[:1])), made["logits"])


def test_labels_must_be_as_many_as_classes(copy: Path) -> None:
    (copy / "labels.txt").write_text("a\nb\n7\n")

    with pytest.raises(ModelBroken, match="logits has 10 classes; there are 3 labels"):
        Engine.load(copy, 1).warm_up()


def test_a_sample_that_is_answered_otherwise_fails_the_warm_up(copy: Path) -> None:
    engine = Engine.load(edited(copy, 'golden = "7"', 'golden = "1"'), 1)

    with pytest.raises(ModelBroken, match=r"sample/seven\.png is '7'; warmup\.golden says '1'"):
        engine.warm_up()


def test_a_sample_that_is_missing_or_no_image_fails_the_warm_up(copy: Path) -> None:
    engine = Engine.load(copy, 1)
    (copy / "sample" / "seven.png").write_bytes(b"seven")
    with pytest.raises(ModelBroken, match="warm-up failed: not an image"):
        engine.warm_up()
    (copy / "sample" / "seven.png").unlink()
    with pytest.raises(ModelBroken, match=r"seven\.png: the warm-up sample cannot be read"):
        engine.warm_up()


def test_a_device_that_is_not_there_is_an_error_and_not_a_silent_cpu(copy: Path) -> None:
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(SettingsError, match="no CUDA provider"):
            Engine.load(copy, 1, device="cuda")
    with pytest.raises(SettingsError, match="expected auto, cpu or cuda"):
        Engine.load(copy, 1, device="tpu")


# Graphs of other shapes: built with the onnx package where it is installed, by what they compute.

FLOAT, UINT8, STRING = 1, 2, 8


def built(folder: Path, manifest: str, nodes: list[Any], inputs: list[Any], outputs: list[Any]) -> Path:
    """A model folder with a graph of `nodes`, where inputs and outputs are (name, type, shape)."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    infos = [[helper.make_tensor_value_info(*value) for value in values] for values in (inputs, outputs)]
    graph = helper.make_graph([helper.make_node(*node[:3], **node[3]) for node in nodes], "g", *infos)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").write_bytes(model.SerializeToString())
    (folder / "manifest.toml").write_text(manifest)
    return resealed(folder)


def identity(folder: Path, manifest: str, shape: list[Any], kind: int = FLOAT) -> Path:
    return built(folder, manifest, [("Identity", ["x"], ["y"], {})], [("x", kind, shape)], [("y", kind, shape)])


def test_a_uint8_tensor_for_a_float_graph_is_an_image_and_is_normalised_as_one(tmp_path: Path) -> None:
    manifest = "[input]\nscale = 0.5\nmean = [1, 2, 3]\nstd = [1, 2, 4]\n"
    engine = Engine.load(identity(tmp_path / "m", manifest, ["n", 3, 4, 5]), 1)
    pixels = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    expected = (pixels * 0.5 - np.array([1, 2, 3]).reshape(3, 1, 1)) / np.array([1, 2, 4]).reshape(3, 1, 1)

    as_tensor = engine.admit(pixels.tobytes(), "uint8", "3,4,5")
    as_image = engine.prepare(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    as_it_is = engine.admit(expected.astype("<f4").tobytes(), "float32", "3,4,5")
    made = engine.run([as_tensor, as_image, as_it_is])

    np.testing.assert_allclose(np.stack([expected] * 3), made["y"], atol=1e-5)
    assert ("y",) == engine.default_outputs


def test_free_sides_admit_any_size_of_the_right_multiple(tmp_path: Path) -> None:
    manifest = "[input]\nresize = 'none'\nmultiple_of = 4\nlayout = 'NHWC'\n[limits]\nmax_pixels = 100\nmax_batch = 2\n"
    engine = Engine.load(identity(tmp_path / "m", manifest, ["n", "h", "w", 3]), 1)
    engine.warm_up()

    assert (4, 8, 3) == engine.admit(bytes(4 * 4 * 8 * 3), "float32", "4,8,3").shape
    assert (4, 8, 3) == engine.prepare(np.zeros((3, 6, 3), dtype=np.uint8)).shape
    with pytest.raises(BadTensor, match="expected a multiple of 4,a multiple of 4,3"):
        engine.admit(b"", "float32", "4,6,3")
    with pytest.raises(BadTensor, match="more than the 100 pixels"):
        engine.admit(b"", "float32", "4,28,3")
    with pytest.raises(BadTensor, match="expected a multiple of 4"):
        engine.admit(b"", "float32", "0,4,3")


def test_a_fixed_batch_of_one_is_never_batched(tmp_path: Path) -> None:
    engine = Engine.load(identity(tmp_path / "m", "[limits]\nmax_batch = 8\n", [1, 3, 4, 4]), 1)
    engine.warm_up()

    assert 1 == engine.max_batch


def test_an_output_whose_first_axis_is_not_the_batch_is_refused(tmp_path: Path) -> None:
    turn = [("Transpose", ["x"], ["y"], {"perm": [1, 0, 2, 3]})]
    folder = built(tmp_path / "m", "", turn, [("x", FLOAT, ["n", 3, 4, 4])], [("y", FLOAT, [3, "n", 4, 4])])

    with pytest.raises(ModelBroken, match=r"output y has shape \[3, 1, 4, 4\] for a batch of 1"):
        Engine.load(folder, 1).warm_up()


def test_feature_maps_are_fetched_by_their_name_when_they_are_wanted(tmp_path: Path) -> None:
    manifest = "[[outputs]]\nname = 'y'\n[feature_maps]\nfirst = 'relu:0'\n"
    nodes: list[Any] = [("Relu", ["x"], ["relu:0"], {}), ("Neg", ["relu:0"], ["y"], {})]
    outputs = [("y", FLOAT, ["n", 3, 2, 2]), ("relu:0", FLOAT, ["n", 3, 2, 2])]
    engine = Engine.load(built(tmp_path / "m", manifest, nodes, [("x", FLOAT, ["n", 3, 2, 2])], outputs), 1)
    engine.warm_up()
    inputs = [engine.admit(np.full((3, 2, 2), 2, dtype="<f4").tobytes(), "float32", "3,2,2")]

    assert (("y", "first"), ("y",)) == (engine.outputs, engine.default_outputs)
    assert ["y"] == list(engine.run(inputs, ()))
    assert 2.0 == engine.run(inputs, ["first"])["first"].max()
    assert {"y", "first"} == set(engine.run(inputs))


@pytest.mark.parametrize(
    ("manifest", "shape", "kind", "expected"),
    [
        ("", [4, 3, 2, 2], FLOAT, "the batch axis is fixed at 4; expected free, or fixed at 1"),
        ("", ["n", 3], FLOAT, "has 2 axes; expected 4"),
        ("", ["n", 3, 2, 2], STRING, r"is a tensor\(string\); expected tensor\(uint8\) or tensor\(float\)"),
        ("", ["n", 3, "h", 8], FLOAT, "resize = 'stretch' needs input.height, which the graph leaves free"),
        ("[input]\npad = 4\n", ["n", 3, 8, 8], FLOAT, "8 x 8 pixels do not go with the manifest's resize and pad"),
    ],
)
def test_a_graph_that_cannot_be_served_is_refused(
    tmp_path: Path, manifest: str, shape: list[Any], kind: int, expected: str
) -> None:
    with pytest.raises(ModelBroken, match=expected):
        Engine.load(identity(tmp_path / "m", manifest, shape, kind), 1)


def test_a_graph_of_two_inputs_is_refused_with_their_names(tmp_path: Path) -> None:
    side = ["n", 3, 2, 2]
    add: list[Any] = [("Add", ["a", "b"], ["y"], {})]
    folder = built(tmp_path / "m", "", add, [("a", FLOAT, side), ("b", FLOAT, side)], [("y", FLOAT, side)])

    with pytest.raises(ModelBroken, match=r"has 2 inputs \(a, b\); expected exactly one"):
        Engine.load(folder, 1)
