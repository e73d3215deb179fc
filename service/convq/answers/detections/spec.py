"""What `[detections]` of a manifest says, checked and with its family filled in: what the decoding goes by."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal

from convq.answers.detections.columns import BOX_WORDS, Columns
from convq.answers.detections.families import filled
from convq.answers.detections.grid import GridSpec

Suppression = Literal["class", "agnostic", "weighted", "none"]
BatchRule = Literal["first", "column", "counts", "none"]

MAX_DETECTIONS: Final = 300
"""Of one job, where neither it nor the manifest says otherwise."""

_SCORES: Final = {"score", "classes"}
_ALL_BOX_WORDS: Final = frozenset(word for words in BOX_WORDS.values() for word in words)


@dataclass(frozen=True, slots=True)
class Table:
    """`[[detections.tables]]`: outputs that are joined, in this order, along the rows, and what a row holds."""

    outputs: tuple[str, ...]
    columns: Columns
    axis: int | None = None
    """1 or 2: along which axis of [n, a, b] the columns run. None: as their number says."""


@dataclass(frozen=True, slots=True)
class RegionsSpec:
    """`[detections.regions]`: objects are the connected regions of a map [n, 1, h, w], as text lines are."""

    output: str
    threshold: float = 0.3
    """What is above belongs to a region."""
    grow: float = 1.5
    """A region's rectangle grows on each side by area * grow / perimeter: networks are trained to see it shrunk."""
    min_side: float = 3.0
    """Cells of the map, from the first to the last one: what is thinner is none."""


@dataclass(frozen=True, slots=True)
class DetectionsSpec:
    """How the outputs of a graph become detections. Made by `describe`, which checks what is assumed elsewhere."""

    family: str = ""
    classes: int = 0
    """Labels of the model, background not included; 0 where it has none."""
    tables: tuple[Table, ...] = ()
    box: tuple[str, ...] = BOX_WORDS["corners"]
    """The words that a box is made of, in the order of `BOX_WORDS`."""
    min_score: float = 0.25
    iou: float = 0.45
    max_detections: int = MAX_DETECTIONS
    nms: Suppression = "class"
    activation: Literal["none", "sigmoid", "softmax"] = "none"
    """Of `score`, `classes` and `objectness`."""
    background: Literal["none", "first", "last"] = "none"
    units: Literal["pixels", "unit", "cells"] = "pixels"
    """Of boxes and keypoints: pixels of the input, parts of its sides, or as `grid` says."""
    combine: Literal["product", "sqrt"] = "product"
    class_base: int = 0
    """The number of the first label, in a column `class`."""
    multi_label: bool = False
    keypoints: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()
    batch: BatchRule = "first"
    counts: str | None = None
    """The output that holds how many rows each job has."""
    prototypes: str | None = None
    """The output that `masks` are weights of, [n, m, h, w]."""
    grid: GridSpec | None = None
    regions: RegionsSpec | None = None

    @property
    def words(self) -> frozenset[str]:
        """The columns that its tables have together."""
        return frozenset(word for table in self.tables for word in table.columns.words)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The graph's outputs that are read, each once."""
        named = [name for table in self.tables for name in table.outputs]
        more = [self.counts, self.prototypes, self.regions.output if self.regions else None]
        return tuple(dict.fromkeys([*named, *filter(None, more)]))

    def bound(self, shapes: Mapping[str, Sequence[int | None]]) -> DetectionsSpec:
        """With every axis settled by the declared shapes of the graph's outputs, whose free sides are None.

        A batch of rows may have as many rows as columns; what the graph declares does not depend on it. Raises ValueError
        where an output is missing or has no axis, or two, that could hold the columns.
        """
        for name in self.outputs:
            if name not in shapes:
                raise ValueError(f"output {name} of [detections] is none of the graph's: {', '.join(shapes)}")
        return replace(self, tables=tuple(_bound(table, shapes, self.batch) for table in self.tables))


_INNER: Final = {
    "grid": ({field.name for field in fields(GridSpec)}, "decode"),
    "masks": ({"prototypes"}, "prototypes"),
    "regions": ({field.name for field in fields(RegionsSpec)}, "output"),
}
"""Tables within the table -> the keys that they may have, and the one that they must."""
_TABLE_KEYS: Final = ("output", "outputs", "columns", "axis")


def _bound(table: Table, shapes: Mapping[str, Sequence[int | None]], batch: BatchRule) -> Table:
    axis = table.axis
    for name in table.outputs:
        shape = shapes[name]
        if batch == "first" and len(shape) == 3:  # noqa: PLR2004 - [n, a, b]; other ranks have no choice
            axis = table.columns.axis_of(name, shape, axis)
    return replace(table, axis=axis)


def describe(given: Mapping[str, Any], classes: int) -> DetectionsSpec:
    """The description of a model that has so many labels, of its `[detections]` as a TOML parser gives it.

    Raises ValueError, in words for who wrote the manifest, for what is missing, unknown or contradicts itself. Types and
    ranges of single values are the manifest's affair.
    """
    table = filled(given)
    inner = {name: table.pop(name, None) for name in ("grid", "masks", "regions")}
    rows, _ = table.pop("tables", ()), table.pop("labels", None)
    _check_keys(
        "[detections]", table, {field.name for field in fields(DetectionsSpec)} - {"prototypes", "box", "classes"}
    )
    for name, (allowed, needed) in _INNER.items():
        if inner[name]:
            _check_keys(f"[detections.{name}]", inner[name], allowed, needed)
    grid = GridSpec(**_tuples(inner["grid"])) if inner["grid"] else None
    masks, regions = inner["masks"], inner["regions"]
    if grid is not None:
        grid.check()
    columns = classes + (table.get("background", "none") != "none") if classes else 0
    bins = grid.bins if grid is not None and grid.decode == "dfl" else 1
    plain = {
        **_tuples(table),
        "classes": classes,
        "tables": tuple(_table(one, columns, bins) for one in rows),
        "prototypes": masks["prototypes"] if masks else None,
        "regions": RegionsSpec(**regions) if regions else None,
        "grid": grid,
    }
    plain["units"] = table.get("units", "cells" if grid else "pixels")
    spec = DetectionsSpec(**plain)
    if spec.regions is not None:
        if spec.tables:
            raise ValueError("[detections]: regions and tables exclude each other")
        return spec
    spec = replace(spec, box=_box_words(spec.words))
    _check_scores(spec)
    _check_boxes(spec)
    _check_batch(spec)
    return spec


def _check_keys(where: str, given: Mapping[str, Any], allowed: Collection[str], needed: str = "") -> None:
    if strange := sorted(set(given) - set(allowed)):
        raise ValueError(f"{where}: {', '.join(strange)} is not known; expected some of {', '.join(sorted(allowed))}")
    if needed and not given.get(needed):
        raise ValueError(f"{where}: {needed} is missing")


def _tuples(table: Mapping[str, Any]) -> dict[str, Any]:
    """Lists, and lists in lists, as tuples: descriptions are frozen."""
    return {key: _tuple(value) if isinstance(value, list | tuple) else value for key, value in table.items()}


def _tuple(values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(_tuple(value) if isinstance(value, list | tuple) else value for value in values)


def _table(given: Mapping[str, Any], classes: int, bins: int) -> Table:
    _check_keys("[[detections.tables]]", given, _TABLE_KEYS, "columns")
    names = given.get("outputs") or [given.get("output")]
    if not all(isinstance(name, str) and name for name in names):
        raise ValueError("[[detections.tables]]: expected output = NAME, or outputs = [NAMES]")
    return Table(tuple(names), Columns.parse(given["columns"], classes, bins), given.get("axis"))


def _box_words(words: frozenset[str]) -> tuple[str, ...]:
    """The box that these words name together: exactly one."""
    there = words & _ALL_BOX_WORDS
    for named in BOX_WORDS.values():
        if there == set(named):
            return named
    shown = " ".join(sorted(there)) or "none"
    expected = "; ".join(" ".join(named) for named in BOX_WORDS.values())
    raise ValueError(f"[detections]: the columns of a box are {shown}; expected all of one of: {expected}")


def _check_scores(spec: DetectionsSpec) -> None:
    twice = sum(len(table.columns.words) for table in spec.tables) - len(spec.words)
    if twice:
        raise ValueError("[detections]: a word stands in two tables; expected each once")
    if len(spec.words & _SCORES) != 1:
        raise ValueError("[detections]: expected a column score, or classes, and not both")
    if "class" in spec.words and "score" not in spec.words:
        raise ValueError("[detections]: a column class needs a column score")
    if spec.background != "none" and "classes" not in spec.words:
        raise ValueError("[detections]: background is a column of classes, and there are none")
    if spec.multi_label and "classes" not in spec.words:
        raise ValueError("[detections]: multi_label needs columns classes")
    if spec.activation == "softmax" and (spec.words & {"score", "objectness"}):
        raise ValueError("[detections]: softmax is of classes alone; expected sigmoid or none")


def _check_boxes(spec: DetectionsSpec) -> None:
    if (spec.units == "cells") != (spec.grid is not None):
        raise ValueError("[detections]: units = 'cells' and a grid need each other")
    wanted = spec.grid.words if spec.grid else None
    if wanted and spec.box != wanted:
        raise ValueError(
            f"[detections]: this grid makes a box of {' '.join(wanted)}; the columns are {' '.join(spec.box)}"
        )
    if not wanted and spec.box == BOX_WORDS["distances"]:
        raise ValueError("[detections]: l t r b are distances from a cell, which needs a grid")
    if ("masks" in spec.words) != (spec.prototypes is not None):
        raise ValueError("[detections]: columns masks and prototypes need each other")
    columns = (column for table in spec.tables for column in table.columns.named if column.word == "keypoints")
    points = next((column.width // column.each for column in columns), 0)
    if spec.keypoints and len(spec.keypoints) != points:
        raise ValueError(f"[detections]: {len(spec.keypoints)} names of keypoints for columns of {points}")


def _check_batch(spec: DetectionsSpec) -> None:
    if (spec.batch == "column") != ("batch" in spec.words):
        raise ValueError("[detections]: batch = 'column' and a column batch need each other")
    if spec.batch == "counts" and not spec.counts:
        raise ValueError("[detections]: batch = 'counts' needs counts, the output that holds them")
