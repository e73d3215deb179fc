"""`resize = "fit"`, and pictures that are resized as OpenCV does it."""

from __future__ import annotations

import random
from typing import Literal

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from convq.answers.resampling import opencv_linear
from convq.engine.image import prepare
from convq.errors import ImageTooLarge
from convq.repository.manifest import Input

GRAY, FILL = 200, 7


def noise(height: int, width: int, *channels: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height * 65536 + width).integers(0, 256, (height, width, *channels), dtype=np.uint8)


def fitted(picture: NDArray[np.uint8], long_side: int, step: int, *, centred: bool) -> Image.Image:
    """The rule in Pillow's words: smaller if it must be, never larger, on a canvas of whole steps."""
    image = Image.fromarray(picture)
    longer = max(image.size)
    if longer > long_side:
        image = image.resize(
            (max(1, round(image.width * long_side / longer)), max(1, round(image.height * long_side / longer))),
            Image.Resampling.BILINEAR,
        )
    canvas = Image.new("RGB", (image.width + -image.width % step, image.height + -image.height % step), (FILL,) * 3)
    rest = (canvas.width - image.width, canvas.height - image.height)
    canvas.paste(image, (rest[0] // 2, rest[1] // 2) if centred else (0, 0))
    return canvas


@pytest.mark.parametrize("align", ["centre", "start"])
def test_fit_shrinks_to_the_long_side_and_fills_to_whole_steps(align: Literal["centre", "start"]) -> None:
    random_sizes = random.Random(5)
    for _ in range(200):
        height, width = random_sizes.randint(1, 90), random_sizes.randint(1, 90)
        long_side, step = random_sizes.randint(1, 100), random_sizes.choice([1, 2, 8, 32])
        spec = Input(layout="NHWC", resize="fit", long_side=long_side, multiple_of=step, align=align, pad_value=(FILL,))
        picture = noise(height, width, 3)

        made = prepare(picture, spec)

        expected = fitted(picture, long_side, step, centred=align == "centre")
        np.testing.assert_array_equal(np.asarray(expected), made, err_msg=f"{picture.shape} {spec}")


def as_torchvision_has_it(height: int, width: int, short_side: int, long_side: int | None) -> tuple[int, int]:
    """torchvision's `_compute_resized_image_output_size`, in its own order of steps."""
    short, long = (width, height) if width <= height else (height, width)
    new_short, new_long = short_side, int(short_side * long / short)
    if long_side is not None and new_long > long_side:
        new_short, new_long = int(long_side * new_short / new_long), long_side
    new_width, new_height = (new_short, new_long) if width <= height else (new_long, new_short)
    return new_height, new_width


def test_fit_scales_to_the_short_side_as_torchvision_does() -> None:
    random_sizes = random.Random(6)
    for _ in range(200):
        height, width, short_side = (random_sizes.randint(1, 60) for _ in range(3))
        long_side = random_sizes.choice([None, short_side, random_sizes.randint(short_side, 2 * short_side)])
        spec = Input(layout="NHWC", resize="fit", short_side=short_side, long_side=long_side)
        to_height, to_width = as_torchvision_has_it(height, width, short_side, long_side)
        picture = noise(height, width, 3)

        made = prepare(picture, spec)

        size = max(1, to_width), max(1, to_height)
        resized = Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(np.asarray(resized), made, err_msg=f"{picture.shape} {spec}")


def test_a_picture_that_is_a_line_does_not_grow_without_end() -> None:
    with pytest.raises(ImageTooLarge, match="the image scales to 520000 x 520 pixels"):
        prepare(noise(1, 1000, 3), Input(resize="fit", short_side=520), max_pixels=50_000_000)


def test_fit_never_enlarges() -> None:
    picture = noise(5, 9, 3)
    spec = Input(layout="NHWC", resize="fit", long_side=1000)

    np.testing.assert_array_equal(picture, prepare(picture, spec))


def test_fit_leaves_a_border_where_one_is_asked_for() -> None:
    spec = Input(color="gray", resize="fit", long_side=4, multiple_of=8, pad=1, pad_value=(FILL,), align="start")

    made = prepare(np.full((8, 16), GRAY, dtype=np.uint8), spec)[0]

    expected = np.full((8, 8), FILL, dtype=np.uint8)
    expected[1:3, 1:5] = GRAY
    np.testing.assert_array_equal(expected, made)


def test_fit_is_bounded_by_the_limit_of_pixels() -> None:
    spec = Input(resize="fit", long_side=60_000, multiple_of=4096)

    with pytest.raises(ImageTooLarge, match="fills 4096 x 4096 pixels"):
        prepare(noise(3, 3, 3), spec, max_pixels=1000)


def test_a_resize_like_opencvs_is_within_a_level_of_it() -> None:
    random_sizes = random.Random(3)
    for number in range(150):
        height, width, to_height, to_width = (random_sizes.randint(1, 200) for _ in range(4))
        picture = noise(height, width, *(() if number % 2 else (3,)))

        made = opencv_linear(picture, to_height, to_width)

        expected = cv2.resize(picture, (to_width, to_height), interpolation=cv2.INTER_LINEAR)
        apart = np.abs(made.astype(int) - expected.reshape(made.shape))
        assert apart.max() <= 1, (picture.shape, made.shape)


@pytest.mark.parametrize("factor", [2, 3, 7.3])
def test_a_letterbox_like_ultralytics_is_within_a_level_of_opencvs(factor: float) -> None:
    picture = noise(round(64 * factor), round(48 * factor), 3)
    spec = Input(layout="NHWC", height=64, width=64, resize="letterbox", interpolation="opencv-linear")

    made = prepare(picture, spec)

    small = cv2.resize(picture, (48, 64), interpolation=cv2.INTER_LINEAR)
    expected = cv2.copyMakeBorder(small, 0, 0, 8, 8, cv2.BORDER_CONSTANT, value=(0, 0, 0))
    assert np.abs(made.astype(int) - expected).max() <= 1


def test_a_resize_like_opencvs_leaves_a_picture_of_the_same_size_as_it_is() -> None:
    picture = noise(31, 17, 3)

    np.testing.assert_array_equal(picture, opencv_linear(picture, 31, 17))
