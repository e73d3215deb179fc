"""Answers drawn on pictures, looked at pixel by pixel; documents are made by hand, as the protocol's page has them."""

from __future__ import annotations

import base64
import json
import math
import subprocess
import sys
from io import BytesIO
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from convq.answers.polygons import rings
from convq.answers.rle import encode
from convq.drawing import draw, upright
from convq.drawing.canvas import Canvas
from convq.drawing.fonts import Fonts, system_fonts, written
from convq.drawing.masks import filled
from convq.drawing.objects import _overlap, _places
from convq.drawing.palette import BASE, BLACK, PALETTE, WHITE, colour_of, ink_on, luminance
from convq.engine.decoding import decode
from convq.errors import BadField, BadImage
from convq.protocol import decode_result
from convq.repository.manifest import Input, Limits

WIDTH, HEIGHT = 400, 330
RNG = np.random.default_rng(5)
PHOTO = RNG.integers(90, 160, (HEIGHT, WIDTH, 3), dtype=np.uint8)
"""Gray noise, so that no pixel has a colour of the palette by chance."""


def document(**answer: Any) -> dict[str, Any]:
    return {"status": "ok", "image": {"width": WIDTH, "height": HEIGHT}, **answer}


def found(box: tuple[float, ...], index: int = 0, score: float = 0.9, label: str = "a", **more: Any) -> dict[str, Any]:
    return {"label": label, "index": index, "score": score, "box": list(box), **more}


def drawn(picture: Any = PHOTO, described: dict[str, Any] | None = None, **answer: Any) -> NDArray[np.uint8]:
    return np.asarray(draw(document(**answer), picture, described))


def changed(made: NDArray[np.uint8], photo: NDArray[np.uint8] = PHOTO) -> NDArray[np.bool_]:
    return np.asarray((made[: len(photo)] != photo).any(axis=2))


def png(levels: NDArray[Any]) -> str:
    file = BytesIO()
    Image.fromarray(levels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def disc(x: float, y: float, radius: float) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.asarray(np.hypot(columns + 0.5 - x, rows + 0.5 - y) < radius)


def blended(colour: tuple[int, ...], photo: NDArray[np.uint8] = PHOTO) -> NDArray[np.float64]:
    return np.asarray((photo.astype(float) * 127 + np.array(colour, dtype=float) * 128) / 255)


# -- boxes --------------------------------------------------------------------------------------------------------------


def test_the_border_of_a_box_has_the_colour_of_its_class_and_nothing_beyond_it_and_its_label_is_touched() -> None:
    made = drawn(detections=[found((100, 120, 300, 280), index=4)])

    line = 2
    for edge in (made[120 : 120 + line, 100:300], made[280 - line : 280, 100:300], made[120:280, 100 : 100 + line]):
        assert {colour_of(4)} == set(map(tuple, edge.reshape(-1, 3).tolist()))
    assert {colour_of(4)} == set(map(tuple, made[120:280, 300 - line : 300].reshape(-1, 3).tolist()))
    rows, columns = np.nonzero(changed(made))
    assert (100, 299, 279) == (columns.min(), columns.max(), rows.max())
    assert not changed(made)[120 + 2 * line : 280 - 2 * line, 100 + 2 * line : 300 - 2 * line].any()
    label = changed(made)[:120]
    assert 100 <= 120 - np.nonzero(label)[0].min() + 100 <= 130  # the plate stands on the box, one line high
    assert np.nonzero(label)[1].max() < 200


@pytest.mark.parametrize("box", [(0, 0, WIDTH, HEIGHT), (0, 0, 3, 3), (397, 327, 400, 330), (10.2, 20.7, 10.3, 20.8)])
def test_boxes_at_the_border_and_without_room_are_seen(box: tuple[float, ...]) -> None:
    made = drawn(detections=[found(box, index=1)])

    x, y = min(math.floor(box[0]), WIDTH - 1), min(round(box[1]), HEIGHT - 1)
    ends = {tuple(made[y, min(x + dx, WIDTH - 1)].tolist()) for dx in range(3)}
    assert colour_of(1) in ends or tuple(made[min(y + 20, HEIGHT - 1), x].tolist()) == colour_of(1)
    assert (HEIGHT, WIDTH, 3) == made.shape


def test_a_better_detection_lies_above_a_worse_one() -> None:
    box = (50, 60, 200, 200)

    made = drawn(detections=[found(box, index=0, score=0.9), found(box, index=1, score=0.4)])

    assert colour_of(0) == tuple(made[61, 100].tolist())


def test_corners_are_drawn_in_the_place_of_the_box() -> None:
    corners = [[200, 60], [300, 160], [200, 260], [100, 160]]

    made = drawn(detections=[found((100, 60, 300, 260), index=2, corners=corners)])

    assert colour_of(2) == tuple(made[110, 250].tolist())
    assert not changed(made)[62:90, 100:150].any()
    assert not changed(made)[140:180, 180:220].any()


def test_a_picture_of_64_pixels_is_enlarged_by_a_whole_factor_and_its_pixels_stay_squares() -> None:
    small = RNG.integers(0, 256, (64, 48, 3), dtype=np.uint8)
    answer = {"image": {"width": 48, "height": 64}, "detections": [found((8, 30, 40, 60), index=3)]}

    made = np.asarray(draw({"status": "ok", **answer}, small))

    assert (320, 240, 3) == made.shape
    assert colour_of(3) == tuple(made[30 * 5, 20 * 5].tolist())
    assert np.array_equal(np.repeat(np.repeat(small, 5, 0), 5, 1)[305:], made[305:])


def test_lines_and_letters_grow_with_the_picture() -> None:
    small, large = (Canvas.of(Image.new("RGB", size)) for size in ((320, 240), (4000, 3000)))

    assert (2, 12) == (small.line_px, small.fonts.size_px)
    assert (9, 67) == (large.line_px, large.fonts.size_px)
    assert 33 == Canvas.of(Image.new("RGB", (4000, 3000)), labels=500).fonts.size_px


# -- masks --------------------------------------------------------------------------------------------------------------


def forms(mask: NDArray[np.bool_], box: tuple[int, int, int, int]) -> list[dict[str, Any]]:
    x1, y1, x2, y2 = box
    cut = np.where(mask[y1:y2, x1:x2], 255, 0).astype(np.uint8)
    return [
        {"mask": encode(mask)},
        {"polygons": rings(np.ascontiguousarray(mask.T)).flat()},
        {"mask_png": {"x": x1, "y": y1, "data": png(cut)}},
    ]


def test_masks_of_all_three_forms_are_half_transparent_and_touch_nothing_else() -> None:
    mask = disc(200, 170, 90) & ~disc(220, 180, 30)
    box = (100, 70, 300, 270)

    pictures = [drawn(detections=[found((0, 0, 5, 5), index=6, **form)]) for form in forms(mask, box)]

    assert np.array_equal(pictures[0], pictures[1])
    assert np.array_equal(pictures[0], pictures[2])
    inside = mask & (np.mgrid[:HEIGHT, :WIDTH][0] > 60)
    np.testing.assert_allclose(blended(colour_of(6))[inside], pictures[0][inside], atol=1)
    assert not (changed(pictures[0]) & ~mask)[60:].any()


@given(
    st.lists(st.lists(st.tuples(st.floats(-5, 25), st.floats(-5, 20)), min_size=3, max_size=6), min_size=1, max_size=3)
)
def test_rings_are_filled_by_even_and_odd_as_a_plain_loop_does_it(shapes: list[list[tuple[float, float]]]) -> None:
    width, height = 20, 15
    flat = [[number for point in shape for number in point] for shape in shapes]

    made = filled(flat, (width, height))

    levels = np.zeros((height, width), dtype=np.uint8)
    if made is not None:
        levels[made.y : made.y + made.image.height, made.x : made.x + made.image.width] = np.asarray(made.image)
    for row in range(height):
        for column in range(width):
            x, y, within, near = column + 0.5, row + 0.5, False, False
            for shape in shapes:
                for (xa, ya), (xb, yb) in pairwise([*shape, shape[0]]):
                    if (ya > y) != (yb > y):
                        crossing = xa + (y - ya) * (xb - xa) / (yb - ya)
                        near |= abs(crossing - x) < 1e-9
                        within ^= crossing > x
            assert near or within == (levels[row, column] == 255)


def test_a_mask_of_another_picture_or_that_is_none_is_refused() -> None:
    for mask in (encode(np.ones((3, 3), dtype=np.bool_)), {"size": [HEIGHT, WIDTH], "counts": "zz"}):
        with pytest.raises(ValueError, match="mask"):
            drawn(detections=[found((0, 0, 9, 9), mask=mask)])


# -- keypoints ----------------------------------------------------------------------------------------------------------


def test_keypoints_and_the_lines_between_them_are_drawn_where_they_are_seen() -> None:
    points = [[200, 100, 0.9], [300, 100, 0.9], [300, 200, 0.1], [200, 200, 0.9], [-1e30, 1e30, 0.9], [200, 900]]
    skeleton = [[0, 1], [1, 2], [0, 3], [3, 4], [3, 99]]
    described = {"answers": {"detections": {"skeleton": skeleton}}}

    made = drawn(described=described, detections=[found((0, 300, 9, 310), index=1, keypoints=points)])

    assert WHITE == tuple(made[100, 200].tolist())
    assert colour_of(1) == tuple(made[100, 250].tolist())
    assert colour_of(1) == tuple(made[150, 200].tolist())
    assert not changed(made)[110:250, 240:].any()


def test_keypoints_of_a_whole_picture_need_no_detection() -> None:
    made = drawn(described={"answers": {"keypoints": {"skeleton": [[0, 1]]}}}, keypoints=[[100, 100], [200, 100]])

    assert colour_of(0) == tuple(made[100, 150].tolist())
    assert WHITE == tuple(made[100, 200].tolist())


# -- labels -------------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.text(max_size=60), st.integers(0, 10**6))
def test_labels_of_any_script_are_drawn(label: str, index: int) -> None:
    assert changed(drawn(detections=[found((50, 50, 90, 90), label=label, index=index)])).any()


def test_a_label_that_no_font_can_write_is_the_number_of_its_class() -> None:
    canvas = Canvas.of(Image.new("RGB", (400, 400)))
    known = canvas.fonts.has("人")

    texts = canvas.texts("\U000f1234\U000f1234", 91, 0.5), canvas.texts("", 7, 0.5), canvas.texts("dog", 1, 0.914)

    assert [["#91  50%", "#91"], ["#7  50%", "#7"], ["dog  91%", "dog", "#1"]] == list(texts)
    assert known == (canvas.texts("人", 2, 1)[0] == "人  100%")


def test_the_font_that_a_caller_names_comes_first() -> None:
    font = Path(pytest.importorskip("matplotlib").get_data_path()) / "fonts" / "ttf" / "DejaVuSansMono.ttf"
    mono = Fonts(20, font)

    assert mono.width("iiii") == mono.width("MMMM")
    assert Fonts(20).width("iiii") < Fonts(20).width("MMMM")
    assert mono.has("Жя αβ")
    assert all(Path(one).is_file() for one in system_fonts())
    with pytest.raises(BadField, match="is no font"):
        draw(document(text="x"), PHOTO, font=__file__)


def test_text_of_strangers_is_one_line_of_what_can_be_seen() -> None:
    assert "a b c" == written("a\nb\x1bc\ud800")
    assert 200 == len(written("x" * 10_000))
    assert "…" == written("x" * 10_000)[-1]


def test_a_label_that_is_too_wide_is_shortened_and_the_picture_stays_as_large() -> None:
    fonts = Fonts(12)

    assert (HEIGHT, WIDTH, 3) == drawn(detections=[found((0, 0, 9, 9), label="wide " * 60)]).shape
    assert fonts.width(fonts.fitted("wide " * 60, 100)) <= 100
    assert "" == fonts.fitted("wide", 1)
    made = draw(
        {"status": "ok", "image": {"width": 1000, "height": 2}, "detections": [found((0, 0, 9, 2))]},
        np.zeros((2, 1000), np.uint8),
    )
    assert (1000, 2) == made.size


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_labels_stand_within_the_picture(seed: int) -> None:
    canvas = Canvas.of(Image.new("RGB", (WIDTH, HEIGHT)))
    rng = np.random.default_rng(seed)
    xs, ys = np.sort(rng.uniform(0, WIDTH, 2)), np.sort(rng.uniform(0, HEIGHT, 2))
    box = canvas.placed(xs[0], ys[0], xs[1], ys[1])

    for x, y in _places(canvas, box, 90, 20):
        assert 0 <= x <= WIDTH - 90
        assert 0 <= y <= HEIGHT - 20


def test_of_hundreds_of_detections_the_labels_do_not_cover_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    plates: list[tuple[int, int, int, int]] = []

    def note(canvas: Canvas, x: int, y: int, text: str, _: Any) -> None:
        plates.append((x, y, x + canvas.plate_width(text), y + canvas.plate_px))

    monkeypatch.setattr(Canvas, "plate", note)
    rng = np.random.default_rng(1)
    several = []
    for number in range(600):
        x, y = rng.uniform(0, WIDTH - 20), rng.uniform(0, HEIGHT - 20)
        several.append(found((x, y, x + 20, y + 20), index=number % 80, score=1 - number / 1000))
    drawn(detections=several)

    assert 50 < len(plates) < 600
    assert not any(_overlap(one, other) for one, other in combinations(plates, 2))


# -- maps ---------------------------------------------------------------------------------------------------------------


def segments(levels: NDArray[Any], **more: Any) -> dict[str, Any]:
    kinds = [{"label": "road", "index": 1, "share": 0.5}, {"label": "sky", "index": 30, "share": 0.001}]
    return {
        "format": "png",
        "width": levels.shape[1],
        "height": levels.shape[0],
        "data": png(levels),
        "classes": kinds,
    } | more


@pytest.mark.parametrize(("dtype", "nothing"), [(np.uint8, 255), (np.uint16, 65535)])
@pytest.mark.parametrize("shrink", [1, 10])
def test_classes_of_pixels_lie_half_transparent_over_them_and_are_named_below(
    dtype: type[np.unsignedinteger[Any]], nothing: int, shrink: int
) -> None:
    levels = np.full((HEIGHT // shrink, WIDTH // shrink), nothing, dtype=dtype)
    levels[:, : WIDTH // shrink // 2] = 1
    levels[: HEIGHT // shrink // 2] = 30

    made = drawn(segments=segments(levels))

    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    top, left = rows < HEIGHT // shrink // 2 * shrink, columns < WIDTH // shrink // 2 * shrink
    np.testing.assert_allclose(blended(colour_of(30))[top], made[:HEIGHT][top], atol=1)
    np.testing.assert_allclose(blended(colour_of(1))[left & ~top], made[:HEIGHT][left & ~top], atol=1)
    assert not changed(made)[~left & ~top].any()
    below = set(map(tuple, made[HEIGHT:].reshape(-1, 3).tolist()))
    assert {colour_of(1), colour_of(30), BLACK, WHITE} <= below
    assert HEIGHT < len(made) < HEIGHT + 30


def test_of_a_crop_the_map_lies_where_the_crop_was() -> None:
    levels = np.ones((10, 10), dtype=np.uint8)

    made = drawn(segments=segments(levels, box=[100, 50, 300, 250]))

    assert changed(made)[50:250, 100:300].all()
    assert not changed(made)[:50].any()
    assert not changed(made)[:, 300:].any()


def test_a_legend_of_many_classes_ends_with_how_many_more_there_are() -> None:
    kinds = [{"label": f"class number {index}", "index": index, "share": 0.002} for index in range(300)]

    made = drawn(segments=segments(np.zeros((3, 4), dtype=np.uint8), classes=kinds))

    assert HEIGHT < len(made) <= HEIGHT + 12 * 25


def output(levels: NDArray[Any], **more: Any) -> dict[str, Any]:
    return {"name": "y", "format": "png", "data": png(levels), **more}


def test_a_matte_becomes_transparency() -> None:
    levels = np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))

    made = drawn(outputs=[output(levels)])

    assert np.array_equal(levels, made[..., 3])
    assert np.array_equal(PHOTO, made[..., :3])
    cropped = drawn(outputs=[output(levels[:100, :100] | 255, box=[10, 20, 110, 120])])[..., 3]
    assert (10_000, 255) == ((cropped > 0).sum(), cropped[20:120, 10:110].min())


def test_an_image_output_of_a_model_is_no_matte() -> None:
    described = {"outputs": [{"name": "y", "meaning": "image"}]}

    with pytest.raises(ValueError, match="nothing to draw in this answer: outputs y"):
        draw(document(outputs=[output(PHOTO[..., 0])]), PHOTO, described)
    with pytest.raises(ValueError, match="nothing to draw"):
        draw({"status": "ok", "outputs": [output(PHOTO[..., 0])]}, PHOTO)


def test_depth_is_gray_from_low_to_high() -> None:
    levels = np.tile(np.linspace(0, 65535, WIDTH).astype(np.uint16), (HEIGHT, 1))

    made = draw(document(outputs=[output(levels, low=0.5, high=9.0)]), PHOTO)

    assert ("L", (WIDTH, HEIGHT)) == (made.mode, made.size)
    assert np.array_equal(levels >> 8, np.asarray(made))
    with_box = draw(document(outputs=[output(levels, low=0, high=1)], detections=[found((9, 9, 300, 300))]), PHOTO)
    assert "RGB" == with_box.mode


def test_what_was_read_and_what_it_is_stand_below_the_picture() -> None:
    for answer in ({"text": "Grüße 12", "text_score": 0.98}, {"text": ""}, {"predictions": [found((), label="7")]}):
        made = drawn(**answer)
        assert np.array_equal(PHOTO, made[:HEIGHT])
        assert WHITE in set(map(tuple, made[HEIGHT:].reshape(-1, 3).tolist()))


@pytest.mark.parametrize("answer", [{}, {"embedding": {"size": 3}}, {"outputs": [{"name": "raw", "dtype": "uint8"}]}])
def test_where_there_is_nothing_to_draw_that_is_said(answer: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="nothing to draw in this answer"):
        drawn(**answer)


def test_nothing_found_is_the_picture_as_it_was() -> None:
    assert np.array_equal(PHOTO, drawn(detections=[]))


# -- colours ------------------------------------------------------------------------------------------------------------

DEFICIENCIES = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
"""Of linear RGB, severity 1: Machado, Oliveira and Fernandes (2009), A Physiologically-based Model for Simulation."""


def lab(linear: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIELAB, D65."""
    matrix = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = np.array(matrix) @ np.clip(linear, 0, 1) / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("deficiency", [None, *DEFICIENCIES])
def test_the_first_seven_colours_are_far_apart_for_everybody(deficiency: str | None) -> None:
    seen = np.array(DEFICIENCIES[deficiency]) if deficiency else np.eye(3)
    levels = [np.array(colour) / 255 for colour in BASE]
    linear = [np.where(one <= 0.04045, one / 12.92, ((one + 0.055) / 1.055) ** 2.4) for one in levels]
    places = [lab(seen @ one) for one in linear]

    nearest = min(float(np.linalg.norm(one - other)) for one, other in combinations(places, 2))
    assert nearest > 10  # 2.3 is a just noticeable difference


def test_colours_follow_from_the_index_alone_and_text_on_them_can_be_read() -> None:
    assert 21 == len(set(PALETTE))
    assert colour_of(0) == colour_of(21)
    for colour in PALETTE:
        light, ink = luminance(colour), luminance(ink_on(colour))
        assert (max(light, ink) + 0.05) / (min(light, ink) + 0.05) > 4.5  # WCAG 2, AA


# -- pictures -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_a_picture_is_turned_as_the_service_turns_it(form: str, turn: int) -> None:
    file, exif = BytesIO(), Image.Exif()
    exif[0x0112] = turn
    options: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}
    Image.fromarray(PHOTO[:24, :40]).save(file, form, exif=exif, **options.get(form, {}))

    mine, served = upright(file.getvalue()), decode(file.getvalue(), Input(), Limits())

    np.testing.assert_allclose(np.asarray(mine, dtype=int), served, atol=2)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "I;16"])
def test_pictures_of_every_depth_are_as_the_service_sees_them(mode: str) -> None:
    image = Image.fromarray(RNG.integers(0, 65536, (9, 14)).astype(np.uint16)) if mode == "I;16" else None
    image = image or Image.fromarray(PHOTO[:9, :14]).convert(mode)
    file = BytesIO()
    image.save(file, "PNG")

    assert np.array_equal(decode(file.getvalue(), Input(), Limits()), np.asarray(upright(file.getvalue())))
    assert np.array_equal(np.asarray(upright(image)), np.asarray(upright(file.getvalue())))


def test_transparent_pixels_are_white() -> None:
    clear = Image.new("RGBA", (3, 2), (10, 20, 30, 0))

    assert (255, 255, 255) == upright(clear).getpixel((0, 0))


@pytest.mark.parametrize("layout", ["hw", "hw1", "hw3", "1hw", "3hw"])
def test_arrays_of_every_layout_are_pictures(layout: str) -> None:
    gray = np.repeat(PHOTO[..., :1], 3, axis=2)
    arrays = {
        "hw": (PHOTO[..., 0], gray),
        "hw1": (PHOTO[..., :1], gray),
        "hw3": (PHOTO, PHOTO),
        "1hw": (PHOTO[..., 0][None], gray),
        "3hw": (PHOTO.transpose(2, 0, 1), PHOTO),
    }
    array, expected = arrays[layout]

    assert np.array_equal(expected, np.asarray(upright(array)))


def test_of_an_array_that_may_be_both_the_size_decides() -> None:
    cube = RNG.integers(0, 256, (3, 5, 3), dtype=np.uint8)

    assert (3, 5) == upright(cube, (3, 5)).size
    assert (5, 3) == upright(cube, (5, 3)).size
    assert (5, 3) == upright(cube).size


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (np.zeros((3, 4, 4), np.float32), "of uint8"),
        (np.zeros((5, 4, 4), np.uint8), r"shape \(5, 4, 4\) is no picture"),
        (np.zeros((0, 4), np.uint8), "of uint8"),
        (b"%!PS-Adobe-3.0", "Pillow cannot decode the picture"),
        (b"", "Pillow cannot decode"),
        ("nowhere.png", "it is no file"),
        (3.5, "a picture is bytes, a path, a PIL image or an array of uint8, not float"),
        (Image.new("F", (3, 3)), "mode F"),
        (np.zeros((3, 4), np.uint8), "the picture is 4 x 3 pixels, and the answer is of one of 400 x 330"),
    ],
)
def test_what_is_no_picture_or_another_one_is_refused(picture: Any, said: str) -> None:
    with pytest.raises(BadImage, match=said):
        drawn(picture, detections=[])


def test_a_picture_that_a_caller_gives_stays_as_it_was() -> None:
    image = Image.fromarray(PHOTO)

    draw(document(detections=[found((10, 10, 300, 300))]), image)

    assert np.array_equal(PHOTO, np.asarray(image))


# -- results ------------------------------------------------------------------------------------------------------------

RESULT = {"v": 1, "id": "x", "entry": "1-0", "model": "m", "timing_ms": {}, **document()}


def test_a_result_draws_itself() -> None:
    one = found((20, 30, 300, 310), mask=encode(disc(150, 150, 60)), keypoints=[[100, 100, 1], [200, 100, 1]])
    described = {"answers": {"detections": {"skeleton": [[0, 1]]}}}

    made = decode_result(json.dumps({**RESULT, "detections": [one]})).draw(PHOTO, described)

    assert np.array_equal(drawn(described=described, detections=[one]), np.asarray(made))


def test_a_result_that_is_not_ok_says_why_it_is_not_drawn() -> None:
    failed = {**RESULT, "status": "error", "error": {"code": "bad_image", "message": "no"}}

    with pytest.raises(ValueError, match="no answer to draw: error: bad_image: no"):
        decode_result(json.dumps(failed)).draw(PHOTO)


def test_without_pillow_it_is_said_how_to_get_it() -> None:
    code = f"""
import sys
sys.modules["PIL"] = None
from convq.protocol import decode_result
try:
    decode_result({json.dumps({**RESULT, "detections": []})!r}).draw("x.png")
except ModuleNotFoundError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "drawing needs Pillow, as the extra cpu brings it: " in done.stdout
    assert "pillow" in done.stdout


def test_numpy_is_not_needed(tmp_path: Path) -> None:
    one = found((20, 30, 300, 310), mask=encode(disc(150, 150, 60)), keypoints=[[100, 100, 1], [200, 100, 1]])
    answer = {"detections": [one], "segments": segments(np.ones((3, 4), dtype=np.uint8)), "text": "x"}
    (tmp_path / "result.json").write_text(json.dumps({**RESULT, **answer}))
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    code = """
import sys
sys.modules["numpy"] = None
from pathlib import Path
from convq.protocol import decode_result
folder = Path(sys.argv[1])
decode_result((folder / "result.json").read_bytes()).draw(folder / "photo.png").save(folder / "drawn.png")
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)

    with Image.open(tmp_path / "drawn.png") as picture:
        assert (WIDTH, HEIGHT) <= picture.size
