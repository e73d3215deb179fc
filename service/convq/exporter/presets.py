"""How images are prepared for a network that torchvision or timm brings, as these packages themselves say it."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch import nn

from convq.errors import SettingsError
from convq.exporter.detectors import Detecting
from convq.exporter.networks import TIMM, Made, Place, nearest
from convq.importer.findings import Source, Value

LEVEL: Final = 1 / 255
FILTERS: Final = frozenset({"nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"})


@dataclass(frozen=True, slots=True)
class Preset:
    """What a package says of one set of weights."""

    values: Mapping[str, Value]
    """Keys of `[input]`."""
    labels: Sequence[str]
    """The classes, in the order of the output; empty where it names none."""
    source: Source
    """`preset` where it is known that these weights are meant, else `assumed`."""
    why: str
    doubts: Mapping[str, str]
    """Keys whose value is only near to what the package does, and what that is."""


def preset_of(place: Place, made: Made, weights: Path | None, named: str | None) -> Preset | None:
    """The preset of the network, where its package has one; `weights` is the file that it gets, `named` the preset's name.

    Raises SettingsError where `named` is no preset of it.
    """
    found: Preset | None = None
    if isinstance(made.net, Detecting):
        return _of_detector(made, made.net, weights, named)
    if place.package == "torchvision":
        found = _of_torchvision(made.maker, weights, named)
    elif place.source == TIMM:
        if named:
            raise SettingsError(f"--preset {named}: timm has it in the network's name, as in resnet50.a1_in1k")
        found = _of_timm(place.name, made.net)
    if named and found is None:
        raise SettingsError(f"--preset {named}: only networks of torchvision have presets; {place.source} says none")
    return found


# -- torchvision ------------------------------------------------------------------------------------------------------


def _of_torchvision(builder: Callable[..., Any], weights: Path | None, named: str | None) -> Preset | None:
    models: Any = importlib.import_module("torchvision.models")
    try:
        entries = {one.name: one for one in models.get_model_weights(builder)}
    except ValueError:  # a class, or a function that builds no registered network
        return None
    if named and named not in entries:
        raise SettingsError(f"--preset {named}: {builder.__name__} has none of that name; {nearest(named, entries)}")
    if not entries:
        return None
    default = models.get_model_weights(builder).DEFAULT
    same = [one for one in entries.values() if weights is not None and one.url.endswith(f"/{weights.name}")]
    if named:
        return _preset(entries[named], "preset", f"{entries[named]}.transforms()")
    if same:
        return _preset(same[0], "preset", f"{same[0]}.transforms(), as the weights are in its file")
    agree = all(_of_transforms(one.transforms()) == _of_transforms(default.transforms()) for one in entries.values())
    which = (
        "as are its other published weights" if agree and len(entries) > 1 else "the default weights of this network"
    )
    which = "" if len(entries) == 1 else f", {which}"
    return _preset(default, "assumed", f"as for {default}{which}; --preset {default.name} says that it is so")


def _of_detector(made: Made, net: Detecting, weights: Path | None, named: str | None) -> Preset:
    """What the network itself did with pictures; of its weights only the names of the classes, of which 0 is none."""
    known = _of_torchvision(made.maker, weights, named)
    labels = tuple(known.labels[1:]) if known is not None and len(known.labels) == net.classes + 1 else ()
    return Preset(net.input, labels, "preset", "its own transform says so", {})


def _preset(entry: Any, source: Source, why: str) -> Preset:
    return Preset(_of_transforms(entry.transforms()), tuple(entry.meta.get("categories", ())), source, why, {})


def _of_transforms(transforms: Any) -> dict[str, Value]:
    """`[input]` for torchvision's ImageClassification and SemanticSegmentation.

    Of others only mean and std, as their sizes mean something else.
    """
    found: dict[str, Value] = {}
    if mean := getattr(transforms, "mean", None):
        found |= {"color": "rgb", "scale": LEVEL, "mean": tuple(mean), "std": tuple(transforms.std)}
    kind = type(transforms).__name__
    if kind == "ImageClassification":
        height, width = _sides(transforms.crop_size)
        found |= {"height": height, "width": width, "resize": "crop", "short_side": _sides(transforms.resize_size)[0]}
    elif kind == "SemanticSegmentation" and len(transforms.resize_size) == 1:
        found |= {"resize": "fit", "short_side": transforms.resize_size[0]}
    else:
        return found
    filtering = str(transforms.interpolation.value)
    return found | ({"interpolation": filtering} if filtering in FILTERS else {})


def _sides(size: Sequence[int]) -> tuple[int, int]:
    return size[0], size[-1]


# -- timm -------------------------------------------------------------------------------------------------------------


def _of_timm(name: str, net: nn.Module) -> Preset | None:
    data: Any = importlib.import_module("timm.data")
    config = data.resolve_data_config({}, model=net, verbose=False)
    told: Mapping[str, Any] = getattr(net, "pretrained_cfg", None) or {}
    tag = told.get("tag") or ""
    values, doubts = _of_config(config)
    known = bool(tag) and name.endswith(f".{tag}")
    default = f"as for {name}.{tag}, the default of this network; timm:{name}.{tag} says that it is so"
    why = default if tag and not known else f"timm's pretrained_cfg of {name}"
    return Preset(values, _labels_of(data, net, told), "preset" if known else "assumed", why, doubts)


def _of_config(config: Mapping[str, Any]) -> tuple[dict[str, Value], dict[str, str]]:
    """`[input]` for what `timm.data.create_transform` does with a configuration, and where it is only near to that."""
    channels, height, width = config["input_size"]
    mean, std = tuple(config["mean"]), tuple(config["std"])
    found: dict[str, Value] = {"color": "gray" if channels == 1 else "rgb", "height": height, "width": width}
    found |= {"scale": LEVEL, "mean": mean, "std": std}
    if config["interpolation"] in FILTERS:
        found["interpolation"] = config["interpolation"]
    part, mode, doubts = float(config["crop_pct"]), config.get("crop_mode") or "center", {}
    if mode == "center":
        found |= {"resize": "crop", "short_side": math.floor(min(height, width) / part)}
        if height != width:
            doubts["short_side"] = "timm scales to cover an input that is not square"
    elif mode == "squash":
        found["resize"] = "stretch"
        if part != 1:
            doubts["resize"] = f"timm stretches to 1/{part:g} of the sides and cuts the centre out"
    else:
        found |= {"resize": "letterbox", "pad_value": tuple(round(255 * one) for one in mean)}
        doubts["resize"] = "timm fits the image into the sides and fills the rest with the mean"
    return found, doubts


def _labels_of(data: Any, net: nn.Module, told: Mapping[str, Any]) -> Sequence[str]:
    """What timm calls the classes: the configuration's own names, or those of the part of ImageNet that it was trained on."""
    if names := told.get("label_names"):
        described = told.get("label_descriptions") or {}
        return [str(described.get(name, name)) for name in names]
    subset = data.infer_imagenet_subset(net)
    return () if not subset else data.ImageNetInfo(subset).label_descriptions()
