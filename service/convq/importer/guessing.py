"""The one guess at a manifest, of ONNX files and of networks in PyTorch alike.

What the exporter wrote comes first, then the shapes of the outputs, then what a few runs on noise show. What somebody says of
the graph always holds, and is refused where the graph contradicts it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from convq.errors import ModelBroken, SettingsError
from convq.importer.detectors.choosing import detector_findings, find_detector
from convq.importer.detectors.guess import Guess
from convq.importer.detectors.preparation import RULES, USUAL_SIDE, prepared
from convq.importer.detectors.seen import Facts, Seen
from convq.importer.findings import Finding, Overrides, Source, Value, flag_for, placing
from convq.importer.infer_input import Trial, look_at_input, spec_of
from convq.importer.infer_outputs import LABELS, look_at_outputs, outputs_on_noise
from convq.importer.metadata.told import NOTHING, Told
from convq.importer.open_graph import OpenGraph

YOLO: Final = ("ultralytics", "YOLOv5 or v7")
"""Exporters whose detectors are trained in one way."""


@dataclass(frozen=True, slots=True)
class Guessed:
    """What a manifest for a graph would hold."""

    findings: list[Finding]
    trial: Trial
    """A run of the graph, for whoever tries more."""
    classes: int = 0
    """How many names its file of labels has; 0 where there is none."""
    names: Sequence[str] = ()
    """These names, as far as the graph or its family brings them; none where they are to be made up, or were given."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A detector, with the input and the outputs that it was found by."""

    guess: Guess
    facts: Facts
    input: list[Finding]
    trial: Trial


@np.errstate(all="ignore")  # outputs may hold anything
def guess(graph: OpenGraph, wishes: Overrides, told: Told = NOTHING, *, is_prepared: bool = False) -> Guessed:
    """What goes in and what comes out. With `is_prepared` somebody else knows how pictures are prepared.

    Raises ModelBroken where convq cannot serve this graph, SettingsError where a wish contradicts it.
    """
    found, trial = look_at_input(graph, wishes, told)
    seen = outputs_on_noise(graph, trial)
    detector = _detector(graph, wishes, told, (found, trial, seen))
    if detector is None:
        if wishes.like is not None:
            raise SettingsError(f"--like {wishes.like}: only what takes pictures finds objects in them")
        meanings, classes = look_at_outputs(graph, trial, wishes, told, seen)
        found = _with_rule_of_task(found, meanings, wishes, told)
        fits = wishes.labels is None and classes == len(told.names)
        names: Sequence[str] = tuple(told.names) if fits else ()
        if told.names and not fits:
            why = f"not used: {len(told.names)} names, and the outputs have {classes or 'no'} classes"
            meanings = [*meanings, Finding("metadata", "names", None, "graph", why)]
    else:
        rule, why, source = _rule_of(detector.guess, told)
        found, trial = detector.input, detector.trial
        found = found if is_prepared else prepared(found, rule, why, wishes, source)
        labels, classes, names = _labels(detector.guess, wishes, told)
        meanings = [*detector_findings(detector.guess, detector.facts), *labels]
    found = _as_told(_placed(found, wishes), wishes, told)
    _check_placing(found, wishes)
    return Guessed([*_described(told), *found, *meanings], trial, classes, names)


# -- detectors --------------------------------------------------------------------------------------------------------


def _facts(trial: Trial, seen: Sequence[Seen], wishes: Overrides, told: Told) -> Facts:
    height, width = trial.shape[:2] if trial.spec.layout == "NHWC" else trial.shape[1:]
    labels = wishes.labels if wishes.labels is not None else len(told.names) or None
    return Facts(seen, height, width, labels, told, wishes.like)


def _detector(
    graph: OpenGraph, wishes: Overrides, told: Told, looked: tuple[list[Finding], Trial, Sequence[Seen]]
) -> _Found | None:
    """How it makes detections. A graph of free sides whose pictures need fixed ones is looked at again with the usual ones."""
    found, trial, seen = looked
    # whatever the shapes of a recogniser's steps are like
    reads_text = told.task == "text" and wishes.like is None and wishes.task in (None, "text")
    if trial.spec.color == "none" or not seen or reads_text:
        return None
    facts = _facts(trial, seen, wishes, told)
    guess = find_detector(facts, wishes)
    if guess is None:
        return None
    first = _Found(guess, facts, found, trial)
    is_free = trial.spec.height is None or trial.spec.width is None
    if not is_free or wishes.resize is not None or RULES[guess.training].get("resize") not in ("stretch", "letterbox"):
        return first
    sides = {"height": trial.spec.height or USUAL_SIDE, "width": trial.spec.width or USUAL_SIDE}
    try:
        found, trial = look_at_input(graph, replace(wishes, **sides), told)  # type: ignore[arg-type]
    except ModelBroken:
        return first
    facts = _facts(trial, outputs_on_noise(graph, trial), wishes, told)
    again = find_detector(facts, wishes)
    if again is None or (again.family, again.training) != (guess.family, guess.training):
        return first
    why = f"its sides are free, and detectors have {USUAL_SIDE} as a rule"
    is_new = {key for key in sides if getattr(wishes, key) is None and getattr(first.trial.spec, key) is None}
    marked = [replace(one, source="assumed", why=why) if one.key in is_new else one for one in found]
    return _Found(again, facts, marked, trial)


def _rule_of(guess: Guess, told: Told) -> tuple[dict[str, Value], str, Source]:
    """Keys of `[input]`, why, and how sure that is."""
    rule = dict(RULES[guess.training])
    if told.exporter in YOLO and guess.training == "yolo":
        return rule, f"as {told.exporter}, which its metadata name, prepares pictures", "graph"
    named = guess.family or guess.training
    return rule, f"as pictures are prepared for {named}", "assumed"


def _labels(guess: Guess, wishes: Overrides, told: Told) -> tuple[list[Finding], int, Sequence[str]]:
    """The entry for labels, how many there are, and which they are as far as that is known."""

    def entry(source: Source, why: str) -> list[Finding]:
        return [Finding("detections", "labels", LABELS, source, why)]

    if wishes.labels is not None:
        if guess.names and wishes.labels != len(guess.names):
            raise SettingsError(f"--labels has {wishes.labels} names, and this family finds one kind of thing")
        return entry("given", "--labels"), wishes.labels, ()
    if told.names and guess.classes in (0, len(told.names)):
        return entry("graph", "names in its metadata"), len(told.names), tuple(told.names)
    unfit = f"not used: {len(told.names)} names, and the detections have {guess.classes} classes"
    ignored = [Finding("metadata", "names", None, "graph", unfit)] if told.names else []
    if guess.names:
        return [*ignored, *entry("assumed", "what this family finds")], len(guess.names), guess.names
    if guess.classes:
        return [*ignored, *entry("assumed", "no names were given: class 0, …")], guess.classes, ()
    why = "no names were given, and the graph does not say how many there are: #0, #1, …"
    return [*ignored, Finding("detections", "labels", None, "assumed", why)], 0, ()


# -- the input, once it is known what comes out -----------------------------------------------------------------------


def _with_rule_of_task(
    found: list[Finding], meanings: Sequence[Finding], wishes: Overrides, told: Told
) -> list[Finding]:
    """What the exporter's own classifiers and recognisers of text are given, and of others' recognisers PaddleOCR's."""
    rules = {("ultralytics", "classify"): "classifier", ("PaddleOCR", "text"): "text"}
    rule = rules.get((told.exporter, told.task))
    if not any(one.key == "resize" for one in found):
        return found
    if rule is None and any((one.key, one.value) == ("meaning", "text") for one in meanings):
        return prepared(found, RULES["text"], "as recognisers of text are given pictures by PaddleOCR", wishes)
    if rule is None:
        return found
    return prepared(
        found, RULES[rule], f"as {told.exporter}, which its metadata name, prepares pictures", wishes, "graph"
    )


def _placed(found: list[Finding], wishes: Overrides) -> list[Finding]:
    """With what was said of how a picture lies in the input, in the place of what was found."""
    given = {one.key: one for one in placing(wishes)}
    made = [given.pop(one.key, one) if one.table == "input" else one for one in found]
    return [*made, *given.values()]


def _as_told(found: list[Finding], wishes: Overrides, told: Told) -> list[Finding]:
    """With what its metadata say of single keys, unless somebody said something else."""
    if not told.prepared or not any(one.key == "resize" for one in found):
        return found
    return prepared(found, told.prepared, f"as {told.exporter} wrote into its metadata", wishes, "graph")


def _check_placing(found: Sequence[Finding], wishes: Overrides) -> None:
    """Raise SettingsError for what was said and has no effect, and for what does not go together."""
    values = {one.key: one.value for one in found if one.table == "input" and one.value is not None}
    if values.get("color") == "none":
        return
    rule, fixed = values.get("resize", "stretch"), "height" in values and "width" in values
    idle = {
        "pad_value": (rule in ("stretch", "height") and fixed, "nothing of the input is left to be filled"),
        "interpolation": (rule == "none", "pictures are taken only in the right size"),
        "multiple_of": (fixed, "both sides of the input are fixed"),
        "align": (rule not in ("letterbox", "fit"), "a picture fills the whole input"),
    }
    for key, (is_idle, why) in idle.items():
        if is_idle and getattr(wishes, key) is not None:
            raise SettingsError(f"{flag_for(key)} has no effect: resize is '{rule}', and {why}")
    spec_of(found)


def _described(told: Told) -> Iterator[Finding]:
    """The description, with the licence; and what of the metadata could not be used."""
    text = "; ".join(filter(None, (told.description, told.licence)))
    if text:
        why = "description and license in its metadata" if told.licence else "description in its metadata"
        yield Finding("", "description", text, "graph", why)
    for key, why in told.ignored:
        yield Finding("metadata", key, None, "graph", f"not used: {why}")
