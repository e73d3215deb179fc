"""Outputs that are an answer by themselves: guessed as soon as a manifest has a word for them, and numbers until then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from convq.errors import SettingsError
from convq.importer.findings import Overrides
from convq.importer.guessing import Guessed, guess
from convq.importer.metadata.told import NOTHING, Told

FLOAT = "tensor(float)"
Array = NDArray[Any]


@dataclass(frozen=True)
class Node:
    name: str
    type: str
    shape: Sequence[Any]


@dataclass(frozen=True)
class Graph:
    """One input x, one output y."""

    inputs: Sequence[Node]
    outputs: Sequence[Node]
    compute: Callable[[Array], Array]

    def run(self, batch: Array) -> list[Any]:
        return [self.compute(batch)]


@dataclass(frozen=True)
class Several(Graph):
    """The same in two outputs."""

    def run(self, batch: Array) -> list[Any]:
        return [self.compute(batch)] * 2


def graph(
    compute: Callable[[Array], Array], sides: Sequence[Any] = (32, 48), declared: Sequence[Any] = ("n",)
) -> Graph:
    return Graph([Node("x", FLOAT, ["n", 3, *sides])], [Node("y", FLOAT, declared)], compute)


def softmax(values: Array, axis: int) -> Array:
    raised = np.exp(values - values.max(axis=axis, keepdims=True))
    return np.asarray(raised / raised.sum(axis=axis, keepdims=True))


def mixed(batch: Array, *shape: int) -> Array:
    """Numbers of this shape for each job, which depend on it."""
    flat = batch.reshape(len(batch), -1)[:, :16].astype(np.float64)
    weights = np.random.default_rng(1).normal(size=(16, int(np.prod(shape))))
    return np.asarray((flat @ weights).reshape(len(batch), *shape).astype(np.float32))


def text(batch: Array) -> Array:
    return softmax(mixed(batch, batch.shape[3] // 8, 40), 2)


def unit(batch: Array) -> Array:
    made = mixed(batch, 128)
    return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True))


def maps(batch: Array) -> Array:
    return np.concatenate([batch, batch], axis=1)


def single_map(batch: Array) -> Array:
    return np.asarray(batch.mean(axis=1, keepdims=True))


def entry(made: Guessed) -> dict[str, Any]:
    return {one.key: one.value for one in made.findings if one.table == "outputs"}


CASES: dict[str, tuple[Graph, Overrides, Told, dict[str, Any]]] = {
    "text": (
        graph(text, (48, "w"), ("n", "t", 40)),
        Overrides(labels=38),
        NOTHING,
        {"meaning": "text", "labels": "labels.txt", "blank": "first", "space": True},
    ),
    "text by its metadata": (
        graph(text, (48, 320), ("n", 40, 40)),
        Overrides(),
        Told("PaddleOCR", "text", tuple("abcdefghijklmnopqrstuvwxyz0123456789.,-")),
        {"meaning": "text", "labels": "labels.txt", "blank": "first"},
    ),
    "text of few signs": (
        graph(lambda batch: softmax(mixed(batch, 16, 11), 2), (48, 128), ("n", 16, 11)),
        Overrides(task="text", labels=10),
        NOTHING,
        {"meaning": "text", "labels": "labels.txt", "blank": "first"},
    ),
    "text of few signs by its metadata": (
        graph(lambda batch: softmax(mixed(batch, 16, 11), 2), (48, 128), ("n", 16, 11)),
        Overrides(),
        Told("PaddleOCR", "text", tuple("012345678")),
        {"meaning": "text", "labels": "labels.txt", "blank": "first", "space": True},
    ),
    "text whose shape is that of a detector": (
        graph(lambda batch: softmax(mixed(batch, 16, 126), 1).transpose(0, 2, 1), (48, 128), ("n", 126, 16)),
        Overrides(),
        Told("PaddleOCR", "text", tuple("0123456789abcd")),
        {"meaning": "text", "labels": "labels.txt", "blank": "first", "space": True},
    ),
    "segments of three classes that are said": (
        graph(lambda batch: batch),
        Overrides(task="segment", labels=3),
        NOTHING,
        {"meaning": "segments", "labels": "labels.txt"},
    ),
    "segments of two classes in a part of the sides that is said": (
        graph(lambda batch: batch[:, :2, ::2, ::2]),
        Overrides(task="segment"),
        NOTHING,
        {"meaning": "segments", "labels": "labels.txt"},
    ),
    "embedding": (graph(unit), Overrides(), NOTHING, {"meaning": "embedding"}),
    "embedding that is said": (
        graph(lambda batch: mixed(batch, 128)),
        Overrides(task="embed"),
        NOTHING,
        {"meaning": "embedding"},
    ),
    "segments": (graph(maps), Overrides(), NOTHING, {"meaning": "segments", "labels": "labels.txt"}),
    "segments with names": (
        graph(lambda batch: maps(batch)[:, :, ::4, ::4]),
        Overrides(labels=6),
        NOTHING,
        {"meaning": "segments", "labels": "labels.txt"},
    ),
    "matte": (graph(single_map), Overrides(), NOTHING, {"meaning": "matte"}),
    "depth": (
        graph(lambda batch: single_map(batch)[:, 0] * 9),
        Overrides(task="depth"),
        NOTHING,
        {"meaning": "depth", "inverse": False},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_an_output_that_is_an_answer_by_itself_is_known(case: str) -> None:
    made, wishes, told, expected = CASES[case]

    assert expected == entry(guess(made, wishes, told))


@pytest.mark.parametrize(
    ("made", "meaning"),
    [
        (graph(lambda batch: softmax(mixed(batch, 128), 1)), "classes"),
        (graph(lambda batch: mixed(batch, 128)), "classes"),
        (graph(lambda batch: batch), "image"),
        (graph(lambda batch: single_map(batch) * 9), "image"),
        (graph(lambda batch: maps(batch)[:, :, :7, :7]), "tensor"),
        (graph(text, (48, 320), ("n", 40, 40)), "tensor"),  # nobody knows its alphabet
    ],
)
def test_what_is_none_of_them_stays_what_it_was(made: Graph, meaning: str) -> None:
    assert meaning == entry(guess(made, Overrides()))["meaning"]


def test_of_several_maps_of_classes_the_first_is_told_and_of_mattes_all() -> None:
    def twice(compute: Callable[[Array], Array]) -> dict[str, Any]:
        one = graph(compute)
        both = [Node("y", FLOAT, ["n"]), Node("aux", FLOAT, ["n"])]
        made = guess(Several(one.inputs, both, compute), Overrides())
        return {found.of: found.value for found in made.findings if found.key == "meaning"}

    assert {"y": "segments", "aux": "tensor"} == twice(maps)
    assert {"y": "embedding", "aux": "tensor"} == twice(unit)
    assert {"y": "matte", "aux": "matte"} == twice(single_map)


def test_a_map_of_whole_numbers_needs_their_names() -> None:
    numbered = graph(lambda batch: (single_map(batch) * 3).astype(np.int64))

    assert "tensor" == entry(guess(numbered, Overrides(task="tensor")))["meaning"]
    named = guess(numbered, Overrides(labels=4))
    assert ("segments", 4) == (entry(named)["meaning"], named.classes)
    with pytest.raises(SettingsError, match="a map of whole numbers with --labels"):
        guess(numbered, Overrides(task="segment"))


@pytest.mark.parametrize(
    ("task", "made"),
    [
        ("text", graph(lambda batch: mixed(batch, 128))),
        ("depth", graph(maps)),
        ("embed", graph(maps)),
        ("segment", graph(lambda batch: mixed(batch, 128))),
    ],
)
def test_a_task_that_no_output_fits_is_refused_with_what_it_needs(task: str, made: Graph) -> None:
    with pytest.raises(SettingsError, match=rf"--task {task}: expected .*; y is \[1, "):
        guess(made, Overrides(task=task))
