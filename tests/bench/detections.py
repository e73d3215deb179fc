"""What it takes to make detections of the outputs of one job: 8,400 boxes of 80 classes, and the maps of text detectors.

    python tests/bench/detections.py [--runs 200]

Times are the fastest and the middle one of many runs, in milliseconds; the last column is the fastest as a multiple of one
bare pass over the scores, `scores.max(axis=0)`, which says how fast the machine is.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convq.answers.coordinates import Placement
from convq.answers.detections import Size, Wanted, describe, detections_of
from convq.answers.detections.nms import Suppress, suppress
from convq.engine.kernels.suppression import fast_suppress

SIDE, CLASSES, BOXES = 640, 80, 8400
PICTURE = Placement(1920, 1080, SIDE / 1920, 360 / 1080, 0, 140)


def crowd(objects: int, each: int) -> NDArray[np.float32]:
    """[1, 84, 8400]: so many objects with so many boxes around each, all else being below every threshold."""
    random = np.random.default_rng(0)
    out = np.zeros((1, 4 + CLASSES, BOXES), np.float32)
    out[0, 4:] = random.random((CLASSES, BOXES)) * 0.1
    rows = random.choice(BOXES, objects * each, replace=False).reshape(objects, each)
    side = int(np.ceil(np.sqrt(objects)))
    for number, mine in enumerate(rows):
        cell = SIDE / side
        centre = (np.array([number % side, number // side]) + 0.5) * [cell, cell * 360 / SIDE] + [0, 140]
        out[0, :2, mine] = centre + random.normal(0, cell / 40, (each, 2))
        out[0, 2:4, mine] = cell * 0.6 * (1 + random.normal(0, 0.03, (each, 2)))
        out[0, 4 + random.integers(CLASSES), mine] = random.uniform(0.3, 0.99, each)
    return out


def words(height: int, width: int, lines: int, columns: int) -> NDArray[np.float32]:
    """[1, 1, h, w]: bars that slant a little, as a text detector's map has them."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    slanted = y + x * 0.05
    bars = (slanted % (height / lines) < height / lines * 0.45) & (x % (width / columns) < width / columns * 0.8)
    return np.where(bars, 0.9, 0.05).astype(np.float32)[None, None]


def timed(call: Callable[[], Any], runs: int) -> tuple[float, float]:
    """The fastest and the middle of so many runs, in milliseconds."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1000)
    return min(times), sorted(times)[runs // 2]


def row(what: str, call: Callable[[], list[Any]], runs: int, bare_ms: float) -> None:
    """One line of the table; `{}` in `what` stands for how many were found."""
    (found,) = call()
    fastest, middle = timed(call, runs)
    print(f"{what.format(len(found.boxes)):<64}{fastest:>9.3f}{middle:>9.3f}{fastest / bare_ms:>9.1f}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    runs = parser.parse_args().runs
    scores = crowd(1, 1)[0, 4:]
    bare, middle = timed(lambda: scores.max(axis=0), runs)
    print(f"{'':<64}{'fastest':>9}{'middle':>9}{'x bare':>9}")
    print(f"{'one bare pass over the scores':<64}{bare:>9.3f}{middle:>9.3f}{1:>9.1f}")
    dense, wanted, size = describe({"family": "yolo8"}, CLASSES), [Wanted(PICTURE)], Size(SIDE, SIDE)
    for objects, each in ((20, 12), (300, 7), (300, 20), (300, 28)):
        outputs = {"output0": crowd(objects, each)}
        turned = {"output0": np.ascontiguousarray(outputs["output0"].swapaxes(1, 2))}
        ways: dict[str, tuple[dict[str, Any], Suppress]] = {
            "onnxruntime": (outputs, fast_suppress()),
            "onnxruntime, rows first": (turned, fast_suppress()),
            "numpy alone": (outputs, suppress),
        }
        for name, (given, way) in ways.items():
            what = f"{objects} objects, {objects * each} candidates, {{}} kept: {name}"
            row(what, partial(detections_of, dense, given, wanted, size, way), runs, bare)
    text = describe({"family": "db"}, 1)
    for height, width, lines, columns in ((480, 800, 3, 1), (960, 1600, 12, 1), (960, 960, 12, 12)):
        maps, place = {"maps": words(height, width, lines, columns)}, [Wanted(Placement(width, height))]
        call = partial(detections_of, text, maps, place, Size(height, width))
        row(f"text, {width} x {height}, {{}} regions", call, runs // 4, bare)


if __name__ == "__main__":
    main()
