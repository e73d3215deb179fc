"""A family that somebody names is laid over outputs of any names by their widths, whatever they held on noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from convq.answers.coordinates import Placement
from convq.answers.detections import Detections, Size, Wanted, describe, detections_of
from convq.errors import SettingsError
from convq.importer.detectors.forced import forced
from convq.importer.detectors.guess import Guess
from convq.importer.detectors.seen import Facts, Seen
from exported import apart
from plain_detections import CELLS, FAMILIES, HEIGHT, WIDTH, Outputs, Thing

CLASSES = 5
FACES = {"scrfd", "yunet", "blazeface"}


class Declared:
    """An output as onnxruntime describes it."""

    type = "tensor(float)"

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        self.name, self.shape = name, list(shape)


def written(family: str) -> tuple[list[Thing], Outputs]:
    classes = 1 if family in FACES else CLASSES
    things = apart(4, classes, FAMILIES[family].extra, seed=9)
    outputs = FAMILIES[family].blank(1, classes)
    for number, thing in enumerate(things):
        near = CELLS.index((8, int(thing.centre[1] // 8), int(thing.centre[0] // 8)))
        FAMILIES[family].write(outputs, 0, near if family == "yolox" else 3 * number, thing)
    return things, outputs


def facts(outputs: Outputs, family: str, labels: int | None, *, renamed: bool) -> tuple[Facts, Outputs]:
    called = {(f"{number}" if renamed else name): values for number, (name, values) in enumerate(outputs.items())}
    seen: list[Any] = [Seen(Declared(name, values.shape), [values]) for name, values in called.items()]
    return Facts(seen, HEIGHT, WIDTH, labels, like=family), called


def found(guess: Guess, outputs: Outputs) -> Detections:
    spec = describe(guess.table(), guess.classes)
    shapes = {name: (None, *values.shape[1:]) for name, values in outputs.items()}
    (answer,) = detections_of(spec.bound(shapes), outputs, [Wanted(Placement(WIDTH, HEIGHT))], Size(HEIGHT, WIDTH))
    assert isinstance(answer, Detections)
    return answer


@pytest.mark.parametrize("renamed", [False, True])
@pytest.mark.parametrize("labels", [None, CLASSES])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_can_be_named(family: str, labels: int | None, renamed: bool) -> None:
    things, outputs = written(family)
    if labels is None and "pose" in family and "10" not in family:
        pytest.skip("where keypoints end and classes begin, names alone can tell")
    known, called = facts(outputs, family, labels if family not in FACES else None, renamed=renamed)

    guess = forced(known)

    assert (family, "given") == (guess.family, guess.source)
    answer = found(guess, called)
    assert [thing.kind for thing in things] == answer.classes.tolist()
    assert answer.boxes == pytest.approx(np.array([thing.box for thing in things]), abs=0.011)
    if things[0].points:
        assert answer.keypoints == pytest.approx(np.array([thing.points for thing in things]), abs=0.011)


def test_other_numbers_of_keypoints_and_weights_follow_from_the_columns() -> None:
    pose = np.zeros((1, 4 + 2 + 3 * 4, 70), np.float32)
    masks = {
        "a": np.zeros((1, 4 + CLASSES + 8, 70), np.float32),
        "b": np.zeros((1, 8, HEIGHT // 4, WIDTH // 4), np.float32),
    }

    known, _ = facts({"a": pose}, "yolo8-pose", 2, renamed=False)
    seg, _ = facts(masks, "yolo8-seg", None, renamed=False)

    assert "cx cy w h classes keypoints:4x3" == forced(known).tables[0].columns
    assert ("cx cy w h classes masks:8", "b", CLASSES) == (
        forced(seg).tables[0].columns,
        forced(seg).prototypes,
        forced(seg).classes,
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_that_cannot_be_of_the_family_are_named(family: str) -> None:
    one = {"a": np.zeros((1, 3, 2), np.float32)}

    with pytest.raises(SettingsError, match=rf"--like {family}: .*"):
        forced(facts(one, family, None, renamed=False)[0])
