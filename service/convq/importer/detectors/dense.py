"""Dense detectors: one output with a row for each cell of a grid, or for each of three anchors in it: YOLOv5 to 12, YOLOX.

The number of rows follows from the sides of the input, and that is how they are known. How the columns behind the box are shared
out among classes, keypoints and weights of masks, numbers of labels or what the columns held on noise must tell.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from convq.importer.detectors.guess import Guess, Rows
from convq.importer.detectors.seen import (
    ANCHORS,
    CLOSE,
    STRIDES,
    Array,
    Facts,
    Seen,
    are_corners,
    are_shares,
    sums_to_one,
    units_of,
)
from convq.importer.findings import Source, Value

BOX: Final = 4
MOST_COLUMNS: Final = 1200
RAW: Final = 5.0
"""The offset of a raw YOLOX box in its cell is never so far away from 0, and a centre in pixels is."""
PEOPLE: Final = 17
COCO: Final = 80

PERSON: Final = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder"),
    *("left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip"),
    *("left_knee", "right_knee", "left_ankle", "right_ankle"),
)
"""The 17 keypoints of COCO, in its order."""
BONES: Final = (
    *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10)),
    *((1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
)
"""Which of them lines join."""


class Tail(NamedTuple):
    """What stands behind the box, and before it is looked at as scores."""

    classes: int
    words: str
    """The columns behind those of the classes."""
    source: Source
    why: str
    raw: bool = False
    """Scores are no shares of 1: a sigmoid is missing."""


def dense(facts: Facts) -> Guess | None:
    """YOLOv5, v7, v8 and its successors, YOLOX: the output whose rows are as many as the input has cells, or three times."""
    places = [(one, axis) for one in facts.of_rank(3) for axis in (2, 1)]
    for strides in STRIDES:
        for output, rows_axis in places:
            a_cell = facts.rows_a_cell(output.shape[rows_axis], [strides])
            columns = output.shape[3 - rows_axis]
            if not a_cell or not BOX < columns <= MOST_COLUMNS or sums_to_one(output.rows(3 - rows_axis)):
                continue  # steps of a softmax, as recognisers of text have them, may be as many as cells
            if a_cell == ANCHORS and columns > BOX + 1:
                return _with_objectness(facts, output, 3 - rows_axis)
            if a_cell == 1:
                return _single(facts, output, 3 - rows_axis)
    return None


def _single(facts: Facts, output: Seen, columns_axis: int) -> Guess | None:
    rows = output.rows(columns_axis)
    if columns_axis == 2 and _are_offsets(rows[:, :2], facts):  # noqa: PLR2004
        return _yolox(output, raw=True)
    if columns_axis == 2 and _is_yolox(facts, output):  # noqa: PLR2004
        return _yolox(output, raw=False)
    return _yolo8(facts, output, columns_axis)


# -- with objectness --------------------------------------------------------------------------------------------------


def _with_objectness(facts: Facts, output: Seen, columns_axis: int) -> Guess | None:
    prototypes = _prototypes(facts, output)
    weights = prototypes.shape[1] if prototypes else 0
    classes = output.shape[columns_axis] - BOX - 1 - weights
    if classes < 1:
        return None
    words = "cx cy w h objectness classes" + (f" masks:{weights}" if weights else "")
    keys: dict[str, tuple[Value, Source, str]] = {}
    if units_of(output.rows(columns_axis)[:, :BOX]) == "unit":
        keys["units"] = ("unit", "measured", "no number of a box is beyond 2")
    why = f"its {output.shape[3 - columns_axis]:,} rows are three for each cell of strides 8, 16 and 32"
    table = Rows((output.name,), words, "graph", f"{output.shape[columns_axis]} columns, {classes} of them classes")
    return Guess(
        why,
        "yolo5",
        "assumed",
        [table],
        keys,
        prototypes.name if prototypes else None,
        classes=classes,
        training="yolo",
    )


def _is_yolox(facts: Facts, output: Seen) -> bool:
    """Whether rows with a row for each cell have objectness: by what was said, by the number of labels, by that of COCO's classes."""
    columns = output.shape[2]
    if facts.like is not None:
        return facts.like == "yolox" and columns > BOX + 1
    if facts.labels is not None and columns - BOX - facts.labels in (0, 1):
        return columns == BOX + 1 + facts.labels
    return columns == BOX + 1 + COCO or (output.name == "output" and columns > BOX + 1)


def _are_offsets(centres: Array, facts: Facts) -> bool:
    """Whether these first two columns [k, 2] are places in a cell, and not in the picture: raw YOLOX."""
    finite = centres[np.isfinite(centres).all(axis=1)]
    if not len(finite) or np.abs(finite).max() > RAW or min(facts.height, facts.width) <= 2 * RAW:
        return False
    across = np.concatenate([np.tile(np.arange(wide), tall) / wide for wide, tall in _grids(facts)])
    if len(centres) % len(across) or np.ptp(centres[:, 0]) == 0:
        return True
    follows = np.corrcoef(np.tile(across, len(centres) // len(across)), centres[:, 0])[0, 1]
    return bool(np.nan_to_num(follows) < 0.5)  # noqa: PLR2004 - else they are parts of the picture's sides


def _grids(facts: Facts) -> list[tuple[int, int]]:
    return [(-(-facts.width // stride), -(-facts.height // stride)) for stride in (8, 16, 32)]


def _yolox(output: Seen, *, raw: bool) -> Guess | None:
    classes = output.shape[2] - BOX - 1
    if classes < 1:
        return None
    keys: dict[str, tuple[Value, Source, str]] = {}
    if not raw:
        keys["units"] = ("pixels", "measured", "boxes reach over the whole input: they are decoded in the graph")
    why = f"its {output.shape[1]:,} rows are one for each cell of strides 8, 16 and 32"
    why += ", whose first columns stay near 0" if raw else ""
    table = Rows(
        (output.name,), "cx cy w h objectness classes", "graph", f"{classes + 5} columns, {classes} of them classes"
    )
    return Guess(why, "yolox", "assumed", [table], keys, classes=classes, training="yolox")


# -- without ----------------------------------------------------------------------------------------------------------


def _yolo8(facts: Facts, output: Seen, columns_axis: int) -> Guess | None:
    rows = output.rows(columns_axis)
    prototypes = _prototypes(facts, output)
    tail = tail_of(rows, facts, BOX, prototypes.shape[1] if prototypes else 0)
    if tail is None:
        return None
    box = "x1 y1 x2 y2" if are_corners(rows[:, :BOX]) else "cx cy w h"
    why = f"its {output.shape[3 - columns_axis]:,} rows are one for each cell"
    return yolo_guess(
        facts,
        output,
        f"{box} classes{tail.words}",
        tail,
        prototypes,
        ("yolo8", "assumed", why),
        units_of(rows[:, :BOX]),
    )


def tail_of(rows: Array, facts: Facts, first: int, weights: int) -> Tail | None:
    """How the columns from `first` on are shared out, the last `weights` being those of masks; None where they are none."""
    masks = f" masks:{weights}" if weights else ""
    rest = rows[:, first : rows.shape[1] - weights]
    count = rest.shape[1]
    if count < 1:
        return None
    raw = bool(rest.min() < -CLOSE)
    if facts.labels is not None and (behind := count - facts.labels) >= 0:
        words = _words(rest[:, facts.labels :], behind) if behind else ""
        if words is not None:
            said: tuple[Source, str] = ("graph", f"{facts.labels} names in its metadata")
            if not facts.told.names or facts.labels != len(facts.told.names):
                said = "given", f"--labels has {facts.labels} names"
            return Tail(facts.labels, words + masks, *said, bool(rest[:, : facts.labels].min(initial=0) < -CLOSE))
    shares = [bool(one.min() >= -CLOSE and one.max() <= 1 + CLOSE) for one in rest.T]
    scores = shares.index(False) if False in shares else count
    if scores == count:
        return Tail(count, masks, "measured", f"{count} columns that stay between 0 and 1 are classes")
    words = _words(rest[:, scores:], count - scores) if scores else None
    if words is not None:
        return Tail(
            scores, words + masks, "measured", f"{scores} columns stay between 0 and 1, those behind them do not"
        )
    return Tail(count, masks, "assumed", f"{count} columns of classes", raw)


def _words(rest: Array, count: int) -> str | None:
    """What columns behind the classes are: an angle, or keypoints; None where they may as well be scores."""
    if count == 1:
        return None if are_shares(rest) else " angle"
    if rest.max() <= 2:  # noqa: PLR2004 - no pixels
        return None
    if count % 3 == 0 and are_shares(rest[:, 2::3]):
        return f" keypoints:{count // 3}x3"
    return f" keypoints:{count // 2}x2" if count % 2 == 0 else None


def yolo_guess(
    facts: Facts,
    output: Seen,
    words: str,
    tail: Tail,
    prototypes: Seen | None,
    family: tuple[str, Source, str],
    units: str = "pixels",
) -> Guess:
    """A guess at YOLOv8 and its successors, of either kind; `family` is its first part, how sure that is and why."""
    part, source, why = family
    end = "-seg" if prototypes else "-pose" if "keypoints" in words else ""
    keys: dict[str, tuple[Value, Source, str]] = {}
    if tail.raw:
        keys["activation"] = ("sigmoid", "measured", "scores are below 0")
    if units != "pixels":
        keys["units"] = (units, "measured", "no number of a box is beyond 2")
    keys |= _points(facts, words)
    table = Rows((output.name,), words, tail.source, tail.why)
    return Guess(
        why,
        part + end,
        source,
        [table],
        keys,
        prototypes.name if prototypes else None,
        classes=tail.classes,
        training="yolo",
    )


def _points(facts: Facts, words: str) -> dict[str, tuple[Value, Source, str]]:
    """Names of the keypoints, as the metadata have them, or of COCO's people where there are 17."""
    found = next((word.partition(":")[2] for word in words.split() if word.startswith("keypoints")), "")
    if not found:
        return {}
    count = int(found.partition("x")[0])
    told = tuple(facts.told.keypoint_names)
    if len(told) == count and len(told) > 0:
        return {"keypoints": (told, "graph", "kpt_names in its metadata")}
    if count == PEOPLE:
        why = "17 keypoints are those of COCO's people as a rule"
        return {"keypoints": (PERSON, "assumed", why), "skeleton": (BONES, "assumed", why)}
    return {}


def _prototypes(facts: Facts, output: Seen) -> Seen | None:
    """What masks are made of, where this output has columns enough for weights of it."""
    found = facts.prototypes()
    return found if found is not None and found.shape[1] < max(output.shape[1:]) else None


# -- what ultralytics wrote -------------------------------------------------------------------------------------------


def as_ultralytics_says(facts: Facts) -> Guess | None:
    """The columns that follow from `task`, `names` and `kpt_shape`; None where the outputs have other shapes than that."""
    told = facts.told
    if told.exporter != "ultralytics" or told.task not in ("detect", "segment", "pose", "obb") or not told.names:
        return None
    prototypes = facts.prototypes() if told.task == "segment" else None
    if (told.task == "segment") != (prototypes is not None) or (told.task == "pose" and not told.keypoints):
        return None
    count, each = told.keypoints or (0, 0)
    weights = prototypes.shape[1] if prototypes else 0
    words = (
        f" masks:{weights}"
        if weights
        else f" keypoints:{count}x{each}"
        if count
        else " angle"
        if told.task == "obb"
        else ""
    )
    wide = weights + count * each + (told.task == "obb")
    why = f"task {told.task}, names and {'end2end' if told.end_to_end else 'shapes'} in its metadata"
    tail = Tail(len(told.names), words, "graph", f"{len(told.names)} names in its metadata")
    for output in facts.of_rank(3):
        if told.end_to_end and output.shape[2] == BOX + 2 + wide:
            box = "cx cy w h" if told.task == "obb" else "x1 y1 x2 y2"
            return yolo_guess(facts, output, f"{box} score class{words}", tail, prototypes, ("yolo10", "graph", why))
        fits = [axis for axis in (1, 2) if output.shape[axis] == BOX + len(told.names) + wide]
        if fits and not told.end_to_end:
            return _raw_of_ultralytics(facts, output, tail, prototypes, why)
    return None


def _raw_of_ultralytics(facts: Facts, output: Seen, tail: Tail, prototypes: Seen | None, why: str) -> Guess:
    """Rows before suppression. RT-DETR in ultralytics' words has 300 of them, in parts of the input, and needs none."""
    made = yolo_guess(facts, output, f"cx cy w h classes{tail.words}", tail, prototypes, ("yolo8", "graph", why))
    if not facts.told.head.startswith("RTDETR"):
        return made
    more: dict[str, Any] = {
        "units": ("unit", "graph", "head RTDETRDecoder in its metadata"),
        "nms": ("none", "graph", "head RTDETRDecoder in its metadata"),
    }
    return Guess(why, "yolo8", "graph", made.tables, {**made.keys, **more}, classes=made.classes, training="yolo")
