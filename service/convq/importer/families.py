"""Detectors that are known by the shapes of their outputs: how their images were prepared when they were trained.

Nothing in a graph says where in the input its training put a picture, and a box that is off by the filling beside it looks
like a poor network. What is said here is a guess like any other: it is marked, and whoever brings the model may know better.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from convq.importer.infer_input import Finding, Overrides, Trial, Value

STRIDES = (8, 16, 32)
ANCHORS = 3
BOX = 4
MOST_CLASSES = 1000
FACES = {6: 2, 9: 3}
"""Outputs of a face detector -> kinds of them: scores and boxes, perhaps landmarks, of three strides each."""


def as_the_family_does(found: Sequence[Finding], trial: Trial, wishes: Overrides) -> list[Finding]:
    """What was found of the input, with what a family is known to do in the place of what was assumed before."""
    spec = trial.spec
    if spec.color not in ("rgb", "bgr") or spec.height is None or spec.width is None:
        return list(found)
    name, rule = _family(trial, spec.height, spec.width)
    if not name:
        return list(found)
    why = f"its outputs have the shapes of {name}, which was trained so"
    given = {one.key for one in found if one.source == "given"}
    known: dict[str, Value] = {key: value for key, value in rule.items() if key not in given}
    by_itself = any(one.key == "dtype" and one.value == "uint8" for one in found)
    if by_itself or {wishes.scale, wishes.mean, wishes.std} != {None}:  # a part of a rule would be no rule
        known = {key: value for key, value in known.items() if key not in ("scale", "mean", "std")}
    made = [
        replace(one, value=known.pop(one.key), source="assumed", why=why) if one.key in known else one for one in found
    ]
    return made + [Finding("input", key, value, "assumed", why) for key, value in known.items()]


def _family(trial: Trial, height: int, width: int) -> tuple[str, dict[str, Value]]:
    """The name, and the keys of `[input]` that follow from it; no name where no family has such outputs."""
    shapes = [tuple(made.shape) for made in trial.alone if hasattr(made, "shape")]  # others are sequences
    cells = [(height // stride) * (width // stride) for stride in STRIDES]
    yolo: dict[str, Value] = {"resize": "letterbox", "pad_value": (114,), "scale": 1 / 255}
    if len(shapes) in FACES and sorted(_rows(shapes)) == sorted(2 * count for count in cells * FACES[len(shapes)]):
        return "SCRFD", {"resize": "letterbox", "align": "start", "scale": 1.0, "mean": (127.5,), "std": (128.0,)}
    if not shapes or len(shapes[0]) != 3:  # noqa: PLR2004
        return "", {}
    _, rows, columns = shapes[0]
    if rows == sum(cells) and BOX + 1 < columns <= BOX + 1 + MOST_CLASSES:
        whole: dict[str, Value] = {"color": "bgr", "align": "start", "scale": 1.0, "mean": (0.0,), "std": (1.0,)}
        return "YOLOX", {**yolo, **whole}
    if rows == ANCHORS * sum(cells) and BOX + 1 < columns <= BOX + 1 + MOST_CLASSES:
        return "YOLOv5 and YOLOv7", yolo
    if columns == sum(cells) and BOX < rows <= BOX + MOST_CLASSES:
        return "YOLOv8 and its successors", yolo
    return "", {}


def _rows(shapes: Sequence[tuple[int, ...]]) -> Iterator[int]:
    """How many candidates each output holds, with or without an axis for the batch; 0 where it is no table of them."""
    for shape in shapes:
        yield shape[-2] if len(shape) in (2, 3) and shape[-1] in (1, BOX, 10) else 0
