"""The language of columns, and which axis they run along."""

from __future__ import annotations

import pytest

from convq.answers.detections.columns import Columns


def test_words_are_read_in_order_with_how_many_numbers_each_has() -> None:
    columns = Columns.parse("cx cy w h objectness classes _:2 masks:32 keypoints:17x3 _ angle", classes=80)

    assert 4 + 1 + 80 + 2 + 32 + 51 + 1 + 1 == columns.width
    assert {"cx": 0, "h": 3, "classes": 5, "masks": 87, "keypoints": 119, "angle": 171} == {
        one.word: one.first
        for one in columns.named
        if one.word in ("cx", "h", "classes", "masks", "keypoints", "angle")
    }
    assert (51, 3) == next((one.width, one.each) for one in columns.named if one.word == "keypoints")


def test_several_unused_columns_may_stand_apart() -> None:
    assert 7 == Columns.parse("_ score _ x y w h", classes=1).width


def test_distances_take_as_many_columns_as_there_are_bins() -> None:
    assert 64 + 3 == Columns.parse("l t r b classes", classes=3, bins=16).width


@pytest.mark.parametrize(
    ("text", "classes", "said"),
    [
        ("cx cy wide h", 1, "'wide' is not known"),
        ("cx cy w h score:2", 1, "only masks, classes and _"),
        ("score score", 1, "score stands there twice"),
        ("keypoints:17", 1, "expected keypoints:17x3"),
        ("keypoints:17x4", 1, "expected keypoints:17x3"),
        ("keypoints", 1, "expected keypoints:17x3"),
        ("masks", 1, "masks:32"),
        ("classes", 0, "no labels"),
        ("classes:80", 81, "81 classes by the labels"),
        ("", 1, "expected words"),
        ("_:5", 1, "expected words"),
        ("masks:0", 1, "is not known"),
        ("x1,y1", 1, "is not known"),
        ("masks:99999999", 1, "is not known"),
    ],
)
def test_what_cannot_be_read_is_named_with_what_was_expected(text: str, classes: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Columns.parse(text, classes)


@pytest.mark.parametrize(
    ("shape", "given", "axis"),
    [
        ((1, 84, 8400), None, 1),
        ((1, 8400, 84), None, 2),
        ((None, None, 84), None, 2),
        ((None, 84, None), None, 1),
        ((1, 84, 84), 1, 1),
        ((1, 84, 84), 2, 2),
        ((1, 0, 84), None, 2),
        ((1, None, 100), None, 1),
    ],
)
def test_the_axis_of_the_columns_follows_from_their_number(
    shape: tuple[int, ...], given: int | None, axis: int
) -> None:
    assert axis == Columns.parse("cx cy w h classes", classes=80).axis_of("out", shape, given)


@pytest.mark.parametrize(
    ("shape", "given", "said"),
    [
        (
            (1, 85, 8400),
            None,
            r"out has shape \[1, 85, 8400\]; expected 84 columns along axis 1 or 2: cx cy w h classes",
        ),
        ((1, 84, 8400), 2, r"expected 84 columns along axis 2"),
        ((1, 84, 84), None, "both axes fit 84 columns: give axis, 1 or 2"),
        ((None, None, None), None, r"\[\?, \?, \?\], and both axes fit"),
    ],
)
def test_an_axis_that_does_not_fit_is_refused_with_both_sides(
    shape: tuple[int | None, ...], given: int | None, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        Columns.parse("cx cy w h classes", classes=80).axis_of("out", shape, given)
