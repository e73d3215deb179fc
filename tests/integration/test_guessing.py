"""What is guessed of detectors: the model that comes of it finds what was written into the outputs, whatever these are called."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convq.answers.detections import Wanted
from convq.engine.engine import Engine
from convq.errors import SettingsError
from convq.importer.adding import AddRequest, add_model
from convq.importer.infer_input import Overrides
from convq.importer.probing import look
from convq.repository.manifest import Manifest
from exported import apart, saying, with_metadata
from onnx_models import FLOAT, graph, model_folder
from plain_detections import FAMILIES, HEIGHT, WIDTH, Outputs, Thing
from services import image_of

CLASSES = 5
FACES = {"scrfd", "yunet", "blazeface"}
NUMBERED = {"yolo10", "yolo10-seg", "yolo10-pose", "torchvision", "tensorflow", "paddle"}
"""Those whose outputs do not say how many classes there are."""
PICTURE = np.full((HEIGHT, WIDTH, 3), 99, dtype=np.uint8)


def written(family: str, seed: int = 0) -> tuple[list[Thing], Outputs]:
    """Some things, and outputs that hold them."""
    classes = 1 if family in FACES else CLASSES
    things = apart(5, classes, FAMILIES[family].extra, seed)
    outputs = FAMILIES[family].blank(1, classes)
    rows = np.sort(np.random.default_rng(len(family)).choice(FAMILIES[family].rows, len(things), replace=False))
    for row, thing in zip(rows, things, strict=True):
        FAMILIES[family].write(outputs, 0, int(row), thing)
    if "output1" in outputs:
        outputs["output1"] += np.random.default_rng(1).normal(size=outputs["output1"].shape).astype(np.float32)
    return things, outputs


def other_names(outputs: Outputs) -> dict[str, str]:
    return {name: f"node {number}" for number, name in enumerate(outputs)}


def guessed(model: bytes, **wishes: Any) -> dict[str, Any]:
    return look(model, "model.onnx", Overrides(**wishes))


def manifest_of(answer: dict[str, Any]) -> Manifest:
    return Manifest.model_validate(tomllib.loads(answer["manifest"]))


def found_by(folder: Path, model: bytes, answer: dict[str, Any], names: list[str] | None = None) -> list[dict[str, Any]]:
    """The detections that a model with this manifest makes of a picture of the input's size."""
    model_folder(folder, answer["manifest"], model)
    labels = names or answer["names"] or [f"class {index}" for index in range(answer["classes"])]
    if answer["classes"]:
        (folder / "labels.txt").write_text("".join(f"{one}\n" for one in labels))
    engine = Engine.load(folder, 1)
    prepared = engine.prepare(engine.decode(image_of(PICTURE)))
    detector, outputs = engine.detector, engine.run([prepared])
    assert detector is not None
    assert prepared.placement is not None
    size = detector.size_of(prepared.shape)
    (found,) = detector.detect(outputs, [Wanted(prepared.placement)], size)
    return detector.written(found, outputs, 0, prepared.placement, size, "none").detections  # type: ignore[arg-type]


def assert_found(things: list[Thing], found: list[dict[str, Any]]) -> None:
    assert [thing.kind for thing in things] == [one["index"] for one in found]
    assert [one["score"] for one in found] == pytest.approx([thing.score for thing in things], abs=2e-6)
    for thing, one in zip(things, found, strict=True):
        assert one["box"] == pytest.approx(thing.box, abs=0.011)
        if thing.points:
            assert np.array(one["keypoints"]) == pytest.approx(np.array(thing.points), abs=0.011)


@pytest.mark.parametrize("names", ["theirs", "others"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_graph_of_a_family_is_known_and_finds_what_is_in_its_outputs(family: str, names: str, tmp_path: Path) -> None:
    things, outputs = written(family)
    renamed = other_names(outputs) if names == "others" else {}
    model = saying(outputs, family, names=renamed)

    answer = guessed(model, labels=None if family in FACES else CLASSES)

    said = manifest_of(answer).detections
    assert said is not None
    assert family == said.family
    assert bool(renamed) == bool(said.tables)
    labels = None if family in FACES else [f"thing {number}" for number in range(CLASSES)]
    found = found_by(tmp_path / "model", model, answer, labels)
    assert_found(things, found)
    assert (["face"] if family in FACES else labels) == sorted({*(labels or []), *(one["label"] for one in found)})


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"yolox"}))
def test_without_labels_the_same_is_found_under_made_up_names(family: str, tmp_path: Path) -> None:
    things, outputs = written(family, seed=1)
    model = saying(outputs, family)

    answer = guessed(model)

    assert (1 if family in FACES else 0 if family in NUMBERED else CLASSES) == answer["classes"]
    found = found_by(tmp_path / "model", model, answer)
    assert_found(things, found)
    made_up = {"face"} if family in FACES else {f"#{n}" if family in NUMBERED else f"class {n}" for n in range(CLASSES)}
    assert {one["label"] for one in found} <= made_up


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_that_is_named_is_laid_over_the_outputs(family: str, tmp_path: Path) -> None:
    things, outputs = written(family)
    model = saying(outputs, family, names=other_names(outputs))

    answer = guessed(model, like=family, labels=None if family in FACES else CLASSES)

    said = [one for one in answer["findings"] if one["key"] == "family"]
    assert [(family, "given")] == [(one["value"], one["source"]) for one in said]
    assert_found(things, found_by(tmp_path / "model", model, answer))


@pytest.mark.parametrize("declared", ["as they are", "free"])
def test_rows_first_and_shapes_that_nothing_declares_are_read_as_they_run(declared: str, tmp_path: Path) -> None:
    things, outputs = written("yolo8")
    turned = {"output0": np.ascontiguousarray(outputs["output0"].swapaxes(1, 2))}
    model = saying(turned)
    if declared == "free":
        onnx = pytest.importorskip("onnx")
        made = onnx.load_from_string(model)
        for side in made.graph.output[0].type.tensor_type.shape.dim:
            side.Clear()
        model = made.SerializeToString()

    answer = guessed(model, labels=CLASSES)

    assert_found(things, found_by(tmp_path / "model", model, answer))
    assert (2 if declared == "free" else None) == next(iter(manifest_of(answer).detections.tables), None).axis if (  # type: ignore[union-attr]
        declared == "free"
    ) else True


# -- metadata ---------------------------------------------------------------------------------------------------------

NAMES = ("per son", '0:"0"', "it's", "dog", "ünï")


def ultralytics(task: str = "detect", **more: str) -> dict[str, str]:
    said = {"task": task, "names": str(dict(enumerate(NAMES))), "stride": "32", "imgsz": f"[{HEIGHT}, {WIDTH}]"}
    said |= {"license": "AGPL-3.0 License (https://example.org)", "description": "A model trained on things"}
    return {**said, "batch": "1", "channels": "3", "end2end": "False", "args": "{'nms': False}", **more}


@pytest.mark.parametrize(
    ("family", "metadata"),
    [
        ("yolo8", ultralytics()),
        ("yolo8-seg", ultralytics("segment")),
        ("yolo8-pose", ultralytics("pose", kpt_shape="[17, 3]")),
        ("yolo10", ultralytics(end2end="True")),
        ("yolo10-seg", ultralytics("segment", args="{'nms': True}")),
        ("yolo10-pose", ultralytics("pose", kpt_shape="(17, 3)", end2end="True")),
    ],
)
def test_what_ultralytics_writes_needs_no_flag(family: str, metadata: dict[str, str], tmp_path: Path) -> None:
    things, outputs = written(family)
    model = saying(outputs, family, metadata=metadata)

    answer = guessed(model)

    manifest = manifest_of(answer)
    assert manifest.detections is not None
    assert (family, list(NAMES)) == (manifest.detections.family, answer["names"])
    assert "A model trained on things; AGPL-3.0 License (https://example.org)" == manifest.description
    spec = manifest.input
    assert ("letterbox", (114,), 1 / 255, "rgb") == (spec.resize, spec.pad_value, spec.scale, spec.color)
    assumed = {one["key"] for one in answer["findings"] if one["source"] == "assumed"}
    assert assumed <= ({"keypoints", "skeleton"} if "pose" in family else set())
    found = found_by(tmp_path / "model", model, answer)
    assert_found(things, found)
    assert [NAMES[thing.kind] for thing in things] == [one["label"] for one in found]


def test_the_size_of_a_free_graph_is_that_of_its_training_and_a_flag_is_stronger(tmp_path: Path) -> None:
    _, outputs = written("yolo10")
    model = saying(outputs, sides=("h", "w"), metadata=ultralytics(end2end="True", imgsz="[96, 160]"))

    told, said = guessed(model), guessed(model, height=64, width=64)
    fitted = guessed(model, resize="fit", long_side=128)

    assert [(96, 160), (64, 64), (None, None)] == [
        (one.input.height, one.input.width) for one in map(manifest_of, (told, said, fitted))
    ]
    assert (32, 128) == (manifest_of(fitted).input.multiple_of, manifest_of(fitted).input.long_side)


def test_five_names_for_other_columns_are_not_used_and_that_is_said() -> None:
    _, outputs = written("yolo8")
    answer = guessed(saying(outputs, metadata={"names": "['a', 'b']", "stride": "32"}))

    assert (CLASSES, []) == (answer["classes"], answer["names"])
    assert "# names in its metadata: not used: 2 names, and the detections have 5 classes" in answer["manifest"]


@pytest.mark.parametrize(
    "hostile",
    [
        {"names": "{" * 60_000},
        {"names": str(dict.fromkeys(range(1_000_000), "x"))},
        {"names": "{0: __import__('os').system('touch hacked')}"},
        {"names": "{0: 'a' 1: 'b'}"},
        {"names": "{0: ['a'], 1: {'b': 1}}"},
        {"names": "\0\x1b[2J"},
        {"stride": "-32", "imgsz": "[1000000000000, 3]", "channels": "[]", "batch": "-1"},
        {"stride": "nan", "imgsz": "None", "channels": "True", "end2end": "maybe", "head": "\x1b[31m", "args": "()"},
        {"imgsz": "[8000, 2000]"},
        {"task": "pose", "kpt_shape": "[1e999, 'x']"},
        {"task": "pose", "kpt_shape": "17"},
        {"task": "segment"},
        {"task": "\x1b]0;x\x07"},
        {"license": "\x1b[31mGPL\nimport os", "description": '"""\n[detections]\nfamily = "x"'},
    ],
    ids=lambda one: ",".join(one),
)
def test_hostile_metadata_are_left_out_with_a_reason_and_the_shapes_decide(hostile: dict[str, str]) -> None:
    _, outputs = written("yolo8")
    answer = guessed(saying(outputs, sides=("h", "w") if "imgsz" in hostile else (HEIGHT, WIDTH), metadata=ultralytics(**hostile)))

    manifest = manifest_of(answer)
    assert "\x1b" not in answer["manifest"]
    if "imgsz" not in hostile:
        assert manifest.detections is not None
        assert "yolo8" == manifest.detections.family
    if not {"license", "end2end"} & hostile.keys():
        assert {one["key"] for one in answer["findings"] if one["table"] == "metadata"} & {*hostile, "kpt_shape"} or (
            "segment" == hostile.get("task")
        )


def test_openvinos_words_are_read() -> None:
    nodes = [("GlobalAveragePool", ["x"], ["p"]), ("Flatten", ["p"], ["y"])]
    model = graph(nodes, [("x", FLOAT, ["n", 3, 8, 8])], [("y", FLOAT, ["n", 3])])
    words = {
        "labels": "big_cat dog_ cow",
        "mean_values": "123.7 116.3 103.5",
        "scale_values": "58.4 57.1 57.4",
        "resize_type": "fit_to_window_letterbox",
        "pad_value": "114",
        "reverse_input_channels": "True",
    }
    answer = guessed(with_metadata(model, {f"model_info {key}": value for key, value in words.items()}))

    spec = manifest_of(answer).input
    assert ["big cat", "dog", "cow"] == answer["names"]
    assert ("letterbox", (114,), 1.0, (123.7, 116.3, 103.5)) == (spec.resize, spec.pad_value, spec.scale, spec.mean)


# -- flags ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "wishes", "said"),
    [
        ("yolo8", {"like": "yolo99"}, "--like yolo99: no such family; expected one of yolo5, yolo8"),
        ("yolo8", {"like": "scrfd"}, "--like scrfd: it reads "),
        ("yolo8", {"like": "yolo8-seg"}, "it reads prototypes of masks"),
        ("yolo8", {"like": "db"}, "--like db: it reads a map [n, 1, h, w] of 0 to 1; output0 is [1, 9, 126]"),
        ("yolo8", {"like": "yolo8", "task": "classes"}, "--like yolo8 is a family of detectors, and --task classes is none"),
        ("yolo8", {"labels": 7}, "--labels has 7 names, and the detections have 5 classes: output0 is cx cy w h classes"),
        ("scrfd", {"labels": 7}, "--labels has 7 names, and this family finds one kind of thing"),
        ("scrfd", {"activation": "softmax"}, "--activation softmax is of a column for each class"),
        ("yolo8", {"task": "pose"}, "--task pose: its outputs are none that convq knows to hold keypoints: output0 is"),
        ("yolo8", {"resize": "stretch", "align": "start"}, "--align"),
        ("yolo8", {"resize": "stretch", "pad_value": (3,)}, "--pad-value has no effect: resize is 'stretch'"),
        ("yolo8", {"multiple_of": 8}, "--multiple-of has no effect"),
        ("yolo8", {"resize": "fit"}, "expected long_side together with resize = 'fit'"),
        ("yolo8", {"short_side": 80}, "--short-side: expected short_side only together with resize = 'crop'"),
        ("yolo8", {"color": "none", "interpolation": "box"}, "--interpolation: of images alone"),
        ("yolo8", {"color": "none", "like": "yolo8"}, "--like yolo8: only what takes pictures"),
    ],
)
def test_flags_that_do_not_fit_are_refused_with_the_reason(family: str, wishes: dict[str, Any], said: str) -> None:
    _, outputs = written(family)

    with pytest.raises(SettingsError) as caught:
        guessed(saying(outputs, family), **wishes)

    assert said in str(caught.value)


def test_what_is_said_of_the_picture_stands_in_the_place_of_the_familys_rule() -> None:
    _, outputs = written("yolo8")
    wishes = {"align": "start", "pad_value": (1, 2, 3), "interpolation": "box", "scale": 1.0, "color": "bgr"}
    answer = guessed(saying(outputs), **wishes)

    spec = manifest_of(answer).input
    assert wishes == {key: getattr(spec, key) for key in wishes}
    assert {"given"} == {one["source"] for one in answer["findings"] if one["key"] in wishes}


def test_a_graph_of_free_sides_is_given_the_usual_ones_where_its_pictures_are_boxed() -> None:
    """[n, 4 + 2, cells] for any size, made of the input's own pixels."""
    nodes: list[tuple[Any, ...]] = [("ReduceMean", ["x"], ["g"], {"axes": [1], "keepdims": 1})]
    for stride in (8, 16, 32):
        nodes.append(("AveragePool", ["g"], [f"p{stride}"], {"kernel_shape": [stride] * 2, "strides": [stride] * 2}))
        nodes.append(("Reshape", [f"p{stride}", "flat"], [f"r{stride}"]))
    nodes += [("Concat", ["r8", "r16", "r32"], ["rows"], {"axis": 2}), ("Mul", ["rows", "hundred"], ["pixels"])]
    nodes.append(("Concat", ["pixels"] * 2 + ["rows"] * 4, ["output0"], {"axis": 1}))
    weights = {"flat": np.array([0, 1, -1]), "hundred": np.float32(100)}
    model = graph(nodes, [("x", FLOAT, ["n", 3, "h", "w"])], [("output0", FLOAT, ["n", 6, "k"])], weights)

    answer = guessed(model)

    spec, found = manifest_of(answer).input, {one["key"]: one for one in answer["findings"]}
    assert (640, 640, "letterbox") == (spec.height, spec.width, spec.resize)
    assert "assumed" == found["height"]["source"]
    assert (320, 320) == (manifest_of(guessed(model, height=320, width=320)).input.height,) * 2


def test_regions_of_text_are_told_by_who_says_so(tmp_path: Path) -> None:
    maps = np.zeros((1, 1, HEIGHT, WIDTH), np.float32)
    maps[0, 0, 20:30, 20:70] = 0.9
    model = saying({"maps": maps}, names={"maps": "fetch_name_0"})

    plain, text, detect = (guessed(model, **wishes) for wishes in ({}, {"like": "db"}, {"task": "detect"}))

    assert "--like db" in plain["manifest"]
    assert manifest_of(plain).detections is None
    assert [["text"], ["text"]] == [text["names"], detect["names"]]
    (found,) = found_by(tmp_path / "model", model, text)
    assert "text" == found["label"]
    assert found["box"] == pytest.approx([13, 13, 77, 37], abs=2)


# -- other tasks ------------------------------------------------------------------------------------------------------


def test_numbers_whose_norm_is_1_are_no_classes() -> None:
    nodes = [("Flatten", ["x"], ["f"]), ("MatMul", ["f", "w"], ["m"]), ("LpNormalization", ["m"], ["y"], {"axis": 1})]
    weights = {"w": np.random.default_rng(1).normal(size=(48, 64)).astype(np.float32)}
    model = graph(nodes, [("x", FLOAT, ["n", 3, 4, 4])], [("y", FLOAT, ["n", 64])], weights)

    assert 0 == guessed(model)["classes"]
    assert 64 == guessed(model, task="classes")["classes"]


def test_scores_beside_boxes_are_no_classes() -> None:
    boxes, scores = np.zeros((1, 50, 4), np.float32), np.zeros((1, 50), np.float32)
    boxes[0, 3], scores[0, 3] = (1, 2, 3, 4), 0.5
    answer = guessed(saying({"boxes": boxes, "scores": scores}))

    assert 0 == answer["classes"]
    assert ["tensor", "tensor"] == [one.meaning for one in manifest_of(answer).outputs]


@pytest.mark.parametrize("task", ["depth", "embed", "text", "segment"])
def test_a_task_that_no_output_can_have_is_refused(task: str) -> None:
    model = graph([("ReduceMean", ["x"], ["y"], {"axes": [2, 3]})], [("x", FLOAT, ["n", 3, 8, 8])], [("y", FLOAT, None)])
    if task == "embed":
        model = graph([("Identity", ["x"], ["y"])], [("x", FLOAT, ["n", 3, 8, 8])], [("y", FLOAT, ["n", 3, 8, 8])])

    with pytest.raises(SettingsError, match=f"--task {task}: "):
        guessed(model, task=task)


# -- as a whole -------------------------------------------------------------------------------------------------------


def test_a_detector_is_added_with_its_columns_and_its_labels(tmp_path: Path) -> None:
    _, outputs = written("yolo8")
    file = tmp_path / "yolo.onnx"
    file.write_bytes(saying(outputs, metadata=ultralytics(), batch=1))

    added = add_model(AddRequest(file, tmp_path / "models", "yolo", within_s=300))

    folder = tmp_path / "models" / "yolo"
    assert "".join(f"{name}\n" for name in NAMES) == (folder / "1" / "labels.txt").read_text()
    assert [] == added.assumed
    (columns,) = (one for one in added.findings if one.key == "columns")
    assert "output0 is cx cy w h classes: 5 names in its metadata" == columns.why
    assert 5 == len(added.check["sample"]["detections"])
    again = add_model(AddRequest(file, tmp_path / "models", "yolo", within_s=300))
    assert (2, ()) == (again.version, again.findings)
    assert (folder / "2" / "labels.txt").exists()
