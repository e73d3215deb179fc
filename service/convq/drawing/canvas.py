"""The picture that is drawn on, and how thick and large things are drawn on one of its size."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageDraw

from convq.drawing.fonts import Fonts, written
from convq.drawing.palette import Colour, ink_on

SMALL_PX: Final = 320
"""A picture whose longer side is shorter is enlarged by a whole factor, as nobody could read what is written on it."""
_LINE: Final = 1 / 400
_FONT: Final = 1 / 52
"""Of the square root of the picture's area: 12 megapixels get lines of 9 and letters of 67 pixels."""
_CROWD: Final = 30
"""Detections with labels of full size; more have smaller ones, down to half of it, so that something of the picture is seen."""
_LEAST_LINE_PX: Final = 2
_LEAST_FONT_PX: Final = 12

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels of the canvas; right and bottom are the first ones outside."""


@dataclass(frozen=True)
class Canvas:
    """A picture to draw on, perhaps enlarged."""

    image: Image.Image
    factor: int
    """Pixels of the canvas a pixel of the picture."""
    line_px: int
    fonts: Fonts

    @classmethod
    def of(cls, picture: Image.Image, labels: int = 1, font: str | os.PathLike[str] | None = None) -> Canvas:
        """A canvas with a copy of the picture, for so many labels. Raises BadField where `font` is none."""
        factor = max(1, -(-SMALL_PX // max(picture.size)))
        sides = (picture.width * factor, picture.height * factor)
        image = picture.copy() if factor == 1 else picture.resize(sides, Image.Resampling.NEAREST)
        across = math.sqrt(sides[0] * sides[1])
        line_px = max(_LEAST_LINE_PX, round(across * _LINE))
        share = max(0.5, min(1.0, math.sqrt(_CROWD / max(1, labels))))
        return cls(image, factor, line_px, Fonts(max(_LEAST_FONT_PX, round(across * _FONT * share)), font))

    @property
    def pen(self) -> ImageDraw.ImageDraw:
        """What draws on it."""
        return ImageDraw.Draw(self.image)

    def placed(self, x1: float, y1: float, x2: float, y2: float) -> Box:
        """A box in pixels of the picture as one in pixels of the canvas: within it, and at least one pixel large."""
        left, right = _span(x1 * self.factor, x2 * self.factor, self.image.width)
        top, bottom = _span(y1 * self.factor, y2 * self.factor, self.image.height)
        return left, top, right, bottom

    def scaled(self, points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
        """Points in pixels of the picture, as Pillow counts those of the canvas: (0, 0) is the centre of the first."""
        return [(x * self.factor - 0.5, y * self.factor - 0.5) for x, y in points]

    @property
    def plate_pad_px(self) -> int:
        """What is left free around text."""
        return max(2, self.fonts.size_px // 6)

    @property
    def plate_px(self) -> int:
        """The height of a plate with one line of text."""
        return self.fonts.height + 2 * self.plate_pad_px

    def plate_width(self, text: str) -> int:
        """The width of a plate with that text."""
        return self.fonts.width(text) + 2 * self.plate_pad_px

    def plate(self, x: int, y: int, text: str, colour: Colour) -> None:
        """Text on a ground of that colour; x, y is the top left pixel."""
        pen, pad = self.pen, self.plate_pad_px
        pen.rectangle((x, y, x + self.plate_width(text) - 1, y + self.plate_px - 1), fill=colour)
        pen.text((x + pad, y + pad), text, fill=ink_on(colour), font=self.fonts.of(text))

    def texts(self, label: str, index: int, score: float) -> list[str]:
        """What may be written at an object, the best first; what no font can write is its number."""
        name = written(label)
        if not name or not self.fonts.has(name):
            name = f"#{index}"
        return list(dict.fromkeys([f"{name}  {score:.0%}", name, f"#{index}"]))


def _span(low: float, high: float, most: int) -> tuple[int, int]:
    first = min(max(round(low), 0), most - 1)
    return first, max(min(round(high), most), first + 1)
