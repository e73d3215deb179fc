"""What the outputs of a graph mean, guessed from their shapes and from what they say about noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convq.engine.graph_io.nodes import DTYPES, Node
from convq.engine.signature import IMAGE_RANK
from convq.errors import ModelBroken, SettingsError
from convq.importer.infer_input import Finding, Overrides, Source, Trial, Value, noise
from convq.importer.open_graph import OpenGraph, batch_axis_of, fixed_batch, is_numeric, picture_input
from convq.printable import brief_list

LABELS = "labels.txt"
TENSOR = "tensor"
MOST_CLASSES = 100_000
FEWEST_CLASSES = 2
CLOSE_TO_ONE = 1e-3
NOISES = 3
UNIT = (-0.05, 1.05)
"""Values within are taken to run from 0 to 1, a little beyond allowed."""
SIGNED_UNIT = (-1.1, 1.1)


@dataclass(frozen=True, slots=True)
class _Output:
    """One output of the graph and what it said about noise."""

    node: Node
    made: list[NDArray[Any]]
    """One array a run, [1, ...]."""

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.made[0].shape)

    @property
    def classes(self) -> int:
        """How many classes it may hold; 0 where it cannot hold any."""
        flat = len(self.shape) >= 2 and self.shape[0] == 1 and self.shape[1] == math.prod(self.shape)  # noqa: PLR2004
        return self.shape[1] if flat and FEWEST_CLASSES <= self.shape[1] <= MOST_CLASSES else 0

    def all_sum_to_one(self) -> bool:
        return _sum_to_one(self._floats())

    def range(self) -> tuple[float, float]:
        """The smallest and the largest value; 0 for both where there is no finite one."""
        values = np.concatenate([one.ravel() for one in self._floats()])
        values = values[np.isfinite(values)]
        return (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)

    def _floats(self) -> list[NDArray[np.float64]]:
        return [one.astype(np.float64) for one in self.made]


def check_some_are_numbers(graph: OpenGraph) -> None:
    """Raise ModelBroken where no output can be served, before anything runs."""
    if graph.outputs and not any(map(is_numeric, graph.outputs)):
        named = brief_list(f"output {node.name} is a {node.type}" for node in graph.outputs)
        raise ModelBroken(f"{named}; expected a tensor of numbers")


def look_at_outputs(graph: OpenGraph, trial: Trial, wishes: Overrides) -> tuple[list[Finding], int]:
    """What every output means, and how many classes there are (0: none).

    Raises ModelBroken where no output can be served, SettingsError where no labels fit.
    """
    outputs = _run(graph, trial)
    found: list[Finding] = []
    classes = _choose_classes(outputs, wishes)
    for output in outputs:
        if output is classes:
            found += _as_classes(output, wishes)
        elif wishes.task != TENSOR and _looks_like_an_image(output, trial):
            found += _as_image(output)
        else:
            shape = " x ".join(map(str, output.shape[1:])) or "one value"
            said: tuple[Source, str] = (
                ("given", "--task tensor") if wishes.task == TENSOR else ("measured", f"{shape} a job")
            )
            found.append(_about(output, "meaning", "tensor", *said))
        found += _batch_axis(output, picture_input(graph))
    for node in graph.outputs:
        if not is_numeric(node):
            found.append(
                Finding("outputs", "name", None, "graph", f"left out: {node.type} is no tensor of numbers", node.name)
            )
    if not outputs:
        raise ModelBroken("none of its outputs is a tensor of numbers")
    return found, classes.classes if classes is not None else 0


def _batch_axis(output: _Output, picture: Node) -> list[Finding]:
    """Where it counts jobs, unless that is the first axis."""
    if batch_axis_of(picture, output.node):
        return [_about(output, "batch_axis", 1, "graph", "its second axis is called as the batch is")]
    if output.shape[:1] != (1,) and fixed_batch(picture) is None:
        why = f"it has the shape {list(output.shape)} for one job: jobs run one by one"
        return [_about(output, "batch_axis", "none", "measured", why)]
    return []


def activation_of(rows: Sequence[NDArray[Any]]) -> tuple[str, Source, str]:
    """What makes scores of the class values that a network gave for some noise: the activation, how that is known, and why.

    Each of `rows` holds the values of one image.
    """
    values = [row.astype(np.float64) for row in rows]
    low = min(float(row.min()) for row in values)
    high = max(float(row.max()) for row in values)
    if _sum_to_one(values):
        return "none", "measured", "the values sum to 1: the softmax is in the graph"
    if all((row <= 0).all() and abs(float(np.exp(row).sum()) - 1) < CLOSE_TO_ONE for row in values):
        return "softmax", "measured", "the values are logarithms of a softmax"
    if low >= 0 and 0 < high <= 1:  # ends included: a sigmoid rounds to them
        return "none", "assumed", "all values lie between 0 and 1, as after a sigmoid in the graph"
    return "softmax", "assumed", "the values are raw; sigmoid, where classes do not exclude each other"


def _sum_to_one(values: Sequence[NDArray[np.float64]]) -> bool:
    return all((row >= 0).all() and abs(float(row.sum()) - 1) < CLOSE_TO_ONE for row in values)


def _run(graph: OpenGraph, trial: Trial) -> list[_Output]:
    """The outputs that are numbers, each with what it said about several noises."""
    dtype = DTYPES[picture_input(graph).type]
    runs = [trial.alone]
    runs += [graph.run(noise(trial.spec, (1, *trial.shape), dtype, seed)) for seed in range(1, NOISES)]
    columns = zip(graph.outputs, zip(*runs, strict=True), strict=True)
    return [_Output(node, list(made)) for node, made in columns if is_numeric(node)]


def _choose_classes(outputs: Sequence[_Output], wishes: Overrides) -> _Output | None:
    """The output that holds the classes: one of the right size, one that sums to 1 before others."""
    if wishes.task == TENSOR:
        return None
    possible = [output for output in outputs if output.classes]
    if wishes.task is not None and not possible:
        shapes = "; ".join(f"{output.node.name} is {list(output.shape)}" for output in outputs)
        raise SettingsError(f"--task classes: no output has {FEWEST_CLASSES} or more values a job in one row: {shapes}")
    if wishes.labels is not None:
        fitting = [output for output in possible if output.classes == wishes.labels]
        if not fitting:
            there = (
                ", ".join(f"{output.node.name} has {output.classes}" for output in possible) or "no output has classes"
            )
            raise SettingsError(f"--labels has {wishes.labels} names, which fit no output: {there}")
        possible = fitting
    return next((output for output in possible if output.all_sum_to_one()), possible[0] if possible else None)


def _as_classes(output: _Output, wishes: Overrides) -> list[Finding]:
    count, summing = output.classes, output.all_sum_to_one()
    if wishes.labels is not None:
        found = [_about(output, "meaning", "classes", "given", f"{count} values a job, as many as names")]
    elif wishes.task is not None:
        found = [_about(output, "meaning", "classes", "given", "--task classes")]
    elif summing:
        found = [_about(output, "meaning", "classes", "measured", f"{count} values a job, which sum to 1")]
    else:
        found = [
            _about(
                output, "meaning", "classes", "assumed", f"{count} values a job; with --task tensor they are numbers"
            )
        ]
    activation = _about(output, "activation", *activation_of(output.made))
    named: tuple[Source, str] = (
        ("given", "--labels") if wishes.labels else ("assumed", "no names were given: class 0, …")
    )
    return [*found, activation, _about(output, "labels", LABELS, *named)]


def _looks_like_an_image(output: _Output, trial: Trial) -> bool:
    """One or three channels where the input has its own, and sides that are the input's, a multiple, or a little less."""
    if trial.spec.color == "none" or len(output.shape) != IMAGE_RANK or output.shape[0] != 1:
        return False
    last = trial.spec.layout == "NHWC"
    channels, *sides = (output.shape[3], *output.shape[1:3]) if last else output.shape[1:]
    taken = trial.shape[:2] if last else trial.shape[1:]
    return channels in (1, 3) and (
        all(made % side == 0 for made, side in zip(sides, taken, strict=True))
        or all(0.75 * side <= made <= side for made, side in zip(sides, taken, strict=True))  # no padding
    )


def _as_image(output: _Output) -> list[Finding]:
    found = [_about(output, "meaning", "image", "assumed", "channels and sides are those of an image")]
    if output.node.type == "tensor(uint8)":
        return found
    low, high = output.range()
    scale, offset, why = 1.0, 0.0, f"the values reach {high:.3g}: levels as they are"
    if UNIT[0] <= low and high <= UNIT[1]:
        scale, why = 255.0, "the values run from 0 to 1"
    elif SIGNED_UNIT[0] <= low and high <= SIGNED_UNIT[1]:
        scale, offset, why = 127.5, 127.5, "the values run from -1 to 1"
    found.append(_about(output, "scale", scale, "assumed", why))
    if offset:
        found.append(_about(output, "offset", offset, "assumed", why))
    return found


def _about(output: _Output, key: str, value: Value, source: Source, why: str) -> Finding:
    return Finding("outputs", key, value, source, why, output.node.name)
