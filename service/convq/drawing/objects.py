"""What a detector found, drawn: masks, boxes, corners, keypoints with their skeleton, and labels that don't cover each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from PIL import Image

from convq.drawing.canvas import Box, Canvas
from convq.drawing.masks import mask_of
from convq.drawing.palette import BLACK, WHITE, Colour, colour_of

HALF: Final = 128
"""The opacity of masks, of 255."""
LEAST_SCORE: Final = 0.25
"""Keypoints of a lower score are not drawn: the network does not see them."""
_FAR: Final = 1.0
"""Sides of the picture beyond its border: keypoints farther away are not drawn, nor lines to them."""
_DOT: Final = 1.5
"""Radius of a keypoint in widths of a line."""
_MANY: Final = 60
"""Keypoints of one object; more, as those of a whole face, are dots of the width of a line."""


def draw_detections(canvas: Canvas, found: Sequence[Mapping[str, Any]], skeleton: Iterable[Sequence[int]]) -> None:
    """All detections, best first, in one colour a class; `skeleton` has pairs of positions among the keypoints.

    The better of two that overlap lies above. A label stands where no better one does; one that finds no place is left out.
    Raises ValueError where a mask is none.
    """
    lines = [tuple(line) for line in skeleton]
    for one in reversed(found):
        _draw_mask(canvas, one)
    for one in reversed(found):
        colour = colour_of(one["index"])
        if corners := one.get("corners"):
            _draw_corners(canvas, corners, colour)
        else:
            _draw_box(canvas, canvas.placed(*one["box"]), colour)
        if points := one.get("keypoints"):
            draw_keypoints(canvas, points, lines, colour)
    _draw_labels(canvas, found)


def draw_keypoints(
    canvas: Canvas, points: Sequence[Sequence[float]], lines: Iterable[Sequence[int]], colour: Colour
) -> None:
    """Dots [x, y] or [x, y, score] in pixels of the picture, and the lines between them. Lines to what is not there are none."""
    seen = {i: (point[0], point[1]) for i, point in enumerate(points) if _is_seen(canvas, point)}
    placed = dict(zip(seen, canvas.scaled(seen.values()), strict=True))
    pen = canvas.pen
    for first, second in lines:
        if first in placed and second in placed:
            _draw_line(canvas, [placed[first], placed[second]], colour)
    for point in placed.values():
        if len(points) > _MANY:
            pen.circle(point, canvas.line_px / 2, fill=colour)
        else:
            pen.circle(point, canvas.line_px * _DOT, fill=WHITE, outline=BLACK, width=max(1, canvas.line_px // 2))


def _is_seen(canvas: Canvas, point: Sequence[float]) -> bool:
    width, height = canvas.image.width / canvas.factor, canvas.image.height / canvas.factor
    near = -_FAR * width <= point[0] <= (1 + _FAR) * width and -_FAR * height <= point[1] <= (1 + _FAR) * height
    return near and (len(point) < 3 or point[2] >= LEAST_SCORE)  # noqa: PLR2004


def _draw_mask(canvas: Canvas, one: Mapping[str, Any]) -> None:
    factor = canvas.factor
    mask = mask_of(one, (canvas.image.width // factor, canvas.image.height // factor))
    if mask is None:
        return
    image = mask.image.point([0] + [HALF] * 255)
    if factor > 1:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    canvas.image.paste(colour_of(one["index"]), (mask.x * factor, mask.y * factor), image)


def _draw_box(canvas: Canvas, box: Box, colour: Colour) -> None:
    """A line along the inside of the border, and a thin dark one inside of that: seen on ground of the same colour, too."""
    left, top, right, bottom = box
    pen, line = canvas.pen, canvas.line_px
    thin = max(1, line // 3)
    if min(right - left, bottom - top) > 2 * (line + thin):
        inner = (left + line, top + line, right - 1 - line, bottom - 1 - line)
        pen.rectangle(inner, outline=BLACK, width=thin)
    pen.rectangle((left, top, right - 1, bottom - 1), outline=colour, width=line)


def _draw_corners(canvas: Canvas, corners: Sequence[Sequence[float]], colour: Colour) -> None:
    points = canvas.scaled((x, y) for x, y in corners)
    _draw_line(canvas, [*points, points[0], points[1]], colour)  # beyond the end: the last corner is joined as well


def _draw_line(canvas: Canvas, points: Sequence[tuple[float, float]], colour: Colour) -> None:
    """A line that does not run along the axes, which looks thinner than one that does; with a dark rim."""
    width = canvas.line_px + 1
    canvas.pen.line(points, fill=BLACK, width=width + 2 * max(1, canvas.line_px // 3) + 1, joint="curve")
    canvas.pen.line(points, fill=colour, width=width, joint="curve")


def _draw_labels(canvas: Canvas, found: Sequence[Mapping[str, Any]]) -> None:
    """The best first: each takes the first of its places where it covers no other one."""
    taken: list[Box] = []
    for one in found:
        text = _fitting(canvas, canvas.texts(one["label"], one["index"], one["score"]))
        if not text:
            continue
        width, height = canvas.plate_width(text), canvas.plate_px
        for x, y in _places(canvas, canvas.placed(*one["box"]), width, height):
            plate = (x, y, x + width, y + height)
            if not any(_overlap(plate, other) for other in taken):
                taken.append(plate)
                canvas.plate(x, y, text, colour_of(one["index"]))
                break


def _fitting(canvas: Canvas, texts: Sequence[str]) -> str:
    """The first that is no wider than the picture, or the first one shortened."""
    most = canvas.image.width
    fits = (text for text in texts if canvas.plate_width(text) <= most)
    return next(fits, canvas.fonts.fitted(texts[0], most - 2 * canvas.plate_pad_px))


def _places(canvas: Canvas, box: Box, width: int, height: int) -> Iterator[tuple[int, int]]:
    """Where a label may stand, within the picture: above its box, in it, below it, and the same at its right end."""
    left, top, right, bottom = box
    lowest = max(0, canvas.image.height - height)
    for x in (left, right - width):
        across = min(max(x, 0), max(0, canvas.image.width - width))
        if top >= height:
            yield across, top - height
        yield across, min(top, lowest)
        if bottom <= lowest:
            yield across, bottom
        yield across, min(max(bottom - height, 0), lowest)


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
