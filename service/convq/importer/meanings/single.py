"""What an output of a graph means by itself, besides classes and images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from convq.errors import SettingsError
from convq.importer.detectors.seen import CLOSE, Seen, are_shares, sums_to_one
from convq.importer.findings import Finding, Overrides, Source, Value
from convq.importer.infer_input import Trial
from convq.importer.metadata.told import Told
from convq.printable import brief_list

LABELS: Final = "labels.txt"
TASKS: Final = {"segment": "segments", "depth": "depth", "embed": "embedding", "text": "text"}
"""What `--task` says -> the meaning."""
LEAST_ALPHABET: Final = 30
LEAST_EMBEDDING: Final = 64
LEAST_CLASSES: Final = 3
PARTS: Final = (1, 4, 8)
"""A map of classes has the sides of the input, or so small a part of them."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What one output means: the values of its entry in `[[outputs]]`."""

    findings: Sequence[Finding]
    classes: int = 0
    """How many lines its labels have; 0 where it has none."""


def meanings_of(outputs: Sequence[Seen], trial: Trial, wishes: Overrides, told: Told) -> dict[str, Meaning]:
    """What the outputs mean that are an answer by themselves, by name: of each meaning that has one place in it the first.

    Raises SettingsError where somebody said what an output means, and none can mean it.
    """
    found: dict[str, Meaning] = {}
    taken: set[Value] = set()
    for one in outputs:
        meaning = meaning_of(one, trial, wishes, told)
        if meaning is not None and (word := meaning.findings[0].value) not in taken:
            found[one.name] = meaning
            taken |= {word} & {"segments", "embedding", "text"}
    _must_be_one(outputs, found, wishes)
    return found


def meaning_of(output: Seen, trial: Trial, wishes: Overrides, told: Told) -> Meaning | None:
    """What an output means, if it is one of these."""
    wished = TASKS.get(wishes.task or "")
    for word, guess in GUESSES.items():
        if wished == word or wishes.task is None:
            found = guess(output, trial, wishes, told)
            if found is not None:
                return found
    return None


def _must_be_one(outputs: Sequence[Seen], meanings: Mapping[str, Meaning], wishes: Overrides) -> None:
    wished = TASKS.get(wishes.task or "")
    if wished is None or meanings:
        return
    shapes = brief_list((one.shown() for one in outputs), 12)
    raise SettingsError(f"--task {wishes.task}: expected {EXPECTED[wished]}; {shapes}")


def _of(output: Seen, key: str, value: Value, source: Source, why: str) -> Finding:
    return Finding("outputs", key, value, source, why, output.name)


def _said(wishes: Overrides, source: Source, why: str) -> tuple[Source, str]:
    return ("given", f"--task {wishes.task}") if wishes.task else (source, why)


def _named(count: int, wishes: Overrides, told: Told, beyond: Sequence[int] = (0,)) -> tuple[Source, str] | None:
    """Where the names of `count` classes are from: as many, or fewer by one of `beyond`; None where there are none."""
    if wishes.labels is not None:
        return ("given", "--labels") if count - wishes.labels in beyond else None
    return ("graph", "names in its metadata") if told.names and count - len(told.names) in beyond else None


# -- text -------------------------------------------------------------------------------------------------------------


def _text(output: Seen, trial: Trial, wishes: Overrides, told: Told) -> Meaning | None:
    """[n, T, C]: a recogniser's, whose steps sum to 1 each. Without an alphabet it cannot be read."""
    if len(output.shape) != 3:  # noqa: PLR2004
        return None
    is_said = "text" in (told.task, wishes.task)
    alike = is_said or (output.shape[2] > LEAST_ALPHABET and sums_to_one(output.rows()) and _grows(output, trial))
    named = _named(output.shape[2], wishes, told, (1, 2))
    if not alike or named is None:
        return None
    names = wishes.labels if wishes.labels is not None else len(told.names)
    why = f"{output.shape[1]} steps of {output.shape[2]} signs, each of which sums to 1"
    found = [_of(output, "meaning", "text", *_said(wishes, "graph" if told.task == "text" else "assumed", why))]
    found.append(_of(output, "labels", LABELS, *named))
    found.append(_of(output, "blank", "first", "assumed", "as PaddleOCR has it"))
    if output.shape[2] - names == 2:  # noqa: PLR2004
        found.append(_of(output, "space", True, "graph", "one class more than signs and the blank"))
    return Meaning(found, names)


def _grows(output: Seen, trial: Trial) -> bool:
    """Whether the steps follow the width of the input: they are free where it is, and a part of it."""
    width = trial.shape[1] if trial.spec.layout == "NHWC" else trial.shape[2]
    return output.declared[1] is None and 0 < output.shape[1] <= width


# -- maps -------------------------------------------------------------------------------------------------------------


def _sides(output: Seen, trial: Trial, wishes: Overrides) -> tuple[int, int] | None:
    """The input's sides where an output is a map of it, [n, c, h, w] or [n, h, w]; None where it is none, or one cell.

    Where somebody says that it is one, it may be any part of them.
    """
    if trial.spec.color == "none" or len(output.shape) not in (3, 4) or output.shape[0] != 1:
        return None
    taken = trial.shape[:2] if trial.spec.layout == "NHWC" else trial.shape[1:]
    made = output.shape[-2:]
    parts = {round(whole / max(1, side)) for whole, side in zip(taken, made, strict=True)}
    exact = all(side * part == whole for whole, side in zip(taken, made, strict=True) for part in parts)
    is_map = max(made) > 1 and len(parts) == 1 and exact and (wishes.task is not None or parts <= set(PARTS))
    return (taken[0], taken[1]) if is_map else None


def _segments(output: Seen, trial: Trial, wishes: Overrides, told: Told) -> Meaning | None:
    if _sides(output, trial, wishes) is None:
        return None
    least = 1 if wishes.task else LEAST_CLASSES
    several = len(output.shape) == 4 and output.shape[1] > least  # noqa: PLR2004
    numbered = output.is_whole and (len(output.shape) == 3 or output.shape[1] == 1)  # noqa: PLR2004
    if not several and not numbered:
        return None
    count = output.shape[1] if several else wishes.labels or len(told.names)
    if not count:  # a map of numbers says nothing without their names
        return None
    why = f"{count} maps with sides of the input, or a part of them" if several else "a map of whole numbers"
    named = _named(count, wishes, told) or ("assumed", "no names were given: class 0, …")
    found = [_of(output, "meaning", "segments", *_said(wishes, "assumed", f"{why}; --task tensor gives numbers"))]
    return Meaning([*found, _of(output, "labels", LABELS, *named)], count)


def _matte(output: Seen, trial: Trial, wishes: Overrides, _: Told) -> Meaning | None:
    single = len(output.shape) == 4 and output.shape[1] == 1  # noqa: PLR2004
    if wishes.task or not single or _sides(output, trial, wishes) is None or trial.spec.color == "gray":
        return None
    if not are_shares(output.values()):
        return None
    why = "one map of 0 to 1 from a picture in colours; --like db, where it marks lines of text, --task depth or image"
    return Meaning([_of(output, "meaning", "matte", "assumed", why)])


def _depth(output: Seen, trial: Trial, wishes: Overrides, _: Told) -> Meaning | None:
    single = len(output.shape) == 3 or (len(output.shape) == 4 and output.shape[1] == 1)  # noqa: PLR2004
    if wishes.task != "depth" or not single or _sides(output, trial, wishes) is None:
        return None
    found = [_of(output, "meaning", "depth", "given", "--task depth")]
    found.append(_of(output, "inverse", False, "assumed", "nothing tells distances from their inverse"))
    return Meaning(found)


# -- embeddings -------------------------------------------------------------------------------------------------------


def has_unit_norm(output: Seen) -> bool:
    """Whether an output [1, d] has the length 1 for every noise, and is no softmax: an embedding."""
    flat = [one.reshape(-1).astype(np.float64) for one in output.made]
    is_row = len(output.shape) >= 2 and output.shape[:2] == (1, len(flat[0]))  # noqa: PLR2004
    is_row = is_row and len({len(row) for row in flat}) == 1
    if not is_row or len(flat[0]) < LEAST_EMBEDDING or min(row.min() for row in flat) >= 0:
        return False
    return all(abs(float(np.linalg.norm(row)) - 1) < CLOSE for row in flat)


def _embedding(output: Seen, _: Trial, wishes: Overrides, __: Told) -> Meaning | None:
    flat = len(output.shape) >= 2 and output.shape[0] == 1 and output.shape[1] == output.made[0].size  # noqa: PLR2004
    if not flat or output.is_whole or not (wishes.task == "embed" or (wishes.labels is None and has_unit_norm(output))):
        return None
    said = _said(wishes, "measured", f"{output.shape[1]} numbers whose norm is 1")
    return Meaning([_of(output, "meaning", "embedding", *said)])


GUESSES: Final[dict[str, Callable[[Seen, Trial, Overrides, Told], Meaning | None]]] = {
    "text": _text,
    "embedding": _embedding,
    "segments": _segments,
    "depth": _depth,
    "matte": _matte,
}
EXPECTED: Final = {
    "segments": "maps [n, classes, h, w] with sides of the input, a map of whole numbers with --labels, or masks of boxes",
    "depth": "a map [n, h, w] or [n, 1, h, w] with sides of the input",
    "embedding": "numbers [n, d] or [n, d, 1, 1]",
    "text": "steps [n, T, C], C one or two more than the lines of --labels, which is the alphabet",
}
