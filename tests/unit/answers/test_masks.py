"""Masks from weights and prototypes: against a plain loop and Pillow, in every format, within their bounds."""

from __future__ import annotations

import base64
import json
import tracemalloc
from io import BytesIO
from math import floor
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from convq.answers import masks as module
from convq.answers.coordinates import Placement
from convq.answers.masks import MaskFormat, instance_masks
from convq.answers.rle import decode
from convq.errors import ModelFault, NonFinite
from pace import Stopwatch

Mask = NDArray[np.bool_]
FORMATS: list[MaskFormat] = ["rle", "polygon", "png"]
LETTERBOX = Placement(90, 60, 64 / 90, 43 / 60, 0.0, 10.0)
"""A picture of 90 x 60 in an input of 64 x 64."""


def prototypes(count: int = 4, height: int = 16, width: int = 16, seed: int = 0) -> NDArray[np.float32]:
    noise = np.random.default_rng(seed).standard_normal((count, height, width), dtype=np.float32)
    return np.stack([cv2.GaussianBlur(plane, (0, 0), 1.5) for plane in noise])


def looped(
    weight: NDArray[np.float32], protos: NDArray[np.float32], box: list[float], placement: Placement, side: int
) -> tuple[Mask, Mask]:
    """The mask of a picture, pixel by pixel, and where the sum is so near 0 that rounding decides."""
    mask, unsure = np.zeros((2, placement.height, placement.width), dtype=bool)
    sums = np.einsum("m,mhw->hw", weight.astype(np.float64), protos.astype(np.float64))
    height, width = sums.shape
    for j in range(placement.height):
        for i in range(placement.width):
            if not (box[0] <= i + 0.5 < box[2] and box[1] <= j + 0.5 < box[3]):
                continue
            x = ((i + 0.5) * placement.sx + placement.dx) * width / side - 0.5
            y = ((j + 0.5) * placement.sy + placement.dy) * height / side - 0.5
            total = 0.0
            for column, along in ((floor(x), 1 - x + floor(x)), (floor(x) + 1, x - floor(x))):
                for row, down in ((floor(y), 1 - y + floor(y)), (floor(y) + 1, y - floor(y))):
                    total += along * down * sums[min(max(row, 0), height - 1), min(max(column, 0), width - 1)]
            mask[j, i], unsure[j, i] = total > 0, abs(total) < 1e-4
    return mask, unsure


def found_mask(entry: dict[str, Any], height: int, width: int) -> Mask:
    """The mask of a picture, from any of the formats."""
    if "mask" in entry:
        assert [height, width] == entry["mask"]["size"]
        return decode(entry["mask"])
    mask = np.zeros((height, width), dtype=bool)
    cut = entry["mask_png"]
    with Image.open(BytesIO(base64.b64decode(cut["data"]))) as image:
        assert "L" == image.mode
        levels = np.asarray(image)
    assert {0, 255} >= set(np.unique(levels).tolist())
    mask[cut["y"] : cut["y"] + levels.shape[0], cut["x"] : cut["x"] + levels.shape[1]] = levels > 0
    return mask


SIDE = st.floats(0, 1)


@given(st.integers(0, 1000), st.tuples(SIDE, SIDE, SIDE, SIDE), st.sampled_from(["rle", "png"]))
@settings(max_examples=60, deadline=None)
def test_a_mask_is_what_a_plain_loop_over_its_box_makes_of_it(
    seed: int, corners: tuple[float, float, float, float], form: MaskFormat
) -> None:
    x1, x2 = sorted((corners[0] * 90, corners[1] * 90))
    y1, y2 = sorted((corners[2] * 60, corners[3] * 60))
    box = [x1, y1, max(x2, x1 + 1.0), max(y2, y1 + 1.0)]  # one pixel's centre lies in it
    protos, weight = prototypes(seed=seed), np.random.default_rng(seed).standard_normal(4).astype(np.float32)

    found = instance_masks(weight[None], protos, np.array([box]), LETTERBOX, (64, 64), form)

    expected, unsure = looped(weight, protos, box, LETTERBOX, 64)
    differs = (found_mask(found.entries[0], 60, 90) != expected) & ~unsure
    # a box whose corner lies beyond the last centre has the last pixel all the same
    assert not differs[:-1, :-1].any()


def test_a_mask_is_what_pillow_makes_of_the_whole_map_within_the_box() -> None:
    protos, weight = prototypes(8, 40, 40), np.ones((1, 8), dtype=np.float32)
    placement = Placement(400, 400, 160 / 400, 160 / 400)
    whole = Image.fromarray(protos.sum(axis=0)).resize((400, 400), Image.Resampling.BILINEAR)
    expected = np.zeros((400, 400), dtype=bool)
    expected[50:301, 20:200] = (np.asarray(whole) > 0)[50:301, 20:200]

    entries, _ = instance_masks(weight, protos, np.array([[20.0, 49.6, 200.4, 300.9]]), placement, (160, 160))

    assert 1 > (expected != found_mask(entries[0], 400, 400)).sum() / 100


def test_all_formats_show_the_same_mask() -> None:
    protos, weight, box = prototypes(), np.ones((1, 4), dtype=np.float32), np.array([[10.2, 5.0, 70.0, 50.9]])
    rle, outlines, cut = (instance_masks(weight, protos, box, LETTERBOX, (64, 64), form).entries[0] for form in FORMATS)
    mask = found_mask(rle, 60, 90)
    canvas = np.zeros((60, 90), dtype=np.uint8)
    rings = [np.array(ring, dtype=np.int32).reshape(-1, 2) * 16 - 8 for ring in outlines["polygons"]]
    cv2.fillPoly(canvas, rings, 1, cv2.LINE_8, 4)

    np.testing.assert_array_equal(mask, found_mask(cut, 60, 90))
    assert {"x": 10, "y": 5} == {key: cut["mask_png"][key] for key in "xy"}
    assert 0.1 > (mask != (canvas > 0)).sum() / mask.sum()
    assert all(type(number) is int for ring in outlines["polygons"] for number in ring)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_entries_are_json_whatever_the_type_of_the_network(form: MaskFormat, dtype: str) -> None:
    weight = np.array([[1, 2, -1, 0.5], [0, 0, 0, 0]], dtype=dtype)
    boxes = np.array([[0, 0, 90, 60], [3, 3, 40, 40]], dtype=dtype)

    entries, truncated = instance_masks(weight, prototypes().astype(dtype), boxes, LETTERBOX, (64, 64), form)

    assert entries == json.loads(json.dumps(entries))
    assert (2, False) == (len(entries), truncated)


def test_no_detections_have_no_masks() -> None:
    for form in FORMATS:
        found = instance_masks(np.empty((0, 4)), prototypes(), np.empty((0, 4)), LETTERBOX, (64, 64), form)
        assert ([], False) == found


@pytest.mark.parametrize(
    "box", [[5, 5, 5, 5], [0, 0, 0, 0], [90, 60, 90, 60], [-50, -50, -10, -10], [500, 500, 1e30, 1e30], [8, 9, 2, 1]]
)
@pytest.mark.parametrize("form", FORMATS)
def test_a_box_without_an_area_or_outside_has_one_pixel(form: MaskFormat, box: list[float]) -> None:
    protos = np.full((1, 16, 16), 1.0, dtype=np.float32)

    (entry,), _ = instance_masks(np.ones((1, 1)), protos, np.array([box], dtype=np.float64), LETTERBOX, (64, 64), form)

    if form == "polygon":
        assert 8 == len(entry["polygons"][0])
    else:
        assert 1 == found_mask(entry, 60, 90).sum()


@pytest.mark.parametrize(
    ("weight", "level"),
    [(1.0, np.nan), (1.0, np.inf), (0.0, np.nan), (3e38, 3e38)],
    ids=["nan", "inf", "0 x nan", "overflow"],
)
@pytest.mark.parametrize("form", FORMATS)
def test_a_mask_that_comes_of_no_number_is_an_error(form: MaskFormat, weight: float, level: float) -> None:
    protos = np.full((2, 16, 16), 1.0, dtype=np.float32)
    protos[0, :8] = level
    weights, whole = np.array([[weight, 1.0]], dtype=np.float32), np.array([[0, 0, 64, 64]])

    with pytest.raises(NonFinite, match="mask"):
        instance_masks(weights, protos, whole, Placement(64, 64), (64, 64), form)


def test_prototypes_outside_a_box_may_hold_anything() -> None:
    protos = np.full((1, 16, 16), 1.0, dtype=np.float32)
    protos[0, :4] = np.nan

    (entry,), _ = instance_masks(np.ones((1, 1)), protos, np.array([[0, 32, 64, 64]]), Placement(64, 64), (64, 64))

    assert found_mask(entry, 64, 64)[32:].all()


@pytest.mark.parametrize(
    ("weights", "planes"),
    [((1, 4), (5, 8, 8)), ((4,), (4, 8, 8)), ((1, 4), (4, 8)), ((1, 4), (4, 0, 8)), ((1, 0), (0, 8, 8))],
)
def test_shapes_that_do_not_belong_together_are_the_models_fault(weights: Any, planes: Any) -> None:
    with pytest.raises(ModelFault, match="weights and prototypes"):
        instance_masks(np.ones(weights), np.ones(planes), np.zeros((1, 4)), LETTERBOX, (64, 64))


@pytest.mark.parametrize("form", ["rle", "png"])
def test_beyond_the_bytes_of_a_job_the_rest_has_no_masks(form: MaskFormat, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, boxes = np.ones((5, 4), dtype=np.float32), np.array([[0.0, 0.0, 90.0, 60.0]] * 5)
    one = instance_masks(weights[:1], prototypes(), boxes[:1], LETTERBOX, (64, 64), form).entries[0]
    size = len(one["mask"]["counts"] if form == "rle" else one["mask_png"]["data"])
    monkeypatch.setattr(module, "MAX_MASK_BYTES", 3 * size)

    assert ([one, one, one, {}, {}], True) == instance_masks(weights, prototypes(), boxes, LETTERBOX, (64, 64), form)


def test_beyond_the_corners_of_a_job_the_rest_has_no_polygons(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, boxes = np.ones((400, 1), dtype=np.float32), np.array([[10.0, 10.0, 20.0, 20.0]] * 400)
    square, protos = [10, 10, 20, 10, 20, 20, 10, 20], np.full((1, 8, 8), 1.0)
    monkeypatch.setattr(module, "MAX_CORNERS", 4 * 300 + 3)

    entries, truncated = instance_masks(weights, protos, boxes, LETTERBOX, (64, 64), "polygon")

    assert truncated
    assert [{"polygons": [square]}] * 300 + [{}] * 100 == entries


HUGE = Placement(10_000, 5_000, 640 / 10_000, 320 / 5_000, 0.0, 160.0)
"""50 megapixels in an input of 640 x 640."""


def hostile(count: int, form: MaskFormat) -> tuple[list[dict[str, Any]], bool]:
    """Masks of noise, each on a whole picture of 50 megapixels."""
    random = np.random.default_rng(0)
    protos = random.standard_normal((32, 160, 160), dtype=np.float32)
    weights = random.standard_normal((count, 32), dtype=np.float32)
    return instance_masks(weights, protos, np.array([[0, 0, 10_000, 5_000]] * count), HUGE, (640, 640), form)


@pytest.mark.parametrize("form", FORMATS)
def test_a_thousand_masks_on_50_megapixels_end_soon(form: MaskFormat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MASK_PIXELS", 120_000_000)

    with Stopwatch() as watch:
        entries, truncated = hostile(1000, form)

    assert truncated
    assert 1000 == len(entries)
    assert 2 == sum(bool(entry) for entry in entries)
    assert 10 > watch.quiet_s


@pytest.mark.parametrize("form", FORMATS)
def test_a_mask_of_50_megapixels_needs_a_few_bytes_a_pixel(form: MaskFormat) -> None:
    tracemalloc.start()
    hostile(1, form)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert 6 * 50_000_000 > most
