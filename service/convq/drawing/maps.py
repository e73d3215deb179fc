"""Maps of a whole picture, drawn: classes as an overlay, a matte as a cut-out, depth as gray."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import chain
from typing import Any, Final

from PIL import Image

from convq.drawing.canvas import Canvas
from convq.drawing.objects import HALF
from convq.drawing.palette import PALETTE

_NOTHING: Final = 255
_LEVELS: Final = (1 << 8, 1 << 16)
"""Of an 8-bit and a 16-bit map; the highest means nothing."""


def draw_segments(canvas: Canvas, segments: Mapping[str, Any]) -> None:
    """Each class in its colour, half transparent; what means nothing stays as it is. Raises ValueError for what is no map."""
    numbers = _colour_numbers(_opened(segments))
    left, top, right, bottom = _region(canvas.image, segments, canvas.factor)
    numbers = numbers.resize((right - left, bottom - top), Image.Resampling.NEAREST)
    painted = numbers.copy()
    painted.putpalette(list(chain.from_iterable(PALETTE)))
    opacity = numbers.point([0 if number == _NOTHING else HALF for number in range(256)])
    canvas.image.paste(painted.convert("RGB"), (left, top), opacity)


def _colour_numbers(levels: Image.Image) -> Image.Image:
    """The class of each pixel as the number of its colour, in mode L; 255 where there is none."""
    count = _LEVELS[0] if levels.mode == "L" else _LEVELS[1]
    table = [level % len(PALETTE) for level in range(count - 1)] + [_NOTHING]
    return levels.point(table) if levels.mode == "L" else levels.convert("I").point(table, "L")


def cut_out(picture: Image.Image, matte: Mapping[str, Any]) -> Image.Image:
    """The picture with the matte as its transparency: mode RGBA, the size of the picture. What a crop left out is clear."""
    left, top, right, bottom = _region(picture, matte)
    alpha = Image.new("L", picture.size, 0)
    opened = _opened(matte).convert("L")
    alpha.paste(opened.resize((right - left, bottom - top), Image.Resampling.BILINEAR), (left, top))
    made = picture.convert("RGBA")
    made.putalpha(alpha)
    return made


def gray_depth(picture: Image.Image, depth: Mapping[str, Any]) -> Image.Image:
    """The depth in the size of the picture, mode L: `low` is black and `high` white. What a crop left out is black."""
    left, top, right, bottom = _region(picture, depth)
    levels = _opened(depth)
    if levels.mode != "L":
        levels = levels.convert("I").point([level >> 8 for level in range(_LEVELS[1])], "L")
    made = Image.new("L", picture.size, 0)
    made.paste(levels.resize((right - left, bottom - top), Image.Resampling.BILINEAR), (left, top))
    return made


def legend(classes: Sequence[Mapping[str, Any]]) -> list[tuple[int, str]]:
    """Index and words for each class that occurs."""
    return [(one["index"], f"{one['label']}  {_share(one['share'])}") for one in classes]


def _share(share: float) -> str:
    return "<1%" if 0 < share < 0.005 else f"{share:.0%}"  # noqa: PLR2004 - what would be rounded to nothing


def _opened(output: Mapping[str, Any]) -> Image.Image:
    """The PNG of a map: mode L, or I;16. Raises ValueError."""
    try:
        image = Image.open(BytesIO(base64.b64decode(output["data"])), formats=("PNG",))
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"a map of the answer is no PNG file: {error}") from None
    if image.mode not in ("L", "I;16"):
        raise ValueError(f"a map of the answer has PIL mode {image.mode}; expected gray of 8 or 16 bits")
    return image


def _region(picture: Image.Image, output: Mapping[str, Any], factor: int = 1) -> tuple[int, int, int, int]:
    """The part of the picture that a map covers: all of it, or the `box` of a crop."""
    x1, y1, x2, y2 = output.get("box") or (0, 0, picture.width / factor, picture.height / factor)
    left, top = min(round(x1 * factor), picture.width - 1), min(round(y1 * factor), picture.height - 1)
    return left, top, max(left + 1, round(x2 * factor)), max(top + 1, round(y2 * factor))
