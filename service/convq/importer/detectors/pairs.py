"""Detectors with two outputs of as many rows: boxes [n, R, 4] and a score for each class [n, R, C]: SSDs, DETR, RT-DETR."""

from __future__ import annotations

from typing import Final

import numpy as np

from convq.importer.detectors.guess import Guess, Rows
from convq.importer.detectors.seen import Array, Facts, Seen, are_corners, are_shares, sums_to_one, units_of
from convq.importer.findings import Source, Value

BOX: Final = 4
MOST_CLASSES: Final = 1000
MOST_QUERIES: Final = 2000
"""Rows of a detector of DETR's kind: it has no cells, and 100 to 900 queries as a rule."""
Keys = dict[str, tuple[Value, Source, str]]


def boxes_and_scores(facts: Facts) -> Guess | None:
    """Two outputs, or two of several, with as many rows; the one with four columns holds the boxes."""
    tables = facts.of_rank(3)
    for boxes in tables:
        if boxes.shape[2] != BOX or boxes.is_whole:
            continue
        fitting = [one for one in tables if one is not boxes and one.shape[1] == boxes.shape[1] and not one.is_whole]
        fitting = [one for one in fitting if one.shape[2] <= MOST_CLASSES]
        scores = _by_name(fitting) or next(iter(fitting), None)
        if scores is not None and not _is_swapped(boxes, scores):
            return _of_queries(facts, boxes, scores)
    return None


def _by_name(outputs: list[Seen]) -> Seen | None:
    return next((one for one in outputs if any(word in one.name.lower() for word in ("logit", "score", "conf"))), None)


def _is_swapped(boxes: Seen, scores: Seen) -> bool:
    """Four classes and four coordinates look the same: then only the names tell."""
    return scores.shape[2] == BOX and "box" in scores.name.lower() and "box" not in boxes.name.lower()


def _of_queries(facts: Facts, boxes: Seen, scores: Seen) -> Guess | None:
    rows, values = boxes.rows(), scores.rows()
    if sums_to_one(values) and values.shape[1] > 1:
        return _after_softmax(facts, boxes, scores, rows, values)
    if are_shares(values):
        return _after_sigmoid(facts, boxes, scores, rows)
    if boxes.shape[1] > MOST_QUERIES:
        return None
    return _of_logits(facts, boxes, scores, rows, values)


def _tables(boxes: Seen, scores: Seen, box: str, classes: int) -> list[Rows]:
    return [
        Rows((scores.name,), "classes", "graph", f"{scores.shape[2]} columns, {classes} of them labels"),
        Rows((boxes.name,), box, "measured", "four columns"),
    ]


def _after_softmax(facts: Facts, boxes: Seen, scores: Seen, rows: Array, values: Array) -> Guess | None:
    """UltraFace and SSDs with a softmax of their own; the background is the class that nearly every row has on noise."""
    columns = values.shape[1]
    first = float(np.mean(values.argmax(axis=1) == 0)) >= float(np.mean(values.argmax(axis=1) == columns - 1))
    box = "x1 y1 x2 y2" if are_corners(rows) or not _is_centred(rows) else "cx cy w h"
    keys: Keys = {}
    if not first:
        keys["background"] = ("last", "measured", "nearly all rows of noise are of the last class")
    units = units_of(rows)
    if units != "unit":
        keys["units"] = (units, "measured", "numbers of boxes go beyond 2")
    why = f"{scores.name} sums to 1 in each row, and {boxes.name} has four columns and as many rows"
    classes = columns - 1
    names = ("face",) if classes == 1 and facts.labels is None else ()
    tables = _tables(boxes, scores, box, classes)
    return Guess(
        why,
        "boxes",
        "assumed",
        tables,
        keys,
        classes=classes,
        names=names,
        training="ultraface" if classes == 1 else "pixels",
    )


def _is_centred(rows: Array) -> bool:
    """Whether the third and fourth column are not behind the first two in some rows: widths and heights, then."""
    filled = rows[(rows != 0).any(axis=1)]
    return bool(len(filled)) and bool((filled[:, 2:] < filled[:, :2]).any())


def _after_sigmoid(facts: Facts, boxes: Seen, scores: Seen, rows: Array) -> Guess:
    """YOLO-NAS and others: shares of 1 for each class, boxes in pixels or units. Only few rows need no suppression."""
    units, classes = units_of(rows), scores.shape[2]
    dense = bool(facts.rows_a_cell(boxes.shape[1]))
    box = "x1 y1 x2 y2" if are_corners(rows) else "cx cy w h"
    keys: Keys = {
        "units": (
            units,
            "measured",
            "numbers of boxes go beyond 2" if units == "pixels" else "no number of a box is beyond 2",
        ),
        "nms": ("class" if dense else "none", "assumed", "a row for each cell" if dense else "few rows, as of DETR"),
    }
    why = f"{scores.name} holds shares of 1, and {boxes.name} has four columns and as many rows"
    return Guess(why, "", "assumed", _tables(boxes, scores, box, classes), keys, classes=classes, training="pixels")


def _of_logits(facts: Facts, boxes: Seen, scores: Seen, rows: Array, values: Array) -> Guess | None:
    """DETR, whose last class is the background and wins on noise; RT-DETR and its kin, which have none."""
    columns = values.shape[1]
    if units_of(rows) != "unit":
        return None
    last = float(np.mean(values.argmax(axis=1) == columns - 1)) > 0.5 and columns > 1  # noqa: PLR2004
    if facts.labels is not None and facts.labels in (columns, columns - 1):
        last = facts.labels == columns - 1
    family, classes = ("detr", columns - 1) if last else ("rtdetr", columns)
    if not classes:
        return None
    how = "the last class wins on noise: the background" if last else "no class wins on noise: there is no background"
    why = f"{scores.name} holds raw scores, {boxes.name} centres and sizes of 0 to 1; {how}"
    made = _tables(boxes, scores, "cx cy w h", classes)
    training = "imagenet" if last else "pixels"
    return Guess(why, family, "assumed", made, {}, classes=classes, training=training)
