"""Image outputs: numbers become levels by plain arithmetic, and the PNG files hold exactly these."""

from __future__ import annotations

import base64
import json
import time
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from convq.answers.png import png
from convq.engine.png import Picture
from convq.protocol import decode_result
from convq.queue import Lease, Receiver
from convq.worker.results import ResultEncoder
from convq.worker.ticket import Ticket

SIDES = st.tuples(st.integers(1, 40), st.integers(1, 40))


def shown(content: bytes) -> NDArray[np.uint8]:
    with Image.open(BytesIO(content)) as image:
        image.load()
        assert image.mode in ("L", "RGB")
        return np.asarray(image)


@given(SIDES, st.sampled_from([None, 3]), st.integers(0, 2**32 - 1), st.sampled_from([1, 3, 256]))
@settings(max_examples=80, deadline=None)
def test_a_png_file_holds_exactly_these_levels(
    sides: tuple[int, int], channels: int | None, seed: int, levels: int
) -> None:
    shape = sides if channels is None else (*sides, channels)
    pixels = np.random.default_rng(seed).integers(0, levels, shape, dtype=np.uint8)

    np.testing.assert_array_equal(pixels, shown(png(pixels)))


def test_a_png_file_is_what_the_standard_wants_of_it() -> None:
    content = png(np.zeros((2, 5, 3), dtype=np.uint8))

    assert content.startswith(
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x05\x00\x00\x00\x02\x08\x02\x00\x00\x00"
    )
    assert content.endswith(b"\x00\x00\x00\x00IEND\xaeB\x60\x82")
    with Image.open(BytesIO(content)) as image:
        image.verify()  # every checksum


VALUES = st.floats(-400, 400, width=32)


@given(st.lists(VALUES, min_size=12, max_size=12), st.sampled_from([0.5, 1.0, 255.0, -2.0]), st.floats(-10, 300))
@settings(max_examples=150, deadline=None)
def test_levels_are_values_times_scale_plus_offset_rounded_and_cut(
    values: list[float], scale: float, offset: float
) -> None:
    plane = np.array(values, dtype=np.float64).reshape(1, 3, 4)
    expected = [min(255, max(0, round(value * scale + offset))) for value in values]

    assert expected == Picture(scale=scale, offset=offset).levels(plane).ravel().tolist()


def test_halves_go_to_even_and_what_is_beyond_the_levels_is_cut() -> None:
    plane = np.array([[[-1e30, -0.5, 0.5, 1.5, 254.5, 255.5, 3e38]]], dtype=np.float32)

    assert [[0, 0, 0, 2, 254, 255, 255]] == Picture().levels(plane).tolist()
    assert [[0, 0, 5, 15, 255, 255, 255]] == Picture(scale=10.0).levels(plane).tolist()


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int32", "int64", "float16", "float32", "float64", "bool"]
)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("bgr", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_dtype_layout_and_order_of_colours_is_the_same_picture(
    dtype: str, layout: Any, channels: int, bgr: bool
) -> None:
    high = 2 if dtype == "bool" else 100
    pixels = np.random.default_rng(3).integers(0, high, (4, 6, channels)).astype(np.uint8)
    ordered = pixels[..., ::-1] if bgr else pixels
    value = (ordered if layout == "NHWC" else ordered.transpose(2, 0, 1)).astype(dtype)

    made = Picture(layout, bgr).levels(value)

    np.testing.assert_array_equal(pixels if channels == 3 else pixels[..., 0], made)
    np.testing.assert_array_equal(made, shown(Picture(layout, bgr).png(value)))


def test_large_whole_numbers_keep_their_last_digit() -> None:
    value = np.array([[[2**40 + 7, 2**40 + 8]]], dtype=np.int64)

    assert [[7, 8]] == Picture(offset=-float(2**40)).levels(value).tolist()


@pytest.mark.parametrize(
    ("layout", "shape", "expected"),
    [
        ("NCHW", (3, 8, 9), None),
        ("NCHW", (1, None, None), None),
        ("NCHW", (None, 8, 9), None),
        ("NHWC", (8, 9, 3), None),
        ("NCHW", (2, 8, 9), "has 2 channels; an image has 1 or 3 (channels, height, width)"),
        ("NHWC", (3, 8, 9), "has 9 channels; an image has 1 or 3 (height, width, channels)"),
        ("NCHW", (8, 9), "has 2 axes besides the batch; an image has 3"),
        ("NCHW", (3, 0, 9), "has no pixels"),
    ],
)
def test_what_is_no_image_is_said_to_be_none(layout: Any, shape: tuple[int | None, ...], expected: str | None) -> None:
    said = Picture(layout).misfit(shape)

    assert (expected is None) == (said is None)
    assert (expected or "") in (said or "")


def ticket() -> Ticket:
    job = Receiver("convq:{blur}:inbox:").receive(b"1763800000000-0", (b"image", b"x"), lane=1, attempt=1)
    return Ticket(job, Lease("host-1-aa"), time.perf_counter(), queue_s=0.0)


def test_a_document_carries_an_image_as_png_and_the_rest_as_arrays() -> None:
    value = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    documents = ResultEncoder("blur", 2, (), "host-1", {"picture": Picture(scale=4.0)})

    document = documents.ok(ticket(), 1, None, {"picture": value, "raw": value})
    result = decode_result(document)

    picture, raw = result.output("picture"), result.output("raw")
    assert {"name", "format", "data"} == set(json.loads(document)["outputs"][0])
    assert {"name", "dtype", "shape", "data"} == set(json.loads(document)["outputs"][1])
    np.testing.assert_array_equal((value * 4).transpose(1, 2, 0), shown(picture.png()))
    np.testing.assert_array_equal(value, raw.array())
    with pytest.raises(ValueError, match="raw is an array"):
        raw.png()
    with pytest.raises(ValueError, match=r"picture is an image \(png\): use png"):
        picture.array()


@pytest.mark.parametrize(
    "value",
    [
        np.float32(2.5),
        np.array([True, False]),
        np.zeros((0, 4), dtype=np.float32),
        np.arange(12, dtype=">i4").reshape(3, 4)[:, ::2],
        np.arange(12, dtype="<i4").reshape(3, 4)[:, ::2],
        np.arange(5, dtype=np.float16),
    ],
)
def test_an_array_of_any_shape_arrives_as_it_was(value: Any) -> None:
    (output,) = json.loads(ResultEncoder("m", 1, (), "w").ok(ticket(), 1, None, {"y": value}))["outputs"]

    assert (list(value.shape), value.dtype.name) == (output["shape"], output["dtype"])
    little = np.frombuffer(base64.b64decode(output["data"]), np.dtype(output["dtype"]).newbyteorder("<"))
    np.testing.assert_array_equal(np.asarray(value).ravel(), little)
