"""How long masks, maps and texts take to be made of the outputs of networks, in milliseconds of this thread.

    python tests/bench/maps_and_masks.py [--rounds 15]

Processor time, not that of the clock: the table is the same on a busy machine. Beside each is what numpy, Pillow or
OpenCV take for the part that has an equal of theirs. Networks are noise, blurred as their outputs are smooth.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convq.answers.coordinates import Placement
from convq.answers.depth import depth
from convq.answers.embedding import embedding
from convq.answers.heatmaps import keypoints
from convq.answers.masks import MaskFormat, instance_masks
from convq.answers.matte import matte
from convq.answers.segments import class_map, segments
from convq.answers.text import characters, text

WIDTH, HEIGHT = 1920, 1080


class Row(NamedTuple):
    """What is measured, and what else does the same."""

    name: str
    made: Callable[[], Any]
    other_name: str = ""
    other: Callable[[], Any] | None = None


def smooth(channels: int, height: int, width: int) -> NDArray[np.float32]:
    noise = np.random.default_rng(0).standard_normal((channels, height, width), dtype=np.float32)
    return np.stack([8 * cv2.GaussianBlur(plane, (0, 0), 4) for plane in noise])


def masks(count: int, form: MaskFormat) -> Callable[[], Any]:
    """Of objects from a few pixels to a third of a picture of 1920 x 1080."""
    random = np.random.default_rng(1)
    sides = random.uniform(40, (640, 700), (count, 2))
    corners = random.uniform(0, 1, (count, 2)) * ((WIDTH, HEIGHT) - sides)
    boxes = np.concatenate((corners, corners + sides), axis=1)
    weights, prototypes = random.standard_normal((count, 32)).astype(np.float32), smooth(32, 160, 160)
    placement = Placement(WIDTH, HEIGHT, 640 / WIDTH, 360 / HEIGHT, 0.0, 140.0)
    return lambda: instance_masks(weights, prototypes, boxes, placement, (640, 640), form)


def table() -> Iterator[Row]:
    forms: tuple[MaskFormat, ...] = ("rle", "polygon", "png")
    for form in forms:
        yield Row(f"20 masks at 1920 x 1080, {form}", masks(20, form))
    yield Row("300 masks at 1920 x 1080, rle", masks(300, "rle"))
    many = smooth(150, 512, 512)
    yield Row("class map [150, 512, 512]", partial(class_map, many), "numpy.argmax", partial(np.argmax, many, axis=0))
    some = smooth(21, 520, 520)
    yield Row("class map [21, 520, 520]", partial(class_map, some), "numpy.argmax", partial(np.argmax, some, axis=0))
    stretched = Placement(WIDTH, HEIGHT, 520 / WIDTH, 520 / HEIGHT)
    yield Row("the same as segments of 1920 x 1080", lambda: segments(some, [], stretched, (520, 520)))
    plane = np.clip(smooth(1, 320, 320) + 0.5, 0, 1)
    placement = Placement(WIDTH, HEIGHT, 320 / WIDTH, 320 / HEIGHT)
    image, bilinear = Image.fromarray(plane[0]), Image.Resampling.BILINEAR
    yield Row(
        "matte 320 x 320 to 1920 x 1080",
        lambda: matte(plane, placement, (320, 320)),
        "Pillow's resize alone",
        lambda: np.asarray(image.resize((WIDTH, HEIGHT), bilinear)),
    )
    far = smooth(1, 384, 512) + 10
    yield Row("depth 512 x 384", lambda: depth(far, Placement(512, 384), (384, 512)))
    steps = np.zeros((51, 18_385), dtype=np.float32)
    steps[np.arange(51), np.where(np.arange(51) % 3, 0, np.arange(51) + 1)] = 1.0
    read = characters([chr(0x4E00 + i) for i in range(18_383)], space=True)
    yield Row("text [51, 18385]", lambda: text(steps, read), "numpy.argmax", lambda: steps.argmax(axis=1))
    peaks = smooth(17, 64, 48)
    yield Row("17 points of maps 64 x 48", lambda: keypoints(peaks, 17, Placement(192, 256), (256, 192)))
    vector = smooth(1, 1, 1280).ravel()
    yield Row("embedding of 1280", lambda: embedding(vector))


def median_ms(made: Callable[[], Any], rounds: int) -> float:
    made()
    taken = []
    for _ in range(rounds):
        began_s = time.thread_time()
        made()
        taken.append(time.thread_time() - began_s)
    return float(np.median(taken)) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    for row in table():
        other = f"   {row.other_name} {median_ms(row.other, rounds):.2f}" if row.other else ""
        print(f"{row.name:42}{median_ms(row.made, rounds):8.2f} ms{other}")


if __name__ == "__main__":
    main()
