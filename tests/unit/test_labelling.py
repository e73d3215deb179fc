"""Detections in the words of labelling tools, read back by what reads them: pycocotools, `csv`, a plain parser of YOLO's text."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from convq.answers.polygons import rings
from convq.answers.rle import encode
from convq.client.labelling import NAMES, STREAMS, yolo
from convq.client.labelling.label_studio import ROOT
from convq.client.labelling.rings import area, without_holes
from convq.protocol import Result, decode_result

LABELS = ["person", "dog, black", '"cat"\n', "=1+1", "Füße", "人"]
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # within pycocotools
DESCRIBED = {"labels": LABELS, "keypoints": ["nose", "eye"], "skeleton": [[0, 1]]}
Mask = NDArray[np.bool_]


def result(width: int, height: int, detections: list[dict[str, Any]]) -> Result:
    document = {"v": 1, "id": "x", "entry": "1-0", "model": "m", "version": 3, "status": "ok"}
    return decode_result(
        json.dumps({**document, "image": {"width": width, "height": height}, "detections": detections})
    )


@st.composite
def answers(draw: st.DrawFn) -> list[tuple[str, Result]]:
    """Some pictures with boxes of two decimals in them."""
    made = []
    for number in range(draw(st.integers(0, 3))):
        width, height = draw(st.integers(1, 5000)), draw(st.integers(1, 5000))
        found = []
        for _ in range(draw(st.integers(0, 4))):
            xs = sorted(draw(st.integers(0, 100 * width)) / 100 for _ in range(2))
            ys = sorted(draw(st.integers(0, 100 * height)) / 100 for _ in range(2))
            index = draw(st.integers(0, 7))
            label = LABELS[index] if index < len(LABELS) else f"#{index}"
            score = round(draw(st.floats(0, 1)), 6)
            found.append({"label": label, "index": index, "score": score, "box": [xs[0], ys[0], xs[1], ys[1]]})
        name = draw(st.sampled_from(["a.jpg", "sub/b c.png", 'q"u,o.png', "ü.webp", "\udcff.png"]))
        made.append((f"{number}/{name}", result(width, height, found)))
    return made


def text_of(kind: str, given_answers: list[tuple[str, Result]]) -> str:
    return "".join(STREAMS[kind](iter(given_answers), DESCRIBED))


def boxes(given_answers: list[tuple[str, Result]]) -> list[tuple[str, int, float, tuple[float, ...]]]:
    return [(file, one.index, one.score, one.box) for file, answer in given_answers for one in answer.detections or ()]


# -- round trips --------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(answers())
def test_a_table_is_read_back_as_it_was(given_answers: list[tuple[str, Result]]) -> None:
    rows = list(csv.DictReader(io.StringIO(text_of("csv", given_answers), newline="")))

    read = [
        (
            row["file"],
            int(row["index"]),
            float(row["score"]),
            tuple(float(row[key]) for key in ("x1", "y1", "x2", "y2")),
        )
        for row in rows
    ]
    assert boxes(given_answers) == read
    assert {(row["file"], row["width"], row["height"]) for row in rows} <= {
        (file, str(one.image.width), str(one.image.height)) for file, one in given_answers if one.image
    }
    assert [one.label for _, answer in given_answers for one in answer.detections or ()] == [
        row["label"] for row in rows
    ]


@settings(max_examples=50, deadline=None)
@given(answers())
def test_yolo_s_lines_are_read_back_to_a_millionth_of_the_picture(given_answers: list[tuple[str, Result]]) -> None:
    for _, answer in given_answers:
        assert answer.image is not None
        lines = yolo(answer).splitlines()
        assert len(lines) == len(answer.detections or ())
        for line, one in zip(lines, answer.detections or (), strict=True):
            index, cx, cy, w, h, score = line.split(" ")
            x, y, width, height = (float(share) for share in (cx, cy, w, h))
            sides = [answer.image.width, answer.image.height] * 2
            back = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
            assert one.index == int(index)
            assert one.score == pytest.approx(float(score), abs=5e-7)
            assert one.box == pytest.approx([share * side for share, side in zip(back, sides, strict=True)], abs=5e-3)


@settings(max_examples=50, deadline=None)
@given(answers())
def test_coco_is_read_back_as_it_was(given_answers: list[tuple[str, Result]]) -> None:
    written = json.loads(text_of("coco", given_answers))

    names = {one["id"]: one["file_name"] for one in written["images"]}
    read = []
    for one in written["annotations"]:
        x, y, w, h = one["bbox"]
        box = (x, y, round(x + w, 2), round(y + h, 2))
        read.append((names[one["image_id"]], one["category_id"] - 1, one["score"], box))
    assert boxes(given_answers) == read
    assert [file for file, _ in given_answers] == [one["file_name"] for one in written["images"]]
    categories = {one["id"]: one["name"] for one in written["categories"]}
    assert dict(enumerate(LABELS, start=1)).items() <= categories.items()
    assert {one["category_id"] for one in written["annotations"]} <= set(categories)
    assert list(range(1, len(read) + 1)) == [one["id"] for one in written["annotations"]]


@settings(max_examples=50, deadline=None)
@given(answers())
def test_label_studio_s_per_cents_are_read_back(given_answers: list[tuple[str, Result]]) -> None:
    tasks = json.loads(text_of("labelstudio", given_answers))

    assert len(given_answers) == len(tasks)
    for (file, answer), task in zip(given_answers, tasks, strict=True):
        assert file == unquote(task["data"]["image"].removeprefix(ROOT), errors="surrogateescape")
        (prediction,) = task["predictions"]
        assert "m 3" == prediction["model_version"]
        assert len(prediction["result"]) == len({one["id"] for one in prediction["result"]})
        for region, one in zip(prediction["result"], answer.detections or (), strict=True):
            width, height, value = region["original_width"], region["original_height"], region["value"]
            left, top = value["x"] * width / 100, value["y"] * height / 100
            right, bottom = left + value["width"] * width / 100, top + value["height"] * height / 100
            assert one.box == pytest.approx((left, top, right, bottom), abs=1e-3)
            assert ("rectanglelabels", 0, [one.label], 0) == (
                region["type"], region["image_rotation"], value["rectanglelabels"], value["rotation"],
            )  # fmt: skip


# -- masks, with pycocotools as the oracle ------------------------------------------------------------------------------


def loaded(folder: Path, given_answers: list[tuple[str, Result]]) -> Any:
    coco = pytest.importorskip("pycocotools.coco")
    file = folder / "coco.json"
    file.write_text(text_of("coco", given_answers))
    return coco.COCO(str(file))


def blobs(seed: int = 1, width: int = 90, height: int = 70) -> Mask:
    """Irregular forms with holes, and islands in them."""
    scipy = pytest.importorskip("scipy.ndimage")
    noise = np.random.default_rng(seed).normal(size=(height, width))
    return np.asarray(scipy.gaussian_filter(noise, 5) > 0)


def detection(shown: Mask, /, **form: Any) -> dict[str, Any]:
    return {"label": "person", "index": 0, "score": 0.5, "box": [0, 0, shown.shape[1], shown.shape[0]], **form}


def outline(mask: Mask) -> list[list[int]]:
    return rings(np.ascontiguousarray(mask.T)).flat()


def test_pycocotools_decodes_run_lengths_and_agrees_on_the_area(tmp_path: Path) -> None:
    masks = [blobs(seed) for seed in range(3)] + [np.zeros((70, 90), dtype=np.bool_)]

    coco = loaded(tmp_path, [("a.png", result(90, 70, [detection(one, mask=encode(one)) for one in masks]))])

    annotations = coco.loadAnns(coco.getAnnIds())
    for mask, one in zip(masks, annotations, strict=True):
        assert np.array_equal(mask, coco.annToMask(one))
        assert mask.sum() == one["area"]


def test_pycocotools_fills_rings_with_holes_and_islands_to_the_mask(tmp_path: Path) -> None:
    ring = np.zeros((70, 90), dtype=np.bool_)
    ring[10:60, 10:80] = True
    ring[20:50, 20:70] = False
    ring[30:40, 30:60] = True
    masks = [ring, *(blobs(seed) for seed in range(6))]

    coco = loaded(tmp_path, [("a.png", result(90, 70, [detection(one, polygons=outline(one)) for one in masks]))])

    for mask, one in zip(masks, coco.loadAnns(coco.getAnnIds()), strict=True):
        assert mask.sum() == one["area"]
        assert np.array_equal(mask, coco.annToMask(one).astype(np.bool_))


def test_without_a_mask_corners_are_the_segmentation_and_else_it_is_empty(tmp_path: Path) -> None:
    corners = [[30, 10], [60, 40], [40, 60], [10, 30]]
    turned = detection(np.ones((70, 90), dtype=np.bool_), corners=corners)
    bare = {**turned, "corners": None, "box": [1.5, 2.25, 11.5, 22.25]}

    first, second = loaded(tmp_path, [("a.png", result(90, 70, [turned, bare]))]).loadAnns([1, 2])

    assert ([[30, 10, 60, 40, 40, 60, 10, 30]], 1200) == (first["segmentation"], first["area"])
    assert ([], 200, [1.5, 2.25, 10, 20], 0) == tuple(
        second[key] for key in ("segmentation", "area", "bbox", "iscrowd")
    )


def test_keypoints_have_names_lines_and_whether_they_are_seen(tmp_path: Path) -> None:
    points = [[5.5, 6, 0.9], [-1, 99.25, 0.1]]
    one = detection(np.ones((70, 90), dtype=np.bool_), keypoints=points)

    coco = loaded(tmp_path, [("a.png", result(90, 70, [one]))])

    (annotation,) = coco.loadAnns([1])
    assert ([5.5, 6, 2, -1, 99.25, 1], 2) == (annotation["keypoints"], annotation["num_keypoints"])
    (category,) = coco.loadCats([1])
    assert (["nose", "eye"], [[1, 2]]) == (category["keypoints"], category["skeleton"])


def test_pycocotools_evaluates_what_was_written_as_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    found = [
        {"label": "person", "index": 0, "score": 0.9, "box": [10, 10, 50, 60]},
        {"label": "dog, black", "index": 1, "score": 0.8, "box": [40, 5, 80, 30]},
    ]
    coco = loaded(tmp_path, [("a.png", result(90, 70, found)), ("b.png", result(90, 70, found[:1]))])
    guesses = [dict(one) for one in coco.dataset["annotations"]]

    evaluation = cocoeval.COCOeval(coco, coco.loadRes(guesses), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()

    capsys.readouterr()
    assert 1.0 == evaluation.stats[0]


# -- rings, Label Studio's other regions --------------------------------------------------------------------------------


def test_rings_without_holes_stay_as_they_are() -> None:
    apart = [[0, 0, 2, 0, 2, 2, 0, 2], [5, 5, 7, 5, 7, 8]]

    assert apart == without_holes(apart)
    assert [] == without_holes([])
    assert (4, 3) == tuple(map(area, apart))


def test_a_hole_is_joined_to_its_ring_and_takes_its_area_away() -> None:
    outer, hole = [0, 0, 10, 0, 10, 10, 0, 10], [2, 2, 2, 4, 4, 4, 4, 2]

    (joined,) = without_holes([outer, hole])

    assert -4 == area(hole)
    assert 96 == area(joined)


def test_label_studio_turns_a_rectangle_about_its_first_corner() -> None:
    corners = [[30, 10], [60, 40], [40, 60], [10, 30]]
    one = {"label": "ship", "index": 0, "score": 0.5, "box": [10, 10, 60, 60], "corners": corners}

    (task,) = json.loads(text_of("labelstudio", [("a.png", result(200, 100, [one]))]))

    value = task["predictions"][0]["result"][0]["value"]
    assert (15, 10, 45) == (value["x"], value["y"], value["rotation"])
    long, high = value["width"] * 2, value["height"]
    turn = math.radians(value["rotation"])
    across = (30 + long * math.cos(turn), 10 + long * math.sin(turn))
    down = (30 - high * math.sin(turn), 10 + high * math.cos(turn))
    assert pytest.approx([60, 40, 10, 30], abs=1e-4) == [*across, *down]


def test_label_studio_gets_outlines_and_keypoints_by_name() -> None:
    one = {"label": "dog", "index": 1, "score": 0.5, "box": [0, 0, 50, 50]}
    one |= {"polygons": [[0, 0, 50, 0, 50, 50]], "keypoints": [[10, 20, 0.9], [30, 40, 0.9], [50, 50, 0.1]]}

    (task,) = json.loads(text_of("labelstudio", [("a.png", result(200, 100, [one]))]))

    polygon, *points = task["predictions"][0]["result"]
    assert [[0, 0], [25, 0], [25, 50]] == polygon["value"]["points"]
    assert ("polygon", ["dog"]) == (polygon["from_name"], polygon["value"]["polygonlabels"])
    assert [["nose"], ["eye"], ["#2"]] == [point["value"]["keypointlabels"] for point in points]
    assert (5, 20) == (points[0]["value"]["x"], points[0]["value"]["y"])


# -- streaming ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(STREAMS))
def test_what_is_known_is_written_before_the_next_answer_is_there(kind: str) -> None:
    one = {"label": "dog", "index": 1, "score": 0.5, "box": [0, 0, 50, 50]}
    taken = 0

    def arriving() -> Any:
        nonlocal taken
        for number in range(3):
            taken = number + 1
            yield f"{number}.png", result(90, 70, [one])

    seen = ""
    for part in STREAMS[kind](arriving(), DESCRIBED):
        seen += part
        if "dog" in part or "bbox" in part:
            break

    assert 1 == taken
    assert seen


def test_every_format_has_a_writer() -> None:
    assert {*STREAMS, "yolo"} == set(NAMES)
