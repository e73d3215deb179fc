"""A manifest inferred from a graph: what the graph declares, what a few runs of it show, and what had to be assumed.

Every value is a `Finding` with its source, so that a person can see what to check. Knows nothing of onnxruntime: a graph
is its inputs and outputs and something that runs a batch.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from convq.engine.graph_io.nodes import DTYPES, Node, dtype_of
from convq.engine.image import normalise
from convq.engine.independence import disturbance
from convq.engine.room import affordable
from convq.engine.samples import INPUTS, varied
from convq.engine.signature import IMAGE_RANK
from convq.errors import ModelBroken, ModelFault, SettingsError
from convq.importer.findings import FLAGS, PLACED_BY, Finding, Overrides, Source, flag_for, placing
from convq.importer.metadata.told import NOTHING, Told
from convq.importer.open_graph import OpenGraph, fixed_batch, is_numeric, known_extra, picture_input
from convq.printable import brief
from convq.repository.manifest import Input
from convq.repository.manifest_errors import expectation

Array = NDArray[Any]

CHANNELS = {1: "gray", 3: "rgb"}
TRIED_SIDES = (224, 256, 128, 64, 32, 28, 299, 512)
"""Pixels of a free side, until one goes: 224 first, which is a multiple of 32."""
TRIED_MULTIPLES = (1, 2, 4, 8, 16, 32)
LEVELS = 255
_MOST_AXES_SHOWN = 16


@dataclass(frozen=True, slots=True)
class Trial:
    """What the graph made of noise."""

    spec: Input
    shape: tuple[int, ...]
    """Of one input, without the batch axis."""
    alone: list[Any]
    """The outputs for a batch of one."""


def look_at_input(graph: OpenGraph, wishes: Overrides, told: Told = NOTHING) -> tuple[list[Finding], Trial]:
    """What goes in. Raises ModelBroken where convq cannot feed this graph, SettingsError where a wish contradicts it.

    `told` is what its exporter says; a size that the graph does not take all the same is left out.
    """
    try:
        return _look_at_input(graph, wishes, told)
    except ModelBroken as error:
        if told.size is None:
            raise
        found, trial = _look_at_input(graph, wishes, replace(told, size=None))
        return [*found, Finding("metadata", "imgsz", None, "graph", f"not used: {error}")], trial


def _look_at_input(graph: OpenGraph, wishes: Overrides, told: Told) -> tuple[list[Finding], Trial]:
    node = picture_input(graph)
    dtype = DTYPES[node.type]
    found = [
        Finding(
            "input", "name", node.name, "graph", "its only input" if len(graph.inputs) == 1 else "the only one left"
        ),
        Finding("input", "dtype", dtype_of(node), "graph", f"declared {node.type}"),
        *_extra(graph),
    ]
    sides = tuple(side if isinstance(side, int) else None for side in node.shape[1:])
    layout = None if wishes.color == "none" else layout_of(sides)
    if layout is None:
        found.append(_no_picture(node, wishes))
        return found, _first_run(graph, Input(color="none"), sides, dtype)
    found += [layout, *_sizes(layout, sides, wishes, told), *_levels(dtype, wishes)]
    found += placing(wishes) if wishes.resize is not None else []
    color, trial = _color(graph, found, layout, sides, wishes)
    found.insert(found.index(layout) + 1, color)
    if (side := trial.spec.lacks) is not None:
        raise SettingsError(
            f"--resize {trial.spec.resize} needs a {side}, which the graph leaves free: give --size HxW"
        )
    free = _shape_of(trial.spec)
    if None in free and wishes.multiple_of is None:
        if told.stride is not None:
            found.append(Finding("input", "multiple_of", told.stride, "graph", "stride in its metadata"))
        else:
            found.append(_multiple(graph, trial, free, dtype))
    return found, trial


def look_at_batch(graph: OpenGraph, trial: Trial, wishes: Overrides | None = None, shared: str = "") -> list[Finding]:
    """Whether jobs may share a batch: only where that changes no answer. A wish says how many at most.

    `shared` is why they may not, where the graph's operators say so; no sample has to show it then.

    Raises ModelBroken where the graph answers the same input in several ways, and where its batch is fixed and mixes its jobs.
    """
    if picture_input(graph).shape[0] == 1:
        why = "its batch axis is fixed at 1: jobs run one by one"
        return [Finding("limits", "max_batch", 1, "graph", why)]
    wish, fixed = (wishes.max_batch if wishes is not None else None), fixed_batch(picture_input(graph))
    inputs = np.stack(varied(trial.spec, trial.shape, DTYPES[picture_input(graph).type], INPUTS))

    def run(batch: Array) -> dict[str, Array]:
        made = zip(graph.outputs, graph.run(batch), strict=True)
        return {node.name: rows for node, rows in made if is_numeric(node)}

    if shared:
        return [Finding("limits", "max_batch", 1, "graph", shared)]
    job_s = _job_s(graph, inputs[:1])
    most = (wish or affordable(job_s)) if fixed is None else min(fixed, wish or fixed)
    if most == 1 and wish is None:
        why = f"one job takes the processor {job_s:.2g} s, and more at once would take as long each; --max-batch lets them"
        return [Finding("limits", "max_batch", 1, "measured", why)]
    if why := disturbance(run, inputs, most):
        if fixed is not None and all(list(node.shape[:1]) == [fixed] for node in graph.outputs):
            # what fills a batch up would be a neighbour, too
            raise ModelBroken(
                f"its batch axis is fixed at {fixed}, and {why}: export it with a batch axis that is free or 1"
            )
        return [Finding("limits", "max_batch", 1, "measured", why)]
    said: tuple[Source, str] = "given", "--max-batch"
    if fixed is not None and most == fixed:
        said = "graph", f"its batch axis is fixed at {fixed}: fewer jobs are filled up with zeros"
    elif wish is None:
        said = "measured", "a batch answers as each job alone does"
        if most is not None:
            said = (
                "measured",
                f"one job takes the processor {job_s * 1e3:.3g} ms; --max-batch lets more of them wait for each other",
            )
    return [Finding("limits", "max_batch", most, *said)]


def _job_s(graph: OpenGraph, one: Array) -> float:
    """What one job takes this thread of the processor, in seconds: a machine that does other things makes no network slow."""
    began_s = time.thread_time()
    graph.run(one)
    return time.thread_time() - began_s


# -- the input --------------------------------------------------------------------------------------------------------


def _extra(graph: OpenGraph) -> list[Finding]:
    """What is given to the inputs that are no picture."""
    why = "detectors that call an input so mean that by it"
    return [Finding("extra_inputs", name, given, "assumed", why) for name, given in known_extra(graph.inputs).items()]


def layout_of(sides: Sequence[int | None]) -> Finding | None:
    """Where the channels are, or None where this is no picture that convq could make."""
    if len(sides) != IMAGE_RANK - 1:
        return None
    first, _, last = sides

    def found(value: str, source: Source, why: str) -> Finding:
        return Finding("input", "layout", value, source, why)

    if first in CHANNELS:
        if last in CHANNELS:
            return found("NCHW", "assumed", "axis 1 and axis 3 could both be the channels")
        return found("NCHW", "graph", f"axis 1 is {first}")
    if last in CHANNELS:
        return found("NHWC", "graph", f"axis 3 is {last}")
    if first is None:
        return found("NCHW", "assumed", "no axis is fixed at 1 or 3")
    return found("NHWC", "assumed", "only axis 3 is free") if last is None else None


def _color(
    graph: OpenGraph, found: Sequence[Finding], layout: Finding, sides: Sequence[int | None], wishes: Overrides
) -> tuple[Finding, Trial]:
    """What the channels are, and a run that shows that the graph takes so many."""
    dtype = DTYPES[picture_input(graph).type]
    channels = sides[0] if layout.value == "NCHW" else sides[-1]
    if wishes.color is not None:
        wanted = 1 if wishes.color == "gray" else 3
        if channels not in (None, wanted):
            raise SettingsError(f"--color {wishes.color} has {wanted} channels; the graph's input has {channels}")
        candidates = [Finding("input", "color", wishes.color, "given", "--color")]
    elif channels == 1:
        candidates = [Finding("input", "color", "gray", "graph", "1 channel")]
    elif channels in CHANNELS:
        candidates = [Finding("input", "color", "rgb", "assumed", "3 channels, and bgr would look the same")]
    else:
        candidates = [
            Finding(
                "input", "color", "rgb", "assumed", "the channels are free, it takes 3, and bgr would look the same"
            ),
            Finding("input", "color", "gray", "measured", "the channels are free, and it takes 1 but not 3"),
        ]
    *others, last = candidates
    for color in others:
        spec = spec_of([*found, color])
        with contextlib.suppress(ModelBroken):
            return color, _first_run(graph, spec, _shape_of(spec), dtype)
    spec = spec_of([*found, last])
    return last, _first_run(graph, spec, _shape_of(spec), dtype)


def _sizes(layout: Finding, sides: Sequence[int | None], wishes: Overrides, told: Told) -> list[Finding]:
    """Height, width and the rule that makes an image of any size fit them."""
    declared = sides[1:] if layout.value == "NCHW" else sides[:2]
    known = told.size if told.size is not None and wishes.resize not in ("fit", "none", "height") else (None, None)
    found: list[Finding] = []
    wished = zip(("height", "width"), declared, (wishes.height, wishes.width), known, strict=True)
    for name, axis, wish, said in wished:
        if axis is not None and wish not in (None, axis):
            raise SettingsError(f"--size asks for a {name} of {wish}; the graph's input has {axis}")
        if axis is not None:
            found.append(Finding("input", name, axis, "graph", "fixed"))
        elif wish is not None:
            found.append(Finding("input", name, wish, "given", "--size"))
        elif said is not None:
            found.append(Finding("input", name, said, "graph", "imgsz in its metadata"))
        else:
            found.append(Finding("input", name, None, "graph", "free: any size is taken as it comes"))
    height, width = (finding.value for finding in found)
    if wishes.resize is not None:
        found.append(Finding("input", "resize", wishes.resize, "given", "--resize"))
    elif height is not None and width is not None:
        why = "any image is scaled to both sides; crop and letterbox would keep its proportions"
        found.append(Finding("input", "resize", "stretch", "assumed", why))
    elif height is not None:
        found.append(Finding("input", "resize", "height", "assumed", "the height is fixed, the width free"))
    else:
        found.append(Finding("input", "resize", "none", "assumed", "the graph takes images of any size"))
    return found


def scale_of(mean: Sequence[float] | None, std: Sequence[float] | None) -> tuple[float, str]:
    """What pixels are multiplied by where only mean and deviation were said, and why: a guess."""
    in_levels = max(*(mean or (0.0,)), *(std or (0.0,))) > 1
    if in_levels:
        return 1.0, "a mean or std above 1 is one of levels 0 to 255"
    return 1 / LEVELS, "most networks take pixels from 0 to 1"


def _levels(dtype: str, wishes: Overrides) -> list[Finding]:
    """How pixels become numbers: nothing in a graph says that."""
    if dtype == "uint8":
        if (wishes.scale, wishes.mean, wishes.std) != (None, None, None):
            raise SettingsError("--scale, --mean and --std are for float32; this graph takes uint8, pixels as they are")
        return []
    scale, why = scale_of(wishes.mean, wishes.std)
    found = [
        Finding("input", "scale", scale, "assumed", why)
        if wishes.scale is None
        else Finding("input", "scale", wishes.scale, "given", "--scale")
    ]
    for key, wish, neutral in (("mean", wishes.mean, 0.0), ("std", wishes.std, 1.0)):
        unknown = "the graph does not say what its training did"
        found.append(
            Finding("input", key, (neutral,), "assumed", unknown)
            if wish is None
            else Finding("input", key, wish, "given", f"--{key}")
        )
    return found


def _no_picture(node: Node, wishes: Overrides) -> Finding:
    """The model takes tensors only: it was said, or its input leaves no choice."""
    of_images = ("height", "width", "scale", "mean", "std", *PLACED_BY)
    if flags := dict.fromkeys(FLAGS[key] for key in of_images if getattr(wishes, key) is not None):
        raise SettingsError(f"{', '.join(flags)}: for images; this model takes tensors (color none)")
    if wishes.color == "none":
        return Finding("input", "color", "none", "given", "--color")
    why = f"an input of shape {_shown(node.shape)} is no picture of 1 or 3 channels"
    if wishes.color is not None:
        raise SettingsError(f"--color {wishes.color}: {why}")
    return Finding("input", "color", "none", "graph", f"{why}: jobs bring tensors")


def spec_of(found: Sequence[Finding]) -> Input:
    """The manifest's `[input]` as found so far. Raises SettingsError where wishes do not go together."""
    values = {one.key: one.value for one in found if one.table == "input" and one.value is not None}
    try:
        return Input.model_validate(values)
    except ValidationError as err:
        flags = ", ".join(one.why for one in found if one.source == "given" and one.why == flag_for(one.key))
        raise SettingsError(f"{flags or 'what was found'}: {expectation(err)}") from None


def _shape_of(spec: Input) -> tuple[int | None, ...]:
    """One image in the layout of the model; None for a free side."""
    image = (spec.height, spec.width)
    return (spec.channels, *image) if spec.layout == "NCHW" else (*image, spec.channels)


# -- runs -------------------------------------------------------------------------------------------------------------


def _first_run(graph: OpenGraph, spec: Input, sides: Sequence[int | None], dtype: str) -> Trial:
    """One run of noise, with the first size of the free sides that the graph takes."""
    problem = ""
    for side in TRIED_SIDES if None in sides else TRIED_SIDES[:1]:
        shape = tuple(side if one is None else one for one in sides)
        try:
            return Trial(spec, shape, graph.run(noise(spec, (1, *shape), dtype)))
        except ModelFault as error:
            problem = problem or f"it refuses an input of {_shown(shape)}: {error}"
    raise ModelBroken(problem + ("; --size HxW may name one that it takes" if None in sides else ""))


def _multiple(graph: OpenGraph, trial: Trial, sides: Sequence[int | None], dtype: str) -> Finding:
    """The smallest step of free sides that the graph takes: the side that went, plus one step, goes too."""
    for step in TRIED_MULTIPLES:
        shape = tuple(side + step if one is None else side for one, side in zip(sides, trial.shape, strict=True))
        try:
            graph.run(noise(trial.spec, (1, *shape), dtype))
        except ModelFault:
            continue
        return Finding("input", "multiple_of", step, "measured", f"it takes sides of {_shown(shape)}")
    size = _shown(trial.shape)
    raise ModelBroken(f"its sides are declared free, but it takes {size} and nothing near it; give --size HxW")


def noise(spec: Input, shape: tuple[int, ...], dtype: str, seed: int = 0) -> Array:
    """A batch of noise as the graph would get it for images of noise."""
    rng = np.random.default_rng(seed)
    if spec.color == "none" and dtype == "float32":
        return rng.standard_normal(shape, dtype=np.float32)
    pixels = rng.integers(0, LEVELS + 1, shape, dtype=np.uint8)
    return pixels if dtype == "uint8" else normalise(pixels, spec)


def _shown(shape: Sequence[Any]) -> str:
    sides = ["any" if side is None else brief(str(side)) for side in shape]
    return " x ".join(sides[:_MOST_AXES_SHOWN] + ["…"] * (len(sides) > _MOST_AXES_SHOWN))
