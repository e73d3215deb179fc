"""Resizing of maps, against Pillow, OpenCV and a plain loop."""

from __future__ import annotations

from math import floor

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from convq.answers.resampling import Span, bilinear_bands, mixed_bands, nearest, taps


def resized(plane: NDArray[np.float32], across: Span, down: Span, height: int, width: int) -> NDArray[np.float32]:
    made = np.full((height, width), np.nan, dtype=np.float32)
    for rows, band in bilinear_bands(plane, across, down, height, width):
        made[rows] = band
    return made


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((height, width), dtype=np.float32)


@st.composite
def spans(draw: st.DrawFn, cells: int) -> Span:
    first = draw(st.floats(0, cells - 0.5))
    return first, draw(st.floats(first + 0.25, cells))


@given(st.data(), st.integers(1, 40), st.integers(1, 40), st.integers(1, 90), st.integers(1, 90))
@settings(max_examples=200, deadline=None)
def test_any_part_of_a_map_becomes_what_pillow_makes_of_it(
    data: st.DataObject, rows: int, columns: int, height: int, width: int
) -> None:
    plane, across, down = noise(rows, columns), data.draw(spans(columns)), data.draw(spans(rows))
    box = (across[0], down[0], across[1], down[1])
    expected = Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR, box=box)

    np.testing.assert_allclose(resized(plane, across, down, height, width), np.asarray(expected), atol=2e-5)


def test_larger_maps_become_what_opencv_makes_of_them() -> None:
    plane = noise(160, 90)

    expected = cv2.resize(plane, (333, 777), interpolation=cv2.INTER_LINEAR)

    np.testing.assert_allclose(resized(plane, (0, 90), (0, 160), 777, 333), expected, atol=2e-3)


def test_a_map_of_the_same_size_stays_as_it_is() -> None:
    plane = noise(30, 20)

    np.testing.assert_array_equal(plane, resized(plane, (0, 20), (0, 30), 30, 20))


def test_what_lies_beyond_a_map_is_its_outermost_row() -> None:
    plane = np.array([[1.0], [3.0]], dtype=np.float32)

    assert [1.0, 1.0, 3.0, 3.0] == resized(plane, (0, 1), (-1, 3), 4, 1)[:, 0].tolist()


def test_bands_cover_all_rows_once_however_wide_they_are() -> None:
    plane = noise(7, 50_000)
    found = [(rows.start, rows.stop) for rows, _ in mixed_bands(plane, taps(7, (0, 7), 20))]

    assert 20 == len(found)
    assert [(i, i + 1) for i in range(20)] == found


@given(st.data(), st.integers(1, 20), st.integers(1, 20), st.integers(1, 50), st.integers(1, 50))
@settings(max_examples=100, deadline=None)
def test_the_nearest_cell_is_the_one_in_which_the_centre_lies(
    data: st.DataObject, rows: int, columns: int, height: int, width: int
) -> None:
    plane, across, down = (
        np.arange(rows * columns).reshape(rows, columns),
        data.draw(spans(columns)),
        data.draw(spans(rows)),
    )
    expected = [
        [
            plane[
                min(rows - 1, floor(down[0] + (j + 0.5) * ((down[1] - down[0]) / height))),
                min(columns - 1, floor(across[0] + (i + 0.5) * ((across[1] - across[0]) / width))),
            ]
            for i in range(width)
        ]
        for j in range(height)
    ]

    assert expected == nearest(plane, across, down, height, width).tolist()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int64", "bool"])
def test_the_nearest_keeps_the_dtype(dtype: str) -> None:
    assert dtype == nearest(np.ones((2, 2), dtype=dtype), (0, 2), (0, 2), 5, 5).dtype
