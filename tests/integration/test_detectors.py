"""A version with `[detections]`: held against its graph when it is loaded, proved, and its answers in all forms."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from convq.engine.engine import Engine
from convq.errors import BadField, ModelBroken
from convq.importer.examination import examine
from convq.ipc.crash_marks import CrashMark
from convq.queue import Lease, Receiver
from convq.worker.postprocessor import BatchResult, Postprocessor
from convq.worker.shadow import agreement
from convq.worker.ticket import Ticket
from onnx_models import FLOAT, graph, model_folder
from services import image_of
from spotting import LABELS, ROWS, spotter, spotter_folder

WHITE = np.full((96, 128), 255, dtype=np.uint8)


def loaded(folder: Path) -> Engine:
    engine = Engine.load(folder, 1)
    engine.warm_up()
    return engine


def test_a_detector_is_loaded_proved_and_described(tmp_path: Path) -> None:
    engine = loaded(spotter_folder(tmp_path / "spotter", masks=True))

    assert engine.max_batch > 1
    assert () == engine.default_outputs
    assert {"output0", "output1"} == set(engine.outputs)
    assert {
        "detections": {
            "family": "yolo8-seg",
            "labels": list(LABELS),
            "keypoints": [],
            "skeleton": [],
            "min_score": 0.25,
            "iou": 0.45,
            "nms": "class",
            "masks": True,
        }
    } == engine.describe()["answers"]


def test_what_is_not_declared_to_be_an_answer_has_none(tmp_path: Path) -> None:
    one = graph([("Identity", ["x"], ["y"])], [("x", FLOAT, ["n", 3])], [("y", FLOAT, ["n", 3])])

    assert "answers" not in loaded(model_folder(tmp_path / "plain", '[input]\ncolor = "none"\n', one)).describe()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('[[detections.tables]]\noutput = "boxes"\ncolumns = "cx cy w h classes"\n', "the graph has no output boxes"),
        (
            '[[detections.tables]]\noutput = "output0"\ncolumns = "cx cy w h objectness classes"\n',
            "output output0 has shape [?, 7, 5]; expected 8 columns along axis 1 or 2: cx cy w h objectness classes",
        ),
        (
            '[[detections.tables]]\noutput = "output0"\ncolumns = "cx cy w classes"\n',
            "the columns of a box are cx cy w",
        ),
        (
            '[feature_maps]\noutput0 = "output0"\n',
            "output0 is an output of the graph, and the manifest calls a feature map",
        ),
        ('nms = "soft"\n', "detections.nms: expected 'class', 'agnostic', 'weighted' or 'none', found 'soft'"),
        ("max_detections = 1001\n", "detections.max_detections: expected less than or equal to 1000"),
        ("skeleton = [[0, 1]]\n", "expected a skeleton of numbers below 0"),
        ("colour = 3\n", "detections.colour: unknown key"),
        ('[detections.grid]\ndecode = "exp"\nunits = "cells"\n', "detections.grid.units: unknown key"),
    ],
)
def test_what_does_not_fit_is_refused_with_both_sides_named(tmp_path: Path, more: str, said: str) -> None:
    with pytest.raises(ModelBroken) as broken:
        loaded(spotter_folder(tmp_path / "spotter", more=more))

    assert said in str(broken.value)


def test_a_family_that_there_is_not_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    folder = spotter_folder(tmp_path / "spotter")
    (folder / "manifest.toml").write_text('[input]\ncolor = "gray"\n[detections]\nfamily = "yolo99"\n')

    with pytest.raises(ModelBroken, match="family 'yolo99' is not known; expected one of yolo5, yolo8, "):
        loaded(folder)


def test_the_best_detection_of_the_sample_must_be_the_golden_label(tmp_path: Path) -> None:
    folder = spotter_folder(tmp_path / "spotter", more='[warmup]\nsample = "white.png"\ngolden = "person"\n')
    (folder / "white.png").write_bytes(image_of(WHITE))

    assert loaded(folder).detector is not None

    manifest = folder / "manifest.toml"
    manifest.write_text(manifest.read_text().replace('golden = "person"', 'golden = "dog"'))
    with pytest.raises(ModelBroken, match=r"white\.png is 'person'; warmup\.golden says 'dog'"):
        loaded(folder)


def test_a_sample_without_a_detection_is_said_to_hold_none(tmp_path: Path) -> None:
    folder = spotter_folder(tmp_path / "spotter", more='[warmup]\nsample = "black.png"\ngolden = "person"\n')
    (folder / "black.png").write_bytes(image_of(WHITE * 0))

    with pytest.raises(ModelBroken, match=r"black\.png is 'nothing that is detected'"):
        loaded(folder)


def test_a_detector_that_mixes_its_jobs_is_refused(tmp_path: Path) -> None:
    nodes: list[tuple[Any, ...]] = [
        ("ReduceMean", ["x"], ["light"], {"axes": [0, 1, 2, 3], "keepdims": 0}),
        ("Shape", ["x"], ["shape"]),
    ]
    nodes += [("Gather", ["shape", "zero"], ["n"]), ("Concat", ["n", "rest"], ["whole"], {"axis": 0})]
    nodes += [("Expand", ["base", "whole"], ["many"]), ("Mul", ["many", "light"], ["output0"])]
    weights: dict[str, NDArray[Any]] = {
        "zero": np.array([0], dtype=np.int64),
        "rest": np.array([7, 5], dtype=np.int64),
        "base": np.ones((1, 7, 5), dtype=np.float32),
    }
    mixing = graph(nodes, [("x", FLOAT, ["n", 1, 64, 64])], [("output0", FLOAT, ["n", 7, 5])], weights)

    with pytest.raises(ModelBroken, match="output0 depends on the other jobs of its batch"):
        loaded(spotter_folder(tmp_path / "spotter", model=mixing))


def test_a_detector_that_gives_nothing_but_nan_is_refused(tmp_path: Path) -> None:
    nodes: list[tuple[Any, ...]] = [
        ("ReduceMean", ["x"], ["light"], {"axes": [1, 2, 3], "keepdims": 0}),
        ("Reshape", ["light", "s"], ["r"]),
    ]
    nodes += [("Mul", ["r", "nan"], ["output0"])]
    weights: dict[str, NDArray[Any]] = {
        "s": np.array([-1, 1, 1], dtype=np.int64),
        "nan": np.full((1, 7, 5), np.nan, dtype=np.float32),
    }
    model = graph(nodes, [("x", FLOAT, ["n", 1, 64, 64])], [("output0", FLOAT, ["n", 7, 5])], weights)

    with pytest.raises(ModelBroken, match="output0 is NaN or infinity for each of"):
        loaded(spotter_folder(tmp_path / "spotter", model=model))


def test_a_graph_of_one_job_without_a_batch_axis_runs_jobs_one_by_one(tmp_path: Path) -> None:
    nodes: list[tuple[Any, ...]] = [("ReduceMean", ["x"], ["light"], {"axes": [0, 1, 2, 3], "keepdims": 0})]
    nodes += [("Mul", ["light", "gain"], ["scores"]), ("Mul", ["light", "nothing"], ["zero"])]
    nodes += [("Add", ["zero", "base"], ["boxes"]), ("Cast", ["numbers"], ["labels"], {"to": 7})]
    weights: dict[str, NDArray[Any]] = {
        "gain": np.array([0.9, 0.5, 0.1], dtype=np.float32),
        "nothing": np.zeros((3, 4), dtype=np.float32),
        "base": np.array([[0, 8, 32, 56], [32, 8, 64, 56], [0, 0, 64, 64]], dtype=np.float32),
        "numbers": np.array([2, 1, 1], dtype=np.float32),
    }
    outputs = [("boxes", FLOAT, ["k", 4]), ("labels", 7, ["k"]), ("scores", FLOAT, ["k"])]
    model = graph(nodes, [("x", FLOAT, ["n", 1, 64, 64])], outputs, weights)
    folder = spotter_folder(tmp_path / "spotter", model=model)
    manifest = folder / "manifest.toml"
    manifest.write_text(manifest.read_text().replace("yolo8", "torchvision"))

    engine = loaded(folder)
    prepared = engine.prepare(engine.decode(image_of(WHITE)))
    assert engine.detector is not None
    found = engine.detector.labels_found(engine.run([prepared], ()), prepared.shape, [prepared.placement])

    assert 1 == engine.max_batch
    assert [["dog", "person"]] == found  # 0.9 and 0.5 of 48 rows in 64; the rest is below 0.25


def test_only_labels_that_there_are_can_be_asked_for(tmp_path: Path) -> None:
    detector = loaded(spotter_folder(tmp_path / "spotter")).detector
    assert detector is not None

    assert [0, 2] == detector.numbers_of(["cat", "person"]).tolist()
    with pytest.raises(BadField, match="labels: this model detects no 'horse'; it has person, dog, cat"):
        detector.numbers_of(["person", "horse"])
    assert "#91" == detector.label(91)


def test_labels_that_hold_commas_and_numbers_for_labels_can_be_asked_for(tmp_path: Path) -> None:
    detector = loaded(spotter_folder(tmp_path / "spotter")).detector
    assert detector is not None
    named = replace(detector, labels=("tench, Tinca tinca", "tench", "cat", "tench,Tinca tinca"))

    assert [1] == named.numbers_of(["tench"]).tolist()
    assert [0, 2, 3] == named.numbers_of(["tench", "Tinca tinca", "cat"]).tolist()
    assert [2, 4, 91] == named.numbers_of(["#91", "cat", "#4"]).tolist()
    for none in (["Tinca tinca"], ["#3"], ["#65536"], ["#x"], ["#\u0665"]):
        with pytest.raises(BadField, match="detects no"):
            named.numbers_of(["cat", *none])


def test_a_label_like_a_number_for_a_label_is_a_label(tmp_path: Path) -> None:
    detector = loaded(spotter_folder(tmp_path / "spotter")).detector
    assert detector is not None

    assert [0] == replace(detector, labels=("#1", "cat")).numbers_of(["#1"]).tolist()


def test_what_is_looked_at_before_it_is_served_shows_detections(tmp_path: Path) -> None:
    folder = spotter_folder(tmp_path / "spotter")
    (tmp_path / "white.png").write_bytes(image_of(WHITE))

    sample = examine(loaded(folder), folder, tmp_path / "white.png")["sample"]

    assert sample["finite"], "rows that are filled up with NaN are none of the answer"
    assert [("person", [24.0, 24.0, 56.0, 72.0]), ("dog", [78.0, 32.0, 98.0, 56.0])] == [
        (one["label"], one["box"]) for one in sample["detections"]
    ]


def answered(engine: Engine, *jobs: tuple[bytes, ...]) -> BatchResult:
    """Jobs with these fields of a white picture, run by the engine as a worker does."""
    receiver, prepared = Receiver("convq:{m}:inbox:"), engine.prepare(engine.decode(image_of(WHITE)))
    tickets = []
    for number, fields in enumerate(jobs):
        job = receiver.receive(b"%d-0" % (number + 1), (b"image", b"x", *fields), lane=1, attempt=1)
        ticket = Ticket(job, Lease("me"), time.perf_counter(), 0.0, engine=engine, placement=prepared.placement)
        tickets.append(ticket)
    outputs = engine.run([prepared] * len(jobs), ())
    return BatchResult(tickets, outputs, engine=engine, size=len(jobs), shape=prepared.shape)


def test_jobs_that_want_masks_share_a_commit_with_few_others(tmp_path: Path) -> None:
    engine = loaded(spotter_folder(tmp_path / "spotter", masks=True))
    postprocessor = Postprocessor("spotter", "me", CrashMark(memoryview(bytearray(64))))

    with_masks = list(postprocessor.portions(answered(engine, *[()] * 10)))
    without = list(postprocessor.portions(answered(engine, *[(b"format", b"none")] * 10)))

    assert [[3, 3, 3, 1], [10]] == [[len(one.tickets) for one in parts] for parts in (with_masks, without)]


def test_a_shadow_agrees_that_finds_the_same_things(tmp_path: Path) -> None:
    serving = loaded(spotter_folder(tmp_path / "serving"))
    moved = [row._replace(box=(row.box[0] + 1, *row.box[1:])) for row in ROWS]
    other = [row._replace(kind=2) for row in ROWS]
    answers, prepared = answered(serving, (), ()), serving.prepare(serving.decode(image_of(WHITE)))

    for name, rows, expected in (("moved", moved, True), ("other", other, False)):
        shadow = loaded(spotter_folder(tmp_path / name, model=spotter(rows)))
        outputs = shadow.run([prepared, prepared], ())
        fine, same = agreement(answers, 0, outputs, [prepared, prepared], shadow)
        assert ([True, True], [expected, expected]) == (fine.tolist(), same.tolist())
