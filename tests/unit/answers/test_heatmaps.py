"""Named points: from coordinates and from maps, in pixels of the picture."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from convq.answers.coordinates import Placement
from convq.answers.heatmaps import keypoints
from convq.errors import ModelFault, NonFinite

SAME = Placement(64, 48)
HALF = Placement(100, 60, 0.5, 0.5, 7.0, 9.0)
"""A picture of 100 x 60 as 50 x 30, 7 from the left and 9 from the top of an input of 64 x 48."""
SIZE = (48, 64)


@pytest.mark.parametrize("shape", [(6,), (6, 1, 1), (3, 2), (1, 3, 2)])
def test_pairs_are_points_of_the_input_brought_back_to_the_picture(shape: tuple[int, ...]) -> None:
    values = np.array([7, 9, 32, 24, 5, 57.005], dtype=np.float32).reshape(shape)

    assert [[0.0, 0.0], [50.0, 30.0], [-4.0, 96.01]] == keypoints(values, 3, HALF, SIZE)


@pytest.mark.parametrize("shape", [(6,), (2, 3), (1, 6)])
def test_triples_have_scores(shape: tuple[int, ...]) -> None:
    values = np.array([7, 9, 0.25, 32, 24, 0.5], dtype=np.float32).reshape(shape)
    found = keypoints(values, 2, HALF, SIZE)

    assert [[0.0, 0.0, 0.25], [50.0, 30.0, 0.5]] == found
    assert found == json.loads(json.dumps(found))


def test_scores_alone_are_activated() -> None:
    values = np.array([7, 9, 0.0, 32, 24, 1000.0], dtype=np.float32)

    assert [[0.0, 0.0, 0.5], [50.0, 30.0, 1.0]] == keypoints(values, 2, HALF, SIZE, activation="sigmoid")


def test_units_are_sides_of_the_input_where_the_model_says_so() -> None:
    assert [[32.0, 12.0], [64.0, 48.0]] == keypoints(np.array([0.5, 0.25, 1.0, 1.0]), 2, SAME, SIZE, units="unit")


def peak(values: NDArray[np.float64]) -> list[float]:
    """The place of the largest cell of a map and its value, by a plain loop; cells are 8 pixels wide and 4 high."""
    best, at = -np.inf, (0, 0)
    height, width = values.shape
    for j in range(height):
        for i in range(width):
            if values[j, i] > best:
                best, at = values[j, i], (j, i)
    j, i = at
    x, y = i + 0.5, j + 0.5
    if 0 < i < width - 1 and values[j, i + 1] != values[j, i - 1]:
        x += 0.25 if values[j, i + 1] > values[j, i - 1] else -0.25
    if 0 < j < height - 1 and values[j + 1, i] != values[j - 1, i]:
        y += 0.25 if values[j + 1, i] > values[j - 1, i] else -0.25
    return [x * 8, y * 4, float(best)]


@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(2, 12), st.integers(2, 16))
@settings(max_examples=200, deadline=None)
def test_peaks_of_maps_are_where_a_plain_loop_finds_them(seed: int, count: int, height: int, width: int) -> None:
    maps = np.random.default_rng(seed).integers(-4, 5, (count, height, width)).astype(np.float32)
    placement = Placement(width * 8, height * 4)

    found = keypoints(maps, count, placement, (height * 4, width * 8))

    assert [peak(one.astype(np.float64)) for one in maps] == found


def test_a_bump_is_found_within_a_quarter_of_a_cell() -> None:
    y, x = np.indices((48, 64)) + 0.5
    centres = [(20.3, 30.9), (11.6, 7.2), (60.1, 45.5)]
    maps = np.stack([np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 8) for cx, cy in centres])

    found = keypoints(maps, 3, Placement(256, 192), (192, 256))

    for (cx, cy), (fx, fy, score) in zip(centres, found, strict=True):
        assert 4 * 0.26 > abs(fx - cx * 4)
        assert 4 * 0.26 > abs(fy - cy * 4)
        assert 0.9 < score <= 1.0


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_points_with_nan_or_infinity_are_not_finite(wrong: float) -> None:
    with pytest.raises(NonFinite):
        keypoints(np.array([1.0, wrong]), 1, SAME, SIZE)


@pytest.mark.parametrize("shape", [(), (3,), (5,), (8,), (2, 4), (3, 2), (3, 4, 4), (2, 0, 4), (2, 1, 4), (1, 2, 8, 8)])
def test_points_of_another_shape_are_the_models_fault(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelFault, match="shape"):
        keypoints(np.zeros(shape), 2, SAME, SIZE)
