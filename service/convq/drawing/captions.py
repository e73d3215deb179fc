"""What is written below a picture: a legend, a text that was read, classes. So nothing of the picture is covered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from PIL import Image

from convq.drawing.canvas import Canvas
from convq.drawing.fonts import written
from convq.drawing.palette import BLACK, WHITE, colour_of

MOST_ROWS: Final = 12

Entry = tuple[int | None, str]
"""The index of a class, whose colour stands before the text, or None; and the text."""


def captioned(canvas: Canvas, entries: Sequence[Entry]) -> Image.Image:
    """The canvas with the entries below it, white on black, as many side by side as have room.

    What does not fit into `MOST_ROWS` is counted. The picture stays where it is, at the top left.
    """
    if not entries:
        return canvas.image
    rows = list(_rows(canvas, [_shown(canvas, entry) for entry in entries]))
    if len(rows) > MOST_ROWS:
        left = sum(map(len, rows[MOST_ROWS - 1 :]))
        rows[MOST_ROWS - 1 :] = [[(None, f"… {left} more")]]
    image = canvas.image
    taller = Image.new(image.mode, (image.width, image.height + len(rows) * canvas.plate_px), BLACK)
    taller.paste(image)
    below = Canvas(taller, canvas.factor, canvas.line_px, canvas.fonts)
    for number, row in enumerate(rows):
        _write(below, image.height + number * canvas.plate_px, row)
    return taller


def _shown(canvas: Canvas, entry: Entry) -> Entry:
    """With a text that is no wider than the picture."""
    index, text = entry
    room = canvas.image.width - 2 * canvas.plate_pad_px - (0 if index is None else canvas.plate_px)
    return index, canvas.fonts.fitted(written(text), room)


def _rows(canvas: Canvas, entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    row: list[Entry] = []
    for entry in entries:
        if row and sum(_width(canvas, one) for one in row) + _width(canvas, entry) > canvas.image.width:
            yield row
            row = []
        row.append(entry)
    yield row


def _width(canvas: Canvas, entry: Entry) -> int:
    """With a gap behind it."""
    return canvas.plate_width(entry[1]) + (0 if entry[0] is None else canvas.plate_px) + canvas.fonts.size_px


def _write(canvas: Canvas, y: int, row: Sequence[Entry]) -> None:
    x, pad, height = 0, canvas.plate_pad_px, canvas.plate_px
    pen = canvas.pen
    for entry in row:
        index, text = entry
        at = x + pad
        if index is not None:
            pen.rectangle((at, y + pad, at + height - 3 * pad, y + height - 1 - pad), fill=colour_of(index))
            at += height - pad
        pen.text((at, y + pad), text, fill=WHITE, font=canvas.fonts.of(text))
        x += _width(canvas, entry)
