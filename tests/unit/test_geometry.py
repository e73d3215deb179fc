"""Where an image comes to lie: `crop` and `letterbox` for sizes of every kind, against what training did with them."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from convq.engine.image import prepare
from convq.errors import ImageTooLarge
from convq.repository.manifest import Input

RANDOM_SIZES = 2000
LIMIT = 4_000_000
"""Pixels that a test scales to at most, so that two thousand of them end soon."""


def noise(height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    shape = (height, width, 3) if channels == 3 else (height, width)
    return np.random.default_rng(height * 65536 + width).integers(0, 256, shape, dtype=np.uint8)


def half_to_even(value: Fraction) -> int:
    """Of two whole numbers that are equally near, the even one."""
    below = math.floor(value)
    if value - below == Fraction(1, 2):
        return below if below % 2 == 0 else below + 1
    return below if value - below < Fraction(1, 2) else below + 1


def cropped(image: Image.Image, short_side: int, height: int, width: int, fill: int = 0) -> Image.Image:
    """torchvision's Resize(short_side) and CenterCrop((height, width)), as its documentation says them, in Pillow's words.

    The long side is truncated; the crop begins at half of what is left over, halves to even; what the image lacks is
    filled first, the odd row or column at the end.
    """
    if image.width <= image.height:
        size = (short_side, math.floor(Fraction(short_side * image.height, image.width)))
    else:
        size = (math.floor(Fraction(short_side * image.width, image.height)), short_side)
    image = image.resize(size, Image.Resampling.BILINEAR)
    if width > image.width or height > image.height:
        larger = Image.new(image.mode, (max(width, image.width), max(height, image.height)), (fill,) * 3)
        larger.paste(image, (max(0, width - image.width) // 2, max(0, height - image.height) // 2))
        image = larger
    left, top = half_to_even(Fraction(image.width - width, 2)), half_to_even(Fraction(image.height - height, 2))
    return image.crop((left, top, left + width, top + height))


def as_served(decoded: NDArray[np.uint8], short_side: int, height: int, width: int, **more: Any) -> NDArray[np.uint8]:
    spec = Input(layout="NHWC", height=height, width=width, resize="crop", short_side=short_side, **more)
    return prepare(decoded, spec)


@pytest.mark.parametrize(("short_side", "side"), [(256, 224), (235, 224), (72, 64), (37, 37), (20, 33), (1, 5)])
def test_a_crop_is_the_usual_one_pixel_for_pixel_for_every_size(short_side: int, side: int) -> None:
    draw = random.Random(short_side)
    sizes = [(draw.randint(1, 500), draw.randint(1, 500)) for _ in range(RANDOM_SIZES // 6)]
    sizes += [(1, 1), (1, 17), (17, 1), (side, side), (short_side, short_side), (side, 500), (3, 200), (200, 3)]
    for height, width in sizes:
        if short_side**2 * max(height, width) // min(height, width) > LIMIT:
            continue  # thousands of times as long as wide: refused, see below
        decoded = noise(height, width)

        made = as_served(decoded, short_side, side, side)

        expected = np.asarray(cropped(Image.fromarray(decoded), short_side, side, side))
        np.testing.assert_array_equal(expected, made, f"{width} x {height} pixels")


@pytest.mark.parametrize(("height", "width"), [(64, 20), (21, 64), (90, 91)])
def test_a_crop_that_is_no_square_is_filled_on_one_axis_and_cut_on_the_other(height: int, width: int) -> None:
    draw = random.Random(height)
    for _ in range(100):
        decoded = noise(draw.randint(1, 99), draw.randint(30, 99))
        if 48**2 * decoded.shape[1] // decoded.shape[0] > LIMIT:
            continue

        made = as_served(decoded, 48, height, width, pad_value=9)

        expected = np.asarray(cropped(Image.fromarray(decoded), 48, height, width, fill=9))
        np.testing.assert_array_equal(expected, made, str(decoded.shape))


FACTS = [
    # width x height of the picture, short side, crop: width x height after scaling, left and top of the crop
    ((451, 300), 256, 224, (384, 256), (80, 16)),
    ((1920, 1080), 256, 224, (455, 256), (116, 16)),
    ((235, 235), 235, 224, (235, 235), (6, 6)),
    ((237, 235), 235, 224, (237, 235), (6, 6)),
    ((300, 451), 256, 224, (256, 384), (16, 80)),
    ((1080, 1920), 235, 224, (235, 417), (6, 96)),
    ((640, 480), 235, 224, (313, 235), (44, 6)),
    ((500, 375), 341, 299, (454, 341), (78, 21)),
    ((333, 500), 248, 224, (248, 372), (12, 74)),
]
"""As torchvision 0.29.1 has them. They tell the two rules from their neighbours: rounding, and halves upwards or down."""


@pytest.mark.parametrize(("picture", "short_side", "side", "scaled", "corner"), FACTS)
def test_crops_begin_where_torchvision_begins_them(
    picture: tuple[int, int], short_side: int, side: int, scaled: tuple[int, int], corner: tuple[int, int]
) -> None:
    decoded = noise(picture[1], picture[0])
    left, top = corner
    larger = Image.fromarray(decoded).resize(scaled, Image.Resampling.BILINEAR)

    made = as_served(decoded, short_side, side, side)

    np.testing.assert_array_equal(np.asarray(larger)[top : top + side, left : left + side], made)


def test_a_short_side_below_the_crop_is_filled_with_the_pad_value_of_the_model() -> None:
    spec = Input(layout="NHWC", color="bgr", height=5, width=5, resize="crop", short_side=2, pad_value=(1, 2, 3))

    made = prepare(np.full((4, 8, 3), 200, dtype=np.uint8), spec)

    expected = np.full((5, 5, 3), (1, 2, 3), dtype=np.uint8)
    expected[1:3, 0:4] = 200  # 8 x 4 becomes 4 x 2: one row above and two below, one column at the end
    np.testing.assert_array_equal(expected, made)


def test_a_crop_inside_a_border_is_the_same_crop() -> None:
    decoded = noise(31, 50)

    made = as_served(decoded, 24, 23, 23, pad=3, pad_value=7)

    np.testing.assert_array_equal(as_served(decoded, 24, 17, 17), made[3:-3, 3:-3])
    assert 7 * 3 * (23 * 23 - 17 * 17) == made.astype(int).sum() - made[3:-3, 3:-3].astype(int).sum()


@pytest.mark.parametrize(("height", "width"), [(1, 60_000), (60_000, 1)])
def test_a_line_that_would_scale_to_an_enormous_one_is_refused(height: int, width: int) -> None:
    with pytest.raises(ImageTooLarge, match="at most 50000000 are accepted"):
        as_served(np.zeros((height, width, 3), dtype=np.uint8), 256, 224, 224)


def test_without_a_short_side_the_crop_is_covered_and_nothing_is_filled() -> None:
    draw = random.Random(7)
    for _ in range(300):
        decoded = np.full((draw.randint(1, 300), draw.randint(1, 300)), 255, dtype=np.uint8)

        made = prepare(decoded, Input(color="gray", height=40, width=draw.choice([24, 40, 61]), resize="crop"))

        assert 255 == made.min(), decoded.shape


def test_without_a_short_side_a_square_crop_is_that_of_its_own_short_side() -> None:
    draw = random.Random(8)
    for _ in range(200):
        decoded = noise(draw.randint(20, 300), draw.randint(20, 300))
        spec = Input(layout="NHWC", height=45, width=45, resize="crop")

        expected = np.asarray(cropped(Image.fromarray(decoded), 45, 45, 45))
        np.testing.assert_array_equal(expected, prepare(decoded, spec), str(decoded.shape))


# -- letterbox --------------------------------------------------------------------------------------------------------


def boxed(decoded: NDArray[np.uint8], height: int, width: int, align: str, fill: int) -> NDArray[np.uint8]:
    """The letterbox of the YOLO family: ratio, rounded sides, half of the rest on each side with the odd one at the end."""
    ratio = min(height / decoded.shape[0], width / decoded.shape[1])
    wide, high = max(1, round(decoded.shape[1] * ratio)), max(1, round(decoded.shape[0] * ratio))
    across, down = (width - wide) / 2, (height - high) / 2
    left, top = (round(across - 0.1), round(down - 0.1)) if align == "centre" else (0, 0)
    box = Image.new("RGB", (width, height), (fill,) * 3)
    box.paste(Image.fromarray(decoded).resize((wide, high), Image.Resampling.BILINEAR), (left, top))
    return np.asarray(box)


@pytest.mark.parametrize("align", ["centre", "start"])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 80), (33, 61)])
def test_a_letterbox_lies_where_yolo_puts_it(height: int, width: int, align: Literal["centre", "start"]) -> None:
    draw = random.Random(height)
    spec = Input(layout="NHWC", height=height, width=width, resize="letterbox", pad_value=(114,), align=align)
    sizes = [(draw.randint(1, 400), draw.randint(1, 400)) for _ in range(RANDOM_SIZES // 6)]
    for high, wide in [*sizes, (1, 400), (400, 1), (1, 1), (width, height)]:
        decoded = noise(high, wide)

        made = prepare(decoded, spec)

        np.testing.assert_array_equal(boxed(decoded, height, width, align, 114), made, f"{wide} x {high} pixels")


def test_a_letterbox_at_the_start_fills_right_and_below() -> None:
    spec = Input(color="gray", height=20, width=20, resize="letterbox", pad_value=(114,), align="start")

    made = prepare(np.full((10, 40), 200, dtype=np.uint8), spec)

    expected = np.full((1, 20, 20), 114, dtype=np.uint8)
    expected[0, :5] = 200
    np.testing.assert_array_equal(expected, made)


def test_a_letterbox_at_the_start_keeps_its_border() -> None:
    spec = Input(color="gray", height=24, width=24, pad=2, resize="letterbox", pad_value=(1,), align="start")

    made = prepare(np.full((10, 40), 200, dtype=np.uint8), spec)

    expected = np.full((1, 24, 24), 1, dtype=np.uint8)
    expected[0, 2:7, 2:22] = 200
    np.testing.assert_array_equal(expected, made)
