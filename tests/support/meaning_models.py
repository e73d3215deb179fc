"""Small networks of every meaning: what each answers is plain from the levels of the picture.

Inputs are gray, from 0 to 1, unless it is said otherwise. A class is the level in so many steps, a matte the level, depth
1 + 9 * level, an embedding the means of 8 x 8 parts, a value 100 times the mean; text is read from columns of 8 pixels,
whose level says which class; points are the brightest places of red, green and blue.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from onnx_models import FLOAT, INT64, graph, model_folder

SIDE: Final = 64
GRAY: Final = '[input]\ncolor = "gray"\nscale = 0.00392156862745098\ninterpolation = "nearest"\n'
LETTERBOX: Final = GRAY + 'resize = "letterbox"\n'
ALPHABET: Final = ("a", "b", "ß", "'", "日")
Weights = dict[str, NDArray[Any]]
Nodes = list[tuple[Any, ...]]


def _plane(side: Any, channels: int = 1) -> tuple[str, int, list[Any]]:
    return ("x", FLOAT, ["n", channels, side, side])


def _near(source: str, count: int, shape: Sequence[int], gain: float = 1.0) -> tuple[Nodes, Weights]:
    """Nodes that make `scores` of a value from 0 to 1: the class whose number is nearest in `count` steps is largest."""
    weights: Weights = {
        "steps": np.array(count - 1, dtype=np.float32),
        "numbers": np.arange(count, dtype=np.float32).reshape(shape),
        "gain": np.array(-gain, dtype=np.float32),
    }
    nodes: Nodes = [
        ("Mul", [source, "steps"], ["level"]),
        ("Sub", ["level", "numbers"], ["apart"]),
        ("Mul", ["apart", "apart"], ["squared"]),
        ("Mul", ["squared", "gain"], ["scores"]),
    ]
    return nodes, weights


def segmenter(count: int, side: Any = SIDE) -> bytes:
    """`y` [n, count, side, side]."""
    nodes, weights = _near("x", count, (1, count, 1, 1))
    nodes.append(("Identity", ["scores"], ["y"]))
    return graph(nodes, [_plane(side)], [("y", FLOAT, ["n", count, side, side])], weights)


def numberer(count: int, side: Any = SIDE) -> bytes:
    """`y` [n, side, side] of int64: the class itself."""
    nodes: Nodes = [
        ("Mul", ["x", "steps"], ["level"]),
        ("Round", ["level"], ["whole"]),
        ("Cast", ["whole"], ["cast"], {"to": INT64}),
        ("Squeeze", ["cast", "axis"], ["y"]),
    ]
    weights: Weights = {"steps": np.array(count - 1, dtype=np.float32), "axis": np.array([1], dtype=np.int64)}
    return graph(nodes, [_plane(side)], [("y", INT64, ["n", side, side])], weights)


def matter(side: Any = SIDE, *, channels_last: bool = False) -> bytes:
    """`y` [n, 1, side, side], or channels last: the picture."""
    shape = ["n", side, side, 1] if channels_last else ["n", 1, side, side]
    return graph([("Identity", ["x"], ["y"])], [("x", FLOAT, shape)], [("y", FLOAT, shape)])


def depther(side: Any = SIDE) -> bytes:
    """`y` [n, side, side]: 1 + 9 * level."""
    nodes: Nodes = [
        ("Mul", ["x", "nine"], ["far"]),
        ("Add", ["far", "one"], ["farther"]),
        ("Squeeze", ["farther", "axis"], ["y"]),
    ]
    weights: Weights = {"nine": np.array(9, dtype=np.float32), "one": np.array(1, dtype=np.float32)}
    weights["axis"] = np.array([1], dtype=np.int64)
    return graph(nodes, [_plane(side)], [("y", FLOAT, ["n", side, side])], weights)


def embedder() -> bytes:
    """`y` [n, 64]: the means of 8 x 8 parts."""
    nodes: Nodes = [
        ("AveragePool", ["x"], ["means"], {"kernel_shape": [8, 8], "strides": [8, 8]}),
        ("Flatten", ["means"], ["y"]),
    ]
    return graph(nodes, [_plane(SIDE)], [("y", FLOAT, ["n", 64])])


def reader(classes: int, *, time_first: bool = False, height: int = 8, width: int = 96) -> bytes:
    """`y` [n, 12, classes], or [12, n, classes]."""
    steps = width // 8
    nodes, weights = _near("line", classes, (1, 1, classes), gain=20.0)
    nodes = [
        ("AveragePool", ["x"], ["columns"], {"kernel_shape": [height, 8], "strides": [height, 8]}),
        ("Reshape", ["columns", "as_line"], ["line"]),
        *nodes,
        ("Transpose", ["scores"], ["y"], {"perm": [1, 0, 2] if time_first else [0, 1, 2]}),
    ]
    weights["as_line"] = np.array([-1, steps, 1], dtype=np.int64)
    shape = [steps, "n", classes] if time_first else ["n", steps, classes]
    return graph(nodes, [("x", FLOAT, ["n", 1, height, width])], [("y", FLOAT, shape)], weights)


def written(classes: Sequence[int], count: int, *, height: int = 8, steps: int = 12) -> NDArray[np.uint8]:
    """The picture of a line that `reader` reads as these classes, the first one behind them."""
    numbers = np.zeros(steps)
    numbers[: len(classes)] = classes
    levels = np.rint(numbers * 255 / (count - 1)).astype(np.uint8)
    return np.repeat(np.repeat(levels[None], 8, axis=1), height, axis=0)


def pointer() -> bytes:
    """`y` [n, 3, 64, 64]: the picture, in three colours."""
    return graph([("Identity", ["x"], ["y"])], [_plane(SIDE, 3)], [("y", FLOAT, ["n", 3, SIDE, SIDE])])


POINTS: Final = ((0.25, 0.5, 0.0), (0.75, 0.125, 2.0))
"""x and y in sides of the input, and a logit."""


def marker() -> bytes:
    """`y` [n, 6]: always `POINTS`."""
    nodes: Nodes = [
        ("ReduceMean", ["x"], ["light"], {"axes": [1, 2, 3], "keepdims": 0}),
        ("Reshape", ["light", "as_column"], ["column"]),
        ("Mul", ["column", "nothing"], ["zero"]),
        ("Add", ["zero", "points"], ["y"]),
    ]
    weights: Weights = {"as_column": np.array([-1, 1], dtype=np.int64), "nothing": np.zeros((1, 6), dtype=np.float32)}
    weights["points"] = np.array(POINTS, dtype=np.float32).reshape(1, 6)
    return graph(nodes, [_plane(SIDE)], [("y", FLOAT, ["n", 6])], weights)


AGES: Final = tuple(f"{age}" for age in range(101))
GENDERS: Final = ("dark", "light")


def faces() -> bytes:
    """`age` [n, 101] and `gender` [n, 2], logits; `glow` [n, 1]: how light it is, from 0 to 1; `many` is `age` once more."""
    nodes, weights = _near("column", 101, (1, 101))
    nodes = [
        ("ReduceMean", ["x"], ["light"], {"axes": [1, 2, 3], "keepdims": 0}),
        ("Reshape", ["light", "as_column"], ["column"]),
        *nodes,
        ("Identity", ["scores"], ["age"]),
        ("Identity", ["scores"], ["many"]),
        ("Mul", ["column", "sides"], ["mixed"]),
        ("Add", ["mixed", "bias"], ["gender"]),
        ("Identity", ["column"], ["glow"]),
    ]
    weights |= {"as_column": np.array([-1, 1], dtype=np.int64), "sides": np.array([[-8, 8]], dtype=np.float32)}
    weights["bias"] = np.array([[4, -4]], dtype=np.float32)
    outputs = [("age", FLOAT, ["n", 101]), ("gender", FLOAT, ["n", 2])]
    outputs += [("glow", FLOAT, ["n", 1]), ("many", FLOAT, ["n", 101])]
    return graph(nodes, [_plane(SIDE)], outputs, weights)


FACES: Final = (
    GRAY
    + """
[[outputs]]
name = "gender"
meaning = "classes"
labels = "genders.txt"

[[outputs]]
name = "age"
meaning = "classes"
labels = "ages.txt"

[[outputs]]
name = "glow"
meaning = "value"
scale = 200
offset = -100

[[outputs]]
name = "many"
meaning = "value"
expectation = true
"""
)


def meaning_folder(
    folder: Path, meaning: str, model: bytes, *, more: str = "", start: str = GRAY, labels: Sequence[str] = ()
) -> Path:
    """A model's folder whose output `y` means that; `more` are further keys, and what goes on after them."""
    text = f'{start}\n[[outputs]]\nname = "y"\nmeaning = "{meaning}"\n'
    if labels:
        text += 'labels = "labels.txt"\n'
    model_folder(folder, text + more, model)
    if labels:
        (folder / "labels.txt").write_text("\n".join(labels), encoding="utf-8")
    return folder


def faces_folder(folder: Path, manifest: str = FACES) -> Path:
    """A model's folder with two heads and two values."""
    model_folder(folder, manifest, faces())
    (folder / "genders.txt").write_text("\n".join(GENDERS))
    (folder / "ages.txt").write_text("\n".join(AGES))
    return folder


def numbered(count: int) -> list[str]:
    """Labels: `c0`, `c1`, ..."""
    return [f"c{number}" for number in range(count)]
