"""`convq models add` in a pipe: what was assumed is said, flags decide, and refusals name what the user brought."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from e2e.test_models_add import models
from onnx_models import FLOAT, graph


def linear(folder: Path, classes: int) -> Path:
    """Pictures of 4 x 4 in, a row of numbers out."""
    weights = np.random.default_rng(classes).normal(0, 1, (48, classes)).astype(np.float32)
    nodes = [("Flatten", ["x"], ["f"]), ("MatMul", ["f", "w"], ["y"])]
    file = folder / f"row{classes}.onnx"
    file.write_bytes(graph(nodes, [("x", FLOAT, ["n", 3, 4, 4])], [("y", FLOAT, ["n", classes])], {"w": weights}))
    return file


def test_a_regression_is_said_to_be_taken_for_classes_and_a_flag_decides(tmp_path: Path) -> None:
    file, repository = linear(tmp_path, 2), tmp_path / "models"
    repository.mkdir()

    taken = models("add", file, "--name", "taken", "--models", repository)
    tensor = models("add", file, "--name", "tensor", "--models", repository, "--task", "tensor")
    classes = models("add", file, "--name", "classes", "--models", repository, "--task", "classes")

    (line,) = taken.err.splitlines()
    assert "y: meaning, y: activation, y: labels" in line
    assert line.endswith(f"check {repository / 'taken' / '1' / 'manifest.toml'}")
    found = {one["key"]: one for one in json.loads(tensor.out)["findings"] if one["table"] == "outputs"}
    assert ("tensor", "given") == (found["meaning"]["value"], found["meaning"]["source"])
    assert "y:" not in tensor.err
    assert "y: meaning" not in classes.err
    assert not (repository / "tensor" / "labels.txt").exists()


def test_tasks_that_contradict_are_refused(tmp_path: Path) -> None:
    row, one = linear(tmp_path, 2), linear(tmp_path, 1)
    (tmp_path / "labels.txt").write_text("ant\nbee\n")
    named = models(
        "add", row, "--name", "a", "--models", tmp_path, "--task", "tensor", "--labels", tmp_path / "labels.txt"
    )
    assert "--labels are names of classes; --task tensor has none" in named.complaint(2)
    assert "--task classes: no output has 2 or more values" in models(
        "add", one, "--name", "a", "--models", tmp_path, "--task", "classes"
    ).complaint(2)


def test_other_classes_name_the_file_that_was_brought_and_where_to_read(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    repository.mkdir()
    assert 0 == models("add", linear(tmp_path, 5), "--name", "c", "--models", repository).code
    more = linear(tmp_path, 6)

    said = models("add", more, "--name", "c", "--models", repository).complaint(3)
    labels = models("add", more, "--name", "c", "--models", repository, "--labels", repository / "c" / "labels.txt")

    assert f"{more}: y has 6 classes; there are 5 labels in labels.txt" in said
    assert str(repository / "c" / "manifest.toml") in said
    assert "c/2/" not in said
    for text in (said, labels.complaint(2)):
        assert 'models/README.md, "Changing the classes"' in text


def sequence(*more: tuple[str, list[str], list[str]]) -> bytes:
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    taken = helper.make_tensor_value_info("x", FLOAT, ["n", 3, 4, 4])
    made = [helper.make_tensor_sequence_value_info("s", FLOAT, None)]
    made += [helper.make_tensor_value_info(name, FLOAT, None) for node in more for name in node[2]]
    nodes = [helper.make_node(*node) for node in (("SequenceConstruct", ["x"], ["s"]), *more)]
    built = helper.make_graph(nodes, "g", [taken], made)
    opsets = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(built, opset_imports=opsets, ir_version=8).SerializeToString())


def test_outputs_that_are_no_tensors_are_named_or_left_out(tmp_path: Path) -> None:
    only, both = tmp_path / "only.onnx", tmp_path / "both.onnx"
    only.write_bytes(sequence())
    both.write_bytes(sequence(("Identity", ["x"], ["y"])))
    (tmp_path / "models").mkdir()

    said = models("add", only, "--name", "only", "--models", tmp_path / "models").complaint(3)
    beside = models("add", both, "--name", "both", "--models", tmp_path / "models")

    assert f"{only}: output s is a seq(tensor(float)); expected a tensor of numbers" in said
    assert "y" in [one["of"] for one in beside.document()["findings"]]


def test_a_picture_without_its_batch_is_said_to_lack_it(tmp_path: Path) -> None:
    file = tmp_path / "one.onnx"
    file.write_bytes(graph([("Identity", ["x"], ["y"])], [("x", FLOAT, [3, 32, 32])], [("y", FLOAT, [3, 32, 32])]))
    said = models("add", file, "--name", "one", "--models", tmp_path).complaint(3)
    assert "it has three axes, expected four: is the batch missing?" in said


def test_labels_with_one_name_twice_are_said(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("ant\nant\n")
    (tmp_path / "models").mkdir()
    added = models(
        "add", linear(tmp_path, 2), "--name", "a", "--models", tmp_path / "models", "--labels", tmp_path / "labels.txt"
    )
    assert 0 == added.code
    assert f"{tmp_path / 'labels.txt'}: several classes have one name: 'ant' (lines 1, 2)" in added.err


def test_an_alphabet_may_hold_blanks_and_names_of_classes_may_not(tmp_path: Path) -> None:
    (tmp_path / "signs.txt").write_text("a\n \n\u3000\nb\n", encoding="utf-8")
    (tmp_path / "models").mkdir()
    command: list[str | Path] = [
        "add",
        linear(tmp_path, 6),
        "--name",
        "a",
        "--models",
        tmp_path / "models",
        "--labels",
        tmp_path / "signs.txt",
    ]

    assert "signs.txt:2: is empty" in models(*command).complaint(2)
    assert "--task text: " in models(*command, "--task", "text").complaint(2)


def test_a_detector_says_in_a_pipe_what_was_assumed_and_a_family_that_there_is_not_is_refused(tmp_path: Path) -> None:
    held = np.zeros((1, 6, 21), np.float32)  # 32 x 32 pixels have 21 cells
    nodes = [
        ("ReduceMean", ["x"], ["m"], {"keepdims": 0}),
        ("Mul", ["m", "none"], ["z"]),
        ("Add", ["z", "held"], ["y"]),
    ]
    file = tmp_path / "found.onnx"
    weights = {"none": np.zeros(1, np.float32), "held": held}
    file.write_bytes(graph(nodes, [("x", FLOAT, [1, 3, 32, 32])], [("y", FLOAT, [1, 6, 21])], weights))
    (tmp_path / "models").mkdir()

    added = models("add", file, "--name", "found", "--models", tmp_path / "models", "--align", "start")
    shown = models("show", "found", "--models", tmp_path / "models").document()

    (line,) = added.err.splitlines()
    assert "detections.family, detections.labels" in line
    assert "align" not in line
    assert {"y": "cx cy w h classes:2"} == shown["detections"]["columns"]
    wrong = models("add", file, "--name", "b", "--models", tmp_path / "models", "--like", "yolo99").complaint(2)
    assert "--like yolo99: no such family; expected one of yolo5, yolo8" in wrong
