"""Back to the picture: where a spot lies in a network's input says where it lies in the picture that people see."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from convq.engine.image import Placement, decode, prepare, prepare_placed
from convq.repository.manifest import Input, Limits

WITHIN = 0.3
"""Pixels of the picture."""

RULES: dict[str, dict[str, Any]] = {
    "stretch": {"height": 240, "width": 333, "resize": "stretch"},
    "letterbox": {"height": 320, "width": 320, "resize": "letterbox"},
    "letterbox at the start": {"height": 320, "width": 320, "resize": "letterbox", "align": "start"},
    "letterbox with a border": {"height": 321, "width": 322, "resize": "letterbox", "pad": 7},
    "crop": {"height": 224, "width": 224, "resize": "crop"},
    "crop of a short side": {"height": 224, "width": 200, "resize": "crop", "short_side": 257},
    "crop of a short side below it": {"height": 333, "width": 331, "resize": "crop", "short_side": 211},
    "height": {"height": 222, "resize": "height", "multiple_of": 32},
    "fit": {"resize": "fit", "long_side": 320, "multiple_of": 64},
    "fit at the start": {"resize": "fit", "long_side": 320, "multiple_of": 64, "align": "start", "pad": 3},
    "fit to a short side": {"resize": "fit", "short_side": 257, "long_side": 400, "multiple_of": 32},
    "fit of what is small enough": {"resize": "fit", "long_side": 1000, "multiple_of": 64},
    "as OpenCV does it": {"height": 320, "width": 320, "resize": "letterbox", "interpolation": "opencv-linear"},
    "none": {"resize": "none"},
    "none, to a multiple": {"resize": "none", "multiple_of": 64, "pad": 3},
}
SIZES = [(427, 640), (640, 427), (333, 500), (481, 479)]
"""Height and width."""


def spot(height: int, width: int, x: float, y: float) -> NDArray[np.uint8]:
    """A bell of light around a point, in coordinates of pixel corners."""
    rows, columns = np.arange(height)[:, None] + 0.5, np.arange(width) + 0.5
    light = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 6.0**2))
    return np.asarray(np.rint(light), dtype=np.uint8)


def centroid(picture: NDArray[Any]) -> tuple[float, float]:
    levels = picture.astype(np.float64)
    rows, columns = np.arange(levels.shape[0])[:, None] + 0.5, np.arange(levels.shape[1]) + 0.5
    return float((levels * columns).sum() / levels.sum()), float((levels * rows).sum() / levels.sum())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rule", RULES)
def test_a_spot_comes_back_to_where_it_was(rule: str, size: tuple[int, int]) -> None:
    height, width = size
    where = width * 0.46, height * 0.57
    picture = spot(height, width, *where)

    data, placement = prepare_placed(picture, Input(color="gray", **RULES[rule]))

    assert (width, height) == placement[:2]
    back = placement.points_back(np.array(centroid(data[0])))
    np.testing.assert_allclose(back, where, atol=WITHIN)
    np.testing.assert_array_equal(prepare(picture, Input(color="gray", **RULES[rule])), data)


def test_what_became_much_smaller_comes_back_within_a_pixel_or_so() -> None:
    picture = spot(1100, 1700, 801.3, 512.9)

    data, placement = prepare_placed(picture, Input(color="gray", height=96, width=96, resize="letterbox"))

    np.testing.assert_allclose(placement.points_back(np.array(centroid(data[0]))), (801.3, 512.9), atol=1.2)


@pytest.mark.parametrize("rule", ["stretch", "letterbox", "crop", "height", "none"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_of_a_turned_file_the_upright_picture_is_meant(orientation: int, rule: str) -> None:
    where = 310.4, 255.2
    upright = Image.fromarray(spot(480, 640, *where))
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's `Transpose` that stores it so: the inverse of reading
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(turns[orientation]))
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    stored.save(file, "PNG", exif=exif)
    spec = Input(color="gray", **RULES[rule])

    data, placement = prepare_placed(decode(file.getvalue(), spec, Limits()), spec)

    assert (640, 480) == placement[:2]
    np.testing.assert_allclose(placement.points_back(np.array(centroid(data[0]))), where, atol=WITHIN)


def test_a_picture_of_the_size_of_the_input_is_the_input() -> None:
    spec = Input(color="gray", height=20, width=30, pad=2)

    assert Placement(30, 20) == prepare_placed(np.zeros((20, 30), dtype=np.uint8), spec)[1]
