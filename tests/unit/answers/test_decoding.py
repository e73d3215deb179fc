"""What becomes of rows that are odd, hostile or many, what a job may ask for, and how batches are told apart."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from convq.answers.coordinates import Placement
from convq.answers.detections import Detections, DetectionsSpec, Size, Wanted, describe, detections_of
from convq.answers.detections.candidates import MOST_CANDIDATES
from convq.engine.kernels.suppression import fast_suppress
from convq.errors import ModelFault, NonFinite

SIZE = Size(100, 200)
WHOLE = Placement(200, 100)
ROWS: dict[str, Any] = {
    "family": "yolo10",
    "tables": [{"output": "out", "columns": "x1 y1 x2 y2 score class", "axis": 2}],
}
DENSE: dict[str, Any] = {"tables": [{"output": "out", "columns": "x1 y1 x2 y2 classes", "axis": 2}]}


def found(given: dict[str, Any], rows: Any, classes: int = 3, dtype: Any = np.float32, **fields: Any) -> Detections:
    """The detections of one job."""
    answer = answered(given, rows, classes, dtype, **fields)
    assert isinstance(answer, Detections), answer
    return answer


def answered(
    given: dict[str, Any], rows: Any, classes: int = 3, dtype: Any = np.float32, **fields: Any
) -> Detections | NonFinite:
    values = np.array([rows], dtype=dtype)
    job = Wanted(**{"placement": WHOLE, **fields})
    return detections_of(describe(given, classes), {"out": values}, [job], SIZE)[0]


BOX = [10, 20, 30, 40]


# ------------------------------------------------------------------------------------------------------------ odd rows


def test_rows_whose_score_is_no_number_are_below_every_threshold() -> None:
    rows = [[*BOX, math.nan, 0], [math.nan] * 6, [*BOX, 0.5, 1], [*BOX, -math.inf, 1]]

    assert [1] == found(ROWS, rows).classes.tolist()
    assert [1] == found(ROWS, rows, min_score=0).classes.tolist()


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_a_box_that_is_not_finite_fails_its_job_if_it_passed_the_threshold(odd: float) -> None:
    for column in range(4):
        row: list[float] = [*BOX, 0.4, 1]
        row[column] = odd

        assert isinstance(answered(ROWS, [[*BOX, 0.9, 0], row]), NonFinite)
        assert [0] == found(ROWS, [[*BOX, 0.9, 0], row], min_score=0.5).classes.tolist()


def test_a_score_of_infinity_fails_its_job() -> None:
    assert isinstance(answered(ROWS, [[*BOX, math.inf, 0]]), NonFinite)


def test_keypoints_and_weights_that_are_not_finite_fail_their_job_where_they_are_kept() -> None:
    table = {"output": "out", "columns": "x1 y1 x2 y2 score keypoints:1x2"}

    for point in ([1, math.nan], [math.inf, 1]):
        rows = [[*BOX, 0.9, 5, 5], [*BOX, 0.3, *point]]
        assert isinstance(answered({"tables": [table], "nms": "none"}, rows), NonFinite)
        assert 1 == len(found({"tables": [table], "nms": "class"}, rows).boxes)


def test_one_job_that_fails_leaves_its_neighbours_alone() -> None:
    values = np.array([[[*BOX, 0.9, 0]], [[math.nan, 1, 2, 3, 0.9, 0]], [[*BOX, 0.8, 2]]], dtype=np.float32)

    answers = detections_of(describe(ROWS, 3), {"out": values}, [Wanted(WHOLE)] * 3, SIZE)

    assert [Detections, NonFinite, Detections] == [type(answer) for answer in answers]


@pytest.mark.parametrize("number", [-1, -2, 1e30, -1e30, 3e38, math.nan, math.inf, -math.inf, 65536])
def test_a_class_number_that_is_none_makes_no_detection(number: float) -> None:
    assert [2] == found(ROWS, [[*BOX, 0.9, number], [*BOX, 0.8, 2]]).classes.tolist()


def test_a_class_that_has_no_label_is_a_detection_all_the_same() -> None:
    assert [91, 2] == found(ROWS, [[*BOX, 0.9, 91], [*BOX, 0.8, 1.9999]]).classes.tolist()


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, np.float16])
def test_class_numbers_may_have_any_type(dtype: Any) -> None:
    tables = [
        {"output": name, "columns": columns, "axis": 2}
        for name, columns in (("boxes", "x1 y1 x2 y2"), ("scores", "score"), ("labels", "class"))
    ]
    spec = describe({"tables": tables, "nms": "none", "class_base": 1}, 3)
    outputs = {
        "boxes": np.array([[BOX] * 4], np.float32),
        "scores": np.array([[0.9, 0.8, 0.7, 0.6]], np.float32),
        "labels": np.array([[3, 0, 1, 91]]).astype(dtype),
    }

    (answer,) = detections_of(spec, outputs, [Wanted(WHOLE)], SIZE)

    assert isinstance(answer, Detections)
    assert [2, 0, 90] == answer.classes.tolist()


def test_huge_class_numbers_of_whole_type_are_none() -> None:
    tables = [{"output": "b", "columns": "x1 y1 x2 y2 score"}, {"output": "c", "columns": "class"}]
    outputs = {"b": np.array([[[*BOX, 0.9]] * 3], np.float32), "c": np.array([[2**62, -(2**63), 1]])}

    (answer,) = detections_of(describe({"tables": tables}, 3), outputs, [Wanted(WHOLE)], SIZE)

    assert isinstance(answer, Detections)
    assert [1] == answer.classes.tolist()


@pytest.mark.parametrize("method", [None, fast_suppress()], ids=["numpy", "onnxruntime"])
def test_boxes_of_any_size_are_cut_and_disturb_no_others(method: Any) -> None:
    huge = 1e38
    rows = [[-huge, -huge, huge, huge, 0.9, 0], [*BOX, 0.8, 1], [11, 20, 31, 40, 0.7, 1], [50, 50, huge, 60, 0.6, 2]]
    more = {"suppress": method} if method else {}
    spec = describe({**ROWS, "nms": "class"}, 3)

    (answer,) = detections_of(spec, {"out": np.array([rows], np.float32)}, [Wanted(WHOLE)], SIZE, **more)

    assert isinstance(answer, Detections)
    assert [[0, 0, 200, 100], BOX, [50, 50, 200, 60]] == answer.boxes.tolist()


def test_corners_that_were_exchanged_are_put_in_order() -> None:
    assert [BOX] == found(ROWS, [[30, 40, 10, 20, 0.9, 0]]).boxes.tolist()


@pytest.mark.parametrize("columns", ["x1 y1 x2 y2 score class", "x1 y1 x2 y2 classes"])
@pytest.mark.parametrize("more", [0, 1])
def test_an_answer_from_the_best_candidates_alone_says_that_it_is_cut(columns: str, more: int) -> None:
    rows = np.tile(np.array([*BOX, 0.9, 0], dtype=np.float32), (MOST_CANDIDATES + more, 1))
    tables = [{"output": "out", "columns": columns, "axis": 2}]
    given = {"nms": "class", "multi_label": "classes" in columns, "tables": tables}

    answer = found(given, rows, classes=2, min_score=0.5)

    assert (1, bool(more)) == (len(answer.boxes), answer.truncated)


def test_other_classes_take_no_room_from_those_that_are_asked_for() -> None:
    scores = np.tile(np.array([0.9, 0.5], dtype=np.float32), (MOST_CANDIDATES + 1, 1))
    rows = np.hstack([np.tile(np.array(BOX, dtype=np.float32), (len(scores), 1)), scores])
    given = {"multi_label": True, "tables": [{"output": "out", "columns": "x1 y1 x2 y2 classes", "axis": 2}]}

    job = Wanted(WHOLE, min_score=0.1, classes=np.array([1]))
    (answer,) = detections_of(describe(given, 2), {"out": rows[None]}, [job], SIZE)

    assert isinstance(answer, Detections)
    assert [1] == answer.classes.tolist()


def test_what_has_no_area_within_the_picture_is_no_detection() -> None:
    rows = [[5, 5, 5, 9, 0.9, 0], [0, 0, 50, 9, 0.8, 0], [0, 8, 50, 12, 0.7, 1], [201, 20, 210, 30, 0.6, 0]]

    answer = found(ROWS, rows, placement=Placement(200, 80, 1, 1, 0, 10))

    assert [1] == answer.classes.tolist()
    assert [[0, 0, 50, 2]] == answer.boxes.tolist()


@pytest.mark.parametrize("shape", [(1, 0, 6), (1, 0, 7)])
def test_no_rows_are_no_detections(shape: tuple[int, ...]) -> None:
    dense = shape[2] == 7
    (answer,) = detections_of(
        describe(DENSE if dense else ROWS, 3), {"out": np.zeros(shape, np.float32)}, [Wanted(WHOLE)], SIZE
    )

    assert isinstance(answer, Detections)
    assert ((0, 4), (0,), (0,), False) == (
        answer.boxes.shape,
        answer.scores.shape,
        answer.classes.shape,
        answer.truncated,
    )


# ----------------------------------------------------------------------------------------------------- what jobs ask for


def scattered(count: int) -> NDArray[np.float32]:
    """Rows of `yolo10`, apart from each other, best first."""
    rows = np.zeros((count, 6), np.float32)
    rows[:, 0], rows[:, 1] = np.arange(count) % 190, np.arange(count) // 190 * 2
    rows[:, 2:4] = rows[:, :2] + 1
    rows[:, 4], rows[:, 5] = np.linspace(0.99, 0.5, count), np.arange(count) % 3
    return rows


def test_at_most_so_many_are_answered_and_it_is_said_that_there_were_more() -> None:
    rows = scattered(20)

    assert (20, False) == (len(found(ROWS, rows).boxes), found(ROWS, rows).truncated)
    assert (20, False) == (
        len(found(ROWS, rows, max_detections=20).boxes),
        found(ROWS, rows, max_detections=20).truncated,
    )
    assert (19, True) == (
        len(found(ROWS, rows, max_detections=19).boxes),
        found(ROWS, rows, max_detections=19).truncated,
    )
    assert (3, True) == (
        len(found({**ROWS, "nms": "class"}, rows, max_detections=3).boxes),
        found({**ROWS, "nms": "class"}, rows, max_detections=3).truncated,
    )


def test_only_the_classes_that_are_asked_for_are_detections_and_count() -> None:
    job = Wanted(WHOLE, max_detections=7, classes=np.array([1]))

    (only,) = detections_of(describe(ROWS, 3), {"out": scattered(20)[None]}, [job], SIZE)

    assert isinstance(only, Detections)
    assert [1] * 7 == only.classes.tolist()
    assert not only.truncated


def test_an_overlap_that_a_job_gives_is_applied_though_the_model_needs_none() -> None:
    rows = [[*BOX, 0.9, 0], [11, 20, 31, 40, 0.8, 0], [10, 20, 30, 40, 0.7, 1]]

    assert 3 == len(found(ROWS, rows).boxes)
    assert [0.9, 0.7] == found(ROWS, rows, iou=0.5).scores.tolist()
    assert 3 == len(found(ROWS, rows, iou=0.95).boxes)
    assert [0.9] == found({**ROWS, "nms": "agnostic"}, rows).scores.tolist()


def test_a_score_of_just_the_threshold_passes() -> None:
    assert [0.3] == found(ROWS, [[*BOX, 0.3, 0]], min_score=0.3).scores.tolist()


def test_every_class_above_the_threshold_is_a_detection_where_the_model_says_so() -> None:
    rows = [[*BOX, 0.9, 0.2, 0.6], [50, 50, 60, 60, 0.1, 0.7, 0.05]]

    many = found({**DENSE, "multi_label": True}, rows)

    assert [(0.9, 0), (0.7, 1), (0.6, 2)] == list(zip(many.scores.tolist(), many.classes.tolist(), strict=True))
    assert [0, 1] == found(DENSE, rows).classes.tolist()


def test_equal_scores_stay_in_the_order_of_their_rows() -> None:
    rows = scattered(50)
    rows[:, 4] = 0.5

    assert [[x, y] for x, y, *_ in rows.tolist()] == found(ROWS, rows).boxes[:, :2].tolist()


def test_of_too_many_candidates_the_best_are_looked_at_and_of_equal_ones_the_first() -> None:
    count = MOST_CANDIDATES + 500
    rows = np.zeros((count, 7), np.float32)
    rows[:, :4] = BOX
    rows[:, 4] = 0.5
    rows[-10:, 5] = 0.9  # the last ones are the best, and of class 1
    rows[MOST_CANDIDATES - 10 :, :4] = [100, 20, 130, 40]

    answer = found(DENSE, rows)

    assert [(0.9, 1), (0.5, 0)] == list(zip(answer.scores.tolist(), answer.classes.tolist(), strict=True))
    assert [[100, 20, 130, 40], BOX] == answer.boxes.tolist()


# ------------------------------------------------------------------------------------------------------------- batches


def rows_of(*jobs: list[list[float]]) -> NDArray[np.float32]:
    return np.array([row for job in jobs for row in job], dtype=np.float32).reshape(sum(map(len, jobs)), -1)


FIRST = [[*BOX, 0.9, 0], [50, 50, 60, 60, 0.8, 1]]
THIRD = [[*BOX, 0.7, 2]]


def kinds(answers: list[Detections | NonFinite]) -> list[list[int]]:
    return [answer.classes.tolist() for answer in answers if isinstance(answer, Detections)]


@pytest.mark.parametrize("axes", [0, 1, 2])
def test_rows_that_name_their_job_go_to_it(axes: int) -> None:
    """[N, 7], [1, N, 7], and SSD's [1, 1, N, 7]; rows of jobs that are not there are nobody's."""
    rows = rows_of(
        [[2, *THIRD[0]]],
        [[0, *row] for row in FIRST],
        [[-1, *BOX, 0.9, 0], [3, *BOX, 0.9, 0], [math.nan, *BOX, 0.9, 0]],
    )
    given = {
        "batch": "column",
        "nms": "none",
        "tables": [{"output": "out", "columns": "batch x1 y1 x2 y2 score class"}],
    }

    answers = detections_of(describe(given, 3), {"out": rows[(None,) * axes]}, [Wanted(WHOLE)] * 3, SIZE)

    assert [[0, 1], [], [2]] == kinds(answers)


def test_rows_of_all_jobs_are_told_apart_by_their_counts() -> None:
    given = {**ROWS, "batch": "counts", "counts": "many"}
    outputs = {"out": rows_of(FIRST, [], THIRD), "many": np.array([2, 0, 1], np.int32)}

    assert [[0, 1], [], [2]] == kinds(detections_of(describe(given, 3), outputs, [Wanted(WHOLE)] * 3, SIZE))
    empty: dict[str, Any] = {"out": np.zeros((0, 6), np.float32), "many": np.zeros((2, 1), np.int64)}
    assert [[], []] == kinds(detections_of(describe(given, 3), empty, [Wanted(WHOLE)] * 2, SIZE))


@pytest.mark.parametrize("counts", [[2, 2], [3, -1], [2], [math.nan, 1], [1e30, 0]])
def test_counts_that_do_not_fit_the_rows_are_the_models_fault(counts: list[float]) -> None:
    given = {**ROWS, "batch": "counts", "counts": "many"}
    outputs: dict[str, Any] = {"out": rows_of(FIRST, THIRD), "many": np.array(counts, np.float32)}

    with pytest.raises(ModelFault, match="many"):
        detections_of(describe(given, 3), outputs, [Wanted(WHOLE)] * 2, SIZE)


def test_counts_of_rows_with_a_batch_axis_say_where_the_padding_begins() -> None:
    given = {**ROWS, "counts": "many"}
    outputs = {"out": np.array([FIRST, FIRST], np.float32), "many": np.array([1, 9], np.float32)}

    assert [[0], [0, 1]] == kinds(detections_of(describe(given, 3), outputs, [Wanted(WHOLE)] * 2, SIZE))


@pytest.mark.parametrize("axes", [0, 1])
def test_a_graph_without_batch_axis_answers_one_job(axes: int) -> None:
    spec = describe({**ROWS, "batch": "none"}, 3)
    outputs = {"out": rows_of(FIRST)[(None,) * axes]}

    assert [[0, 1]] == kinds(detections_of(spec, outputs, [Wanted(WHOLE)], SIZE))
    with pytest.raises(ModelFault, match="one job at a time"):
        detections_of(spec, outputs, [Wanted(WHOLE)] * 2, SIZE)


def test_what_a_graph_says_of_more_jobs_than_there_are_is_left_out() -> None:
    outputs = {"out": np.array([FIRST, FIRST, FIRST], np.float32)}

    assert [[0, 1]] * 2 == kinds(detections_of(describe(ROWS, 3), outputs, [Wanted(WHOLE)] * 2, SIZE))


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ({}, "output out is missing"),
        ({"out": np.zeros((1, 5, 7), np.float32)}, r"out has shape \[1, 5, 7\]; expected 6 columns"),
        ({"out": np.zeros((5, 6), np.float32)}, r"out has shape \[5, 6\]; expected rows of 6 columns"),
        ({"out": np.zeros((0, 5, 6), np.float32)}, "for a batch of 1"),
        ({"out": np.zeros(6, np.float32)}, "expected rows of 6 columns"),
        ({"out": np.array([["a"]])}, "expected numbers"),
    ],
)
def test_outputs_of_another_shape_are_the_models_fault(outputs: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelFault, match=said):
        detections_of(describe(ROWS, 3), outputs, [Wanted(WHOLE)], SIZE)


def test_tables_with_different_rows_and_grids_of_another_size_are_the_models_fault() -> None:
    outputs = {"logits": np.zeros((1, 9, 4), np.float32), "pred_boxes": np.zeros((1, 8, 4), np.float32)}
    with pytest.raises(ModelFault, match="logits has 9, pred_boxes has 8"):
        detections_of(describe({"family": "detr"}, 3), outputs, [Wanted(WHOLE)], SIZE)
    with pytest.raises(ModelFault, match=r"the outputs have 90 rows; .* 200 x 100 pixels has 444"):
        detections_of(
            describe({"family": "yolox"}, 3), {"output": np.zeros((1, 90, 8), np.float32)}, [Wanted(WHOLE)], SIZE
        )


# --------------------------------------------------------------------------------------------------------------- angles


def turned_spec() -> DetectionsSpec:
    return describe({"tables": [{"output": "out", "columns": "cx cy w h score angle"}]}, 1)


def test_a_turned_box_has_corners_and_the_rectangle_around_them() -> None:
    values = np.array([[[100, 50, 40, 20, 0.9, math.radians(30)], [30, 30, 20, 10, 0.8, math.pi / 2]]], np.float32)

    (answer,) = detections_of(turned_spec(), {"out": values}, [Wanted(WHOLE)], SIZE)

    assert isinstance(answer, Detections)
    assert answer.corners is not None
    cosine, sine = math.cos(math.radians(30)), math.sin(math.radians(30))
    expected = [
        (100 + x * cosine - y * sine, 50 + x * sine + y * cosine)
        for x, y in ((-20, -10), (20, -10), (20, 10), (-20, 10))
    ]
    assert answer.corners[0] == pytest.approx(np.array(expected), abs=0.006)
    assert [[25, 20], [35, 20], [35, 40], [25, 40]] == answer.corners[1].tolist()
    for box, corners in zip(answer.boxes, answer.corners, strict=True):
        assert box == pytest.approx(np.array([*corners.min(axis=0), *corners.max(axis=0)]), abs=0.011)


def test_an_angle_that_is_not_finite_fails_its_job() -> None:
    values = np.array([[[100, 50, 40, 20, 0.9, math.inf]]], np.float32)

    assert isinstance(detections_of(turned_spec(), {"out": values}, [Wanted(WHOLE)], SIZE)[0], NonFinite)


def test_where_every_class_of_every_row_passes_the_best_are_looked_at() -> None:
    random = np.random.default_rng(0)
    rows = np.zeros((4000, 4 + 300), np.float32)
    rows[:, :4] = np.stack(
        [np.arange(4000) % 60 * 3, np.arange(4000) // 60, np.arange(4000) % 60 * 3 + 2, np.arange(4000) // 60 + 1],
        axis=1,
    )
    rows[:, 4:] = random.permutation(4000 * 300).reshape(4000, 300) / (4000 * 300)
    best = np.argsort(-rows[:, 4:], axis=None)[:1000]

    answer = found({**DENSE, "multi_label": True, "nms": "none", "max_detections": 1000}, rows, 300, min_score=0)

    assert (best % 300).tolist() == answer.classes.tolist()
    assert rows[best // 300, :2].tolist() == answer.boxes[:, :2].tolist()
    assert answer.truncated
