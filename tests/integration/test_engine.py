"""The engine on real onnxruntime: answers equal to calling it directly, and broken models that say what is broken."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from convq.engine.engine import Engine, Prepared
from convq.engine.postprocess import rank
from convq.errors import BadTensor, ModelBroken, ModelFault, SettingsError
from convq.repository.external_data import External, external_files, inlined
from convq.repository.model_folders import default_root
from onnx_models import FLOAT, STRING, UINT8, graph, identity, model_folder, resealed

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
    assert (("logits", "conv1", "conv2"), "logits", (), "softmax") == (
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
    logits = {"name": "logits", "meaning": "classes", "dtype": "float32", "shape": [10]}
    assert logits == described["outputs"][0]


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
        "import convq.engine.engine\n"
        "print(sorted(name for name in ('torch', 'onnx') if name in sys.modules))\n"
    )
    path = {"PYTHONPATH": str(LENET.parents[1] / "service"), "PATH": ""}

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=path)

    assert ["1", "[]"] == done.stdout.splitlines()


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


@pytest.mark.parametrize("kept", [0, 1, 1000, -1])
def test_a_truncated_graph_is_refused(copy: Path, kept: int) -> None:
    model = copy / "1" / "model.onnx"
    model.write_bytes(model.read_bytes()[:kept])

    with pytest.raises(ModelBroken, match=r"model\.onnx: (is cut off|onnxruntime refuses it: )"):
        Engine.load(resealed(copy), 1)


@pytest.mark.parametrize("kept", [1, 5, 20, 24, 100, 300_000, -1])  # not 2, 11 and 23, where a field ends
def test_an_end_within_a_field_is_seen(kept: int) -> None:
    with pytest.raises(ValueError, match="is cut off"):
        external_files((LENET / "1" / "model.onnx").read_bytes()[:kept])


def test_what_is_no_onnx_file_is_refused(copy: Path) -> None:
    for content in (b"%PDF-1.7\n", b"\x89PNG\r\n\x1a\n", b"<html>", b"\xff" * 64):
        (copy / "1" / "model.onnx").write_bytes(content)

        with pytest.raises(ModelBroken, match=r"model\.onnx: (is |onnxruntime refuses it: )"):
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

    with pytest.raises(ModelBroken, match=r"logits has 10 classes; there are 3 labels in labels\.txt"):
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


def test_a_uint8_tensor_for_a_float_graph_is_an_image_and_is_normalised_as_one(tmp_path: Path) -> None:
    manifest = "[input]\nscale = 0.5\nmean = [1, 2, 3]\nstd = [1, 2, 4]\n"
    engine = Engine.load(model_folder(tmp_path / "m", manifest, identity(["n", 3, 4, 5])), 1)
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
    engine = Engine.load(model_folder(tmp_path / "m", manifest, identity(["n", "h", "w", 3])), 1)
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
    engine = Engine.load(model_folder(tmp_path / "m", "[limits]\nmax_batch = 8\n", identity([1, 3, 4, 4])), 1)
    engine.warm_up()

    assert 1 == engine.max_batch


def test_an_output_whose_first_axis_is_not_the_batch_is_refused(tmp_path: Path) -> None:
    turn = [("Transpose", ["x"], ["y"], {"perm": [1, 0, 2, 3]})]
    model = graph(turn, [("x", FLOAT, ["n", 3, 4, 4])], [("y", FLOAT, [3, "n", 4, 4])])

    with pytest.raises(ModelBroken, match=r"output y has shape \[3, 1, 4, 4\] for a batch of 1"):
        Engine.load(model_folder(tmp_path / "m", "", model), 1).warm_up()


def test_feature_maps_are_fetched_by_their_name_when_they_are_wanted(tmp_path: Path) -> None:
    manifest = "[[outputs]]\nname = 'y'\n[feature_maps]\nfirst = 'relu:0'\n"
    side = ["n", 3, 2, 2]
    nodes = [("Relu", ["x"], ["relu:0"]), ("Neg", ["relu:0"], ["y"])]
    model = graph(nodes, [("x", FLOAT, side)], [("y", FLOAT, side), ("relu:0", FLOAT, side)])
    engine = Engine.load(model_folder(tmp_path / "m", manifest, model), 1)
    engine.warm_up()
    inputs = [engine.admit(np.full((3, 2, 2), 2, dtype="<f4").tobytes(), "float32", "3,2,2")]

    assert (("y", "first"), ("y",)) == (engine.outputs, engine.default_outputs)
    assert ["y"] == list(engine.run(inputs, ()))
    assert 2.0 == engine.run(inputs, ["first"])["first"].max()
    assert {"y", "first"} == set(engine.run(inputs))


@pytest.mark.parametrize(
    ("manifest", "shape", "kind", "expected"),
    [
        ("", [0, 3, 2, 2], FLOAT, "the batch axis is fixed at 0; expected free, or from 1 on"),
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
        Engine.load(model_folder(tmp_path / "m", manifest, identity(shape, kind)), 1)


def test_a_graph_of_two_inputs_is_refused_with_their_names(tmp_path: Path) -> None:
    side = ["n", 3, 2, 2]
    model = graph([("Add", ["a", "b"], ["y"])], [("a", FLOAT, side), ("b", FLOAT, side)], [("y", FLOAT, side)])

    with pytest.raises(ModelBroken, match=r"has 2 inputs \(a, b\); expected exactly one"):
        Engine.load(model_folder(tmp_path / "m", "", model), 1)


PIXELS = ["n", 3, 8, 8]


def refused(folder: Path, model: bytes, manifest: str = "") -> str:
    """Why a version with this graph is not served."""
    with pytest.raises(ModelBroken) as caught:
        Engine.load(model_folder(folder, manifest, model), 1).warm_up()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("node", "kind", "shape", "expected"),
    [
        (("Sharpen", ["x"], ["y"]), FLOAT, PIXELS, "onnxruntime refuses it: "),
        (("Relu", ["x"], ["y"], {"domain": "com.example"}), FLOAT, PIXELS, "onnxruntime refuses it: "),
        (("Conv", ["x", "w"], ["y"]), UINT8, PIXELS, "onnxruntime refuses it: "),
        (("Gemm", ["x", "w"], ["y"]), FLOAT, PIXELS, "onnxruntime refuses it: "),
        (("Conv", ["x", "w"], ["y"]), FLOAT, ["n", "c", 8, 8], "warm-up failed: "),
        (("Conv", ["x", "w"], ["y"]), FLOAT, PIXELS, "warm-up failed: "),
        (("Relu", ["z"], ["y"]), FLOAT, PIXELS, "onnxruntime refuses it: "),
    ],
)
def test_a_graph_that_contradicts_itself_is_refused_before_any_job_meets_it(
    tmp_path: Path, node: tuple[Any, ...], kind: int, shape: list[Any], expected: str
) -> None:
    weights = {"w": np.zeros((2, 1, 3, 3), dtype=np.float32)}

    said = refused(tmp_path / "m", graph([node], [("x", kind, shape)], [("y", FLOAT, None)], weights))

    assert f"{tmp_path / 'm' / '1' / 'model.onnx'}: {expected}" in said


# Weights in other files: what the exporters write by default, and no checksum covers.

W = np.arange(48, dtype=np.float32).reshape(3, 4, 4)


def scattered(location: str, **more: int) -> bytes:
    """y = x + w, where w lies in another file."""
    onnx = pytest.importorskip("onnx")
    side = ["n", 3, 4, 4]
    model = onnx.ModelProto.FromString(
        graph([("Add", ["x", "w"], ["y"])], [("x", FLOAT, side)], [("y", FLOAT, side)], {"w": W})
    )
    put_elsewhere(onnx, model.graph.initializer[0], location, **more)
    return bytes(model.SerializeToString())


def put_elsewhere(onnx: Any, tensor: Any, location: str, **more: int) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=str(value))


@pytest.mark.parametrize("location", ["w.bin", "../../w.bin", "/etc/passwd", "*/_ORT_MEM_ADDR_/*", "", "a\nb\x1b[31m"])
def test_weights_in_another_file_are_refused_wherever_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    # Found beside the graph, two folders up, and in the working folder alike, so that not finding it is not the reason.
    model = scattered(location, offset=0, length=W.nbytes)
    for folder in (tmp_path / "m" / "1", tmp_path):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "w.bin").write_bytes(W.tobytes())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m" / "1" / "model.onnx").write_bytes(model)
    (tmp_path / "m" / "manifest.toml").touch()

    with pytest.raises(ModelBroken) as caught:
        Engine.load(resealed(tmp_path / "m"), 1)

    assert "model.onnx: has weights in other files (" in str(caught.value)
    assert str(caught.value).endswith("); expected one file that holds all of them")
    assert str(caught.value).isprintable()


def test_weights_elsewhere_are_found_wherever_a_graph_can_hold_a_tensor() -> None:
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    tensor = onnx.numpy_helper.from_array(W, "t")
    graphs = {}
    for name, holder in (("constant", {"value": tensor}), ("list", {"values": [tensor]})):
        node = helper.make_node("Constant", [], ["t"], **holder)
        graphs[name] = helper.make_model(helper.make_graph([node], "g", [], []))
    inner = helper.make_graph([], "inner", [], [], [tensor])
    graphs["branch"] = helper.make_model(
        helper.make_graph([helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)], "g", [], [])
    )
    constant = helper.make_node("Constant", [], ["t"], value=tensor)
    function = helper.make_function("f", "F", [], ["t"], [constant], [helper.make_opsetid("", 17)])
    graphs["function"] = helper.make_model(helper.make_graph([], "g", [], []), functions=[function])
    sparse = helper.make_sparse_tensor(tensor, onnx.numpy_helper.from_array(np.arange(48), "i"), [48])
    for name, holder in (("sparse constant", {"value": sparse}), ("sparse list", {"values": [sparse]})):
        node = helper.make_node("Constant", [], ["t"], **holder)
        graphs[name] = helper.make_model(helper.make_graph([node], "g", [], []))
    graphs["sparse"] = helper.make_model(helper.make_graph([], "g", [], [], sparse_initializer=[sparse]))

    for name, model in graphs.items():
        assert () == external_files(model.SerializeToString()), name
        for holder in tensors_in(model):
            put_elsewhere(onnx, holder, f"{name}.bin")
        assert (f"{name}.bin",) == external_files(model.SerializeToString()), name


def tensors_in(message: Any) -> Iterator[Any]:
    """Every tensor called t in a message of protocol buffers, by reflection."""
    for field, value in message.ListFields():
        for one in value if field.is_repeated else [value]:
            if field.message_type is not None and field.message_type.name == "TensorProto" and one.name == "t":
                yield one
            elif field.message_type is not None:
                yield from tensors_in(one)


def test_one_file_can_be_made_of_several(tmp_path: Path) -> None:
    def read(external: External) -> bytes:
        assert External("weights/w.bin", 8, W.nbytes) == external
        return W.tobytes()

    whole = inlined(scattered("weights/w.bin", offset=8, length=W.nbytes), read)
    engine = Engine.load(model_folder(tmp_path / "m", "", whole), 1)
    made = engine.run([engine.admit(bytes(W.nbytes), "float32", "3,4,4")])

    np.testing.assert_array_equal(W, made["y"][0])
    assert whole == inlined(whole, read)


def test_a_model_in_one_file_is_left_as_it_is() -> None:
    content = (LENET / "1" / "model.onnx").read_bytes()

    assert content == inlined(content, lambda external: pytest.fail(f"{external} was asked for"))


@pytest.mark.parametrize("more", [{"offset": -1}, {"length": 10**20}])
def test_an_external_tensor_that_starts_or_ends_nowhere_is_refused(tmp_path: Path, more: dict[str, int]) -> None:
    said = refused(tmp_path / "m", scattered("w.bin", **more))

    assert said.endswith("model.onnx: has an external tensor whose offset or length is no number")


@given(st.binary(max_size=200), st.integers(0, 400_000), st.integers(0, 100))
@settings(max_examples=300, deadline=None)
def test_damaged_files_are_read_to_an_answer_or_refused(noise: bytes, position: int, cut: int) -> None:
    whole = (LENET / "1" / "model.onnx").read_bytes()
    at = position % len(whole)

    for damaged in (noise, whole[:at] + noise + whole[at + cut :], whole[: at + 1]):
        with suppress(ValueError):
            assert all(isinstance(name, str) for name in external_files(damaged))


def test_messages_without_end_are_refused() -> None:
    content = b""
    for _ in range(200):  # a graph within a graph: node, its attribute, the graph of that
        for field in (6, 5, 1):
            content = bytes([field << 3 | 2]) + varint(len(content)) + content

    with pytest.raises(ValueError, match="nested more than 64 deep"):
        external_files(bytes([7 << 3 | 2]) + varint(len(content)) + content)


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])
