"""A family that somebody names: its tables laid over the outputs, whatever these held on noise, or why that cannot be."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from convq.answers.detections.families import FAMILIES
from convq.errors import SettingsError
from convq.importer.detectors.faces import FACE, text_regions
from convq.importer.detectors.guess import Guess, Rows
from convq.importer.detectors.seen import Facts, Seen, are_whole
from convq.printable import brief_list

TRAINING: Final = {
    "yolo5": "yolo",
    "yolo8": "yolo",
    "yolo10": "yolo",
    "boxes": "ultraface",
    "detr": "imagenet",
    "torchvision": "inside",
    "tensorflow": "inside",
    "paddle": "pixels",
    "rtdetr": "pixels",
}
"""Family, without what it finds besides boxes -> the rule of its pictures, where that is not called as the family is."""
FACES: Final = ("scrfd", "yunet", "blazeface")


def forced(facts: Facts) -> Guess:
    """The family `facts.like` on these outputs. Raises SettingsError, with what it expects and what there is."""
    family = facts.like or ""
    if family not in FAMILIES:
        raise SettingsError(f"--like {family}: no such family; expected one of {', '.join(FAMILIES)}")
    if family == "db":
        if (made := text_regions(facts)) is None:
            raise _misfit(facts, "a map [n, 1, h, w] of 0 to 1")
        return made
    preset = FAMILIES[family]()
    prototypes = facts.prototypes() if "masks" in preset else None
    if "masks" in preset and prototypes is None:
        raise _misfit(facts, "prototypes of masks [n, m, h / 4, w / 4]")
    free = [one for one in facts.seen if one is not prototypes]
    counts = _counts(preset, free)
    tables, classes = [], 0
    for table in sorted(
        preset["tables"], key=lambda one: _fixed(one["columns"]) is None
    ):  # the widths that are known first
        outputs = _outputs(facts, table, free, preset)
        free = [one for one in free if one not in outputs]
        columns, found = _columns(facts, table["columns"], outputs[0], prototypes, preset)
        classes = max(classes, found)
        tables.append(Rows(tuple(one.name for one in outputs), columns, "given", f"--like {family}"))
    order = [table["columns"].split()[0] for table in preset["tables"]]
    tables.sort(key=lambda one: order.index(one.columns.split()[0]))
    keys: dict[str, Any] = {} if counts is None else {"counts": (counts.name, "given", f"--like {family}")}
    single = family in FACES
    made = Guess(
        f"--like {family}",
        family,
        "given",
        tables,
        keys,
        prototypes.name if prototypes else None,
        classes=classes or (1 if single else facts.labels or 0),
        names=FACE if single else (),
        training=TRAINING.get(family.partition("-")[0], family),
    )
    if fault := made.fault():
        raise SettingsError(f"--like {family}: {fault}")
    return made


def _misfit(facts: Facts, expected: str) -> SettingsError:
    there = brief_list((one.shown() for one in facts.seen), 12)
    return SettingsError(f"--like {facts.like}: it reads {expected}; {there}")


def _counts(preset: Mapping[str, Any], free: list[Seen]) -> Seen | None:
    """The output that holds how many rows there are, taken out of those that are free."""
    if "counts" not in preset:
        return None
    found = next((one for one in free if one.name == preset["counts"]), None)
    found = found or next((one for one in free if one.shape in ((1,), (1, 1))), None)
    if found is not None:
        free.remove(found)
    return found


def _fixed(columns: str, weights: int = 32) -> int | None:
    """How many columns a table has; None where that depends on labels."""
    if "classes" in columns.split():
        return None
    widths = [re.fullmatch(r"\w+:(\d+)(?:x(\d))?", word) for word in columns.split()]
    wide = sum(int(one[1]) * int(one[2] or 1) if one else 1 for one in widths)
    return wide - 32 + weights if "masks:32" in columns else wide


def _outputs(facts: Facts, table: Mapping[str, Any], free: Sequence[Seen], preset: Mapping[str, Any]) -> list[Seen]:
    """The outputs that a table of the family is read of: by their names, else by their width."""
    names = table.get("outputs") or [table["output"]]
    by_name = {one.name: one for one in free}
    if all(name in by_name for name in names):
        return [by_name[name] for name in names]
    width = _fixed(table["columns"], (facts.prototypes() or facts.seen[0]).shape[1] if "masks" in preset else 32)
    fitting = [one for one in free if _fits(one, width, table)]
    if len(fitting) < len(names):
        raise _misfit(
            facts,
            f"{' '.join(names)} with {'as many columns as classes' if width is None else width} columns ({table['columns']})",
        )
    numbered = table["columns"] == "class"
    fitting.sort(
        key=lambda one: ((one.is_whole or are_whole(one.values())) != numbered, -max(one.shape[1:] or one.shape))
    )
    per_level = len(fitting) // len(names)
    return fitting[:: per_level or 1][: len(names)] if len(names) > 1 else fitting[:1]


def _fits(output: Seen, width: int | None, table: Mapping[str, Any]) -> bool:
    axes = len(output.shape)
    if width == 1 and axes in (1, 2):
        return True
    if axes not in (2, 3):
        return False
    sides = output.shape[-1:] if axes == 2 or "axis" in table else output.shape[1:]  # noqa: PLR2004
    least = 1 + sum(word != "classes" for word in table["columns"].split())
    return any(side == width if width is not None else side >= least for side in sides)


def _columns(
    facts: Facts, columns: str, output: Seen, prototypes: Seen | None, preset: Mapping[str, Any]
) -> tuple[str, int]:
    """The family's columns with the numbers that this output has, and how many labels there are (0: no column says it)."""
    weights = prototypes.shape[1] if prototypes else 0
    columns = columns.replace("masks:32", f"masks:{weights}")
    background = preset.get("background", "none") != "none"
    fixed = _fixed(columns.replace("classes", ""), weights) or 0
    wide = min(output.shape[1:]) if "axis" not in preset["tables"][0] and len(output.shape) == 3 else output.shape[-1]  # noqa: PLR2004
    if "keypoints:17x3" in columns:
        labels = facts.labels or 1 if "classes" in columns else 0
        rest = wide - (fixed - 51) - labels
        if rest >= 2 and rest != 51:  # noqa: PLR2004
            each = 3 if rest % 3 == 0 else 2
            columns, fixed = columns.replace("keypoints:17x3", f"keypoints:{rest // each}x{each}"), fixed - 51 + rest
    if "classes" not in columns.split():
        return columns, 0
    classes = wide - fixed - background
    if classes < 1:
        raise _misfit(facts, f"at least {fixed + background + 1} columns: {columns}")
    return columns, classes
