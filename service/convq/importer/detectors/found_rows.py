"""Detectors that give objects and no candidates: rows of six, four tensors side by side, or what torchvision gives."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from convq.importer.detectors.dense import Tail, yolo_guess
from convq.importer.detectors.guess import Guess, Rows
from convq.importer.detectors.seen import Array, Facts, Seen, are_corners, are_shares, are_whole, units_of
from convq.importer.findings import Source, Value

MOST_ROWS: Final = 1000
BOX: Final = 4
LAYOUTS: Final = (
    "x1 y1 x2 y2 score class",
    "class score x1 y1 x2 y2",
    "x1 y1 x2 y2 class score",
    "score class x1 y1 x2 y2",
    "cx cy w h score class",
    "class score cx cy w h",
)
"""Orders of six columns that exporters have, the usual ones first."""
Keys = dict[str, tuple[Value, Source, str]]


class Order(NamedTuple):
    """What six columns are."""

    words: str
    source: Source
    why: str


def order_of(rows: Array, layouts: tuple[str, ...] = LAYOUTS) -> Order | None:
    """The order of the columns by what noise put into them: shares that fall, whole numbers, corners; None where none fits."""
    filled = rows[np.isfinite(rows).all(axis=1)]
    filled = filled[(filled != 0).any(axis=1)]
    if not len(filled):
        return Order(layouts[0], "assumed", "its rows are all zeros on noise: the usual order")
    fitting = [words for words in layouts if _fits(filled, words.split())]
    if not fitting:
        return None
    falling = [words for words in fitting if _falls(rows[:, words.split().index("score")])]
    words = (falling or fitting)[0]
    if len(fitting) == 1:
        return Order(words, "measured", "one column holds shares of 1, one whole numbers, and the others corners")
    return Order(words, "assumed", f"of {len(fitting)} orders that fit, the usual one")


def _fits(rows: Array, words: list[str]) -> bool:
    at = {word: number for number, word in enumerate(words)}
    kinds = rows[:, at["class"]]
    there = rows[kinds >= 0]  # class -1 is a row that is filled up
    if not len(there):
        return are_whole(kinds)
    box = [at[word] for word in words if word not in ("score", "class", "batch", "_")]
    if "x1" in at and not are_corners(there[:, box]):
        return False
    return are_whole(kinds) and are_shares(there[:, at["score"]])


def _falls(scores: Array) -> bool:
    """In most places: runs follow each other, and each begins anew."""
    return bool(len(scores) > 1 and (np.diff(scores) <= 0).mean() > 0.9)  # noqa: PLR2004


def rows_of_six(facts: Facts) -> Guess | None:
    """[n, k, 6], and with weights of masks or keypoints behind: YOLOv10, 26, and graphs with a suppression of their own."""
    prototypes = facts.prototypes()
    weights = prototypes.shape[1] if prototypes else 0
    for output in facts.of_rank(3):
        k, columns = output.shape[1:]
        if k > MOST_ROWS or columns < BOX + 2 or facts.rows_a_cell(columns):
            continue
        rows = output.rows()
        if columns > BOX + 2 and not rows.any():  # all zeros could be anything
            continue
        order = order_of(rows[:, :6], LAYOUTS if columns == 6 else LAYOUTS[:1])  # noqa: PLR2004
        behind = columns - 6
        words = "" if not behind else f" masks:{weights}" if behind == weights else _keypoints(rows[:, 6:])
        if order is None or words is None:
            continue
        why = f"its {k} rows of {columns} columns are objects"
        tail = Tail(facts.labels or 0, words, order.source, order.why)
        masked = prototypes if behind and behind == weights else None
        return yolo_guess(
            facts, output, order.words + words, tail, masked, ("yolo10", "assumed", why), units_of(_box(rows, order))
        )
    return None


def _box(rows: Array, order: Order) -> Array:
    words = order.words.split()
    return rows[:, [number for number, word in enumerate(words) if word not in ("score", "class")]]


def _keypoints(rest: Array) -> str | None:
    count = rest.shape[1]
    if rest.max() <= 2:  # noqa: PLR2004 - no pixels
        return None
    if count % 3 == 0 and are_shares(rest[:, 2::3]):
        return f" keypoints:{count // 3}x3"
    return f" keypoints:{count // 2}x2" if count % 2 == 0 else None


# -- rows without a batch axis ----------------------------------------------------------------------------------------


def rows_of_all_jobs(facts: Facts) -> Guess | None:
    """[N, 6] and how many each job has, as PaddleDetection gives it; [N, 7] with the number of the job, as YOLOv7 does."""
    for output in facts.seen:
        if len(output.shape) != 2 or output.is_whole:  # noqa: PLR2004
            continue
        if output.shape[1] == 7:  # noqa: PLR2004
            return _with_job(facts, output)
        counts = _counts(facts, output) if output.shape[1] == 6 else None  # noqa: PLR2004
        if counts is not None:
            order = order_of(output.rows(), (LAYOUTS[1], LAYOUTS[0], *LAYOUTS[2:4])) or Order(
                LAYOUTS[1], "assumed", "Paddle's"
            )
            keys: Keys = {"batch": ("counts", "graph", f"{counts.name} holds how many rows each job has")}
            keys["counts"] = (counts.name, "graph", "whole numbers, as many as jobs")
            if order.words != LAYOUTS[1]:
                keys["nms"] = ("none", "assumed", "the rows are objects")
            why = f"{output.name} has rows of all jobs, and {counts.name} says how many each has"
            table = Rows((output.name,), order.words, order.source, order.why)
            return Guess(why, "paddle", "assumed", [table], keys, classes=facts.labels or 0, training="pixels")
    return None


def _counts(facts: Facts, rows: Seen) -> Seen | None:
    """An output [1] of a whole number which is that of the rows."""
    for output in facts.seen:
        fits = output.shape == (1,) and output.is_whole
        if fits and all(int(one[0]) == len(made) for one, made in zip(output.made, rows.made, strict=True)):
            return output
    return None


def _with_job(facts: Facts, output: Seen) -> Guess | None:
    rows = output.rows()
    orders = ("batch x1 y1 x2 y2 class score", "batch x1 y1 x2 y2 score class", "batch class score x1 y1 x2 y2")
    order: Order | None = Order(orders[0], "assumed", "there are no rows on noise: YOLOv7's order")
    if output.shape[0]:
        order = order_of(rows, orders) if rows.any() and not rows[:, 0].any() else None
    if order is None:
        return None
    keys: Keys = {
        "batch": ("column", "assumed", "the first column is the number of the job"),
        "nms": ("none", "assumed", "the rows are objects"),
        "min_score": (0.25, "assumed", "as YOLOv7's own code"),
    }
    table = Rows((output.name,), order.words, order.source, order.why)
    why = f"{output.name} has rows of seven columns, the first of which is the number of the job"
    return Guess(why, "", "assumed", [table], keys, classes=facts.labels or 0, training="yolo")


# -- outputs side by side ---------------------------------------------------------------------------------------------


def side_by_side(facts: Facts) -> Guess | None:
    """Boxes, classes and scores in outputs of their own, as many rows each: TensorFlow, RT-DETR with its sizes, mmdet, torchvision."""
    whole = _named_rank(facts, batched=True) or _named_rank(facts, batched=False)
    if whole is None:
        return None
    boxes, kinds, scores, batched = whole
    counts = [one for one in facts.seen if one.name not in (boxes.name, kinds.name, scores.name if scores else "")]
    counts = [one for one in counts if one.shape in ((1,), (1, 1)) and are_whole(one.values())]
    if not batched:
        return _torchvision(facts, boxes, kinds, scores)
    if scores is None:
        return _with_scores_in_boxes(facts, boxes, kinds)
    if counts and boxes.shape[2] == BOX and units_of(boxes.rows()) == "unit" and counts[0].shape == (1,):
        return _tensorflow(facts, boxes, kinds, scores, counts[0])
    return _objects(facts, boxes, kinds, scores)


def _named_rank(facts: Facts, *, batched: bool) -> tuple[Seen, Seen, Seen | None, bool] | None:
    """Boxes [n, k, 4 or 5], classes [n, k] and scores [n, k], all of one k; without the batch axis where that is said."""
    more = 1 if batched else 0
    for boxes in facts.seen:
        if len(boxes.shape) != 2 + more or boxes.shape[-1] not in (BOX, BOX + 1) or boxes.is_whole:
            continue
        if batched and boxes.shape[0] != 1:
            continue
        lines = [one for one in facts.seen if one.shape == boxes.shape[:-1] and one is not boxes]
        kinds = next((one for one in lines if one.is_whole), None) or _whole_one(lines)
        scores = next((one for one in lines if one is not kinds and not one.is_whole), None)
        if kinds is not None and (scores is not None) == (boxes.shape[-1] == BOX):
            return boxes, kinds, scores, batched
    return None


def _whole_one(lines: list[Seen]) -> Seen | None:
    """Which of several outputs of floating point numbers holds classes: by its name, or by its values."""
    for word in ("class", "label", "cls"):
        for one in lines:
            if word in one.name.lower():
                return one
    fitting = [one for one in lines if are_whole(one.values())]
    return fitting[0] if len(fitting) == 1 or (fitting and len(lines) == 2) else None  # noqa: PLR2004


def _torchvision(facts: Facts, boxes: Seen, kinds: Seen, scores: Seen | None) -> Guess | None:
    if scores is None:
        return None
    why = f"{boxes.name}, {kinds.name} and {scores.name} are boxes, classes and scores of one job, without a batch axis"
    tables = [
        Rows((boxes.name,), "x1 y1 x2 y2", "assumed", "as torchvision gives them"),
        Rows((kinds.name,), "class", "graph", "whole numbers"),
        Rows((scores.name,), "score", "graph", "the one that is left"),
    ]
    keys: Keys = {}
    if kinds.values().size and kinds.values().min() < 1:
        keys["class_base"] = (0, "measured", "there is a class 0")
    return Guess(why, "torchvision", "assumed", tables, keys, classes=facts.labels or 0, training="inside")


def _tensorflow(facts: Facts, boxes: Seen, kinds: Seen, scores: Seen, counts: Seen) -> Guess:
    why = (
        f"{boxes.name}, {kinds.name}, {scores.name} and {counts.name} are boxes of 0 to 1, classes, scores and a count"
    )
    tables = [
        Rows((boxes.name,), "y1 x1 y2 x2", "assumed", "TensorFlow has y first"),
        Rows((kinds.name,), "class", "measured", "whole numbers"),
        Rows((scores.name,), "score", "measured", "shares of 1"),
    ]
    keys: Keys = {"counts": (counts.name, "graph", "one number a job")}
    if counts.is_whole and (kinds.values() == 0).any() and not _is_padding(kinds, scores):
        keys["class_base"] = (0, "measured", "there is a class 0")
    return Guess(why, "tensorflow", "assumed", tables, keys, classes=facts.labels or 0, training="inside")


def _is_padding(kinds: Seen, scores: Seen) -> bool:
    """Whether every class 0 is one of a row that holds nothing."""
    return not bool(scores.rows()[kinds.rows() == 0].any()) if scores.shape == kinds.shape else True


def _objects(facts: Facts, boxes: Seen, kinds: Seen, scores: Seen) -> Guess:
    units = units_of(boxes.rows())
    why = f"{boxes.name}, {kinds.name} and {scores.name} are boxes, classes and scores of as many rows"
    words = "x1 y1 x2 y2" if units == "pixels" or are_corners(boxes.rows()) else "cx cy w h"
    tables = [
        Rows((boxes.name,), words, "assumed", "the second corner is never before the first"),
        Rows((kinds.name,), "class", "graph" if kinds.is_whole else "measured", "whole numbers"),
        Rows((scores.name,), "score", "graph", "the one that is left"),
    ]
    keys: Keys = {"nms": ("none", "assumed", "the rows are objects")}
    keys["units"] = (units, "measured", "no number of a box is beyond 2" if units == "unit" else "numbers go beyond 2")
    return Guess(why, "", "assumed", tables, keys, classes=facts.labels or 0, training="pixels")


def _with_scores_in_boxes(facts: Facts, boxes: Seen, kinds: Seen) -> Guess:
    why = (
        f"{boxes.name} has corners and a score, {kinds.name} the classes, as mmdeploy and OpenVINO's tools export them"
    )
    tables = [
        Rows((boxes.name,), "x1 y1 x2 y2 score", "assumed", "five columns"),
        Rows((kinds.name,), "class", "graph" if kinds.is_whole else "measured", "whole numbers"),
    ]
    units = units_of(boxes.rows()[:, :BOX])
    keys: Keys = {"nms": ("none", "assumed", "the rows are objects")}
    if units == "unit":
        keys["units"] = (units, "measured", "no number of a box is beyond 2")
    return Guess(why, "", "assumed", tables, keys, classes=facts.labels or 0, training="imagenet")
