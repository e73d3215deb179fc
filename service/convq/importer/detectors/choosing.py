"""Which family a graph is of, of all that are known; and whether what somebody said of it can be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from convq.errors import SettingsError
from convq.importer.detectors.dense import as_ultralytics_says, dense
from convq.importer.detectors.faces import blazeface, levels_of_faces, retinaface, text_regions
from convq.importer.detectors.forced import forced
from convq.importer.detectors.found_rows import rows_of_all_jobs, rows_of_six, side_by_side
from convq.importer.detectors.guess import Guess, findings_of
from convq.importer.detectors.pairs import boxes_and_scores
from convq.importer.detectors.seen import Facts
from convq.importer.findings import Finding, Overrides
from convq.printable import brief_list

MATCHERS: Final[Sequence[Callable[[Facts], Guess | None]]] = (
    as_ultralytics_says,
    levels_of_faces,
    blazeface,
    retinaface,
    dense,
    side_by_side,
    rows_of_all_jobs,
    boxes_and_scores,
    rows_of_six,
)
"""The most certain first."""
TASKS: Final = ("detect", "segment", "pose")
"""What `--task` may say of a detector; the last two want masks and keypoints."""


def find_detector(facts: Facts, wishes: Overrides) -> Guess | None:
    """How these outputs make detections, with what was said of them; None where they do not look like it.

    Raises SettingsError where somebody says that they do, and they cannot, or have another number of labels.
    """
    if wishes.task not in (None, *TASKS):
        if wishes.like is not None:
            raise SettingsError(f"--like {wishes.like} is a family of detectors, and --task {wishes.task} is none")
        return None
    guess = next(_guesses(facts, wishes), None)
    if guess is None and wishes.like is not None:
        guess = forced(facts)
    if guess is None and wishes.task == "detect":
        guess = text_regions(facts)
    if guess is None:
        _must_be_none(facts, wishes)
        return None
    _must_fit(guess, wishes)
    return _as_said(guess, wishes)


def _guesses(facts: Facts, wishes: Overrides) -> Iterator[Guess]:
    """Those of the matchers that a manifest would take, and that are what somebody says it is."""
    for matcher in MATCHERS:
        guess = matcher(facts)
        if guess is None or guess.fault():
            continue
        if wishes.like is not None:
            if guess.family != wishes.like:
                continue
            guess = replace(guess, source="given", why=f"--like {wishes.like}")
        if wishes.task == "segment" and "masks" not in guess.has:
            continue
        if wishes.task == "pose" and "keypoints" not in guess.has:
            continue
        yield guess


def _must_be_none(facts: Facts, wishes: Overrides) -> None:
    there = brief_list((one.shown() for one in facts.seen), 12)
    if wishes.task in ("detect", "pose"):
        what = "keypoints" if wishes.task == "pose" else "objects"
        raise SettingsError(
            f"--task {wishes.task}: its outputs are none that convq knows to hold {what}: {there}; "
            "--like FAMILY says which family it is, and [[detections.tables]] of a manifest by hand what the columns are"
        )


def _must_fit(guess: Guess, wishes: Overrides) -> None:
    """Raise SettingsError where labels or an activation were given that this detector cannot have."""
    words = guess.has
    if wishes.labels is not None and "classes" in words and wishes.labels != guess.classes:
        raise SettingsError(
            f"--labels has {wishes.labels} names, and the detections have {guess.classes} classes: "
            f"{'; '.join(f'{one.called} is {one.columns}' for one in guess.tables)}"
        )
    if wishes.activation == "softmax" and "classes" not in words:
        raise SettingsError("--activation softmax is of a column for each class, and this detector gives one score")
    if guess.regions and wishes.activation not in (None, "none"):
        raise SettingsError(f"--activation {wishes.activation}: the map of this detector is of 0 to 1 already")


def _as_said(guess: Guess, wishes: Overrides) -> Guess:
    if wishes.activation is None or guess.regions:
        return guess
    keys = {**guess.keys, "activation": (wishes.activation, "given", "--activation")}
    return replace(guess, keys=keys)


def detector_findings(guess: Guess, facts: Facts) -> list[Finding]:
    """`[detections]`, value by value, and a remark for each output that it does not read."""
    found = findings_of(guess, facts.seen)
    reads = guess.reads
    for one in facts.seen:
        if one.name not in reads:
            why = "left out: detections are not made of it; an entry of [[outputs]] brings it back"
            found.append(Finding("outputs", "name", None, "graph", why, one.name))
    return found
