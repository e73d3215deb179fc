"""From the input back to the picture, for every rule by which a picture is made to fit, with rounded sides and borders."""

from __future__ import annotations

import json
from typing import NamedTuple

import numpy as np
import pytest

from convq.answers.coordinates import Placement, rounded


class Rule(NamedTuple):
    """A picture, what it was scaled to, what was cut off at the top left, and how far it was then moved."""

    width: int
    height: int
    scaled: tuple[int, int]
    cropped: tuple[int, int] = (0, 0)
    moved: tuple[int, int] = (0, 0)


RULES = {
    "stretch": Rule(1919, 1081, (640, 640)),
    "letterbox, centre": Rule(1919, 1081, (640, 361), moved=(0, 139)),
    "letterbox, start": Rule(1919, 1081, (640, 361)),
    "letterbox, narrow": Rule(333, 1000, (213, 640), moved=(213, 0)),
    "crop": Rule(500, 375, (299, 224), cropped=(38, 0)),
    "crop, short side": Rule(500, 375, (341, 256), cropped=(58, 16)),
    "crop of what is smaller": Rule(500, 100, (500, 100), cropped=(138, 0), moved=(0, 62)),
    "height": Rule(777, 99, (377, 48)),
    "none": Rule(96, 64, (96, 64)),
    "pad": Rule(28, 28, (20, 20), moved=(4, 4)),
    "multiple of 32": Rule(100, 70, (100, 70)),
}


def placement(rule: Rule) -> Placement:
    factors = rule.scaled[0] / rule.width, rule.scaled[1] / rule.height
    return Placement(
        rule.width, rule.height, *factors, rule.moved[0] - rule.cropped[0], rule.moved[1] - rule.cropped[1]
    )


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_points_and_boxes_of_the_input_come_back_to_where_they_are_in_the_picture(rule: Rule) -> None:
    random = np.random.default_rng(0)
    points = random.uniform(0, 1, (50, 2)) * [rule.width, rule.height]
    seen = points * rule.scaled / [rule.width, rule.height] - rule.cropped + rule.moved

    found = placement(rule).points_back(seen)
    boxes = placement(rule).boxes_back(np.concatenate([seen[:25], seen[25:]], axis=1))

    assert np.abs(found - points).max() < 1e-9
    assert np.abs(boxes - np.concatenate([points[:25], points[25:]], axis=1)).max() < 1e-9


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_the_corners_of_what_was_scaled_are_those_of_the_picture(rule: Rule) -> None:
    corner = np.array(rule.moved) - rule.cropped
    box = np.array([[*corner, *(corner + rule.scaled)]], dtype=np.float32)

    assert [[0, 0, rule.width, rule.height]] == rounded(placement(rule).boxes_back(box)).tolist()


def test_boxes_and_points_are_cut_to_the_picture() -> None:
    place = Placement(100, 50)

    assert [[0, 0, 100, 50], [1, 2, 3, 4]] == place.cut(np.array([[-5.0, -1, 1e38, 51], [1, 2, 3, 4]])).tolist()
    assert [[[0, 50], [100, 0]]] == place.cut(np.array([[[-1.0, 90.0], [101.0, -0.0]]])).tolist()


def test_rounded_numbers_have_at_most_two_decimals_as_text() -> None:
    values = rounded(np.random.default_rng(0).uniform(-9999, 9999, 5000))

    assert all(len(json.dumps(value).partition(".")[2]) <= 2 for value in values.tolist())
    assert ["0.0", "0.0"] == [json.dumps(value) for value in rounded(np.array([-0.001, -0.0])).tolist()]
