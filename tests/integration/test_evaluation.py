"""Asking versions in this process: every picture has one answer, whatever its shape, its neighbours and its version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convq.engine.engine import Engine
from convq.evaluation.local import answers, load
from convq.evaluation.tally import Failed, Said
from onnx_models import FLOAT, graph, model_folder
from services import image_of

CLASSES = "[[outputs]]\nname = 'y'\nmeaning = 'classes'\nlabels = 'labels.txt'\nactivation = 'none'\n"
MEAN = [("ReduceMean", ["x"], ["y"], {"axes": [2, 3], "keepdims": 0})]
RNG = np.random.default_rng(2)


def engine_of(folder: Path, lines: str, model: bytes) -> Engine:
    model_folder(folder, f"[input]\n{lines}\n{CLASSES}", model)
    (folder / "labels.txt").write_text("a\nb\nc\n")
    return load(folder, 1, "cpu")


def means(folder: Path, lines: str = "resize = 'none'", nodes: Any = MEAN, sides: Any = ("h", "w")) -> Engine:
    """Says of which colour a picture has most."""
    return engine_of(folder, lines, graph(nodes, [("x", FLOAT, ["n", 3, *sides])], [("y", FLOAT, ["n", 3])]))


def pictures(folder: Path, count: int) -> tuple[list[tuple[int, Path]], dict[int, int]]:
    """Pictures of one colour and of few sizes, and of which it is; every seventh is none."""
    folder.mkdir()
    found, expected = [], {}
    for number in range(count):
        colour = RNG.permutation([10, 100, 200]).astype(np.uint8)
        height, width = RNG.integers(1, 4, 2)
        file = folder / f"{number}.png"
        file.write_bytes(image_of(np.full((height, width, 3), colour)) if number % 7 else b"none")
        found.append((number, file))
        if number % 7:
            expected[number] = int(colour.argmax())
    return found, expected


def test_each_picture_is_answered_once_whatever_shapes_follow_each_other(tmp_path: Path) -> None:
    given, expected = pictures(tmp_path / "in", 200)

    said = [answer for _, answer in answers([means(tmp_path / "m")], given)]

    assert sorted(number for number, _ in given) == sorted(one.number for one in said)
    assert expected == {one.number: one.classes[0] for one in said if isinstance(one, Said)}
    assert {"bad_image"} == {one.code for one in said if isinstance(one, Failed)}


def test_two_versions_each_get_their_own_input(tmp_path: Path) -> None:
    given, _ = pictures(tmp_path / "in", 60)
    plain = means(tmp_path / "plain")
    turned = means(tmp_path / "turned", "color = 'bgr'\nresize = 'stretch'\nheight = 2\nwidth = 2")
    same = means(tmp_path / "same")

    for other, expected in ((turned, (2, 1, 0)), (same, (0, 1, 2))):
        said: dict[int, dict[int, int]] = {0: {}, 1: {}}
        for place, answer in answers([plain, other], given):
            if isinstance(answer, Said):
                said[place][answer.number] = answer.classes[0]
        assert said[0]
        assert {number: expected[index] for number, index in said[0].items()} == said[1]


def test_a_picture_that_one_version_cannot_take_fails_there_alone(tmp_path: Path) -> None:
    given, _ = pictures(tmp_path / "in", 30)
    strict = means(tmp_path / "strict", "resize = 'none'\nheight = 2\nwidth = 2", sides=(2, 2))

    said = list(answers([strict, means(tmp_path / "free")], given))

    answered = [sum(isinstance(one, Said) for place, one in said if place == which) for which in (0, 1)]
    assert 60 == len(said)
    assert 0 < answered[0] < answered[1]


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_what_is_not_finite_is_no_answer(tmp_path: Path, value: float) -> None:
    file = tmp_path / "x.npy"
    np.save(file, np.array([value, 1, 2], dtype=np.float32))
    engine = engine_of(
        tmp_path / "m",
        "color = 'none'",
        graph([("Log", ["x"], ["y"])], [("x", FLOAT, ["n", 3])], [("y", FLOAT, ["n", 3])]),
    )

    ((_, answer),) = answers([engine], [(0, file)])

    assert (2 if value else "non_finite") == (answer.classes[0] if isinstance(answer, Said) else answer.code)
