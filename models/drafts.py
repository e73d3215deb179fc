"""The manifest of a network that has none yet: what the network, its class and the command line say, and no more.

What had to be assumed is written into the file as a comment, for its owner to look at.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from graphs import FREE_PX, reason, tensors  # type: ignore[import-not-found]
from networks import Refused  # type: ignore[import-not-found]
from torch import nn

from convq.errors import ModelBroken
from convq.importer.infer_input import noise, scale_of
from convq.importer.infer_outputs import activation_of
from convq.repository.files import MOST_LABELS_BYTES, labels_of, read_given, repeated
from convq.repository.manifest import Input

LABELS = "labels.txt"
COLORS = {1: "gray", 3: "rgb"}
NOISES = 3
FREE_BATCH = 4  # images of any size may be large
MATRIX, MAPS = 2, 4  # axes of class scores and of images, with that of the batch


@dataclass(frozen=True, slots=True)
class Draft:
    """What the command line says of a new model. None is: not said."""

    size: tuple[int, int] | None = None
    """Height and width in pixels; None is free."""
    color: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    """For pixels from 0 to 1, or for levels where one is above 1; applied before the graph, which then takes float32."""
    resize: str | None = None
    short_side: int | None = None
    labels: Path | None = None
    image: bool = False
    """The first output is a picture."""


def manifest_text(net: nn.Module, draft: Draft) -> str:
    """The text of a manifest.toml. Raises Refused where the network does not run on what it would be given."""
    color = draft.color or _color(net)
    said = draft.mean is not None or draft.std is not None
    own = hasattr(net, "mean") and hasattr(net, "std") and not said
    plain = _try(net, draft, color, torch.uint8) if not own and not said else None
    lines = [f"description = {json.dumps(_description(net))}", "", "[input]", f'color = "{color}"']
    lines.append(f'dtype = "{"uint8" if own or isinstance(plain, dict) else "float32"}"{_why(own, plain)}')
    lines += _sides(draft)
    if not own and not isinstance(plain, dict):
        lines += _normalisation(draft)
    outputs = plain if isinstance(plain, dict) else _try(net, draft, color, torch.float32)
    if not isinstance(outputs, dict):
        raise Refused(f"the network does not run on {color} images of {_said(draft)}: {reason(outputs)}")
    levels = isinstance(plain, dict)
    lines += _outputs(outputs, draft, _Noises(net, draft, color, levels=levels), levels=levels)
    if draft.size is None:
        lines += ["", "[limits]", f"max_batch = {FREE_BATCH}          # assumed: images of any size may be large"]
    return "\n".join(lines) + "\n"


def guesses(text: str) -> list[str]:
    """The lines of a manifest that was drafted here which nothing could tell for sure."""
    return [" ".join(line.split()) for line in text.splitlines() if "# assumed" in line]


def name_of(where: str, root: Path) -> str:
    """The name of a model that nobody has named: its folder in the repository, or else its class, in snake case."""
    path, _, made = where.rpartition(":")
    folder = Path(path or made).resolve().parent
    if folder.parent == root.resolve():
        return folder.name
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", made if path else folder.name).lower()


def _color(net: nn.Module) -> str:
    first = next((layer for layer in net.modules() if isinstance(layer, nn.Conv2d)), None)
    if first is None or first.in_channels not in COLORS:
        found = "no Conv2d" if first is None else f"a first Conv2d with {first.in_channels} channels"
        raise Refused(f"the network has {found}; say --color gray, rgb or bgr, which have 1, 3 and 3")
    return COLORS[first.in_channels]


def _try(net: nn.Module, draft: Draft, color: str, dtype: torch.dtype) -> dict[str, torch.Tensor] | Exception:
    """The outputs for two blank images, or what the network raises."""
    sides = draft.size or (FREE_PX, FREE_PX)
    given = torch.zeros((2, Input(color=color).channels, *sides), dtype=dtype)  # type: ignore[arg-type]
    try:
        with torch.no_grad():
            return dict(tensors(net(given)))
    except Refused:
        raise
    except Exception as err:  # noqa: BLE001 - somebody else's network
        return err


def _description(net: nn.Module) -> str:
    text = inspect.getdoc(type(net)) or ""
    return text.split("\n")[0].strip() or type(net).__name__


def _why(own: bool, plain: Any) -> str:
    if own:
        return "          # the graph normalises by itself, with the class's mean and std"
    return "          # pixels as they are: the network takes them so" if isinstance(plain, dict) else ""


def _sides(draft: Draft) -> list[str]:
    if draft.size is None:
        return [f'resize = "{draft.resize or "none"}"          # height and width are free']
    lines = [f"height = {draft.size[0]}", f"width = {draft.size[1]}"]
    lines.append(f'resize = "{draft.resize or "stretch"}"{"" if draft.resize else "         # assumed"}')
    return lines + ([f"short_side = {draft.short_side}"] if draft.short_side else [])


def _normalisation(draft: Draft) -> list[str]:
    scale, why = scale_of(draft.mean, draft.std)
    lines = [f"scale = {scale!r}          # assumed: {why}; check"]
    if draft.mean is None and draft.std is None:
        return lines
    return [*lines, f"mean = {list(draft.mean or (0.0,))}", f"std = {list(draft.std or (1.0,))}"]


@dataclass(frozen=True, slots=True)
class _Noises:
    """Images of noise, as the network gets them in service."""

    net: nn.Module
    draft: Draft
    color: str
    levels: bool
    """The network takes levels from 0 to 255 itself."""

    def rows(self, output: str) -> list[np.ndarray[Any, Any]]:
        """What the network says to each of them, at one of its outputs. Raises what the network raises."""
        spec = Input(color=self.color)  # type: ignore[arg-type]
        shape = (NOISES, spec.channels, *(self.draft.size or (FREE_PX, FREE_PX)))
        given = torch.from_numpy(noise(spec, shape, "uint8"))
        if not self.levels:
            mean, std = (self._normalisation(key, neutral) for key, neutral in (("mean", 0.0), ("std", 1.0)))
            scale, _ = scale_of(self.draft.mean, self.draft.std)
            given = (given.float() * scale - mean) / std
        with torch.no_grad():
            return [row.numpy() for row in dict(tensors(self.net(given)))[output]]

    def _normalisation(self, key: str, neutral: float) -> torch.Tensor:
        """The command line's, or else the network's own; one number a channel, or one for all."""
        said = getattr(self.draft, key) or getattr(self.net, key, None)
        return torch.as_tensor(neutral if said is None else said, dtype=torch.float32).reshape(-1, 1, 1)


def _outputs(outputs: Mapping[str, torch.Tensor], draft: Draft, noises: _Noises, *, levels: bool) -> list[str]:
    """One table for each output; the first that fits is the classes where there are labels."""
    lines: list[str] = []
    classes = _labels(draft)
    for index, (name, made) in enumerate(outputs.items()):
        lines += ["", "[[outputs]]", f"name = {json.dumps(name)}"]
        if classes and made.ndim == MATRIX and made.shape[1] == len(classes):
            activation, source, why = activation_of(noises.rows(name))
            check = "; check" if source == "assumed" else ""
            lines += ['meaning = "classes"', f'activation = "{activation}"          # {source}: {why}{check}']
            lines.append(f'labels = "{LABELS}"')
            classes = ()
        elif draft.image and index == 0:
            if made.ndim != MAPS or made.shape[1] not in COLORS:
                raise Refused(f"output {name} is {list(made.shape)}; expected [N, 1 or 3, height, width] of an image")
            lines += ['meaning = "image"', f"scale = {1.0 if levels else 255.0}"]
        else:
            lines.append('meaning = "tensor"')
    if classes:
        shapes = ", ".join(f"{name} {list(made.shape)}" for name, made in outputs.items())
        raise Refused(f"{draft.labels} has {len(classes)} labels; the network returns {shapes}")
    return lines


def _labels(draft: Draft) -> Sequence[str]:
    if draft.labels is None:
        return ()
    try:
        labels = labels_of(read_given(draft.labels, MOST_LABELS_BYTES), draft.labels)
    except ModelBroken as error:
        raise Refused(str(error)) from None
    if twice := repeated(labels):
        print(f"{draft.labels}: several classes have one name: {twice}", file=sys.stderr)
    return labels


def _said(draft: Draft) -> str:
    return "any size" if draft.size is None else f"{draft.size[0]} x {draft.size[1]}"
