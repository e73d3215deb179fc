"""Rings of masks: filled by a plain loop they give the mask back, and simplified ones stay within a pixel."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from convq.answers.polygons import Rings, join, rings, simplified

Mask = NDArray[np.bool_]


def filled(flat: list[list[int]], height: int, width: int) -> list[list[bool]]:
    """Even-odd: a pixel is inside where a ray from its centre to the left crosses the rings an odd number of times."""
    inside = [[False] * width for _ in range(height)]
    for ring in flat:
        points = list(zip(ring[::2], ring[1::2], strict=True))
        for (x1, y1), (x2, y2) in zip(points, points[1:] + points[:1], strict=True):
            for j in range(height):
                y = j + 0.5
                if (y1 > y) != (y2 > y):
                    crossing = x1 + (y - y1) / (y2 - y1) * (x2 - x1)
                    for i in range(width):
                        if i + 0.5 > crossing:
                            inside[j][i] = not inside[j][i]
    return inside


@st.composite
def masks(draw: st.DrawFn) -> Mask:
    height, width = draw(st.integers(1, 14)), draw(st.integers(1, 14))
    share = draw(st.sampled_from([0.0, 0.1, 0.5, 0.8, 1.0]))
    mask: Mask = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).random((height, width)) < share
    return mask


def blobs(height: int = 300, width: int = 400, seed: int = 1, sigma: float = 9.0) -> Mask:
    noise = np.random.default_rng(seed).standard_normal((height, width))
    blurred: Mask = cv2.GaussianBlur(noise, (0, 0), sigma) > 0
    return blurred


@given(masks())
@settings(max_examples=200, deadline=None)
def test_all_rings_together_filled_by_even_and_odd_give_the_mask_back(mask: Mask) -> None:
    assert mask.tolist() == filled(rings(mask.T).flat(), *mask.shape)


@given(masks())
@settings(max_examples=200, deadline=None)
def test_areas_with_their_signs_add_up_to_the_pixels(mask: Mask) -> None:
    assert mask.sum() == rings(mask.T).areas().sum()


@given(masks())
@settings(max_examples=200, deadline=None)
def test_rings_turn_at_each_of_their_points(mask: Mask) -> None:
    found = rings(mask.T)
    steps = found.points[found.following()] - found.points

    assert all((steps[:, 0] == 0) != (steps[:, 1] == 0))
    assert all((steps[found.following()][:, 0] == 0) != (steps[:, 0] == 0))


def test_outer_rings_run_clockwise_and_holes_the_other_way() -> None:
    mask = np.zeros((7, 9), dtype=bool)
    mask[1:6, 2:8] = True
    mask[2:4, 4:6] = False

    assert [[2, 1, 8, 1, 8, 6, 2, 6], [4, 4, 6, 4, 6, 2, 4, 2]] == rings(mask.T).flat()
    assert [30.0, -4.0] == rings(mask.T).areas().tolist()


def test_an_island_in_a_hole_is_a_ring_of_its_own() -> None:
    mask = np.ones((7, 7), dtype=bool)
    mask[1:6, 1:6] = False
    mask[3, 3] = True

    assert [49.0, -25.0, 1.0] == rings(mask.T).areas().tolist()


def test_pixels_that_touch_at_a_corner_are_apart() -> None:
    assert [[0, 0, 1, 0, 1, 1, 0, 1], [1, 1, 2, 1, 2, 2, 1, 2]] == rings(np.eye(2, dtype=bool)).flat()


@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (4, 0), (5, 6)])
def test_an_empty_mask_has_no_rings(shape: tuple[int, int]) -> None:
    found = rings(np.zeros(shape[::-1], dtype=bool))

    assert [] == found.flat() == simplified(found).flat()
    assert [] == found.areas().tolist()


def test_a_mask_of_more_corners_than_accepted_is_refused() -> None:
    mask = np.indices((8, 8)).sum(axis=0) % 2 > 0

    assert 32 == len(rings(mask.T, max_corners=128).firsts)
    with pytest.raises(ValueError, match="128 corners; at most 127"):
        rings(mask.T, max_corners=127)


def test_moved_rings_lie_where_they_belong() -> None:
    assert [[5, 7, 6, 7, 6, 8, 5, 8]] == rings(np.ones((1, 1), dtype=bool)).moved(5, 7).flat()


def distance(point: NDArray[np.int64], ring: list[list[int]]) -> float:
    """Of a point from the nearest edge of a ring, by a plain loop."""
    least = float("inf")
    for (x1, y1), (x2, y2) in zip(ring, ring[1:] + ring[:1], strict=True):
        dx, dy = x2 - x1, y2 - y1
        along = ((point[0] - x1) * dx + (point[1] - y1) * dy) / (dx * dx + dy * dy)
        along = min(1.0, max(0.0, along))
        least = min(least, np.hypot(point[0] - x1 - along * dx, point[1] - y1 - along * dy))
    return least


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("tolerance", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("sigma", [1.5, 9.0])
def test_no_corner_is_farther_from_the_simplified_ring_than_tolerated(
    seed: int, tolerance: float, sigma: float
) -> None:
    exact = rings(blobs(90, 70, seed, sigma).T)
    fewer = simplified(exact, tolerance)

    assert len(fewer.points) < len(exact.points) / (3 if tolerance * sigma >= 9 else 1)
    for first, end, ring in zip(exact.firsts, exact.ends(), fewer.flat(), strict=True):
        corners = [ring[i : i + 2] for i in range(0, len(ring), 2)]
        assert all(distance(point, corners) <= tolerance + 1e-9 for point in exact.points[first:end])


@given(masks(), st.sampled_from([0.5, 1.0, 3.0, 50.0]))
@settings(max_examples=200, deadline=None)
def test_a_simplified_ring_has_an_area_of_the_same_sign_and_points_of_the_mask(mask: Mask, tolerance: float) -> None:
    exact = rings(mask.T)
    fewer = simplified(exact, tolerance)

    assert len(exact.firsts) == len(fewer.firsts)
    assert (fewer.areas() * np.sign(exact.areas()) >= np.abs(exact.areas()) / 2).all()
    for one, other in zip(exact.flat(), fewer.flat(), strict=True):
        assert {tuple(one[i : i + 2]) for i in range(0, len(one), 2)} >= {
            tuple(other[i : i + 2]) for i in range(0, len(other), 2)
        }


@pytest.mark.parametrize("mask", [np.ones((1, 1)), np.ones((1, 40)), np.ones((40, 1)), np.eye(20)])
def test_what_is_one_pixel_wide_does_not_vanish(mask: NDArray[np.float64]) -> None:
    exact = rings(mask.T > 0)

    assert exact.flat() == simplified(exact).flat()


def test_opencv_fills_simplified_rings_to_nearly_the_same_mask() -> None:
    mask = blobs()
    canvas = np.zeros(mask.shape, dtype=np.uint8)
    # with 4 bits of fraction, corners move by half a pixel: OpenCV counts from the centres of pixels
    polygons = [np.array(ring, dtype=np.int32).reshape(-1, 2) * 16 - 8 for ring in simplified(rings(mask.T)).flat()]
    cv2.fillPoly(canvas, polygons, 1, cv2.LINE_8, 4)
    inner = cv2.erode(mask.astype(np.uint8), np.ones((5, 5)), borderValue=1)
    outer = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5)), borderValue=0)

    assert (canvas[inner > 0] == 1).all()
    assert (canvas[outer == 0] == 0).all()


def test_a_point_on_the_line_of_a_chord_but_beyond_its_end_is_kept() -> None:
    points = [[10, 0], [25, -20], [40, 0], [0, 1]]  # the last is 1 from the line through (40, 0) and (10, 0)

    assert points == simplified(Rings(np.array(points), np.array([0]))).points.tolist()


def test_a_spiral_keeps_its_corners_where_splitting_does_not_end() -> None:
    turns = np.array([[i * (-1) ** (i // 2 % 2), i * (-1) ** ((i + 1) // 2 % 2)] for i in range(1, 400)])
    exact = Rings(turns.astype(np.int64), np.array([0]))

    fewer = simplified(exact)

    assert len(fewer.points) > 390


@given(st.lists(masks(), max_size=5))
@settings(max_examples=60, deadline=None)
def test_masks_that_are_simplified_together_become_what_each_becomes_alone(several: list[Mask]) -> None:
    parts = [rings(mask.T) for mask in several]
    together = simplified(join(parts)).split([len(part.firsts) for part in parts])

    assert [simplified(part).flat() for part in parts] == [part.flat() for part in together]
