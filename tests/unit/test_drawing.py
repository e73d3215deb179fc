"""Pictures and NumPy files of what a network was given, made without numpy: compared with what numpy and Pillow read."""

from __future__ import annotations

import base64
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from convq.cli.display.drawing import Drawing, draw, npy
from convq.detected import Output

RNG = np.random.default_rng(3)
PLAIN: dict[str, Any] = {"layout": "NCHW", "color": "gray", "scale": 1.0, "mean": (0.0,), "std": (1.0,)}


def output(values: NDArray[Any]) -> Output:
    data = base64.b64encode(values.tobytes()).decode()
    return Output(name="prepared", dtype=values.dtype.name, shape=values.shape, data=data)


def drawn(values: NDArray[Any], **described: Any) -> tuple[Drawing, NDArray[np.uint8]]:
    drawing = draw(output(values), described)
    assert drawing is not None
    with Image.open(BytesIO(drawing.png)) as picture:
        return drawing, np.asarray(picture)


@pytest.mark.parametrize("shape", [(1,), (2, 5), (3, 4, 4), (4, 1, 7), (2, 1, 1, 3)])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_numpy_reads_the_array_as_it_was(shape: tuple[int, ...], dtype: str) -> None:
    values = RNG.integers(0, 256, shape).astype(dtype)

    found = np.load(BytesIO(npy(output(values))), allow_pickle=False)

    assert (values.dtype, values.shape, values.tobytes()) == (found.dtype, found.shape, found.tobytes())


@pytest.mark.parametrize(
    ("scale", "mean", "std"),
    [
        (1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        (1.0, (127.0,), (128.0,)),
        (2 / 255, (1.0,), (1.0,)),
        (-1.0, (-255.0,), (1.0,)),
        (1.0, (0.0,), (1.0,)),
    ],
)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_all_levels_come_back_from_what_was_made_of_them(
    scale: float, mean: tuple[float, ...], std: tuple[float, ...], layout: str
) -> None:
    levels = RNG.permutation(np.arange(768) % 256).astype(np.uint8).reshape(16, 16, 3)
    values = ((levels * scale - np.array(mean)) / np.array(std)).astype(np.float32)
    stored = np.ascontiguousarray(values.transpose(2, 0, 1)) if layout == "NCHW" else values

    drawing, picture = drawn(stored, layout=layout, color="rgb", scale=scale, mean=mean, std=std)

    assert drawing.levels
    assert np.array_equal(levels, picture)
    assert (values.min(), values.max()) == (np.float32(drawing.low), np.float32(drawing.high))


def test_numbers_that_no_levels_give_are_drawn_from_lowest_to_highest() -> None:
    values = np.array([[[0.0, 0.25, 1.0], [np.nan, np.inf, -np.inf]]], dtype=np.float32)

    drawing, picture = drawn(values, **PLAIN)

    assert (False, 0.0, 1.0) == (drawing.levels, drawing.low, drawing.high)
    assert [[0, 64, 255], [0, 255, 0]] == picture.tolist()


def test_a_constant_input_is_black_unless_its_level_is_known() -> None:
    half = np.full((1, 2, 2), 0.5, dtype=np.float32)

    assert 0 == drawn(half, **PLAIN)[1].max()
    assert 1 == drawn(half, **PLAIN | {"scale": 0.5})[1].min()


@pytest.mark.parametrize(
    ("shape", "size"),
    [((4, 7), (4, 7)), ((1, 4, 7), (4, 7)), ((3, 4, 7), (4, 7, 3)), ((4, 7, 3), (4, 7, 3))],
)
def test_a_tensor_of_the_shape_of_a_picture_is_drawn_though_nobody_calls_it_one(
    shape: tuple[int, ...], size: tuple[int, ...]
) -> None:
    drawing, picture = drawn(RNG.normal(size=shape).astype(np.float32), color="none")

    assert (size, False) == (picture.shape, drawing.levels)


@pytest.mark.parametrize("shape", [(5,), (2, 4, 4), (4, 4, 4), (3, 0, 4), (1, 3, 4, 4)])
def test_what_has_another_shape_is_no_picture(shape: tuple[int, ...]) -> None:
    assert draw(output(np.zeros(shape, dtype=np.float32)), {"layout": "NCHW", "color": "rgb"}) is None
