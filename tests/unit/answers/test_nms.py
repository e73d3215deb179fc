"""Non-maximum suppression: convq's own in numpy and onnxruntime's, against a plain loop and ONNX's own cases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from convq.answers.detections.nms import Suppress, averaged, groups, overlap, set_apart, suppress
from convq.engine.kernels.suppression import _graph, fast_suppress

BOTH = pytest.mark.parametrize("method", [suppress, fast_suppress()], ids=["numpy", "onnxruntime"])


def plain(boxes: NDArray[np.float32], iou: float, most: int) -> list[int]:
    """One box after the other, in float32, against all that are kept."""
    kept: list[int] = []
    for number, box in enumerate(boxes):
        if len(kept) < most and not any(share(boxes[better], box) > np.float32(iou) for better in kept):
            kept.append(number)
    return kept


def share(one: NDArray[np.float32], other: NDArray[np.float32]) -> np.float32:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    tall = min(one[3], other[3]) - max(one[1], other[1])
    if wide <= 0 or tall <= 0:
        return np.float32(0)
    common = wide * tall
    return np.float32(
        common / ((one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1]) - common)
    )


def crowd(random: np.random.Generator, count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Boxes with corners on whole pixels, so that overlaps and areas are often the same, and scores with many ties."""
    corner = random.integers(0, 60, (count, 2))
    boxes = np.concatenate([corner, corner + random.integers(0, 30, (count, 2))], axis=1).astype(np.float32)
    return boxes, np.sort(random.integers(1, 20, count).astype(np.float32))[::-1] / np.float32(20)


@BOTH
@pytest.mark.parametrize("iou", [0.0, 0.3, 0.5, 1 / 3, 0.9, 1.0])
def test_the_kept_boxes_are_those_of_a_plain_loop(method: Suppress, iou: float) -> None:
    random = np.random.default_rng(int(iou * 100))
    for count in (1, 2, 40, 129, 400):
        boxes, scores = crowd(random, count)

        assert plain(boxes, iou, 1000) == method(boxes, scores, iou, 1000).tolist()


@BOTH
def test_no_more_are_kept_than_asked_for(method: Suppress) -> None:
    boxes, scores = crowd(np.random.default_rng(5), 300)
    every = method(boxes, scores, 0.4, 1000).tolist()

    for most in (1, 7, 40):
        assert every[:most] == method(boxes, scores, 0.4, most).tolist()


@BOTH
def test_of_no_boxes_none_is_kept(method: Suppress) -> None:
    assert [] == method(np.empty((0, 4), np.float32), np.empty(0, np.float32), 0.5, 10).tolist()


@BOTH
def test_a_long_chain_of_boxes_is_followed_link_by_link(method: Suppress) -> None:
    count = 500
    x = np.arange(count, dtype=np.float32)
    boxes = np.stack([x, np.zeros_like(x), x + 2.5, np.ones_like(x)], axis=1)  # each overlaps the next by 1.5 of 3.5
    scores = np.linspace(1, 0.5, count, dtype=np.float32)

    assert list(range(0, count, 2)) == method(boxes, scores, 0.4, count).tolist()


@BOTH
def test_boxes_without_area_overlap_nothing(method: Suppress) -> None:
    boxes = np.array([[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 2, 2], [1, 0, 1, 2]], np.float32)

    assert [0, 1, 2, 3] == method(boxes, np.array([0.9, 0.8, 0.7, 0.6], np.float32), 0.0, 9).tolist()


@BOTH
def test_the_cases_of_the_onnx_standard_come_out(method: Suppress, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each class of each batch by itself, boxes as corners in order, scores above the threshold, best first."""
    standard = pytest.importorskip("onnx.backend.test.case.node.nonmaxsuppression")
    cases: list[tuple[Any, list[NDArray[Any]], NDArray[Any], str]] = []
    monkeypatch.setattr(
        standard, "expect", lambda node, inputs, outputs, name: cases.append((node, inputs, outputs[0], name))
    )
    for name in dir(standard.NonMaxSuppression):
        if name.startswith("export_"):
            getattr(standard.NonMaxSuppression, name)()

    assert len(cases) >= 9
    for node, (boxes, scores, most, iou, threshold), expected, name in cases:
        centred = any(one.name == "center_point_box" and one.i for one in node.attribute)
        found = []
        for batch, kind in np.ndindex(scores.shape[:2]):
            order = np.argsort(-scores[batch, kind], kind="stable")
            order = order[scores[batch, kind, order] > threshold[0]]
            given = corners(boxes[batch, order], centred=centred), scores[batch, kind, order]
            found += [[batch, kind, int(order[one])] for one in method(*given, float(iou[0]), int(most[0]))]
        assert expected.tolist() == found, name


def corners(boxes: NDArray[np.float32], *, centred: bool) -> NDArray[np.float32]:
    first, second = boxes[:, :2], boxes[:, 2:]
    ends = (first - second / 2, first + second / 2) if centred else (first, second)
    return np.concatenate([np.minimum(*ends), np.maximum(*ends)], axis=1).astype(np.float32)


@BOTH
@pytest.mark.parametrize("classes", [1, 2, 80, 900])
def test_boxes_of_different_classes_are_compared_with_their_own_alone(method: Suppress, classes: int) -> None:
    random = np.random.default_rng(classes)
    boxes, scores = crowd(random, 500)
    boxes = boxes * np.float32(10)
    kinds = random.integers(0, classes, len(boxes)) * 70  # numbers with gaps
    expected = []
    for kind in np.unique(kinds):
        members = np.flatnonzero(kinds == kind)
        expected += members[plain(boxes[members], 0.45, 1000)].tolist()

    found = method(set_apart(boxes, kinds), scores, 0.45, 1000).tolist()

    assert sorted(expected) == found


def test_fields_of_hundreds_of_classes_cost_no_precision() -> None:
    random = np.random.default_rng(0)
    corner = random.uniform(0, 600, (900, 2)).astype(np.float32)
    boxes = np.concatenate([corner, corner + 40], axis=1)

    apart = set_apart(boxes, np.arange(900))

    assert np.abs((apart[:, 2:] - apart[:, :2]) - (boxes[:, 2:] - boxes[:, :2])).max() < 0.003
    assert not np.triu(overlap(apart, apart, 0.0), k=1).any()


def test_a_group_is_averaged_by_its_scores_and_belongs_to_the_first_that_it_overlaps() -> None:
    boxes = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [1, 0, 11, 10], [9, 0, 21, 10], [50, 0, 50, 0]], np.float32)
    scores = np.array([0.9, 0.8, 0.6, 0.5, 0.4], np.float32)
    kept = np.array([0, 1, 3, 4])

    owner = groups(boxes, kept, 0.3)

    assert [0, 1, 0, 2, 3] == owner.tolist()
    mean = averaged(boxes.astype(np.float64), scores, owner, kept)
    assert mean[0] == pytest.approx(np.array([0.4, 0, 10.4, 10]), abs=1e-6)
    assert boxes[[1, 3, 4]].tolist() == pytest.approx(mean[1:])


def test_a_group_without_any_score_stays_where_its_best_is() -> None:
    values: NDArray[Any] = np.array([[1.0], [3.0]])

    assert [[1.0]] == averaged(values, np.zeros(2, np.float32), np.zeros(2, np.intp), np.array([0])).tolist()


def test_the_graph_of_one_operator_is_valid_by_the_standard() -> None:
    onnx = pytest.importorskip("onnx")

    onnx.checker.check_model(onnx.load_from_string(_graph()), full_check=True)
