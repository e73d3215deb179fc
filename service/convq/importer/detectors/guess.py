"""A guess at `[detections]`: what a matcher found, and how it becomes values of a manifest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from convq.answers.detections import describe
from convq.answers.detections.columns import Columns
from convq.answers.detections.families import filled
from convq.importer.detectors.seen import Seen
from convq.importer.findings import Finding, Source, Value

TABLE = "detections"
PLAIN = ("min_score", "iou", "nms", "activation", "background", "units", "combine", "class_base", "multi_label")
PLAIN_TOO = ("batch", "counts", "max_detections", "keypoints", "skeleton")


@dataclass(frozen=True, slots=True)
class Rows:
    """One of `[[detections.tables]]`."""

    outputs: tuple[str, ...]
    columns: str
    source: Source = "assumed"
    why: str = ""

    @property
    def called(self) -> str:
        """What its findings are `of`."""
        return " ".join(self.outputs)


@dataclass(frozen=True, slots=True)
class Guess:
    """How a graph may make detections."""

    why: str
    """Why it is this family, in words that go on after `its outputs `."""
    family: str = ""
    """One that `[detections]` knows; empty where only the tables say it."""
    source: Source = "assumed"
    tables: Sequence[Rows] = ()
    keys: Mapping[str, tuple[Value, Source, str]] = field(default_factory=dict)
    """Of `[detections]`: value, where it is from, and why. What the family says anyway may stand here too."""
    prototypes: str | None = None
    grid: Mapping[str, Any] = field(default_factory=dict)
    regions: Mapping[str, Any] = field(default_factory=dict)
    classes: int = 0
    """How many labels it needs; 0 where nobody knows, since it gives numbers of classes."""
    names: Sequence[str] = ()
    """Of the classes, where the family has only these."""
    training: str = ""
    """Which rule its pictures are prepared by; one of `preparation.RULES`."""

    def table(self) -> dict[str, Any]:
        """`[detections]` as a TOML parser would give it, with nothing left to the family that is known here."""
        made: dict[str, Any] = {key: value for key, (value, _, _) in self.keys.items()}
        if self.family:
            made["family"] = self.family
        if self.tables:
            made["tables"] = [_as_table(one) for one in self.tables]
        if self.prototypes:
            made["masks"] = {"prototypes": self.prototypes}
        for key, inner in (("grid", self.grid), ("regions", self.regions)):
            if inner:
                made[key] = dict(inner)
        return made

    def fault(self) -> str:
        """Why no manifest would take it; empty where it would."""
        try:
            describe(self.table(), self.classes)
        except ValueError as error:
            return str(error)
        return ""

    @property
    def reads(self) -> frozenset[str]:
        """The outputs that detections are made of."""
        return frozenset(describe(self.table(), self.classes).outputs)

    @property
    def has(self) -> frozenset[str]:
        """The words of its columns."""
        return describe(self.table(), self.classes).words


def _as_table(one: Rows) -> dict[str, Any]:
    names = {"output": one.outputs[0]} if len(one.outputs) == 1 else {"outputs": list(one.outputs)}
    return {**names, "columns": one.columns}


def findings_of(guess: Guess, seen: Sequence[Seen]) -> list[Finding]:
    """The values of `[detections]`, without those that its family says by itself."""
    known = filled({"family": guess.family}) if guess.family else {}
    found: list[Finding] = []
    if guess.family:
        found.append(Finding(TABLE, "family", guess.family, guess.source, guess.why))
    for key, (value, source, why) in guess.keys.items():
        if not guess.family or key in ("labels", "keypoints") or known.get(key) != value:
            found.append(Finding(TABLE, key, value, source, why))
    found += _of_tables(guess, known, {one.name: one for one in seen})
    if guess.prototypes and known.get("masks") != {"prototypes": guess.prototypes}:
        found.append(
            Finding("detections.masks", "prototypes", guess.prototypes, "graph", "a quarter of the input's sides")
        )
    for table, inner in (("grid", guess.grid), ("regions", guess.regions)):
        said = known.get(table, {})
        different = {key: value for key, value in inner.items() if said.get(key) != value}
        found += [
            Finding(f"detections.{table}", key, _value(one), guess.source, guess.why) for key, one in different.items()
        ]
    return found


def _value(value: Any) -> Value:
    return tuple(tuple(one) if isinstance(one, list) else one for one in value) if isinstance(value, list) else value


def _of_tables(guess: Guess, known: Mapping[str, Any], seen: Mapping[str, Seen]) -> Iterator[Finding]:
    """The columns of each output: as a remark where the family reads them so by itself, else as tables."""
    axes = {one.called: _axis(one, guess, seen) for one in guess.tables}
    theirs = [_as_rows(one) for one in known.get("tables", ())]
    by_itself = theirs == [(one.outputs, one.columns) for one in guess.tables]
    by_itself = by_itself and all(axis is None or _is_fixed(known, i) for i, axis in enumerate(axes.values()))
    for one in guess.tables:
        if by_itself:
            yield Finding(TABLE, "columns", None, one.source, f"{one.called} is {one.columns}{_because(one)}")
            continue
        if len(one.outputs) > 1:
            why = "one for each stride" if guess.grid else "as their family has them"
            yield Finding("detections.tables", "outputs", one.outputs, "graph", why, one.called)
        yield Finding("detections.tables", "columns", one.columns, one.source, one.why or guess.why, one.called)
        if (axis := axes[one.called]) is not None:
            why = "the columns run along it, and the graph declares no shape that shows that"
            yield Finding("detections.tables", "axis", axis, "measured", why, one.called)


def _because(one: Rows) -> str:
    return f": {one.why}" if one.why else ""


def _as_rows(table: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    return tuple(table.get("outputs") or [table["output"]]), table["columns"]


def _is_fixed(known: Mapping[str, Any], number: int) -> bool:
    return "axis" in known["tables"][number]


def _axis(one: Rows, guess: Guess, seen: Mapping[str, Seen]) -> int | None:
    """Along which axis the columns run, where what the graph declares does not show it by itself."""
    spec = describe(guess.table(), guess.classes)
    columns: Columns = next(table.columns for table in spec.tables if table.outputs == one.outputs)
    for name in one.outputs:
        output = seen[name]
        if len(output.shape) != 3 or spec.batch != "first":  # noqa: PLR2004 - [n, a, b]
            continue
        try:
            read = columns.axis_of(name, output.declared)
        except ValueError:
            read = 0
        if read == 0 or output.shape[read] != columns.width:
            return next((axis for axis in (2, 1) if output.shape[axis] == columns.width), None)
    return None
