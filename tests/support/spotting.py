"""A small detector whose answers are plain: constant boxes, and scores that are so many parts of how bright the picture is.

Its input is 64 x 64; what it gives is as YOLOv8 gives it, `cx cy w h` and a column for each class in pixels of the input,
and with masks the weights of two prototypes behind them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onnx_models import FLOAT, graph, model_folder

SIDE: Final = 64
LABELS: Final = ("person", "dog", "cat")


class Seen(NamedTuple):
    """One row: a box in pixels of the input, and the score of one class where the picture is white throughout."""

    kind: int
    score: float
    box: tuple[float, float, float, float]
    """cx, cy, w, h."""
    weights: tuple[float, float] = (1.0, 0.0)


ROWS: Final = (
    Seen(0, 0.9, (20, 32, 16, 24)),
    Seen(0, 0.8, (21, 32, 16, 24)),  # the same person
    Seen(1, 0.7, (44, 30, 10, 12), (-1.0, 1.0)),
    Seen(0, 0.2, (50, 50, 8, 8)),
    Seen(2, 0.0, (np.nan, np.inf, 1, 1)),  # filled up
)
MANIFEST: Final = """
[input]
color = "gray"
resize = "letterbox"
scale = 0.00392156862745098

[detections]
family = "{family}"
labels = "labels.txt"
"""


def spotter(rows: Sequence[Seen] = ROWS, *, masks: bool = False) -> bytes:
    """The graph: `output0` [n, 7, rows], and with masks [n, 9, rows] and `output1` [n, 2, 16, 16].

    The first prototype is 1 in the upper half of the input and -1 below, the second 1 throughout.
    """
    columns = 4 + len(LABELS) + 2 * masks
    base, gain = (np.zeros((1, columns, len(rows)), dtype=np.float32) for _ in range(2))
    for i, row in enumerate(rows):
        base[0, :4, i] = row.box
        gain[0, 4 + row.kind, i] = row.score
        if masks:
            base[0, -2:, i] = row.weights
    prototypes = np.ones((1, 2, 16, 16), dtype=np.float32)
    prototypes[0, 0, 8:] = -1
    nodes: list[tuple[Any, ...]] = [
        ("ReduceMean", ["x"], ["light"], {"axes": [1, 2, 3], "keepdims": 0}),
        ("Reshape", ["light", "as_column"], ["column"]),
        ("Mul", ["column", "gain"], ["scores"]),
        ("Add", ["scores", "base"], ["output0"]),
    ]
    outputs = [("output0", FLOAT, ["n", columns, len(rows)])]
    weights: dict[str, NDArray[Any]] = {"base": base, "gain": gain, "as_column": np.array([-1, 1, 1], dtype=np.int64)}
    if masks:
        nodes += [
            ("Reshape", ["light", "as_map"], ["map"]),
            ("Mul", ["map", "nothing"], ["none"]),
            ("Add", ["none", "prototypes"], ["output1"]),
        ]
        outputs.append(("output1", FLOAT, ["n", 2, 16, 16]))
        weights |= {"as_map": np.array([-1, 1, 1, 1], dtype=np.int64), "prototypes": prototypes}
        weights["nothing"] = np.zeros((1, 2, 16, 16), dtype=np.float32)
    return graph(nodes, [("x", FLOAT, ["n", 1, SIDE, SIDE])], outputs, weights)


def spotter_folder(folder: Path, *, masks: bool = False, more: str = "", model: bytes | None = None) -> Path:
    """A model's folder with it; `more` goes on after `[detections]`."""
    manifest = MANIFEST.format(family="yolo8-seg" if masks else "yolo8") + more
    if masks:
        manifest += '[[detections.tables]]\noutput = "output0"\ncolumns = "cx cy w h classes masks:2"\n'
    model_folder(folder, manifest, model or spotter(masks=masks))
    (folder / "labels.txt").write_text("\n".join(LABELS))
    return folder


BLOB_MANIFEST: Final = """
[input]
color = "{color}"
resize = "letterbox"
scale = 0.00392156862745098

[detections]
labels = "labels.txt"
nms = "none"

[[detections.tables]]
output = "rows"
columns = "x1 y1 x2 y2 classes"
"""


def blob_finder() -> bytes:
    """A graph that looks: `rows` [n, 1, 5] is the rectangle around what is brighter than 0.2 in 64 x 64 pixels, [n, 3, 64, 64].

    Its score is the largest value of the first channel.
    """
    steps = np.arange(SIDE, dtype=np.float32)
    nodes: list[tuple[Any, ...]] = [
        ("ReduceMean", ["x"], ["gray"], {"axes": [1], "keepdims": 0}),
        ("Greater", ["gray", "dark"], ["light"]),
        ("Cast", ["light"], ["mask"], {"to": FLOAT}),
        ("ReduceMax", ["x"], ["brightest"], {"axes": [2, 3], "keepdims": 0}),
        ("Slice", ["brightest", "first", "second", "axis"], ["score"]),
    ]
    for name, axis in (("x", 1), ("y", 2)):
        nodes += [
            ("ReduceMax", ["mask"], [f"{name}_there"], {"axes": [axis], "keepdims": 0}),
            ("Mul", [f"{name}_there", "ends"], [f"{name}_ends"]),
            ("ReduceMax", [f"{name}_ends"], [f"{name}2"], {"axes": [1], "keepdims": 1}),
            ("Mul", [f"{name}_there", "begins"], [f"{name}_begins"]),
            ("ReduceMax", [f"{name}_begins"], [f"{name}_before"], {"axes": [1], "keepdims": 1}),
            ("Sub", ["side", f"{name}_before"], [f"{name}1"]),
        ]
    nodes += [
        ("Concat", ["x1", "y1", "x2", "y2", "score"], ["row"], {"axis": 1}),
        ("Unsqueeze", ["row", "axis"], ["rows"]),
    ]
    weights: dict[str, NDArray[Any]] = {
        "dark": np.array(0.2, dtype=np.float32),
        "ends": steps + 1,
        "begins": SIDE - steps,
        "side": np.array(SIDE, dtype=np.float32),
        "first": np.array([0], dtype=np.int64),
        "second": np.array([1], dtype=np.int64),
        "axis": np.array([1], dtype=np.int64),
    }
    return graph(nodes, [("x", FLOAT, ["n", 3, SIDE, SIDE])], [("rows", FLOAT, ["n", 1, 5])], weights)


def blob_folder(folder: Path, color: str = "rgb") -> Path:
    """A model's folder with it."""
    model_folder(folder, BLOB_MANIFEST.format(color=color), blob_finder())
    (folder / "labels.txt").write_text("blob")
    return folder
