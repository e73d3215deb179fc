"""Every family: things that are written into its outputs come back, and noise is read as plain loops read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from convq.answers.coordinates import Placement
from convq.answers.detections import Detections, DetectionsSpec, Size, Wanted, describe, detections_of
from convq.answers.detections.families import FAMILIES as PRESETS
from convq.engine.kernels.suppression import fast_suppress
from plain_detections import FAMILIES, HEIGHT, WIDTH, Outputs, Thing, suppressed

CLASSES = 5
SIZE = Size(HEIGHT, WIDTH)
LETTERBOX = Placement(180, 100, 96 / 180, 53 / 100, 0, 5)
WHOLE = Placement(WIDTH, HEIGHT)
SINGLE = {"scrfd", "yunet", "blazeface"}
"""Those that find one kind of thing."""
BY_ROW = {"torchvision": 1}
"""How many jobs the graph of a family takes, where it is not as many as one likes."""


def spec_of(family: str, **more: Any) -> DetectionsSpec:
    return describe({"family": family, **more}, 1 if family in SINGLE else CLASSES)


def things(family: str, random: np.random.Generator, count: int) -> list[Thing]:
    """Apart from each other, so that none suppresses another, each with its own score."""
    keypoints, each, weights = FAMILIES[family].extra
    made = []
    for place in range(count):
        x, y = 4 + 30 * (place % 3), 8 + 28 * (place // 3)
        w, h = random.uniform(6, 22), random.uniform(6, 20)
        points = tuple((x + random.uniform(0, w), y + random.uniform(0, h), 0.5)[:each] for _ in range(keypoints))
        kind = 0 if family in SINGLE else int(random.integers(CLASSES))
        box = (float(x), float(y), x + w, y + h)
        made.append(Thing(kind, 0.95 - 0.04 * place, box, points, tuple(random.normal(size=weights))))
    return made


def back(x: float, y: float, placement: Placement) -> tuple[float, float]:
    return (x - placement.dx) / placement.sx, (y - placement.dy) / placement.sy


def assert_same(expected: Sequence[Thing], found: Any, placement: Placement, family: str = "") -> None:
    """All that is expected was found, in this order, in pixels of the picture."""
    assert isinstance(found, Detections), found
    assert [thing.kind for thing in expected] == found.classes.tolist()
    assert found.scores.tolist() == pytest.approx([thing.score for thing in expected], abs=2e-6)
    for thing, box in zip(expected, found.boxes.tolist(), strict=True):
        (x1, y1), (x2, y2) = back(*thing.box[:2], placement), back(*thing.box[2:], placement)
        wide, tall = placement.width, placement.height
        cut = [min(max(x1, 0), wide), min(max(y1, 0), tall), min(max(x2, 0), wide), min(max(y2, 0), tall)]
        assert box == pytest.approx(cut, abs=0.011)
    if found.keypoints is not None:
        for thing, points in zip(expected, found.keypoints.tolist(), strict=True):
            for (x, y, *score), point in zip(thing.points, points, strict=True):
                assert point == pytest.approx([*back(x, y, placement), *score], abs=0.011)
    if found.masks is not None:
        assert found.masks == pytest.approx(
            np.array([thing.weights for thing in expected]).reshape(len(expected), 32), abs=1e-5
        )
    assert (found.keypoints is None) == (not FAMILIES[family].extra[0])
    assert (found.masks is None) == (not FAMILIES[family].extra[2])


def noise(family: str, random: np.random.Generator, jobs: int) -> Outputs:
    """Rows of random things, many of which overlap."""
    outputs = FAMILIES[family].blank(jobs, CLASSES)
    for job in range(jobs):
        for row in random.choice(FAMILIES[family].rows, FAMILIES[family].rows // 2, replace=False):
            (thing,) = things(family, random, 1)
            x, y = random.uniform(0, 60), random.uniform(0, 30)
            x1, y1, x2, y2 = thing.box
            moved = thing._replace(box=(x, y, x + x2 - x1, y + y2 - y1), score=float(random.uniform(0.05, 0.94)))
            FAMILIES[family].write(outputs, job, int(row), moved)
    return outputs


def test_every_preset_but_that_of_regions_is_tried_here() -> None:
    assert set(PRESETS) - {"db"} == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_written_into_the_outputs_of_a_family_comes_back(family: str) -> None:
    random = np.random.default_rng(len(family))
    jobs = BY_ROW.get(family, 3)
    truths = [things(family, random, count) for count in (5, 0, 3)[:jobs]]
    outputs = FAMILIES[family].blank(jobs, CLASSES)
    for job, truth in enumerate(truths):
        rows = random.choice(FAMILIES[family].rows, len(truth), replace=False)
        for row, thing in zip(rows, truth, strict=True):
            FAMILIES[family].write(outputs, job, int(row), thing)

    found = detections_of(spec_of(family), outputs, [Wanted(LETTERBOX)] * jobs, SIZE)

    for truth, answer in zip(truths, found, strict=True):
        assert_same(truth, answer, LETTERBOX, family)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("fields", [{}, {"min_score": 0.1, "iou": 0.3}, {"min_score": 0.6, "iou": 0.8}], ids=str)
def test_noise_is_read_as_plain_loops_read_it(family: str, fields: dict[str, float]) -> None:
    random = np.random.default_rng(len(family) + len(fields))
    spec, jobs = replace(spec_of(family), max_detections=1000), BY_ROW.get(family, 2)
    outputs = noise(family, random, jobs)

    found = detections_of(spec, outputs, [Wanted(WHOLE, **fields)] * jobs, SIZE)  # type: ignore[arg-type]

    rule = "class" if "iou" in fields and spec.nms == "none" else spec.nms
    for job, answer in enumerate(found):
        every = FAMILIES[family].read(outputs, job, 1 if family in SINGLE else CLASSES)
        good = [thing for thing in every if thing.score >= fields.get("min_score", spec.min_score)]
        expected = suppressed(good, fields.get("iou", spec.iou), rule)
        assert expected
        assert_same(expected, answer, WHOLE, family)


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - BY_ROW))
def test_a_job_is_answered_the_same_whatever_its_neighbours_are_and_ask(family: str) -> None:
    random = np.random.default_rng(3)
    spec = spec_of(family)
    outputs = noise(family, random, 3)
    jobs = [Wanted(LETTERBOX), Wanted(WHOLE, min_score=0.7, max_detections=3), Wanted(LETTERBOX, iou=0.9)]

    together = detections_of(spec, outputs, jobs, SIZE)

    for job, wanted in enumerate(jobs):
        if spec.batch == "counts":
            alone = {"bbox": outputs["bbox"][job * 20 : job * 20 + 20], "bbox_num": outputs["bbox_num"][:1]}
        else:
            alone = {name: values[job : job + 1] for name, values in outputs.items()}
        (single,) = detections_of(spec, alone, [wanted], SIZE)
        assert isinstance(single, Detections)
        same = together[job]
        assert isinstance(same, Detections)
        for name in Detections.__slots__:
            np.testing.assert_array_equal(getattr(single, name), getattr(same, name))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
@pytest.mark.parametrize("family", ["yolo8", "detr", "scrfd"])
def test_other_floating_point_types_are_read_too(family: str, dtype: type) -> None:
    truth = things(family, np.random.default_rng(1), 4)
    outputs = FAMILIES[family].blank(1, CLASSES)
    for row, thing in enumerate(truth):
        FAMILIES[family].write(outputs, 0, 7 * row, thing)

    (found,) = detections_of(
        spec_of(family), {name: values.astype(dtype) for name, values in outputs.items()}, [Wanted(WHOLE)], SIZE
    )

    assert isinstance(found, Detections)
    assert [thing.kind for thing in truth] == found.classes.tolist()
    assert found.boxes == pytest.approx(np.array([thing.box for thing in truth]), abs=0.1)
    assert found.scores == pytest.approx(np.array([thing.score for thing in truth]), abs=0.005)


def test_rtdetr_that_was_exported_with_its_sizes_is_read_by_other_tables() -> None:
    names = {"labels": "class", "boxes": "x1 y1 x2 y2", "scores": "score"}
    tables = [{"output": output, "columns": columns, "axis": 2} for output, columns in names.items()]
    spec = spec_of("rtdetr", tables=tables, activation="none", multi_label=False, units="pixels")
    truth = things("rtdetr", np.random.default_rng(2), 4)
    outputs = {
        "labels": np.array([[thing.kind for thing in truth]]),
        "boxes": np.array([[thing.box for thing in truth]], np.float32),
        "scores": np.array([[thing.score for thing in truth]], np.float32),
    }

    (found,) = detections_of(spec, outputs, [Wanted(LETTERBOX)], SIZE)

    assert_same(truth, found, LETTERBOX, "rtdetr")


def test_a_yolox_graph_that_decodes_its_boxes_is_read_without_a_grid() -> None:
    truth = things("yolox", np.random.default_rng(2), 4)
    decoded = FAMILIES["yolo5"].blank(1, CLASSES)
    for row, thing in enumerate(truth):
        FAMILIES["yolo5"].write(decoded, 0, row * 9, thing)

    (found,) = detections_of(
        spec_of("yolox", units="pixels"), {"output": decoded["output0"]}, [Wanted(LETTERBOX)], SIZE, fast_suppress()
    )

    assert_same(truth, found, LETTERBOX, "yolox")


@pytest.mark.parametrize("family", ["yolo5", "yolo8"])
def test_rows_and_columns_may_be_the_other_way_round(family: str) -> None:
    outputs = noise(family, np.random.default_rng(4), 2)
    turned = {"output0": np.ascontiguousarray(outputs["output0"].swapaxes(1, 2))}

    one, other = (detections_of(spec_of(family), given, [Wanted(WHOLE)] * 2, SIZE) for given in (outputs, turned))

    for first, second in zip(one, other, strict=True):
        assert isinstance(first, Detections)
        assert isinstance(second, Detections)
        np.testing.assert_array_equal(first.boxes, second.boxes)
        np.testing.assert_array_equal(first.scores, second.scores)
        np.testing.assert_array_equal(first.classes, second.classes)
