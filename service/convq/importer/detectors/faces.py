"""Detectors of faces, whose outputs come in levels or in pairs of an odd width: SCRFD, YuNet, BlazeFace, RetinaFace; and DB's maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from convq.importer.detectors.guess import Guess, Rows
from convq.importer.detectors.seen import Facts, Seen, are_shares, sums_to_one
from convq.importer.findings import Source, Value

FACE: Final = ("face",)
SCORE, BOX, POINTS = 1, 4, 10
LEVELS: Final = {6: 3, 9: 3, 12: 3, 10: 5, 15: 5}
"""How many outputs there are -> how many levels those of a face detector have then."""
STRIDES: Final = (8, 16, 32, 64, 128)
Keys = dict[str, tuple[Value, Source, str]]


def levels_of_faces(facts: Facts) -> Guess | None:
    """SCRFD and YuNet: for each stride scores, boxes and perhaps landmarks, one or two rows a cell."""
    levels = LEVELS.get(len(facts.seen), 0)
    if not levels:
        return None
    strides = STRIDES[:levels]
    cells = facts.cells(strides)
    kinds = _sorted(facts.seen, strides)
    if kinds is None:
        return None
    per_cell = {rows // each for one in kinds for rows, each in zip(map(_rows, one), cells, strict=True)}
    fits = all(_rows(output) == each * min(per_cell) for one in kinds for output, each in zip(one, cells, strict=True))
    if len(per_cell) != 1 or not fits or min(per_cell) not in (1, 2):
        return None
    widths = [one[0].shape[-1] for one in kinds]
    if widths == [SCORE, SCORE, BOX, POINTS] and min(per_cell) == 1:
        return _yunet(kinds)
    if widths in ([SCORE, BOX], [SCORE, BOX, POINTS]):
        return _scrfd(kinds, min(per_cell), strides)
    return None


def _rows(output: Seen) -> int:
    """How many candidates an output has, with or without an axis for the batch; 0 where it is no table of them."""
    is_table = len(output.shape) == 2 or (len(output.shape) == 3 and output.shape[0] == 1)  # noqa: PLR2004
    return output.shape[-2] if is_table and output.shape[-1] in (SCORE, BOX, POINTS) else 0


def _sorted(seen: Sequence[Seen], strides: Sequence[int]) -> list[list[Seen]] | None:
    """The outputs by their width, and of one width by their name without its number; each list from the most rows on."""
    made: list[list[Seen]] = []
    for width in (SCORE, BOX, POINTS):
        same = [one for one in seen if len(one.shape) in (2, 3) and one.shape[-1] == width]
        if len(same) % len(strides):
            return None
        by_rows = sorted(same, key=lambda one: -_rows(one))
        count = len(same) // len(strides)
        # of two outputs of one size, those whose names say that they hold classes are first
        groups = [by_rows[i : i + count] for i in range(0, len(by_rows), count or 1)]
        ordered = [sorted(group, key=lambda one: "cls" not in one.name.lower()) for group in groups]
        made += [[group[i] for group in ordered] for i in range(count)]
    return made if sum(map(len, made)) == len(seen) else None


def _names(outputs: Sequence[Seen]) -> tuple[str, ...]:
    return tuple(one.name for one in outputs)


def _scrfd(kinds: list[list[Seen]], per_cell: int, strides: Sequence[int]) -> Guess:
    words = ["score", "l t r b", "keypoints:5x2"]
    why = "scores and boxes of strides 8, 16, 32"
    tables = [
        Rows(_names(one), columns, "graph", f"{one[0].shape[-1]} columns")
        for one, columns in zip(kinds, words, strict=False)
    ]
    keys: Keys = {}
    if not all(are_shares(one.values()) for one in kinds[0]):
        keys["activation"] = ("sigmoid", "measured", "scores are not between 0 and 1")
    if len(kinds[0][0].shape) == 2:  # noqa: PLR2004
        keys["batch"] = ("none", "graph", "its outputs have no axis for the batch: jobs run one by one")
    grid = {"decode": "distance", "strides": list(strides), "per_cell": per_cell, "point": 0.0}
    why = f"its outputs are {per_cell} rows for each cell of strides {', '.join(map(str, strides))}, as of SCRFD"
    return Guess(why, "scrfd", "assumed", tables, keys, grid=grid, classes=1, names=FACE, training="scrfd")


def _yunet(kinds: list[list[Seen]]) -> Guess:
    words = ["score", "objectness", "cx cy w h", "keypoints:5x2"]
    tables = [
        Rows(_names(one), columns, "graph", f"{one[0].shape[-1]} columns")
        for one, columns in zip(kinds, words, strict=True)
    ]
    why = "its twelve outputs are a row for each cell of strides 8, 16 and 32, as of YuNet"
    grid = {"decode": "exp", "strides": [8, 16, 32]}
    return Guess(why, "yunet", "assumed", tables, {}, grid=grid, classes=1, names=FACE, training="yunet")


def blazeface(facts: Facts) -> Guess | None:
    """[n, R, 16] and [n, R, 1], two rows a cell of stride 8 and six of stride 16."""
    eight, sixteen = facts.cells((8, 16))
    rows = 2 * eight + 6 * sixteen
    boxes = [one for one in facts.of_rank(3) if one.shape[1:] == (rows, 16)]
    scores = [one for one in facts.of_rank(3) if one.shape[1:] == (rows, 1)]
    if not boxes or not scores:
        return None
    why = f"its outputs have {rows} rows of 16 columns and of 1, as of BlazeFace"
    tables = [
        Rows((boxes[0].name,), "cx cy w h keypoints:6x2", "graph", "16 columns"),
        Rows((scores[0].name,), "score", "graph", "1 column"),
    ]
    keys: Keys = {}
    if are_shares(scores[0].values()) and scores[0].values().any():
        keys["activation"] = ("none", "measured", "scores stay between 0 and 1: the sigmoid is in the graph")
    return Guess(why, "blazeface", "assumed", tables, keys, classes=1, names=FACE, training="blazeface")


def retinaface(facts: Facts) -> Guess | None:
    """[n, R, 4], [n, R, 2] and [n, R, 10], two priors a cell of strides 8, 16 and 32: RetinaFace."""
    rows = 2 * sum(facts.cells())
    by_width = {one.shape[2]: one for one in facts.of_rank(3) if one.shape[1] == rows}
    if not {BOX, 2, POINTS} <= by_width.keys():
        return None
    scores = by_width[2]
    tables = [
        Rows((by_width[BOX].name,), "cx cy w h", "graph", "4 columns"),
        Rows((scores.name,), "classes", "graph", "2 columns, the first of which is the background"),
        Rows((by_width[POINTS].name,), "keypoints:5x2", "graph", "10 columns"),
    ]
    how = "none" if sums_to_one(scores.rows()) else "softmax"
    why = f"its outputs have {rows} rows of 4, 2 and 10 columns, two for each cell, as of RetinaFace"
    keys: Keys = {
        "background": ("first", "assumed", why),
        "activation": (how, "measured", "rows sum to 1" if how == "none" else "rows do not sum to 1"),
        "min_score": (0.5, "assumed", "RetinaFace shows so many"),
        "iou": (0.4, "assumed", "RetinaFace's own"),
    }
    sizes = [[16.0, 32.0], [64.0, 128.0], [256.0, 512.0]]
    grid = {"decode": "prior", "strides": [8, 16, 32], "point": 0.5, "variances": [0.1, 0.2], "min_sizes": sizes}
    return Guess(why, "", "assumed", tables, keys, grid=grid, classes=1, names=FACE, training="retinaface")


def text_regions(facts: Facts) -> Guess | None:
    """A map [n, 1, h, w] of 0 to 1 as DB's: only who says so knows, since mattes look the same."""
    maps = [one for one in facts.of_rank(4) if one.shape[1] == 1 and are_shares(one.values())]
    if not maps:
        return None
    why = f"{maps[0].name} is a map of 0 to 1"
    return Guess(
        why, "db", "given", (), {}, regions={"output": maps[0].name}, classes=1, names=("text",), training="db"
    )
