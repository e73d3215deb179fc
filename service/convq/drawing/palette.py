"""The colours of classes: a fixed palette, of which the index of a class decides."""

from __future__ import annotations

from typing import Final

Colour = tuple[int, int, int]
"""Red, green, blue from 0 to 255."""

BASE: Final[tuple[Colour, ...]] = (
    (230, 159, 0),  # orange
    (86, 180, 233),  # sky blue
    (0, 158, 115),  # bluish green
    (213, 94, 0),  # vermilion
    (240, 228, 66),  # yellow
    (204, 121, 167),  # reddish purple
    (0, 114, 178),  # blue
)
"""Okabe and Ito, Color Universal Design (2008): people with any kind of colour blindness tell these apart. Without black."""
_DARK: Final = 0.55
_LIGHT: Final = 0.5
BLACK: Final[Colour] = (0, 0, 0)
WHITE: Final[Colour] = (255, 255, 255)


def _mixed(colour: Colour, other: Colour, share: float) -> Colour:
    """`share` of the colour, and the rest of the other one."""
    red, green, blue = (round(a * share + b * (1 - share)) for a, b in zip(colour, other, strict=True))
    return red, green, blue


PALETTE: Final[tuple[Colour, ...]] = (
    *BASE,
    *(_mixed(one, BLACK, _DARK) for one in BASE),
    *(_mixed(one, WHITE, _LIGHT) for one in BASE),
)
"""The seven, then darker, then lighter: there are no more than seven that everybody tells apart at a glance."""


def colour_of(index: int) -> Colour:
    """Of the class of that number, always the same; they repeat after `len(PALETTE)`."""
    return PALETTE[index % len(PALETTE)]


def ink_on(colour: Colour) -> Colour:
    """Black or white, whichever stands out more on that colour: by the contrast of WCAG 2, section 1.4.3."""
    light = luminance(colour)
    return BLACK if (light + 0.05) / 0.05 >= 1.05 / (light + 0.05) else WHITE


def luminance(colour: Colour) -> float:
    """Relative luminance from 0 to 1, as WCAG 2 defines it for sRGB."""
    red, green, blue = (_linear(level / 255) for level in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(level: float) -> float:
    return level / 12.92 if level <= 0.04045 else float(((level + 0.055) / 1.055) ** 2.4)  # noqa: PLR2004 - sRGB's own
