"""Draws pictures full of handwritten digits, and says where each one is: what detectors learn from and are tested on.

    python models/scattered.py DIR --count 12 --seed 1     pictures, of digits that no network was trained on, and
                                                           truth.json: what is where

Digits of MNIST, 12 to 56 pixels high, turned, slanted and stretched, lie on a slope of gray among lines, frames, discs and
dots, dark on light or light on dark; then the picture is blurred a little and noise is added. The same seed gives the same
pictures.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import NamedTuple

import data  # type: ignore[import-not-found]
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

SIDE_PX = 128
HEIGHT_PX = (12.0, 56.0)  # of a digit; below, strokes are thinner than a pixel
MOST = 8  # digits in one picture of that size
TURN_RAD = 0.25
SLANT = 0.2
STRETCH = 0.25  # of the width against the height, both ways
CONTRAST = 60  # levels between ink and ground, at least
SEEN = 40  # levels between ink and what it lies on, at least
HIDDEN = 0.25  # of the smaller of two boxes, at most
TRIES = 20  # places for a digit before it is left out
SAMPLE_SEED = 9  # one with lines, a plate, dots and digits that touch them
INK = 0.4  # a pixel is the digit's where it covers more of it than that
GLYPH_PX = 28

Levels = NDArray[np.uint8]


class Canvas(NamedTuple):
    """A picture and the truth about it."""

    image: Levels
    """[height, width]."""
    boxes: NDArray[np.float32]
    """[k, 4]: x1, y1, x2, y2 in pixels, around the ink of each digit, also what another one covers."""
    labels: NDArray[np.int64]
    """[k]: which digit."""
    owners: Levels
    """[height, width]: 0 is ground, i + 1 the ink of digit i that is seen."""


class Digits(NamedTuple):
    """Handwritten digits, light on dark."""

    images: Levels
    """[n, 28, 28]."""
    labels: Levels
    """[n]."""


class Scatter:
    """An endless row of canvases."""

    def __init__(self, digits: Digits, seed: int, side_px: int = SIDE_PX) -> None:
        self._digits, self._side_px = digits, side_px
        self._rng = np.random.default_rng(seed)

    def canvas(self, count: int | None = None) -> Canvas:
        """The next one, with so many digits (fewer where there is no room), or 0 to as many as are usual."""
        rng, side = self._rng, self._side_px
        most = round(MOST * (side / SIDE_PX) ** 2)
        wanted = int(rng.integers(0, most + 1)) if count is None else count
        ground = float(rng.uniform(0, 255))
        light = ground < CONTRAST or (ground <= 255 - CONTRAST and rng.random() < 0.5)  # noqa: PLR2004 - either
        picture = _ground(rng, side, ground)
        owners = np.zeros((side, side), np.uint8)
        boxes: list[tuple[float, float, float, float]] = []
        labels = []
        for _ in range(wanted):
            index = int(rng.integers(len(self._digits.labels)))
            glyph = _glyph(rng, self._digits.images[index])
            place = _place(rng, glyph.shape, boxes, side)
            if place is None:
                continue
            x, y = place
            down, right = slice(y, y + glyph.shape[0]), slice(x, x + glyph.shape[1])
            ink = rng.uniform(ground + CONTRAST, 255) if light else rng.uniform(0, ground - CONTRAST)
            if abs(ink - np.average(picture[down, right], weights=glyph)) < SEEN:  # on clutter of its own gray
                continue
            picture[down, right] += (ink - picture[down, right]) * glyph
            boxes.append((x, y, x + glyph.shape[1], y + glyph.shape[0]))
            labels.append(int(self._digits.labels[index]))
            owners[down, right][glyph > INK] = len(boxes)
        return Canvas(_taken(rng, picture), _table(boxes), np.array(labels, np.int64), owners)


def _table(boxes: list[tuple[float, float, float, float]]) -> NDArray[np.float32]:
    return np.array(boxes, np.float32).reshape(-1, 4)


def _ground(rng: np.random.Generator, side: int, level: float) -> NDArray[np.float32]:
    """A slope of gray with clutter on it: what is thin is longer than digits are, what is small is no stroke."""
    along = np.linspace(-0.5, 0.5, side)
    slope, angle = rng.uniform(0, 50), rng.uniform(0, 2 * math.pi)
    picture = level + slope * (math.cos(angle) * along + math.sin(angle) * along[:, None])
    board = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(board)
    for _ in range(rng.poisson(2)):
        _clutter(rng, pen, side, int(np.clip(level + rng.normal(0, 60), 0, 255)))
    return np.asarray(board).astype(np.float32)


def _clutter(rng: np.random.Generator, pen: ImageDraw.ImageDraw, side: int, level: int) -> None:
    kind = rng.integers(4)
    x, y = rng.uniform(0, side, 2)
    if kind == 0:  # a line from border to border, as of ruled paper
        along = rng.uniform(-0.2, 0.2) * side
        ends = [(-1, y), (side, y + along)] if rng.random() < 0.5 else [(x, -1), (x + along, side)]  # noqa: PLR2004
        pen.line(ends, fill=level, width=int(rng.integers(1, 4)))
    elif kind == 1:  # a frame or a plate
        w, h = rng.uniform(0.3, 1.0, 2) * side
        filled = level if rng.random() < 0.5 else None  # noqa: PLR2004 - either
        pen.rectangle((x - w / 2, y - h / 2, x + w / 2, y + h / 2), outline=level, fill=filled)
    elif kind == 2:  # noqa: PLR2004 - a disc without a hole, which no digit is
        radius = rng.uniform(5, 30)
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=level)
    else:  # dots
        for x_px, y_px in rng.uniform(0, side, (int(rng.integers(3, 20)), 2)):
            radius = rng.uniform(0.5, 2)
            pen.ellipse((x_px - radius, y_px - radius, x_px + radius, y_px + radius), fill=level)


def _glyph(rng: np.random.Generator, digit: Levels) -> NDArray[np.float32]:
    """The digit at a random height, turned, slanted and stretched, cut to its ink: float32 [h, w], what it covers, 0 to 1."""
    rows = np.flatnonzero(digit.max(axis=1) > 255 * INK)
    height_px = math.exp(rng.uniform(math.log(HEIGHT_PX[0]), math.log(HEIGHT_PX[1])))
    zoom_y = height_px / (rows[-1] - rows[0] + 1)
    zoom_x = zoom_y * math.exp(rng.uniform(-STRETCH, STRETCH))
    turn, slant = rng.uniform(-TURN_RAD, TURN_RAD), rng.uniform(-SLANT, SLANT)
    side = math.ceil(1.5 * GLYPH_PX * max(zoom_x, zoom_y))
    # From a pixel of the result to one of the digit: turned back, slanted back, shrunk, about the middle of both.
    back = np.array([[1 / zoom_x, 0], [0, 1 / zoom_y]]) @ np.array([[1, slant], [0, 1]])
    back = back @ np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    offset = GLYPH_PX / 2 - back @ np.array([side / 2, side / 2])
    terms = (back[0, 0], back[0, 1], offset[0], back[1, 0], back[1, 1], offset[1])
    drawn = Image.fromarray(digit).transform(
        (side, side), Image.Transform.AFFINE, terms, resample=Image.Resampling.BILINEAR
    )
    covers = np.asarray(drawn).astype(np.float32) / np.float32(255)
    inked = covers > INK
    down, right = np.flatnonzero(inked.any(axis=1)), np.flatnonzero(inked.any(axis=0))
    glyph: NDArray[np.float32] = covers[down[0] : down[-1] + 1, right[0] : right[-1] + 1]
    return glyph


def _place(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    boxes: list[tuple[float, float, float, float]],
    side: int,
) -> tuple[int, int] | None:
    """Where its top left pixel goes, so that it hides no more of others than `HIDDEN`; None where no place was found."""
    height, width = shape
    if max(height, width) >= side:
        return None
    for _ in range(TRIES):
        x, y = int(rng.integers(0, side - width)), int(rng.integers(0, side - height))
        if all(_shared((x, y, x + width, y + height), other) <= HIDDEN for other in boxes):
            return x, y
    return None


def _shared(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> float:
    """The part of the smaller box that lies in the other one."""
    w = min(one[2], other[2]) - max(one[0], other[0])
    h = min(one[3], other[3]) - max(one[1], other[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return max(w, 0) * max(h, 0) / smaller


def _taken(rng: np.random.Generator, picture: NDArray[np.float32]) -> Levels:
    """As a camera takes it: blurred by up to 0.8 pixels, with noise of up to 15 levels."""
    board = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    blurred = np.asarray(board.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.8)))).astype(np.float32)
    noise = rng.standard_normal(blurred.shape, dtype=np.float32) * np.float32(rng.uniform(0, 15))
    return np.clip(np.rint(blurred + noise), 0, 255).astype(np.uint8)


def sample() -> Levels:
    """What the detector warms up with: uint8 [128, 128], six digits of the test set."""
    return Scatter(Digits(*data.shipped()), SAMPLE_SEED).canvas(6).image


def main() -> None:
    """Write some."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="DIR")
    parser.add_argument("--count", type=int, default=12, metavar="N")
    parser.add_argument("--digits", type=int, metavar="N", help="in each picture, as far as there is room")
    parser.add_argument("--side", type=int, default=SIDE_PX, metavar="PX")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    scatter = Scatter(Digits(*data.shipped()), args.seed, args.side)
    truth = {}
    for number in range(args.count):
        canvas, name = scatter.canvas(args.digits), f"{number:03}.png"
        Image.fromarray(canvas.image).save(args.out / name)
        pairs = zip(canvas.labels.tolist(), canvas.boxes.tolist(), strict=True)
        truth[name] = [{"label": str(label), "box": box} for label, box in pairs]
    (args.out / "truth.json").write_text(json.dumps(truth, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {args.count} pictures into {args.out}")


if __name__ == "__main__":
    main()
