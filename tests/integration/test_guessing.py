"""What is guessed of detectors: the model that comes of it finds what was written into the outputs, whatever these are called."""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from convq.answers.detections import Wanted
from convq.engine.engine import Engine
from convq.errors import ConvqError, SettingsError
from convq.importer.adding import AddRequest, add_model
from convq.importer.findings import Overrides
from convq.importer.probing import look
from convq.repository.manifest import Manifest
from exported import apart, saying, with_metadata
from onnx_models import FLOAT, graph, model_folder
from plain_detections import CELLS, FAMILIES, HEIGHT, WIDTH, Outputs, Thing
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
    if family == "yolox":  # offsets are small in the cell that holds the centre, and there alone
        rows = np.array([CELLS.index((8, int(one.centre[1] // 8), int(one.centre[0] // 8))) for one in things])
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


def found_by(
    folder: Path, model: bytes, answer: dict[str, Any], names: list[str] | None = None
) -> list[dict[str, Any]]:
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
    said = manifest_of(answer).detections
    assert said is not None
    assert ([2] if declared == "free" else []) == [table.axis for table in said.tables]


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


def test_the_size_of_a_free_graph_is_that_of_its_training_and_a_flag_is_stronger() -> None:
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
        {"imgsz": "[8000, 8000]"},
        {"task": "pose", "kpt_shape": "[1e999, 'x']"},
        {"task": "pose", "kpt_shape": "17"},
        {"task": "segment"},
        {"task": "\x1b]0;x\x07"},
        {"license": "\x1b[31mGPL\nimport os", "description": '"""\n[detections]\nfamily = "x"'},
    ],
    ids=",".join,
)
def test_hostile_metadata_are_left_out_with_a_reason_and_the_shapes_decide(hostile: dict[str, str]) -> None:
    _, outputs = written("yolo8")
    answer = guessed(
        saying(outputs, sides=("h", "w") if "imgsz" in hostile else (HEIGHT, WIDTH), metadata=ultralytics(**hostile))
    )

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


# -- layouts that are no family --------------------------------------------------------------------------------------


def lines(
    things: list[Thing], *columns: str, rows: int = 20, unit: bool = False, batch: int = 0
) -> NDArray[np.float32]:
    """[rows, columns]: things in these words, best first, and zeros behind them."""
    made = np.zeros((rows, len(columns)), np.float32)
    for row, thing in zip(made, things, strict=False):
        x1, y1, x2, y2 = thing.box
        cx, cy, w, h = thing.centre
        across = dict(zip(("x1", "x2", "cx", "w"), (x1, x2, cx, w), strict=True))
        down = dict(zip(("y1", "y2", "cy", "h"), (y1, y2, cy, h), strict=True))
        if unit:
            across = {key: value / WIDTH for key, value in across.items()}
            down = {key: value / HEIGHT for key, value in down.items()}
        known = {**across, **down, "score": thing.score, "class": thing.kind, "batch": batch}
        row[:] = [known[word] for word in columns]
    return made


def scores(things: list[Thing], rows: int, classes: int = CLASSES, start: int = 0) -> NDArray[np.float32]:
    made = np.zeros((rows, classes), np.float32)
    for row, thing in enumerate(things):
        made[start + row, thing.kind] = thing.score
    return made


CORNERS = ("x1", "y1", "x2", "y2")
DENSE = 8 * 12 + 4 * 6 + 2 * 3


def side_by_side(things: list[Thing]) -> Outputs:
    kinds = lines(things, "class").astype(np.int64)[None, :, 0]
    return {"labels": kinds, "boxes": lines(things, *CORNERS)[None], "scores": lines(things, "score")[None, :, 0]}


def retinaface(things: list[Thing]) -> Outputs:
    """SSD's equation 2 backwards, on the priors of RetinaFace's own configuration."""
    sizes = {8: (16, 32), 16: (64, 128), 32: (256, 512)}
    priors = [
        ((i + 0.5) * s, (j + 0.5) * s, side)
        for s, sides in sizes.items()
        for j in range(HEIGHT // s)
        for i in range(WIDTH // s)
        for side in sides
    ]
    made = {"loc": np.zeros((1, len(priors), 4), np.float32), "conf": np.zeros((1, len(priors), 2), np.float32)}
    made |= {"landms": np.zeros((1, len(priors), 10), np.float32)}
    made["conf"][..., 0] = 1
    for number, thing in enumerate(things):
        px, py, side = priors[20 * number]
        cx, cy, w, h = thing.centre
        row = [(cx - px) / side / 0.1, (cy - py) / side / 0.1, np.log(w / side) / 0.2, np.log(h / side) / 0.2]
        made["loc"][0, 20 * number] = row
        made["conf"][0, 20 * number] = 1 - thing.score, thing.score
        points = [part for x, y in thing.points for part in ((x - px) / side / 0.1, (y - py) / side / 0.1)]
        made["landms"][0, 20 * number] = points
    return made


def dense_corners(things: list[Thing]) -> Outputs:
    rows = np.concatenate([lines(things, *CORNERS, rows=DENSE), scores(things, DENSE)], axis=1)
    return {"cut": np.ascontiguousarray(rows.T)[None]}


def yolo_nas(things: list[Thing]) -> Outputs:
    return {"pred_bboxes": lines(things, *CORNERS, rows=DENSE)[None], "pred_scores": scores(things, DENSE)[None]}


def yolo5_seg(things: list[Thing]) -> Outputs:
    outputs = FAMILIES["yolo5"].blank(1, CLASSES)
    for row, thing in enumerate(things):
        FAMILIES["yolo5"].write(outputs, 0, 40 * row, thing)
    weights = np.random.default_rng(1).normal(size=(1, 3 * DENSE, 32)).astype(np.float32)
    joined = np.concatenate([outputs["output0"], weights], axis=2)
    return {"output0": joined, "output1": np.ones((1, 32, HEIGHT // 4, WIDTH // 4), np.float32)}


LAYOUTS: dict[str, tuple[Callable[[list[Thing]], Outputs], str]] = {
    "RT-DETR with its sizes": (side_by_side, "x1 y1 x2 y2"),
    "mmdeploy": (
        lambda things: {
            "dets": lines(things, *CORNERS, "score")[None],
            "labels": lines(things, "class").astype(np.int64)[None, :, 0],
        },
        "x1 y1 x2 y2 score",
    ),
    "efficient NMS": (
        lambda things: {
            "num_dets": np.full((1, 1), 5, np.int32),
            **{f"det_{k}": v for k, v in side_by_side(things).items()},
        },
        "x1 y1 x2 y2",
    ),
    "YOLO-NAS": (yolo_nas, "classes"),
    "corners for each cell": (dense_corners, "x1 y1 x2 y2 classes"),
    "class before score": (
        lambda things: {"out": lines(things, *CORNERS, "class", "score")[None]},
        "x1 y1 x2 y2 class score",
    ),
    "class first": (lambda things: {"out": lines(things, "class", "score", *CORNERS)[None]}, "class score x1 y1 x2 y2"),
    "centres": (
        lambda things: {"out": lines(things, "cx", "cy", "w", "h", "score", "class")[None]},
        "cx cy w h score class",
    ),
    "unit rows": (
        lambda things: {"out": lines(things, *CORNERS, "score", "class", unit=True)[None]},
        "x1 y1 x2 y2 score class",
    ),
    "YOLOv5 with masks": (yolo5_seg, "cx cy w h objectness classes masks:32"),
    "RetinaFace": (retinaface, "cx cy w h"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_no_family_are_written_as_tables(layout: str, tmp_path: Path) -> None:
    faces = layout == "RetinaFace"
    things = apart(5, 1 if faces else CLASSES, (5, 2, 0) if faces else (0, 0, 0), seed=2)
    make, columns = LAYOUTS[layout]
    model = saying(make(things))

    answer = guessed(model, labels=None if faces else CLASSES)

    said = manifest_of(answer).detections
    assert said is not None
    assert columns in [
        one["value"] or one["why"].partition(" is ")[2].partition(":")[0] for one in columns_of(answer)
    ] + [table.columns for table in said.tables]
    assert_found(things, found_by(tmp_path / "model", model, answer))


def columns_of(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in answer["findings"] if one["key"] == "columns"]


def test_rows_with_the_number_of_their_job_run_jobs_one_by_one(tmp_path: Path) -> None:
    """YOLOv7 with its own suppression, [N, 7]."""
    things = apart(4, CLASSES, seed=3)
    rows = lines(things, "batch", *CORNERS, "class", "score", rows=4)
    model = saying({"output": rows}, "torchvision")

    answer = guessed(model, labels=CLASSES)

    manifest = manifest_of(answer)
    assert manifest.detections is not None
    assert ("column", 1) == (manifest.detections.batch, manifest.limits.max_batch)
    assert_found(things, found_by(tmp_path / "model", model, answer))


def test_faces_without_a_batch_axis_are_answered_one_by_one(tmp_path: Path) -> None:
    """SCRFD as insightface exports it: numbers for names, [rows, columns]."""
    things, outputs = written("scrfd")
    flat = {name: values[0] for name, values in outputs.items()}
    names = {name: str(440 + 7 * number) for number, name in enumerate(flat)}
    model = saying(flat, "torchvision", names=names, batch=1)

    answer = guessed(model)

    manifest = manifest_of(answer)
    assert manifest.detections is not None
    assert ("scrfd", "none", 1) == (manifest.detections.family, manifest.detections.batch, manifest.limits.max_batch)
    assert_found(things, found_by(tmp_path / "model", model, answer))


def test_rotated_boxes_and_rtdetr_of_ultralytics_are_read_as_their_metadata_say(tmp_path: Path) -> None:
    things = apart(5, len(NAMES), seed=4)
    rows = np.concatenate(
        [lines(things, "cx", "cy", "w", "h", rows=DENSE), scores(things, DENSE), np.zeros((DENSE, 1))], axis=1
    )
    turned = saying({"output0": np.ascontiguousarray(rows.T)[None].astype(np.float32)}, metadata=ultralytics("obb"))
    queries = np.concatenate([lines(things, "cx", "cy", "w", "h", unit=True), scores(things, 20)], axis=1)
    rtdetr = saying({"output0": queries[None]}, metadata=ultralytics(head="RTDETRDecoder"))

    for name, model, words in (("obb", turned, "cx cy w h classes angle"), ("rtdetr", rtdetr, "cx cy w h classes")):
        answer = guessed(model)
        assert f"{words}" in answer["manifest"]
        found = found_by(tmp_path / name, model, answer)
        assert_found(things, found)
        assert ("obb" == name) == ("corners" in found[0])


def test_a_yolox_that_decodes_its_boxes_is_told_from_a_yolo8_that_was_turned_round(tmp_path: Path) -> None:
    things = apart(5, CLASSES, seed=5)
    rows = np.concatenate(
        [lines(things, "cx", "cy", "w", "h", rows=DENSE), np.ones((DENSE, 1)), scores(things, DENSE)], axis=1
    )
    model = saying({"boxes": rows[None].astype(np.float32)})

    by_name, by_labels = guessed(model, like="yolox"), guessed(model, labels=CLASSES)
    turned = guessed(model, like="yolo8")

    for answer in (by_name, by_labels):
        said = manifest_of(answer).detections
        assert said is not None
        assert ("yolox", "pixels", "cx cy w h objectness classes") == (said.family, said.units, said.tables[0].columns)
    assert_found(things, found_by(tmp_path / "model", model, by_name))
    assert ("yolo8", CLASSES + 1) == (manifest_of(turned).detections.family, turned["classes"])  # type: ignore[union-attr]


# -- flags ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "wishes", "said"),
    [
        ("yolo8", {"like": "yolo99"}, "--like yolo99: no such family; expected one of yolo5, yolo8"),
        ("yolo8", {"like": "scrfd"}, "--like scrfd: it reads "),
        ("yolo8", {"like": "yolo8-seg"}, "it reads prototypes of masks"),
        ("yolo8", {"like": "db"}, "--like db: it reads a map [n, 1, h, w] of 0 to 1; output0 is [1, 9, 126]"),
        (
            "yolo8",
            {"like": "yolo8", "task": "classes"},
            "--like yolo8 is a family of detectors, and --task classes is none",
        ),
        (
            "yolo8",
            {"labels": 7},
            "--labels has 7 names, and the detections have 5 classes: output0 is cx cy w h classes",
        ),
        ("scrfd", {"labels": 7}, "--labels has 7 names, and this family finds one kind of thing"),
        ("scrfd", {"activation": "softmax"}, "--activation softmax is of a column for each class"),
        ("yolo8", {"task": "pose"}, "--task pose: its outputs are none that convq knows to hold keypoints: output0 is"),
        ("yolo8", {"resize": "stretch", "align": "start"}, "--align"),
        ("yolo8", {"resize": "stretch", "pad_value": (3,)}, "--pad-value has no effect: resize is 'stretch'"),
        ("yolo8", {"multiple_of": 8}, "--multiple-of has no effect"),
        ("yolo8", {"resize": "fit"}, "--resize: expected long_side"),
        ("yolo8", {"short_side": 80}, "--short-side: expected short_side only together with resize = 'crop'"),
        ("yolo8", {"color": "none", "interpolation": "box"}, "--interpolation: for images; this model"),
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
    weights: dict[str, Any] = {"flat": np.array([0, 1, -1]), "hundred": np.float32(100)}
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
    assert found["box"] == pytest.approx([13.75, 13.75, 76.25, 36.25], abs=2)


# -- other tasks ------------------------------------------------------------------------------------------------------


def test_numbers_whose_norm_is_1_are_no_classes() -> None:
    nodes = [("Flatten", ["x"], ["f"]), ("MatMul", ["f", "w"], ["m"]), ("LpNormalization", ["m"], ["y"], {"axis": 1})]
    weights: dict[str, Any] = {"w": np.random.default_rng(1).normal(size=(48, 64)).astype(np.float32)}
    model = graph(nodes, [("x", FLOAT, ["n", 3, 4, 4])], [("y", FLOAT, ["n", 64])], weights)

    assert 0 == guessed(model)["classes"]
    assert 64 == guessed(model, task="classes")["classes"]


def test_what_has_the_shape_of_a_detector_and_its_numbers_not_is_none() -> None:
    steps = np.random.default_rng(2).random((1, DENSE, 40)).astype(np.float32)
    seven = np.zeros((1, 7), np.float32)

    read, zeros = guessed(saying({"steps": steps / steps.sum(2, keepdims=True)})), guessed(saying({"y": seven}))

    assert manifest_of(read).detections is None
    assert (None, 7) == (manifest_of(zeros).detections, zeros["classes"])


def test_scores_beside_boxes_are_no_classes() -> None:
    boxes, scores = np.zeros((1, 50, 4), np.float32), np.zeros((1, 50), np.float32)
    boxes[0, 3], scores[0, 3] = (1, 2, 3, 4), 0.5
    answer = guessed(saying({"boxes": boxes, "scores": scores}))

    assert 0 == answer["classes"]
    assert ["tensor", "tensor"] == [one.meaning for one in manifest_of(answer).outputs]


@pytest.mark.parametrize("task", ["depth", "embed", "text", "segment"])
def test_a_task_that_no_output_can_have_is_refused(task: str) -> None:
    model = graph(
        [("ReduceMean", ["x"], ["y"], {"axes": [2, 3]})], [("x", FLOAT, ["n", 3, 8, 8])], [("y", FLOAT, None)]
    )
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


# -- graphs of strangers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_outputs_of_any_shape_and_any_numbers_are_guessed_or_refused_in_words(seed: int) -> None:
    """Nothing that an output holds on noise ends the guess with anything but one of convq's errors."""
    random = np.random.default_rng([7, seed])
    sides = [1, 2, 4, 5, 6, 7, 10, 16, 20, DENSE, 3 * DENSE, 2 * DENSE, HEIGHT // 4, WIDTH // 4, HEIGHT, WIDTH]
    outputs: Outputs = {}
    for number in range(int(random.choice([1, 2, 3, 4, 6]))):
        shape = (1, *random.choice(sides, int(random.integers(0, 4))))
        values = random.choice([0.0, 1.0, -1.0, 0.5, 3.0, 1e30, np.nan, np.inf], shape, p=random.dirichlet(np.ones(8)))
        whole = random.random() < 0.3
        outputs[f"o{number}"] = (
            np.nan_to_num(values, posinf=9).clip(-9, 9).astype(np.int64) if whole else np.asarray(values, np.float32)
        )
    wishes: list[dict[str, Any]] = [{}, {"labels": 3}, {"task": "detect"}, {"like": random.choice(list(FAMILIES))}]

    for wish in wishes:
        with contextlib.suppress(ConvqError):
            manifest_of(guessed(saying(outputs), **wish))
