"""Cells of rows, and boxes relative to them, each against a loop over all cells in their order."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from convq.answers.coordinates import Placement
from convq.answers.detections import Detections, Size, Wanted, describe, detections_of
from convq.answers.detections.grid import GridSpec, boxes_on, cells_of, keypoints_on, rows_expected

HEIGHT, WIDTH = 64, 96


def every_cell(spec: GridSpec, height: int, width: int) -> list[tuple[float, ...]]:
    """(i, j, stride, prior) of all rows."""
    sizes = spec.min_sizes or [(1.0,) * spec.per_cell] * len(spec.strides)
    return [
        (i, j, stride, side)
        for stride, sides in zip(spec.strides, sizes, strict=True)
        for j, i in product(range(math.ceil(height / stride)), range(math.ceil(width / stride)))
        for side in sides
    ]


@pytest.mark.parametrize(
    "spec",
    [
        GridSpec("exp"),
        GridSpec("distance", per_cell=2),
        GridSpec("exp", strides=(4,)),
        GridSpec("prior", strides=(8, 16), min_sizes=((16, 32), (64, 128, 256)), point=0.5),
    ],
    ids=str,
)
@pytest.mark.parametrize(("height", "width"), [(64, 96), (90, 50)])
def test_rows_run_over_strides_lines_cells_and_what_is_in_a_cell(spec: GridSpec, height: int, width: int) -> None:
    expected = every_cell(spec, height, width)

    cells = cells_of(spec, np.arange(len(expected)), height, width)

    assert len(expected) == rows_expected(spec, height, width)
    assert expected == [
        (i, j, stride, side)
        for (i, j), (stride,), (side,) in zip(
            cells.cell.tolist(), cells.stride.tolist(), cells.prior.tolist(), strict=True
        )
    ]


def test_equal_strides_that_follow_one_another_are_one_level() -> None:
    spec = GridSpec("offset", strides=(8, 16, 16, 16), per_cell=2)
    cells = cells_of(spec, np.arange(896), 128, 128)

    assert 896 == rows_expected(spec, 128, 128)
    assert [(0, 0, 8)] * 2 + [(1, 0, 8)] == [(*cells.cell[row], *cells.stride[row]) for row in range(3)]
    assert [(0, 0, 16)] * 6 + [(1, 0, 16)] == [(*cells.cell[row], *cells.stride[row]) for row in range(512, 519)]


def test_priors_are_decoded_by_their_variances() -> None:
    spec = GridSpec("prior", strides=(16,), min_sizes=((40.0, 80.0),), point=0.5, variances=(0.1, 0.2))
    rows = np.array([0, 7])
    cells = cells_of(spec, rows, 32, 64)
    values = np.array([[1.0, -2.0, 0.5, 0.0], [0.3, 0.2, -1.0, 2.0]])

    boxes = boxes_on(spec, cells, values)
    points = keypoints_on(spec, cells, np.array([[[1.0, 2.0]], [[-1.0, 0.5]]]))

    for row, (box, point) in enumerate(zip(boxes.tolist(), points.tolist(), strict=True)):
        px, py, side = [(8, 8, 40), (56, 8, 80)][row]
        x, y, w, h = values[row]
        cx, cy = px + x * 0.1 * side, py + y * 0.1 * side
        wide, tall = side * math.exp(w * 0.2), side * math.exp(h * 0.2)
        assert box == pytest.approx([cx - wide / 2, cy - tall / 2, cx + wide / 2, cy + tall / 2])
        dx, dy = [(1, 2), (-1, 0.5)][row]
        assert point[0] == pytest.approx([px + dx * 0.1 * side, py + dy * 0.1 * side])


def test_heads_of_a_grid_with_binned_sides_give_the_boxes_of_a_plain_loop() -> None:
    random = np.random.default_rng(0)
    classes, bins = 3, 8
    outputs = {
        f"head_{stride}": random.normal(0, 2, (2, 4 * bins + classes, HEIGHT // stride, WIDTH // stride)).astype(
            np.float32
        )
        for stride in (8, 16, 32)
    }
    table = {"outputs": list(outputs), "columns": "l t r b classes"}
    grid = {"decode": "dfl", "strides": [8, 16, 32], "bins": bins, "point": 0.5}
    spec = describe(
        {"activation": "sigmoid", "nms": "none", "max_detections": 999, "grid": grid, "tables": [table]}, classes
    )

    found = detections_of(spec, outputs, [Wanted(Placement(WIDTH, HEIGHT), min_score=0.8)] * 2, Size(HEIGHT, WIDTH))

    for job, answer in enumerate(found):
        expected = []
        for stride in (8, 16, 32):
            head = outputs[f"head_{stride}"][job].astype(np.float64)
            for j, i in product(range(HEIGHT // stride), range(WIDTH // stride)):
                score = 1 / (1 + math.exp(-head[4 * bins :, j, i].max()))
                sides = []
                for side in range(4):
                    powers = np.exp(head[side * bins : side * bins + bins, j, i])
                    sides.append(float((powers * np.arange(bins)).sum() / powers.sum()) * stride)
                x, y = (i + 0.5) * stride, (j + 0.5) * stride
                box = [max(x - sides[0], 0), max(y - sides[1], 0), min(x + sides[2], WIDTH), min(y + sides[3], HEIGHT)]
                if score >= 0.8:
                    expected.append((score, box))
        assert isinstance(answer, Detections)
        expected.sort(key=lambda one: -one[0])
        assert [score for score, _ in expected] == pytest.approx(answer.scores.tolist(), abs=1e-6)
        assert answer.boxes == pytest.approx(np.array([box for _, box in expected]), abs=0.011)


def test_heads_with_several_rows_a_cell_are_read_cell_by_cell() -> None:
    """[n, per_cell * columns, h, w]: insightface's own reading, permute(0, 2, 3, 1).reshape(-1, columns)."""
    random = np.random.default_rng(1)
    heads = {
        f"{name}_{stride}": random.uniform(0.3, 1, (2, 2 * columns, HEIGHT // stride, WIDTH // stride)).astype(
            np.float32
        )
        for stride in (8, 16, 32)
        for name, columns in (("score", 1), ("bbox", 4), ("kps", 10))
    }
    columns = {"score": 1, "bbox": 4, "kps": 10}
    rows = {
        name: head.transpose(0, 2, 3, 1).reshape(2, -1, columns[name.partition("_")[0]]) for name, head in heads.items()
    }
    spec, jobs = describe({"family": "scrfd"}, 1), [Wanted(Placement(WIDTH, HEIGHT))] * 2

    read, expected = (detections_of(spec, outputs, jobs, Size(HEIGHT, WIDTH)) for outputs in (heads, rows))

    for one, other in zip(read, expected, strict=True):
        assert isinstance(one, Detections)
        assert isinstance(other, Detections)
        assert len(one.boxes) > 5
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.keypoints, other.keypoints)
