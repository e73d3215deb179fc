"""Outputs with a meaning: held against their graph when a version is loaded, proved, and told job by job."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from convq.answers.coordinates import Placement
from convq.answers.detections import Size
from convq.engine.answering.frame import Frame
from convq.engine.answering.meaning import Told, Wish
from convq.engine.answering.readings import Keypoints
from convq.engine.engine import Engine, Prepared
from convq.engine.room import taken_bytes
from convq.errors import ModelBroken
from convq.importer.examination import examine
from convq.ipc.allowance import MIB
from convq.ipc.crash_marks import CrashMark
from convq.queue import Lease, Receiver
from convq.worker.postprocessor import BatchResult, Postprocessor
from convq.worker.shadow import agreement
from convq.worker.ticket import Ticket
from meaning_models import (
    ALPHABET,
    GENDERS,
    GRAY,
    LETTERBOX,
    depther,
    embedder,
    faces_folder,
    marker,
    matter,
    meaning_folder,
    numbered,
    numberer,
    pointer,
    reader,
    segmenter,
    written,
)
from onnx_models import FLOAT, graph, resealed
from services import image_of
from spotting import spotter_folder

NAMES = 'names = ["a", "b", "c"]\n'


def loaded(folder: Path) -> Engine:
    engine = Engine.load(folder, 1)
    engine.warm_up()
    return engine


class Noted(CrashMark):
    """A mark that remembers what it was set to."""

    def __init__(self) -> None:
        super().__init__(memoryview(bytearray(1 << 16)))
        self.was: list[bytes] = []

    def set(self, names: bytes) -> None:
        self.was.append(names)
        super().set(names)


def batch(engine: Engine, prepared: Sequence[Prepared], *fields: tuple[bytes, ...]) -> BatchResult:
    """Jobs with these fields and inputs, run by the engine as a worker does."""
    receiver, tickets = Receiver("convq:{m}:inbox:"), []
    for number, (one, flat) in enumerate(zip(prepared, fields or [()] * len(prepared), strict=True)):
        job = receiver.receive(b"%d-0" % (number + 1), (b"image", b"x", *flat), lane=1, attempt=1)
        placement = engine.frame_of(one.shape, one.placement).placement
        tickets.append(Ticket(job, Lease("me"), time.perf_counter(), 0.0, engine=engine, placement=placement))
    outputs = engine.run(prepared, {name for ticket in tickets for name in ticket.job.outputs})
    return BatchResult(tickets, outputs, engine=engine, size=len(tickets), shape=prepared[0].shape)


def answers_of(engine: Engine) -> dict[str, Any]:
    """What the list of models says of them."""
    said: Any = engine.describe()
    return dict(said.get("answers", {}))


def documents(engine: Engine, prepared: Sequence[Prepared], *fields: tuple[bytes, ...]) -> list[dict[str, Any]]:
    made = Postprocessor("m", "me", Noted()).answer(batch(engine, prepared, *fields))
    return [json.loads(one.document) for one in made]


def prepared_of(engine: Engine, *pictures: NDArray[np.uint8]) -> list[Prepared]:
    return [engine.prepare(engine.decode(image_of(one))) for one in pictures]


def levels_of(png: str) -> NDArray[Any]:
    with Image.open(BytesIO(base64.b64decode(png))) as drawn:
        return np.asarray(drawn)


WRONG: dict[str, tuple[str, bytes, dict[str, Any], str]] = {
    "classes and labels": (
        "segments",
        segmenter(5),
        {"labels": numbered(4)},
        "output y is [n, 5, 64, 64], with 5 classes; there are 4 labels",
    ),
    "one channel of classes": (
        "segments",
        matter(),
        {"labels": numbered(1)},
        "output y is float32 [n, 1, 64, 64], which has one channel; an output that means segments has one for each of its 1 labels",
    ),
    "classes of no pixels": (
        "segments",
        embedder(),
        {"labels": numbered(64)},
        "output y is float32 [n, 64]; an output that means segments is [n, classes, height, width], or [n, height, width] of whole",
    ),
    "numbers that are no whole ones": (
        "segments",
        depther(),
        {"labels": numbered(9)},
        "output y is float32 [n, 64, 64]; an output that means segments is",
    ),
    "a matte of three channels": (
        "matte",
        pointer(),
        {"start": "[input]\nscale = 1\n"},
        "output y is float32 [n, 3, 64, 64]; an output that means matte is [n, height, width] or [n, 1, height, width]",
    ),
    "depth of a row": (
        "depth",
        embedder(),
        {},
        "output y is float32 [n, 64]; an output that means depth is [n, height,",
    ),
    "an embedding of a map": (
        "embedding",
        matter(),
        {},
        "output y is float32 [n, 1, 64, 64]; an output that means embedding is [n, numbers] or [n, numbers, 1, 1]",
    ),
    "an alphabet and classes": (
        "text",
        reader(7),
        {"labels": ALPHABET},
        "output y is [n, 12, 7], with 7 classes; 5 characters in labels, and a blank, make 6",
    ),
    "an alphabet, a space and classes": (
        "text",
        reader(6),
        {"labels": ALPHABET, "more": "space = true\n"},
        "with 6 classes; 5 characters in labels, and a blank and a space, make 7",
    ),
    "text of a row": ("text", embedder(), {"labels": ALPHABET}, "an output that means text is [n, steps, classes] or"),
    "points and names": (
        "keypoints",
        marker(),
        {"more": NAMES.replace(', "c"', ', "c", "d"')},
        "output y is float32 [n, 6]; an output that means keypoints, with 4 names, is [n, 8], [n, 12], [n, 4, 2], [n, 4, 3] or maps",
    ),
    "maps of two points": (
        "keypoints",
        pointer(),
        {"more": 'names = ["a", "b"]\n', "start": "[input]\nscale = 1\n"},
        "output y is float32 [n, 3, 64, 64]; an output that means keypoints, with 2 names, is",
    ),
    "a value of many": (
        "value",
        embedder(),
        {},
        "output y is float32 [n, 64]; an output that means value is [n] or [n, 1]",
    ),
    "an expectation over a map": (
        "value",
        matter(),
        {"more": "expectation = true\n"},
        "an output that means value is [n, classes], with two or more, as expectation is true",
    ),
}


@pytest.mark.parametrize(("meaning", "model", "how", "said"), WRONG.values(), ids=WRONG.keys())
def test_what_cannot_mean_that_is_refused_with_both_sides_named(
    tmp_path: Path, meaning: str, model: bytes, how: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelBroken) as broken:
        Engine.load(meaning_folder(tmp_path / "m", meaning, model, **how), 1)

    assert "m/1/model.onnx: " in str(broken.value)
    assert said in str(broken.value)


def hidden(model: bytes) -> bytes:
    """The same with an output whose sides only a run can tell: they are computed from the picture."""
    onnx = pytest.importorskip("onnx")
    helper, made = onnx.helper, onnx.load_from_string(model)
    sides = [side.dim_value for side in made.graph.output[0].type.tensor_type.shape.dim]
    for node in made.graph.node:
        node.output[:] = ["inner" if name == "y" else name for name in node.output]
    nodes = [
        helper.make_node("ReduceMin", ["x"], ["least"], keepdims=0),
        helper.make_node("Mul", ["least", "nought"], ["none"]),
        helper.make_node("Cast", ["none"], ["whole"], to=7),
        helper.make_node("Add", ["whole", "sides"], ["shape"]),
        helper.make_node("Reshape", ["inner", "shape"], ["y"]),
    ]
    made.graph.node.extend(nodes)
    known = {"nought": np.array(0, dtype=np.float32), "sides": np.array([-1, *sides[1:]], dtype=np.int64)}
    made.graph.initializer.extend([onnx.numpy_helper.from_array(one, name) for name, one in known.items()])
    del made.graph.output[:]
    made.graph.output.append(helper.make_tensor_value_info("y", 1, [None] * len(sides)))
    return bytes(made.SerializeToString())


@pytest.mark.parametrize(
    ("meaning", "model", "how", "said"),
    [
        (
            "segments",
            segmenter(5),
            {"labels": numbered(4)},
            r"output y, which means segments, has the shape \[5, 64, 64\]",
        ),
        (
            "matte",
            pointer(),
            {"start": "[input]\nscale = 1\n"},
            r"an output that means matte has the shape \[3, 64, 64\]; expected",
        ),
        (
            "text",
            reader(7),
            {"labels": ALPHABET},
            r"an output that means text has the shape \[12, 7\]; expected \[steps, 6\]",
        ),
        ("embedding", matter(), {}, r"an output that means embedding has the shape \[1, 64, 64\]"),
        ("keypoints", marker(), {"more": 'names = ["a"]\n'}, r"an output that means keypoints has the shape \[6\]"),
        ("value", embedder(), {}, r"an output that means value has the shape \[64\]"),
    ],
)
def test_a_shape_that_only_a_run_shows_is_looked_at_in_the_warm_up(
    tmp_path: Path, meaning: str, model: bytes, how: dict[str, Any], said: str
) -> None:
    engine = Engine.load(meaning_folder(tmp_path / "m", meaning, hidden(model), **how), 1)

    with pytest.raises(ModelBroken, match=f"warm-up failed: {said}"):
        engine.warm_up()


@pytest.mark.parametrize(
    ("meaning", "model", "how", "described"),
    [
        (
            "segments",
            segmenter(3),
            {"labels": numbered(3), "more": "ignore = 0\n"},
            {"segments": {"output": "y", "labels": numbered(3), "ignore": 0}},
        ),
        ("matte", matter(), {}, {"matte": {"y": {}}}),
        ("depth", depther(), {"more": "scale = 2\n"}, {"depth": {"y": {"scale": 2.0, "inverse": False}}}),
        ("embedding", embedder(), {}, {"embedding": {"output": "y", "size": 64, "normalized": True}}),
        ("text", reader(6), {"labels": ALPHABET}, {"text": {"output": "y", "characters": 5}}),
        (
            "keypoints",
            marker(),
            {"more": NAMES + "skeleton = [[0, 2]]\n"},
            {"keypoints": {"output": "y", "names": ["a", "b", "c"], "skeleton": [[0, 2]]}},
        ),
        ("value", embedder(), {"more": "expectation = true\n"}, {"values": {"y": {}}}),
    ],
)
def test_what_an_answer_is_made_of_is_described(
    tmp_path: Path, meaning: str, model: bytes, how: dict[str, Any], described: dict[str, Any]
) -> None:
    engine = loaded(meaning_folder(tmp_path / "m", meaning, model, **how))

    said = engine.describe()
    assert described == said["answers"]
    assert [meaning] == [output["meaning"] for output in said["outputs"]]  # type: ignore[attr-defined]
    assert ((), None) == (engine.default_outputs, engine.classes)
    assert json.dumps(said)


def test_heads_and_values_are_told_by_their_outputs(tmp_path: Path) -> None:
    engine = loaded(faces_folder(tmp_path / "faces"))
    (document,) = documents(engine, prepared_of(engine, np.full((64, 64), 51, np.uint8)), (b"top_k", b"2"))

    light = 1 / (1 + np.exp(-(8 * 0.2 - 4 - (-8 * 0.2 + 4))))
    assert [("dark", 0, 1 - light), ("light", 1, light)] == [
        (one["label"], one["index"], pytest.approx(one["score"], abs=1e-5)) for one in document["predictions"]
    ]
    assert {"gender", "age"} == set(document["heads"])
    assert document["predictions"] == document["heads"]["gender"]
    assert ["20", 20] == [document["heads"]["age"][0][key] for key in ("label", "index")]
    assert {"glow": pytest.approx(-60, abs=1e-3), "many": pytest.approx(20, abs=1e-3)} == document["values"]
    heads = answers_of(engine)["heads"]
    assert {"gender": {"labels": list(GENDERS)}, "age": {"labels": [str(age) for age in range(101)]}} == heads
    assert "image" not in document


def test_one_head_is_told_as_ever(tmp_path: Path) -> None:
    manifest = f'{GRAY}\n[[outputs]]\nname = "gender"\nmeaning = "classes"\nlabels = "genders.txt"\n'
    engine = loaded(faces_folder(tmp_path / "faces", manifest))
    (document,) = documents(engine, prepared_of(engine, np.full((64, 64), 200, np.uint8)))

    assert {"v", "id", "entry", "model", "version", "status", "batch", "timing_ms", "attempt", "worker"} | {
        "predictions"
    } == set(document)
    assert "answers" not in engine.describe()


def test_a_head_of_another_number_of_labels_is_refused(tmp_path: Path) -> None:
    folder = faces_folder(tmp_path / "faces")
    (folder / "ages.txt").write_text("young\nold")

    with pytest.raises(ModelBroken, match=r"age has 101 classes; there are 2 labels in ages\.txt"):
        loaded(folder)


def test_the_golden_text_is_what_the_sample_must_read(tmp_path: Path) -> None:
    more = '[warmup]\nsample = "line.png"\ngolden = "aß日"\n'
    folder = meaning_folder(tmp_path / "m", "text", reader(6), labels=ALPHABET, more=more)
    (folder / "line.png").write_bytes(image_of(written([1, 1, 0, 3, 5], 6)))

    assert loaded(folder).meanings.each
    (folder / "line.png").write_bytes(image_of(written([1, 0, 1], 6)))
    with pytest.raises(ModelBroken, match=r"line\.png is 'aa'; warmup\.golden says 'aß日'"):
        loaded(folder)


def test_a_sample_whose_answer_is_not_finite_is_refused(tmp_path: Path) -> None:
    folder = meaning_folder(tmp_path / "m", "embedding", embedder(), more='[warmup]\nsample = "black.png"\n')
    (folder / "black.png").write_bytes(image_of(np.zeros((64, 64), np.uint8)))

    with pytest.raises(ModelBroken, match=r"the warm-up sample black\.png gives NaN or infinity"):
        loaded(folder)


def test_a_job_that_is_not_finite_is_alone_in_that(tmp_path: Path) -> None:
    engine = loaded(meaning_folder(tmp_path / "m", "embedding", embedder()))
    light, dark = prepared_of(engine, np.full((64, 64), 9, np.uint8), np.zeros((64, 64), np.uint8))

    made = documents(engine, [light, dark, light])

    assert ["ok", "error", "ok"] == [one["status"] for one in made]
    assert ("non_finite", "the network produced an embedding of length 0 for this input") == tuple(
        made[1]["error"].values()
    )


def test_numbers_that_are_not_finite_are_found_wherever_they_are(tmp_path: Path) -> None:
    engine = loaded(meaning_folder(tmp_path / "m", "depth", depther()))
    odd = np.zeros((1, 64, 64), dtype=np.float32)
    odd[0, 40, 3] = np.nan

    made = documents(engine, [Prepared(odd, odd.shape), Prepared(np.zeros_like(odd), odd.shape)])

    assert ["non_finite", None] == [one.get("error", {}).get("code") for one in made]


def test_each_job_whose_maps_are_drawn_has_a_mark_of_its_own(tmp_path: Path) -> None:
    engine = loaded(meaning_folder(tmp_path / "m", "matte", matter()))
    answers = batch(engine, prepared_of(engine, *[np.zeros((64, 64), np.uint8)] * 3))
    answers.names = b"1:1-0 1:2-0 1:3-0"
    mark = Noted()

    Postprocessor("m", "me", mark).answer(answers)

    every = answers.names
    assert [every, b"1:1-0", every, b"1:2-0", every, b"1:3-0", every] == mark.was
    assert not mark.since_s


def test_jobs_with_large_maps_share_a_commit_with_few_others(tmp_path: Path) -> None:
    engine = loaded(meaning_folder(tmp_path / "m", "depth", depther()))
    large, small = np.zeros((1500, 2000), np.uint8), np.zeros((64, 64), np.uint8)
    postprocessor = Postprocessor("m", "me", Noted())

    whole = list(postprocessor.portions(batch(engine, prepared_of(engine, *[large] * 3))))
    briefly = list(
        postprocessor.portions(batch(engine, prepared_of(engine, *[large] * 3), *[(b"format", b"network")] * 3))
    )
    short = list(postprocessor.portions(batch(engine, prepared_of(engine, *[small] * 3))))

    assert [[1, 1, 1], [3], [3]] == [[len(one.tickets) for one in parts] for parts in (whole, briefly, short)]
    (document,) = documents(engine, prepared_of(engine, large))
    assert (1500, 2000) == levels_of(document["outputs"][0]["data"]).shape


def test_a_map_that_no_result_holds_is_refused_before_it_is_drawn(tmp_path: Path) -> None:
    folder = meaning_folder(tmp_path / "m", "depth", depther("s"), start=GRAY + 'resize = "none"\n')
    engine = loaded(folder)
    side = 4400  # 19 megapixels of two bytes
    answers = batch(engine, [Prepared(np.zeros((1, side, side), dtype=np.float32), (1, side, side))])

    (made,) = Postprocessor("m", "me", Noted()).answer(answers)

    error = json.loads(made.document)["error"]
    assert "model_error" == error["code"]
    assert "a result holds at most 37,748,736" in error["message"]
    assert answers.tickets[0].blameless


def test_batches_are_as_large_as_what_is_told_of_their_outputs_fits(tmp_path: Path) -> None:
    """A segmenter's answer is a byte a pixel, whatever its scores take."""
    engine = Engine.load(meaning_folder(tmp_path / "m", "segments", segmenter(21), labels=numbered(21)), 1)
    raw_bytes, map_bytes = 21 * 64 * 64 * 4, 64 * 64
    engine.warm_up(together_bytes=taken_bytes(raw_bytes, 10, map_bytes))

    assert 10 == engine.max_batch
    assert (raw_bytes, True) == engine.output_bytes((1, 64, 64), ())
    assert map_bytes == engine.told_bytes((1, 64, 64), ())
    assert map_bytes + raw_bytes == engine.told_bytes((1, 64, 64), {"y"})


def test_what_a_detector_reads_counts_once(tmp_path: Path) -> None:
    engine = loaded(spotter_folder(tmp_path / "spotter"))

    assert 7 * 5 * 4 == engine.output_bytes((1, 64, 64), ())[0]
    assert engine.told_bytes((1, 64, 64), {"output0"}) - engine.told_bytes((1, 64, 64), ()) == 7 * 5 * 4
    assert engine.told_bytes((1, 64, 64), ()) < MIB


def test_channels_come_last_where_the_input_has_them_last(tmp_path: Path) -> None:
    start = GRAY + 'layout = "NHWC"\n'
    engine = loaded(meaning_folder(tmp_path / "m", "matte", matter(channels_last=True), start=start))
    picture = np.random.default_rng(5).integers(0, 256, (64, 64), dtype=np.uint8)

    (document,) = documents(engine, prepared_of(engine, picture))

    np.testing.assert_array_equal(picture, levels_of(document["outputs"][0]["data"]))


def test_a_time_major_graph_reads_the_same_as_any(tmp_path: Path) -> None:
    lines = [written(one, 6) for one in ([1, 2, 3], [5, 0, 5, 4], [], [2, 2, 2])]
    usual = loaded(meaning_folder(tmp_path / "m", "text", reader(6), labels=ALPHABET))
    major = meaning_folder(
        tmp_path / "t", "text", reader(6, time_first=True), labels=ALPHABET, more="time_first = true\n"
    )
    first = loaded(major)

    found = [documents(engine, prepared_of(engine, *lines)) for engine in (usual, first)]

    assert ["abß", "日日'", "", "b"] == [one["text"] for one in found[0]]
    assert [one["text"] for one in found[0]] == [one["text"] for one in found[1]]
    assert first.max_batch > 1


def test_shadows_agree_that_read_the_same(tmp_path: Path) -> None:
    serving, shadow = (
        loaded(meaning_folder(tmp_path / name, "text", reader(6), labels=labels))
        for name, labels in (("a", ALPHABET), ("b", ("a", "b", "s", "'", "日")))
    )
    inputs = prepared_of(serving, written([1, 2], 6), written([1, 3], 6))
    answers = batch(serving, inputs)

    fine, same = agreement(answers, 0, shadow.run(inputs, ()), inputs, shadow)

    assert ([True, True], [True, False]) == (fine.tolist(), same.tolist())


def test_shadows_agree_whose_heads_all_do(tmp_path: Path) -> None:
    serving = loaded(faces_folder(tmp_path / "a"))
    inputs = prepared_of(serving, np.full((64, 64), 51, np.uint8), np.full((64, 64), 60, np.uint8))
    answers, moved = batch(serving, inputs), serving.run(inputs[::-1], ())
    moved["gender"] = serving.run(inputs, ())["gender"]

    _, same = agreement(answers, 0, serving.run(inputs, ()), inputs, serving)
    _, other = agreement(answers, 0, moved, inputs, serving)

    assert ([True, True], [False, False]) == (same.tolist(), other.tolist())


@pytest.mark.parametrize(
    ("meaning", "model", "how", "key", "expected"),
    [
        ("text", reader(6), {"labels": ALPHABET}, "text", "ab"),
        ("embedding", embedder(), {}, "embedding", {"size": 64, "dtype": "float32", "normalized": True}),
        ("matte", matter(), {}, "pictures", [{"name": "y", "format": "png"}]),
        (
            "segments",
            numberer(3),
            {"labels": numbered(3)},
            "segments",
            {"format": "png", "width": 96, "height": 8, "classes": [{"label": "c0", "index": 0, "share": 1.0}]},
        ),
    ],
)
def test_what_is_looked_at_before_it_is_served_shows_what_is_told(
    tmp_path: Path, meaning: str, model: bytes, how: dict[str, Any], key: str, expected: Any
) -> None:
    folder = meaning_folder(tmp_path / "m", meaning, model, **how)
    (tmp_path / "line.png").write_bytes(image_of(written([1, 2], 6)))

    sample = examine(loaded(folder), folder, tmp_path / "line.png")["sample"]

    assert sample["finite"]
    if key == "segments":
        assert {"c0", "c1"} == {one.pop("label") for one in sample[key].pop("classes")}
        expected.pop("classes")
    assert expected == sample[key]
    assert json.dumps(sample)


def test_detections_and_values_may_come_of_one_network(tmp_path: Path) -> None:
    folder = spotter_folder(tmp_path / "both", masks=True)
    manifest = folder / "manifest.toml"
    told = '[[outputs]]\nname = "light"\nmeaning = "value"\n'
    nodes: list[tuple[Any, ...]] = [
        ("ReduceMean", ["x"], ["flat"], {"axes": [1, 2, 3], "keepdims": 0}),
        ("Reshape", ["flat", "as_row"], ["light"]),
        ("Reshape", ["flat", "as_column"], ["column"]),
        ("Mul", ["column", "gain"], ["output0"]),
    ]
    weights: dict[str, NDArray[Any]] = {
        "as_row": np.array([-1, 1], dtype=np.int64),
        "as_column": np.array([-1, 1, 1], dtype=np.int64),
        "gain": np.array([[[20], [20], [8], [8], [0.9], [0], [0]]], dtype=np.float32),
    }
    outputs = [("output0", FLOAT, ["n", 7, 1]), ("light", FLOAT, ["n", 1])]
    model = graph(nodes, [("x", FLOAT, ["n", 1, 64, 64])], outputs, weights)
    manifest.write_text(manifest.read_text().partition("[[detections.tables]]")[0].replace("yolo8-seg", "yolo8") + told)
    (folder / "1" / "model.onnx").write_bytes(model)
    engine = loaded(resealed(folder))
    (document,) = documents(engine, prepared_of(engine, np.full((64, 64), 255, np.uint8)))

    assert (["person"], {"light": 1.0}) == ([one["label"] for one in document["detections"]], document["values"])
    assert {"detections", "values"} == set(answers_of(engine))


def test_a_letterbox_leaves_its_padding_out(tmp_path: Path) -> None:
    engine = loaded(meaning_folder(tmp_path / "m", "matte", matter(), start=LETTERBOX))
    (document,) = documents(engine, prepared_of(engine, np.full((48, 96), 255, np.uint8)), (b"format", b"network"))

    levels = levels_of(document["outputs"][0]["data"])
    assert ((32, 64), {255}) == (levels.shape, set(levels.ravel().tolist()))


def test_one_point_may_be_a_map_or_a_row() -> None:
    one = Keypoints("y", ("nose",), "pixels", "none", ())

    assert ["", "", "", ""] == [one.misfit(shape, "float32") for shape in [(1, 4, 4), (None, 4, 4), (2,), (1, 3)]]
    assert all(one.misfit(shape, "float32") for shape in [(2, 4, 4), (1, 4, 1), (4,)])
    told = Told()
    one.tell(
        np.eye(4, dtype=np.float32)[None, ::-1] * [[[1, 1, 1, 9]]], Frame(Placement(4, 4), Size(4, 4)), Wish(), told
    )
    assert [[3.5, 0.5, 9.0]] == [list(point) for point in told.keys["keypoints"]]
