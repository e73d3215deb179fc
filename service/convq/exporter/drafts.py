"""The manifest of a network that has none yet: what was said, what its package says, what a few runs show, what is assumed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from torch import nn

from convq.errors import ExportRefused, ModelBroken, ModelFault, SettingsError
from convq.exporter.detectors import Detecting
from convq.exporter.graphs import FREE_PX, FromPixels
from convq.exporter.presets import Preset
from convq.exporter.torch_graph import TorchGraph
from convq.importer.exporting import Preparation
from convq.importer.findings import PLACED_BY, Finding, Overrides, Source, Value, flag_for
from convq.importer.guessing import Guessed, guess
from convq.importer.infer_input import Trial
from convq.importer.infer_outputs import LABELS
from convq.importer.manifest_writer import manifest_text
from convq.repository.files import MOST_LABELS_BYTES, labels_of, read_given, repeated

FREE_BATCH: Final = 4  # images of any size may be large
CHANNELS: Final = {"gray": 1, "rgb": 3, "bgr": 3}
LEVELS: Final = ("scale", "mean", "std")
MAPS: Final = 4  # axes of images, with that of the batch


@dataclass(frozen=True, slots=True)
class Draft:
    """A manifest, how it came about, and the names of the classes."""

    text: str
    findings: Sequence[Finding]
    labels: Sequence[str]
    """Empty for a model without classes."""
    notes: Sequence[str]


def draft(net: nn.Module, said: Preparation, preset: Preset | None, where: str) -> Draft:
    """What a manifest would hold. Raises SettingsError where what was said does not go together, or is too little.

    Raises ExportRefused where the network does not run on what it would be given.
    """
    if isinstance(net, Detecting) and preset is not None:
        return _of_detector(net, said, preset)
    values = _applicable(said, preset)
    wishes = _wishes(said, values, where)
    names, notes = _given_labels(said)
    graph = _graph(net, said, wishes, values)
    asked = replace(wishes, labels=len(names) or None, task="tensor" if said.task == "image" else wishes.task)
    if preset is not None:  # what was said of placing a picture belongs to the preset's rule
        asked = replace(asked, **dict.fromkeys(PLACED_BY[1:]))
    try:
        guessed = guess(graph, asked, is_prepared=preset is not None)
        found = _prepared([one for one in guessed.findings if one.table == "input"], said, values, preset)
        made, classes, names = _meanings(graph, guessed, names, preset, said)
    except ModelBroken as err:
        raise ExportRefused(str(err)) from err
    found = [*found, *made, *_limits(said, is_free=wishes.height is None)]
    labels = names or guessed.names or [f"class {index}" for index in range(classes)]
    text = manifest_text(_description(net), found, by="convq export")
    return Draft(text, found, labels if classes else (), notes)


def _of_detector(net: Detecting, said: Preparation, preset: Preset) -> Draft:
    """Of one of torchvision's detectors, which say everything themselves. Raises SettingsError for what contradicts it."""
    if odd := sorted(set(said.said()) - {"--labels"}):
        raise SettingsError(
            f"{', '.join(odd)}: this detector prepares pictures by itself, and the manifest says the same"
        )
    names, notes = _given_labels(said)
    if names and len(names) != net.classes:
        raise SettingsError(f"--labels has {len(names)} names, and the network finds {net.classes} kinds of things")
    labels = names or preset.labels or [f"class {index}" for index in range(net.classes)]
    why = "boxes, labels and scores of one of torchvision's detectors"
    found = [_from(preset, key, value) for key, value in preset.values.items()]
    found.append(Finding("detections", "family", "torchvision", "preset", why))
    found.append(
        Finding("detections", "min_score", net.least_score, "preset", "the network itself leaves out what is below")
    )
    by: tuple[Source, str] = ("given", "--labels") if names else ("preset", "categories of its weights")
    if not names and not preset.labels:
        by = "assumed", "no names were given: class 0, …"
    found.append(Finding("detections", "labels", LABELS, *by))
    return Draft(manifest_text(_description(net.net), found, by="convq export"), found, labels, notes)


# -- what is known ----------------------------------------------------------------------------------------------------


def _applicable(said: Preparation, preset: Preset | None) -> dict[str, Value]:
    """What of the preset holds beside what was said: mean and std belong together, and so do sizes."""
    if preset is None:
        return {}
    values = dict(preset.values)
    if said.scale is not None or said.mean is not None or said.std is not None:
        values = {key: value for key, value in values.items() if key not in LEVELS}
    if said.any_size:
        values = {key: value for key, value in values.items() if key not in ("height", "width", "resize", "short_side")}
    if (said.resize or "crop") != "crop":
        values.pop("short_side", None)
    return values


def _wishes(said: Preparation, values: Mapping[str, Any], where: str) -> Overrides:
    """For the looking that `convq models add` does, too: what was said, and beside it what the preset says."""
    wishes = said.wishes()
    known = {key: values[key] for key in ("color", "height", "width", *LEVELS) if key in values}
    wishes = replace(wishes, **{key: value for key, value in known.items() if getattr(wishes, key) is None})
    if wishes.height is None and not said.any_size and values.get("resize") != "fit":
        raise SettingsError(f"{where} says nowhere how large its images are: give --size N, HxW or any")
    return wishes


def _graph(net: nn.Module, said: Preparation, wishes: Overrides, values: Mapping[str, Any]) -> TorchGraph:
    """The network as it will be served. Raises ExportRefused, SettingsError."""
    color = wishes.color or _color_of(net)
    sides = (wishes.height or FREE_PX, wishes.width or FREE_PX)
    shape = (CHANNELS[color], *sides)
    pixels = said.scale is None and said.mean is None and said.std is None and not any(key in values for key in LEVELS)
    if pixels and hasattr(net, "mean") and hasattr(net, "std"):
        return _tried(FromPixels(net, "NCHW").eval(), shape, "uint8")
    if pixels:
        try:
            return TorchGraph.tried(net, shape, "uint8")
        except ModelFault:  # as most: it wants numbers
            pass
    return _tried(net, shape, "float32")


def _tried(net: nn.Module, shape: tuple[int, int, int], dtype: str) -> TorchGraph:
    try:
        return TorchGraph.tried(net, shape, dtype)
    except ModelFault as err:
        channels, height, width = shape
        raise ExportRefused(f"the network does not run on {channels} x {height} x {width} of {dtype}: {err}") from err


def _color_of(net: nn.Module) -> str:
    """By the channels that its first convolution takes."""
    first = next((layer for layer in net.modules() if isinstance(layer, nn.Conv2d)), None)
    if first is None or first.in_channels not in CHANNELS.values():
        found = "no Conv2d" if first is None else f"a first Conv2d with {first.in_channels} channels"
        raise SettingsError(f"the network has {found}; say --color gray, rgb or bgr, which have 1, 3 and 3")
    return "gray" if first.in_channels == 1 else "rgb"


def _description(net: nn.Module) -> str:
    text = inspect.getdoc(type(net)) or ""
    return text.split("\n")[0].strip() or type(net).__name__


# -- the input --------------------------------------------------------------------------------------------------------


def _prepared(
    found: Sequence[Finding], said: Preparation, values: Mapping[str, Any], preset: Preset | None
) -> list[Finding]:
    """What was found of the input, under what was said and what the preset says."""
    made = {one.key: one for one in found}
    for key, one in made.items():
        if one.key == "dtype":
            made[key] = replace(one, why=_why_dtype(one.value))
    for key, value in values.items():
        if getattr(said, "size" if key in ("height", "width") else key, None) is None and preset is not None:
            made[key] = _from(preset, key, value)
    for key in PLACED_BY:
        if (value := getattr(said, key)) is not None:
            made[key] = Finding("input", key, value, "given", flag_for(key))
    rule = made["resize"].value
    if rule != "none" and "interpolation" not in made:
        why = "as torchvision scales unless told otherwise"
        made["interpolation"] = Finding("input", "interpolation", "bilinear", "assumed", why)
    if "short_side" in values and said.size and said.short_side is None and preset is not None:
        made["short_side"] = _in_proportion(said.size, preset)
    if rule == "crop" and "short_side" not in made:
        why = "the crop is just covered; trainings often scale to a little more, such as 256 for 224"
        made["short_side"] = Finding("input", "short_side", None, "assumed", why)
    return list(made.values())


def _why_dtype(dtype: Value) -> str:
    return "the network takes pixels as they are" if dtype == "uint8" else "the network takes numbers"


def _from(preset: Preset, key: str, value: Value) -> Finding:
    if key in preset.doubts:
        return Finding("input", key, value, "assumed", preset.doubts[key])
    return Finding("input", key, value, preset.source, preset.why)


def _in_proportion(size: tuple[int, int], preset: Preset) -> Finding:
    """The short side for another size than the preset's."""
    short, height, width = (preset.values[key] for key in ("short_side", "height", "width"))
    assert isinstance(short, int)  # noqa: S101 - pixels
    assert isinstance(height, int)  # noqa: S101
    assert isinstance(width, int)  # noqa: S101
    side = round(short * min(size) / min(height, width))
    return Finding("input", "short_side", side, "assumed", f"in proportion to {short} for {height} x {width}")


# -- the outputs ------------------------------------------------------------------------------------------------------


def _meanings(
    graph: TorchGraph, guessed: Guessed, names: Sequence[str], preset: Preset | None, said: Preparation
) -> tuple[list[Finding], int, Sequence[str]]:
    """What the outputs mean, how many classes there are, and their names as far as these are known."""
    if said.task == "image":
        return _as_image(graph, guessed.trial), 0, ()
    found, classes = [one for one in guessed.findings if one.table != "input"], guessed.classes
    if classes and not names and preset is not None and preset.labels:
        fits = len(preset.labels) == classes
        names = preset.labels if fits else ()
        why = (
            preset.why
            if fits
            else f"no names were given, and the {len(preset.labels)} of the preset do not fit: class 0, …"
        )
        source = preset.source if fits else "assumed"
        found = [replace(one, source=source, why=why) if one.key == "labels" else one for one in found]
        found = [
            replace(one, source=source, why=preset.why) if fits and one.value == "classes" else one for one in found
        ]
    return found, classes, names


def _as_image(graph: TorchGraph, trial: Trial) -> list[Finding]:
    """The first output as a picture, the others as numbers."""
    first, *others = graph.outputs
    shape = trial.alone[0].shape
    if len(shape) != MAPS or shape[1] not in CHANNELS.values():
        raise ExportRefused(f"output {first.name} is {list(shape)}; expected [N, 1 or 3, height, width] of an image")
    levels = 1.0 if graph.dtype == "uint8" else 255.0
    why = "levels, as it takes them" if graph.dtype == "uint8" else "values from 0 to 1"
    found = [Finding("outputs", "meaning", "image", "given", "--task image", first.name)]
    found.append(Finding("outputs", "scale", levels, "assumed", why, first.name))
    return found + [Finding("outputs", "meaning", "tensor", "given", "--task image", one.name) for one in others]


def _given_labels(said: Preparation) -> tuple[Sequence[str], list[str]]:
    """The names in the file of labels, and a remark where several are the same. Raises SettingsError."""
    if said.labels is None:
        return (), []
    file = Path(said.labels)
    try:
        labels = list(labels_of(read_given(file, MOST_LABELS_BYTES), file))
    except ModelBroken as error:
        raise SettingsError(str(error)) from None
    twice = repeated(labels)
    return labels, [f"{file}: several classes have one name: {twice}"] if twice else []


def _limits(said: Preparation, *, is_free: bool) -> list[Finding]:
    if said.max_batch is not None:
        return [Finding("limits", "max_batch", said.max_batch, "given", "--max-batch")]
    if is_free:
        return [Finding("limits", "max_batch", FREE_BATCH, "assumed", "images of any size may be large")]
    return []
