"""COCO's compressed run lengths, against pycocotools where it is installed and against a plain loop everywhere."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from convq.answers.rle import compress, decode, decompress, encode, encode_columns
from servers import skip_or_fail

Mask = NDArray[np.bool_]

# pycocotools' own class does not know numpy 2's way of asking for an array without a copy
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def looped(mask: Mask) -> str:
    """The counts of a mask, pixel by pixel and bit by bit."""
    runs, value, length = [], False, 0
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            runs.append(length)
            value, length = pixel, 0
        length += 1
    runs.append(length)
    text = ""
    for i, run in enumerate(runs):
        rest, more = run - (runs[i - 2] if i > 2 else 0), True
        while more:
            group, rest = rest & 31, rest >> 5
            more = rest != (-1 if group & 16 else 0)
            text += chr(group + 48 + 32 * more)
    return text


@st.composite
def masks(draw: st.DrawFn) -> Mask:
    height, width = draw(st.integers(1, 30)), draw(st.integers(1, 30))
    share = draw(st.sampled_from([0.0, 0.02, 0.3, 0.5, 0.9, 1.0]))
    mask: Mask = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).random((height, width)) < share
    return mask


SHAPES = [(1, 1), (1, 7), (7, 1), (2, 3), (40, 60), (300, 500)]


@pytest.fixture(name="reference")
def pycocotools() -> Any:
    try:
        return importlib.import_module("pycocotools.mask")
    except ImportError:
        skip_or_fail("pycocotools is not installed")


@given(masks())
@settings(max_examples=200, deadline=None)
def test_a_mask_is_encoded_as_the_plain_loop_does_and_comes_back(mask: Mask) -> None:
    rle = encode(mask)

    assert {"size": list(mask.shape), "counts": looped(mask)} == rle
    np.testing.assert_array_equal(mask, decode(rle))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999, 1.0])
def test_pycocotools_makes_the_same_of_a_mask_and_reads_it(
    reference: Any, shape: tuple[int, int], share: float
) -> None:
    mask = np.random.default_rng(5).random(shape) < share
    expected = reference.encode(np.asfortranarray(mask.astype(np.uint8)))

    rle = encode(mask)

    assert {"size": expected["size"], "counts": expected["counts"].decode()} == rle
    np.testing.assert_array_equal(mask, reference.decode(rle).astype(bool))
    np.testing.assert_array_equal(mask, decode(expected))


def test_pycocotools_makes_the_same_of_shapes_with_long_runs(reference: Any) -> None:
    y, x = np.mgrid[:1500, :2500]
    mask = ((x - 1400) ** 2 / 3 + (y - 700) ** 2 < 420**2) & ((x // 90 + y // 70) % 9 > 0)
    expected = reference.encode(np.asfortranarray(mask.astype(np.uint8)))

    assert expected["counts"].decode() == encode(mask)["counts"]


@given(masks(), st.integers(0, 4), st.integers(0, 4), st.integers(0, 4), st.integers(0, 4))
@settings(max_examples=200, deadline=None)
def test_the_box_alone_says_the_same_as_the_whole_picture(
    mask: Mask, left: int, top: int, right: int, bottom: int
) -> None:
    whole = np.pad(mask, ((top, bottom), (left, right)))

    assert encode(whole) == encode_columns(mask.T, left, top, *whole.shape)


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0)])
def test_a_picture_without_pixels_has_one_run_of_none(shape: tuple[int, int]) -> None:
    rle = encode(np.zeros(shape, dtype=bool))

    assert {"size": list(shape), "counts": "0"} == rle
    assert shape == decode(rle).shape


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_an_empty_box_is_an_empty_mask(shape: tuple[int, int]) -> None:
    assert encode(np.zeros((9, 11), dtype=bool)) == encode_columns(np.zeros(shape, dtype=bool), 4, 5, 9, 11)


@given(st.lists(st.integers(0, 2**31 - 1), max_size=40))
@settings(max_examples=200, deadline=None)
def test_run_lengths_of_any_size_come_back(counts: list[int]) -> None:
    assert counts == decompress(compress(np.array(counts, dtype=np.int64))).tolist()


@pytest.mark.parametrize(
    ("rle", "said"),
    [
        ({}, "size"),
        ({"size": [2], "counts": "4"}, "size"),
        ({"size": [2, True], "counts": "2"}, "size"),
        ({"size": [2.0, 2.0], "counts": "4"}, "size"),
        ({"size": [-1, -4], "counts": "4"}, "at most"),
        ({"size": [10**9, 10**9], "counts": "4"}, "at most"),
        ({"size": [2, 2]}, "counts"),
        ({"size": [2, 2], "counts": [4]}, "counts"),
        ({"size": [2, 2], "counts": ""}, "add up"),
        ({"size": [2, 2], "counts": "3"}, "add up"),
        ({"size": [2, 2], "counts": "O5"}, "add up"),  # -1 and 5
        ({"size": [2, 2], "counts": "P"}, "compressed"),
        ({"size": [2, 2], "counts": " 4"}, "compressed"),
        ({"size": [2, 2], "counts": "\udcff"}, "compressed"),
        ({"size": [2, 2], "counts": "ü4"}, "compressed"),
        ({"size": [2, 2], "counts": "PPPPPPP1"}, "characters"),
        ({"size": [2, 2], "counts": "oooooo?" * 1000}, "add up"),
    ],
)
def test_what_is_no_mask_is_said_before_anything_large_is_made(rle: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        decode(rle)


def test_a_caller_may_accept_fewer_pixels() -> None:
    with pytest.raises(ValueError, match="at most 24"):
        decode(encode(np.ones((5, 5), dtype=bool)), max_pixels=24)
