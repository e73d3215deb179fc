"""Regions of a map: connected as OpenCV connects them, with its smallest rectangles, grown as DB's makers grow them."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from convq.answers.coordinates import Placement
from convq.answers.detections import Detections, Size, Wanted, describe, detections_of
from convq.answers.detections.components import Runs, connected
from convq.answers.detections.hulls import hulls_of, smallest_rectangles
from convq.answers.detections.rectangles import Rectangles
from convq.answers.detections.regions import MOST_REGIONS, means_inside
from convq.errors import ModelFault, NonFinite

SPEC = describe({"family": "db"}, 1)


def labelled(runs: Runs, shape: tuple[int, int]) -> NDArray[np.int64]:
    """Each cell's region, counted from 1; 0 for none."""
    filled = np.zeros(shape, np.int64)
    for row, start, end, region in zip(*runs, strict=True):
        filled[row, start:end] = region + 1
    return filled


def masks() -> dict[str, NDArray[np.bool_]]:
    random = np.random.default_rng(0)
    spiral = np.zeros((41, 41), np.bool_)
    for ring in range(0, 20, 4):
        spiral[ring, ring : 41 - ring] = spiral[ring : 41 - ring, 40 - ring] = True
        spiral[40 - ring, ring : 41 - ring] = spiral[ring + 2 : 41 - ring, ring] = True
        spiral[ring + 2, ring : ring + 4] = True
    return {
        **{f"noise {share}": random.random((60, 83)) < share for share in (0.02, 0.2, 0.4, 0.6, 0.95)},
        "board": (np.indices((20, 21)).sum(axis=0) % 2).astype(np.bool_),
        "spiral": spiral,
        "comb": np.array([[row == 0 or column % 2 == 0 for column in range(30)] for row in range(9)]),
        "rake": np.array([[row == 8 or column % 2 == 0 for column in range(30)] for row in range(9)]),
        "full": np.ones((5, 7), np.bool_),
        "row": np.ones((1, 9), np.bool_),
        "column": np.ones((9, 1), np.bool_),
        "edges": np.eye(12, dtype=np.bool_)[::-1] | np.eye(12, dtype=np.bool_),
    }


MASKS = pytest.mark.parametrize("mask", masks().values(), ids=masks())


@MASKS
def test_cells_are_connected_as_opencv_connects_them(mask: NDArray[np.bool_]) -> None:
    count, expected = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)

    found = labelled(connected(mask), (mask.shape[0], mask.shape[1]))

    pairs = set(zip(expected.ravel().tolist(), found.ravel().tolist(), strict=True))
    assert len({one for one, _ in pairs}) == len({other for _, other in pairs}) == len(pairs)
    assert count - 1 == found.max()


def test_a_mask_without_any_cell_has_no_regions() -> None:
    assert 0 == len(connected(np.zeros((5, 5), np.bool_)).row)


@MASKS
def test_the_smallest_rectangles_are_those_of_opencv_around_all_cells(mask: NDArray[np.bool_]) -> None:
    runs = connected(mask)
    labels = labelled(runs, (mask.shape[0], mask.shape[1]))

    found = smallest_rectangles(hulls_of(runs))

    for region in range(int(runs.region.max()) + 1):
        y, x = np.nonzero(labels == region + 1)
        points = np.stack([x, y], axis=1)
        _, (wide, tall), _ = cv2.minAreaRect(points.astype(np.float32))
        assert 4 * found.half[region].prod() == pytest.approx(wide * tall, rel=1e-4, abs=1e-3)
        corners = found.corners()[region]
        edges = np.roll(corners, -1, axis=0) - corners
        for corner, edge in zip(
            corners, edges, strict=True
        ):  # every cell is inside: to the right of each edge, clockwise
            side = edge[0] * (points[:, 1] - corner[1]) - edge[1] * (points[:, 0] - corner[0])
            assert side.min() >= -1e-6 * np.linalg.norm(edge)


def test_of_too_many_regions_the_largest_are_kept() -> None:
    mask = np.zeros((40, 40), np.bool_)
    mask[::2, ::2] = True
    mask[0:2, 0:3] = mask[20, 10:15] = True

    runs = connected(mask).largest(2)

    assert {0, 1} == set(runs.region.tolist())
    assert {(0, 0, 3), (20, 10, 15)} <= set(zip(runs.row.tolist(), runs.start.tolist(), runs.end.tolist(), strict=True))


def test_of_too_many_runs_the_shortest_are_left_out() -> None:
    mask = np.zeros((9, 30), np.bool_)
    mask[::2, ::3] = True
    mask[3, 0:9] = mask[4, 4:20] = mask[5, 21:23] = True

    found = {most: connected(mask, most) for most in (2, 3, 4, 60)}

    ends = {most: sorted((runs.end - runs.start).tolist()) for most, runs in found.items()}
    assert {2: [9, 17], 3: [2, 9, 17], 4: [2, 9, 17]} == {most: ends[most] for most in (2, 3, 4)}
    assert len(ends[60]) > 40


@pytest.mark.parametrize("degrees", [0, 17, 45, 90, 133, 180])
def test_the_mean_of_a_rectangle_is_that_of_the_cells_that_lie_in_it(degrees: float) -> None:
    random = np.random.default_rng(int(degrees))
    values = random.random((50, 70)).astype(np.float32)
    angle = math.radians(degrees)
    axis = np.array([[math.cos(angle), math.sin(angle)]] * 3)
    rectangles = Rectangles(
        np.array([[30.2, 20.1], [2.0, 3.0], [69.3, 49.2]]), axis, np.array([[12.3, 5.1], [6, 9], [4, 30]])
    )

    found = means_inside(values, rectangles)

    for (cx, cy), (a, b), mean in zip(rectangles.centre, rectangles.half, found, strict=True):
        inside = []
        for j, i in product(range(50), range(70)):
            x, y = i - cx, j - cy
            along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
            if abs(along) <= a + 1e-6 and abs(across) <= b + 1e-6:
                inside.append(float(values[j, i]))
        assert mean == pytest.approx(sum(inside) / len(inside), abs=1e-6)


def drawn(height: int, width: int, *bars: tuple[float, float, float, float, float, float]) -> NDArray[np.float32]:
    """A map with turned bars: centre x, y, half sides, degrees, value."""
    y, x = np.mgrid[:height, :width] + 0.5
    values = np.full((height, width), 0.02, np.float32)
    for cx, cy, a, b, degrees, value in bars:
        cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        along, across = (x - cx) * cosine + (y - cy) * sine, (y - cy) * cosine - (x - cx) * sine
        values[(abs(along) <= a) & (abs(across) <= b)] = value
    return values


def test_bars_become_detections_with_corners_grown_and_best_first() -> None:
    values = drawn(200, 300, (80, 40, 50, 6, 0, 0.8), (150, 130, 90, 10, 20, 0.95), (30, 100, 9, 6, 0, 0.45))
    place = Placement(600, 380, 0.5, 0.5, 0, 10)

    (found,) = detections_of(SPEC, {"maps": values[None, None]}, [Wanted(place)], Size(200, 300))

    assert isinstance(found, Detections)
    assert found.corners is not None
    assert [0.95, 0.8] == pytest.approx(found.scores.tolist(), abs=0.07)  # and no straight edge
    assert [0, 0] == found.classes.tolist()
    grown = 99 * 11 * 1.5 / 220  # from the first cell to the last one
    left, top, right, bottom = 30 - grown, 34 - grown, 129 + grown, 45 + grown
    flat = [(left, top), (right, top), (right, bottom), (left, bottom)]
    assert found.corners[1] == pytest.approx(np.array([(x * 2, (y - 10) * 2) for x, y in flat]), abs=0.011)
    cosine, sine = math.cos(math.radians(20)), math.sin(math.radians(20))
    more = 180 * 20 * 1.5 / 400
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    turned = [(x * (90 + more), y * (10 + more)) for x, y in signs]
    expected = [((150 + x * cosine - y * sine) * 2, (130 + x * sine + y * cosine - 10) * 2) for x, y in turned]
    assert np.abs(found.corners[0] - np.array(expected)).max() < 5  # cells have corners: the bar's is no straight line


def test_a_map_of_half_the_inputs_size_is_scaled_to_it() -> None:
    values = drawn(100, 100, (50, 50, 20, 5, 0, 0.9))

    (found,) = detections_of(SPEC, {"maps": values[None]}, [Wanted(Placement(200, 200))], Size(200, 200))

    assert isinstance(found, Detections)
    grown = 39 * 9 * 1.5 / 96
    box = [30 - grown, 45 - grown, 69 + grown, 54 + grown]
    assert found.boxes[0] == pytest.approx(np.array(box) * 2, abs=0.011)


def test_thin_weak_and_unwanted_regions_are_left_out() -> None:
    values = drawn(60, 60, (30, 10, 20, 1, 0, 0.9), (30, 40, 20, 5, 0, 0.5))
    wanted: dict[str, tuple[dict[str, Any], int]] = {
        "thin and weak": ({}, 0),
        "weak is asked for": ({"min_score": 0.4}, 1),
        "another class": ({"min_score": 0.4, "classes": np.array([1])}, 0),
        "not one": ({"min_score": 0.4, "max_detections": 1}, 1),
    }

    for fields, count in wanted.values():
        (found,) = detections_of(
            SPEC, {"maps": values[None, None]}, [Wanted(Placement(60, 60), **fields)], Size(60, 60)
        )
        assert isinstance(found, Detections)
        assert count == len(found.boxes)
        assert not found.truncated


def test_maps_of_noise_are_bounded_and_maps_of_nothing_are_empty() -> None:
    noise = np.random.default_rng(0).random((2, 1, 400, 400)).astype(np.float32)
    noise[1] = 0

    first, second = detections_of(SPEC, {"maps": noise}, [Wanted(Placement(400, 400), min_score=0)] * 2, Size(400, 400))

    assert isinstance(first, Detections)
    assert isinstance(second, Detections)
    assert len(first.boxes) <= MOST_REGIONS
    assert (0, 4) == second.boxes.shape


def test_a_map_that_is_not_finite_fails_its_job_alone() -> None:
    values = np.zeros((2, 1, 9, 9), np.float32)
    values[0, 0, 3, 3] = np.nan

    first, second = detections_of(SPEC, {"maps": values}, [Wanted(Placement(9, 9))] * 2, Size(9, 9))

    assert isinstance(first, NonFinite)
    assert isinstance(second, Detections)


@pytest.mark.parametrize("shape", [(1, 2, 9, 9), (9, 9), (0, 1, 9, 9)])
def test_an_output_that_is_no_map_is_the_models_fault(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelFault, match="maps has shape"):
        detections_of(SPEC, {"maps": np.zeros(shape, np.float32)}, [Wanted(Placement(9, 9))], Size(9, 9))
