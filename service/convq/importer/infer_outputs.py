"""What the outputs of a graph mean, guessed from their shapes and from what they say about noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convq.engine.graph_io.nodes import DTYPES, Node
from convq.engine.signature import IMAGE_RANK
from convq.errors import ModelBroken, SettingsError
from convq.importer.detectors.seen import Seen
from convq.importer.findings import Finding, Overrides, Source, Value
from convq.importer.infer_input import Trial, noise
from convq.importer.meanings.single import has_unit_norm, meanings_of
from convq.importer.metadata.told import NOTHING, Told
from convq.importer.open_graph import OpenGraph, batch_axis_of, fixed_batch, is_numeric, picture_input
from convq.printable import brief_list

LABELS = "labels.txt"
TENSOR, IMAGE, CLASSES = "tensor", "image", "classes"
MOST_CLASSES = 100_000
FEWEST_CLASSES = 2
CLOSE_TO_ONE = 1e-3
NOISES = 3
UNIT = (-0.05, 1.05)
"""Values within are taken to run from 0 to 1, a little beyond allowed."""
SIGNED_UNIT = (-1.1, 1.1)


def check_some_are_numbers(graph: OpenGraph) -> None:
    """Raise ModelBroken where no output can be served, before anything runs."""
    if graph.outputs and not any(map(is_numeric, graph.outputs)):
        named = brief_list(f"output {node.name} is a {node.type}" for node in graph.outputs)
        raise ModelBroken(f"{named}; expected a tensor of numbers")


def look_at_outputs(
    graph: OpenGraph, trial: Trial, wishes: Overrides, told: Told = NOTHING, outputs: Sequence[Seen] | None = None
) -> tuple[list[Finding], int]:
    """What every output means, and how many classes there are (0: none). `outputs` is what `outputs_on_noise` has found already.

    Raises ModelBroken where no output can be served, SettingsError where no labels fit.
    """
    outputs = outputs_on_noise(graph, trial) if outputs is None else outputs
    found: list[Finding] = []
    single = meanings_of(outputs, trial, wishes, told)
    labelled = next((one for one in single.values() if one.classes), None)
    classes = None if labelled is not None else _choose_classes(outputs, wishes, told)
    pictures = _choose_images(outputs, trial, wishes)
    for output in outputs:
        if (meaning := single.get(output.name)) is not None and (meaning is labelled or not meaning.classes):
            found += meaning.findings
        elif output is classes:
            found += _as_classes(output, wishes, told)
        elif output in pictures:
            found += _as_image(output, wishes)
        else:
            shape = " x ".join(map(str, output.shape[1:])) or "one value"
            said: tuple[Source, str] = "measured", f"{shape} a job"
            if has_unit_norm(output):
                said = "measured", f"{shape} a job, whose norm is 1: an embedding"
            if wishes.task in (TENSOR, IMAGE):
                said = "given", f"--task {wishes.task}"
            found.append(_about(output, "meaning", "tensor", *said))
        found += _batch_axis(output, picture_input(graph))
    for node in graph.outputs:
        if not is_numeric(node):
            found.append(
                Finding("outputs", "name", None, "graph", f"left out: {node.type} is no tensor of numbers", node.name)
            )
    if not outputs:
        raise ModelBroken("none of its outputs is a tensor of numbers")
    return found, labelled.classes if labelled is not None else _count(classes) if classes is not None else 0


def _choose_images(outputs: Sequence[Seen], trial: Trial, wishes: Overrides) -> list[Seen]:
    """The outputs that are pictures; where somebody says so, the first that can be one at all. Raises SettingsError."""
    if wishes.task == IMAGE:
        possible = [one for one in outputs if _channels(one, trial) in (1, 3)]
        if not possible:
            shapes = brief_list((one.shown() for one in outputs), 12)
            raise SettingsError(f"--task image: no output has 1 or 3 channels with a height and a width: {shapes}")
        return possible[:1]
    return [] if wishes.task == TENSOR else [one for one in outputs if _looks_like_an_image(one, trial)]


def _batch_axis(output: Seen, picture: Node) -> list[Finding]:
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


def outputs_on_noise(graph: OpenGraph, trial: Trial) -> list[Seen]:
    """The outputs that are numbers, each with what it said about several noises."""
    dtype = DTYPES[picture_input(graph).type]
    runs = [trial.alone]
    runs += [graph.run(noise(trial.spec, (1, *trial.shape), dtype, seed)) for seed in range(1, NOISES)]
    columns = zip(graph.outputs, zip(*runs, strict=True), strict=True)
    return [Seen(node, list(made)) for node, made in columns if is_numeric(node)]


def _count(output: Seen) -> int:
    """How many classes an output may hold; 0 where it cannot hold any."""
    shape = output.shape
    flat = len(shape) >= 2 and shape[0] == 1 and shape[1] == math.prod(shape)  # noqa: PLR2004
    return shape[1] if flat and FEWEST_CLASSES <= shape[1] <= MOST_CLASSES else 0


def _choose_classes(outputs: Sequence[Seen], wishes: Overrides, told: Told) -> Seen | None:
    """The output that holds the classes: one of the right size, one that sums to 1 before others."""
    if wishes.task not in (None, CLASSES):
        return None
    possible = [output for output in outputs if _count(output)]
    if wishes.task is not None and not possible:
        shapes = "; ".join(f"{output.name} is {list(output.shape)}" for output in outputs)
        raise SettingsError(f"--task classes: no output has {FEWEST_CLASSES} or more values a job in one row: {shapes}")
    if wishes.labels is not None:
        fitting = [output for output in possible if _count(output) == wishes.labels]
        if not fitting:
            there = ", ".join(f"{output.name} has {_count(output)}" for output in possible) or "no output has classes"
            raise SettingsError(f"--labels has {wishes.labels} names, which fit no output: {there}")
        possible = fitting
    elif told.names:
        possible = [output for output in possible if _count(output) == len(told.names)] or possible
    elif wishes.task is None:
        possible = [one for one in possible if not (_is_beside_boxes(one, outputs) or has_unit_norm(one))]
    return next((output for output in possible if _all_sum_to_one(output)), possible[0] if possible else None)


def _is_beside_boxes(output: Seen, outputs: Sequence[Seen]) -> bool:
    """Whether another output has four numbers for each of its values: then these are scores of boxes, and no classes."""
    return any(one.shape == (*output.shape, 4) for one in outputs)


def _all_sum_to_one(output: Seen) -> bool:
    return _sum_to_one([one.astype(np.float64) for one in output.made])


def _as_classes(output: Seen, wishes: Overrides, told: Told) -> list[Finding]:
    count, summing = _count(output), _all_sum_to_one(output)
    by_name = wishes.labels is None and len(told.names) == count
    if wishes.labels is not None:
        said: tuple[Source, str] = "given", f"{count} values a job, as many as names"
    elif wishes.task is not None:
        said = "given", "--task classes"
    elif by_name:
        said = "graph", f"{count} values a job, as many as names in its metadata"
    elif summing:
        said = "measured", f"{count} values a job, which sum to 1"
    else:
        said = "assumed", f"{count} values a job; with --task tensor they are numbers"
    activation: tuple[str, Source, str] = activation_of(output.made)
    if wishes.activation is not None:
        activation = wishes.activation, "given", "--activation"
    named: tuple[Source, str] = ("assumed", "no names were given: class 0, …")
    if wishes.labels or by_name:
        named = ("given", "--labels") if wishes.labels else ("graph", "names in its metadata")
    found = [_about(output, "meaning", "classes", *said), _about(output, "activation", *activation)]
    return [*found, _about(output, "labels", LABELS, *named)]


def _channels(output: Seen, trial: Trial) -> int:
    """Of an output that has the axes of a picture; 0 where it has not."""
    if trial.spec.color == "none" or len(output.shape) != IMAGE_RANK or output.shape[0] != 1:
        return 0
    return output.shape[3] if trial.spec.layout == "NHWC" else output.shape[1]


def _looks_like_an_image(output: Seen, trial: Trial) -> bool:
    """One or three channels where the input has its own, and sides that are the input's, a multiple, or a little less."""
    if _channels(output, trial) not in (1, 3):
        return False
    last = trial.spec.layout == "NHWC"
    sides = output.shape[1:3] if last else output.shape[2:]
    taken = trial.shape[:2] if last else trial.shape[1:]
    return all(made % side == 0 for made, side in zip(sides, taken, strict=True)) or all(
        0.75 * side <= made <= side
        for made, side in zip(sides, taken, strict=True)  # no padding
    )


def _as_image(output: Seen, wishes: Overrides) -> list[Finding]:
    why = "channels and sides are those of an image"
    if output.shape[1] == 1 and not wishes.task:
        why += "; --like db, where it marks lines of text"
    given = wishes.task == IMAGE
    found = [_about(output, "meaning", "image", "given" if given else "assumed", "--task image" if given else why)]
    if output.node.type == "tensor(uint8)":
        return found
    values = output.values()
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    scale, offset, why = 1.0, 0.0, f"the values reach {high:.3g}: levels as they are"
    if UNIT[0] <= low and high <= UNIT[1]:
        scale, why = 255.0, "the values run from 0 to 1"
    elif SIGNED_UNIT[0] <= low and high <= SIGNED_UNIT[1]:
        scale, offset, why = 127.5, 127.5, "the values run from -1 to 1"
    found.append(_about(output, "scale", scale, "assumed", why))
    if offset:
        found.append(_about(output, "offset", offset, "assumed", why))
    return found


def _about(output: Seen, key: str, value: Value, source: Source, why: str) -> Finding:
    return Finding("outputs", key, value, source, why, output.node.name)
