"""Class maps, mattes and depth: what goes out covers the picture, at the right size, with the right levels."""

from __future__ import annotations

import base64
import json
import math
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from convq.answers.coordinates import Placement
from convq.answers.depth import depth
from convq.answers.maps import shown
from convq.answers.matte import matte
from convq.answers.resampling import nearest
from convq.answers.segments import class_map, segments
from convq.errors import ModelFault, NonFinite

SAME = Placement(8, 6)
"""The picture is the network's input, of 6 x 8."""
LETTERBOX = Placement(1920, 1080, 640 / 1920, 360 / 1080, 0.0, 140.0)
CROP = Placement(300, 200, 256 / 200, 256 / 200, -64.0, 0.0)
"""The middle of a picture of 300 x 200, as 256 x 256."""


def levels_of(said: dict[str, Any]) -> NDArray[Any]:
    with Image.open(BytesIO(base64.b64decode(said["data"]))) as image:
        assert image.mode in ("L", "I;16")
        return np.asarray(image)


# -- what is shown ------------------------------------------------------------------------------------------------------


def test_a_letterbox_is_shown_without_its_padding_at_the_size_of_the_picture() -> None:
    assert ((0.0, 160.0), (35.0, 125.0), 1920, 1080, None) == shown((160, 160), LETTERBOX, (640, 640))


def test_on_request_it_has_the_size_of_the_map() -> None:
    part = shown((160, 160), LETTERBOX, (640, 640), network_size=True)

    assert (160, 90) == (part.width, part.height)


@pytest.mark.parametrize(("width", "height", "expected"), [(2048, 2048, (2048, 2048)), (2049, 2048, (64, 64))])
def test_beyond_four_megapixels_it_has_the_size_of_the_map(width: int, height: int, expected: tuple[int, int]) -> None:
    part = shown((64, 64), Placement(width, height, 64 / width, 64 / height), (64, 64))

    assert expected == (part.width, part.height)


def test_a_crop_says_which_part_of_the_picture_it_covers() -> None:
    part = shown((32, 32), CROP, (256, 256))

    assert [50.0, 0.0, 250.0, 200.0] == part.box
    assert (200, 200) == (part.width, part.height)
    assert (0.0, 32.0) == part.across == part.down


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 640), st.integers(1, 640), st.integers(0, 300))
@settings(max_examples=200, deadline=None)
def test_a_picture_that_lies_in_the_input_as_a_whole_is_shown_as_a_whole(
    width: int, height: int, scaled_width: int, scaled_height: int, offset: int
) -> None:
    placement = Placement(width, height, scaled_width / width, scaled_height / height, offset, offset)
    side = offset + max(scaled_width, scaled_height)
    part = shown((side, side), placement, (side, side))

    assert part.box is None
    assert (slice(offset, offset + scaled_height), slice(offset, offset + scaled_width)) == part.cells()
    if width * height <= 4_194_304:
        assert (width, height) == (part.width, part.height)


def test_a_map_without_cells_is_the_models_fault() -> None:
    with pytest.raises(ModelFault, match="no cells"):
        shown((0, 4), SAME, (6, 8))


def test_a_spot_is_where_it_was_in_the_picture() -> None:
    values = np.zeros((1, 160, 160), dtype=np.float32)
    values[0, 80, 40] = 1.0  # cells of 4 pixels: the centre is at (162, 322) of the input

    levels = levels_of(matte(values, LETTERBOX, (640, 640)))
    y, x = np.indices(levels.shape)

    assert pytest.approx(162 * 3, abs=0.05) == ((x + 0.5) * levels).sum() / levels.sum()
    assert pytest.approx((322 - 140) * 3, abs=0.05) == ((y + 0.5) * levels).sum() / levels.sum()


# -- class maps ---------------------------------------------------------------------------------------------------------


@given(st.integers(1, 7), st.integers(1, 20), st.integers(1, 20), st.integers(0, 99), st.sampled_from([1, 100]))
@settings(max_examples=200, deadline=None)
def test_the_class_of_a_cell_is_that_of_the_largest_the_first_of_equal_ones(
    classes: int, height: int, width: int, seed: int, distinct: int
) -> None:
    values = np.random.default_rng(seed).integers(-2 * distinct, 2 * distinct, (classes, height, width)) / 7

    np.testing.assert_array_equal(values.argmax(axis=0), class_map(values))


@pytest.mark.parametrize(
    ("classes", "dtype"), [(1, "uint8"), (2, "uint8"), (255, "uint8"), (256, "uint16"), (300, "uint16")]
)
@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "uint8", "int64"])
def test_many_classes_in_several_pieces_agree_with_numpy(classes: int, dtype: str, kind: str) -> None:
    values = np.random.default_rng(1).integers(0, 99, (classes, 190, 180)).astype(kind)
    found = class_map(values)

    assert dtype == found.dtype
    np.testing.assert_array_equal(values.argmax(axis=0), found)


def test_a_view_that_is_not_contiguous_is_read_right() -> None:
    values = np.random.default_rng(1).random((30, 20, 5)).transpose(2, 0, 1)

    np.testing.assert_array_equal(values.argmax(axis=0), class_map(values))


def test_segments_are_levels_with_a_legend() -> None:
    numbers = np.array([[0, 0, 0, 2], [0, 1, 2, 2]])

    said = segments(numbers, ["sky", "road"], Placement(4, 2), (2, 4))

    assert numbers.tolist() == levels_of(said).tolist()
    assert ("png", 4, 2) == (said["format"], said["width"], said["height"])
    assert [
        {"label": "sky", "index": 0, "share": 0.5},
        {"label": "#2", "index": 2, "share": 0.375},
        {"label": "road", "index": 1, "share": 0.125},
    ] == said["classes"]
    assert "box" not in said
    assert said == json.loads(json.dumps(said))


@pytest.mark.parametrize("seed", range(5))
def test_the_legend_counts_what_the_file_shows(seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal((5, 40, 40), dtype=np.float32)
    said = segments(values, list("abcde"), Placement(123, 77, 31 / 123, 23 / 77, 5, 9), (40, 40), ignore=3)
    levels = levels_of(said)

    assert (77, 123) == levels.shape
    assert {0, 1, 2, 4, 255} == set(np.unique(levels).tolist())
    for one in said["classes"]:
        assert pytest.approx((levels == one["index"]).mean(), abs=1e-6) == one["share"]
    assert sorted((one["share"] for one in said["classes"]), reverse=True) == [one["share"] for one in said["classes"]]
    assert 4 == len(said["classes"])


def test_a_class_map_is_enlarged_by_the_nearest_cell() -> None:
    numbers = np.random.default_rng(0).integers(0, 3, (1, 16, 16))
    said = segments(numbers, "abc", CROP, (256, 256))

    assert [50.0, 0.0, 250.0, 200.0] == said["box"]
    np.testing.assert_array_equal(nearest(numbers[0], (0, 16), (0, 16), 200, 200), levels_of(said))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "int64", "uint64"])
def test_numbers_without_a_level_mean_nothing(dtype: str) -> None:
    info = np.iinfo(dtype)
    numbers = np.array([[0, 1, info.min, info.max]], dtype=dtype)
    expected = [0, 1, 0 if info.min == 0 else 255, 127 if dtype == "int8" else 255]

    assert [expected] == levels_of(segments(numbers, "ab", Placement(4, 1), (1, 4))).tolist()


def test_more_than_255_classes_take_16_bits_a_level() -> None:
    numbers = np.array([[0, 255, 299, 65535]])
    said = segments(numbers, [str(i) for i in range(300)], Placement(4, 1), (1, 4), ignore=0)

    assert [[65535, 255, 299, 65535]] == levels_of(said).tolist()
    assert ["255", "299"] == [one["label"] for one in said["classes"]]


@pytest.mark.parametrize("ignore", [-1, 255, 10**9])
def test_an_ignored_class_that_cannot_occur_changes_nothing(ignore: int) -> None:
    assert [[0, 1]] == levels_of(segments(np.array([[0, 1]]), "ab", Placement(2, 1), (1, 2), ignore=ignore)).tolist()


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((4,), "int64"),
        ((4, 4), "float32"),
        ((2, 3, 4, 4), "float32"),
        ((0, 4, 4), "float32"),
        ((3, 0, 4), "float32"),
        ((), "int64"),
    ],
)
def test_segments_of_another_shape_are_the_models_fault(shape: tuple[int, ...], dtype: str) -> None:
    with pytest.raises(ModelFault, match="shape"):
        segments(np.zeros(shape, dtype=dtype), "ab", SAME, (6, 8))


def test_more_classes_than_levels_are_the_models_fault() -> None:
    with pytest.raises(ModelFault, match="65536 classes"):
        segments(np.zeros((65_536, 1, 1), dtype=np.float32), "ab", SAME, (6, 8))


# -- mattes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("placement", [SAME, LETTERBOX, CROP, Placement(100, 90, 0.64, 64 / 90)])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_matte_is_what_pillow_makes_of_its_part_of_the_map(placement: Placement, dtype: str) -> None:
    input_size = {LETTERBOX: (640, 640), CROP: (256, 256), SAME: (6, 8)}.get(placement, (64, 64))
    plane = np.random.default_rng(0).random((160, 160)).astype(dtype)
    part = shown(plane.shape, placement, input_size)
    (left, right), (top, bottom) = part.across, part.down
    cut = plane[int(top) : math.ceil(bottom), int(left) : math.ceil(right)].astype(np.float32)
    box = (left - int(left), top - int(top), right - int(left), bottom - int(top))
    expected = Image.fromarray(cut).resize((part.width, part.height), Image.Resampling.BILINEAR, box=box)

    levels = levels_of(matte(plane[None], placement, input_size))

    np.testing.assert_allclose(np.asarray(expected) * 255, levels, atol=0.51)


def test_nothing_of_the_padding_is_mixed_into_the_border_of_a_picture() -> None:
    """Which is 200 x 100, with as much of white below."""
    values = np.ones((32, 32), dtype=np.float32)
    values[:16] = 0

    levels = levels_of(matte(values, Placement(200, 100, 0.16, 0.16), (32, 32)))

    assert {0} == set(levels.ravel().tolist())


def test_values_beyond_0_and_1_are_cut() -> None:
    values = np.array([[-1e30, -0.1, 0.5, 1.1, 3e38]], dtype=np.float32)

    assert [[0, 0, 128, 255, 255]] == levels_of(matte(values, Placement(5, 1), (1, 5))).tolist()


def test_sigmoid_makes_a_matte_of_logits() -> None:
    values = np.array([[-1000.0, -1.0, 0.0, 1.0, 1000.0]], dtype=np.float32)
    expected = [0, round(255 / (1 + np.e)), 128, round(255 / (1 + 1 / np.e)), 255]

    assert [expected] == levels_of(matte(values, Placement(5, 1), (1, 5), activation="sigmoid")).tolist()


def test_stretched_mattes_go_from_0_to_1_within_the_picture() -> None:
    values = np.full((4, 4), 99.0, dtype=np.float32)
    values[1:3] = [[0.2, 0.3, 0.4, 0.5], [0.5, 0.4, 0.3, 0.2]]

    levels = levels_of(matte(values, Placement(4, 2, 1, 1, 0, 1), (4, 4), stretch=True))

    assert [[0, 85, 170, 255], [255, 170, 85, 0]] == levels.tolist()


@pytest.mark.parametrize("value", [0.0, 0.7, -3e38, 3e38])
def test_a_stretched_map_that_is_the_same_everywhere_is_background(value: float) -> None:
    values = np.full((1, 6, 8), value, dtype=np.float32)

    assert 0 == levels_of(matte(values, SAME, (6, 8), stretch=True)).max()


def test_the_largest_numbers_can_be_stretched() -> None:
    values = np.array([[-1.7e308, 0.0, 1.7e308]])

    assert [[0, 128, 255]] == levels_of(matte(values, Placement(3, 1), (1, 3), stretch=True)).tolist()


# -- depth --------------------------------------------------------------------------------------------------------------


def told(said: dict[str, Any]) -> NDArray[np.float64]:
    """The depths that a reader of the result has."""
    return np.asarray(said["low"] + (said["high"] - said["low"]) * levels_of(said).astype(np.float64) / 65535)


@pytest.mark.parametrize("scale", [1.0, 0.001, -2.0])
def test_depths_are_read_back_within_half_a_level(scale: float) -> None:
    values = np.random.default_rng(0).uniform(0.3, 80.0, (1, 6, 8)).astype(np.float32)
    said = depth(values, SAME, (6, 8), scale=scale)

    assert (said["high"] - said["low"]) / 65535 * 0.51 + 1e-5 * abs(scale) > np.abs(
        told(said) - values[0] * scale
    ).max()
    assert {0, 65535} <= set(levels_of(said).ravel().tolist())
    assert said == json.loads(json.dumps(said))


def test_inverse_depths_are_turned_around_and_the_far_ones_cut() -> None:
    values = np.array([[2.0, 1.0, 0.5, 0.0, -3.0]], dtype=np.float32)
    said = depth(values, Placement(5, 1), (1, 5), inverse=True, scale=10.0)

    assert (5.0, 1280.0) == (said["low"], said["high"])
    np.testing.assert_allclose([[5.0, 10.0, 20.0, 1280.0, 1280.0]], told(said), rtol=0.002)


def test_inverse_depths_of_which_none_is_above_0_are_not_finite() -> None:
    with pytest.raises(NonFinite, match="inverse"):
        depth(np.array([[-1.0, 0.0]]), Placement(2, 1), (1, 2), inverse=True)


@pytest.mark.parametrize("inverse", [False, True])
def test_depths_that_no_number_holds_are_not_finite(*, inverse: bool) -> None:
    with pytest.raises(NonFinite, match="too large for a number"):
        depth(np.array([[1e-30 if inverse else 1e30, 1.0]]), Placement(2, 1), (1, 2), inverse=inverse, scale=1e308)


def test_low_and_high_are_those_within_the_picture() -> None:
    values = np.array([[1000.0, 1000.0], [2.0, 3.0]])
    said = depth(values, Placement(2, 1, 1, 1, 0, 1), (2, 2))

    assert (2.0, 3.0) == (said["low"], said["high"])
    assert [[0, 65535]] == levels_of(said).tolist()


def test_equal_depths_have_one_level() -> None:
    said = depth(np.full((6, 8), 4.5), SAME, (6, 8))

    assert (4.5, 4.5, 0) == (said["low"], said["high"], levels_of(said).max())


@pytest.mark.parametrize("value", [-1.7e308, 3e38, 1e-40])
@pytest.mark.parametrize("inverse", [False, True])
def test_depths_of_any_size_are_numbers(value: float, *, inverse: bool) -> None:
    said = depth(np.array([[value, 1e-45, 1.7e308]]), Placement(3, 1), (1, 3), inverse=inverse)

    assert np.isfinite([said["low"], said["high"]]).all()


# -- all of them --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("make", [matte, depth, lambda values, *of: segments(np.stack([values, values]), "ab", *of)])
def test_a_map_with_nan_or_infinity_is_not_finite(make: Any, dtype: str, wrong: float) -> None:
    values = np.ones((6, 8), dtype=dtype)
    values[3, 3] = wrong

    with pytest.raises(NonFinite):
        make(values, SAME, (6, 8))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_numbers_whose_sum_overflows_are_finite_all_the_same(dtype: str) -> None:
    values = np.full((6, 8), np.finfo(dtype).max, dtype=dtype)

    assert 255 == levels_of(matte(values, SAME, (6, 8))).min()


@pytest.mark.parametrize("make", [matte, depth])
@pytest.mark.parametrize("shape", [(6,), (2, 6, 8), (1, 1, 6, 8), (0, 8), (1, 6, 0)])
def test_a_map_of_another_shape_is_the_models_fault(make: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelFault):
        make(np.zeros(shape, dtype=np.float32), SAME, (6, 8))


@pytest.mark.parametrize("make", [matte, depth])
def test_on_request_maps_have_the_size_of_the_network(make: Any) -> None:
    values = np.random.default_rng(0).random((1, 160, 160), dtype=np.float32)
    said = make(values, LETTERBOX, (640, 640), network_size=True)

    assert (90, 160) == levels_of(said).shape
    if make is matte:
        np.testing.assert_array_equal(np.rint(values[0, 35:125] * 255), levels_of(said))
