"""Weights out of a file that can run no code, under the names that the network has for them."""

from __future__ import annotations

import argparse
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from convq.errors import ExportRefused, SettingsError
from convq.exporter.networks import first_line, listed

SUFFIXES: Final = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar")
STATES: Final = ("state_dict", "model_state_dict", "model")
"""Under these keys a checkpoint has the network's own weights, whatever else it holds."""
WRAPPERS: Final = ("module.", "model.", "_orig_mod.")
"""What DataParallel, Lightning's modules and torch.compile put before names."""
AVERAGED: Final = "n_averaged"
"""What AveragedModel counts in, beside the weights."""
State = Mapping[str, torch.Tensor]

_FOREIGN = re.compile(r"Unsupported (?:global|class)[: ]+(?:GLOBAL )?([\w.]+)")


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    """The state dict in a file; that of a checkpoint that holds more. Its names are as they stand there.

    Raises SettingsError where it is no file, ExportRefused where it holds no plain weights.
    """
    if not file.is_file():
        what = "is no regular file" if file.exists() else "there is no such file"
        raise SettingsError(f"{file}: {what}; expected weights ({', '.join(SUFFIXES)}), or none")
    if file.suffix not in SUFFIXES:
        raise SettingsError(f"{file}: expected weights as {', '.join(SUFFIXES)}")
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        # Checkpoints of torchvision's training scripts hold their command line: an object without behaviour.
        with torch.serialization.safe_globals([argparse.Namespace]):
            state = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError) as err:
        raise ExportRefused(f"{file}: cannot be read: {first_line(err)}") from err
    except Exception as err:
        # torch.load fails on foreign bytes with whatever its parts raise, from KeyError to UnpicklingError.
        raise ExportRefused(f"{file}: {_why_not(file, err)}") from err
    return dict(_tensors_in(state, file))


def fit(net: nn.Module, state: State, file: str) -> list[str]:
    """Put the weights into the network; returns what was done to their names, and what was left out.

    Raises ExportRefused where names or shapes are not those of the network, and where weights are NaN.
    """
    own = net.state_dict()
    found, notes = _own_names(state, own.keys())
    complaints = {
        "missing": own.keys() - found.keys(),
        "unknown to the network": found.keys() - own.keys(),
        "of another shape": {name for name in own.keys() & found.keys() if own[name].shape != found[name].shape},
    }
    said = [f"{len(names)} {what} ({listed(names)})" for what, names in complaints.items() if names]
    if said:
        shapes = complaints["of another shape"]
        example = min(shapes) if shapes else ""
        sizes = f"; {example} is {list(found[example].shape)} there, {list(own[example].shape)} here" if shapes else ""
        hint = "; --arg sets what the constructor takes, such as num_classes" if shapes else ""
        raise ExportRefused(
            f"{file} does not fit the network: of its {len(own)} tensors, {'; '.join(said)}{sizes}{hint}"
        )
    broken = [name for name in sorted(own) if found[name].is_floating_point() and found[name].isnan().any()]
    if broken:
        raise ExportRefused(f"{file}: {len(broken)} of its {len(own)} tensors hold NaN ({listed(broken)})")
    net.load_state_dict(found)
    return notes


def _own_names(state: State, own: Any) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The weights with the network's names, where wrappers put something before them, and what that took."""
    found = {
        name: value
        for name, value in state.items()
        if name not in (AVERAGED, *(f"{one}{AVERAGED}" for one in WRAPPERS))
    }
    if own <= found.keys():
        return found, []
    whole = [prefix for prefix in _prefixes(found, own) if all(prefix + name in found for name in own)]
    known = [prefix for prefix in whole if _is_of_wrappers(prefix)]
    chosen = (known or whole) if len(known or whole) == 1 else []
    if chosen:
        prefix = chosen[0]
        left = [name for name in found if not name.startswith(prefix)]
        notes = [f"weights are called {prefix}… in the file"]
        if left:
            notes.append(f"left out of it: {listed(left)}{f' ({len(left)} tensors)' if len(left) > 1 else ''}")
        return {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}, notes
    # It does not fit; what is said of that should not be about the names that wrappers add.
    while wrapper := next((one for one in WRAPPERS if found and all(name.startswith(one) for name in found)), ""):
        found = {name.removeprefix(wrapper): value for name, value in found.items()}
    return found, []


def _prefixes(found: Mapping[str, Any], own: Any) -> Iterator[str]:
    """What stands before one of the network's names, wherever that occurs."""
    name = min(own, default="")
    yield from (one.removesuffix(name) for one in found if name and one.endswith(f".{name}"))


def _is_of_wrappers(prefix: str) -> bool:
    while wrapper := next((one for one in WRAPPERS if prefix.startswith(one)), ""):
        prefix = prefix.removeprefix(wrapper)
    return not prefix


def _tensors_in(state: Any, file: Path) -> State:
    """The state dict itself, or that of a checkpoint which holds it under some key, such as `model` or `net`.

    Raises ExportRefused where it holds none, or several of which none is called `state_dict` or `model`.
    """
    if _is_state(state):
        return dict(state)
    if not isinstance(state, Mapping):
        raise ExportRefused(f"{file}: is no state dict but a {type(state).__name__}; expected names and their tensors")
    inside = {str(key): value for key, value in state.items() if _is_state(value)}
    called: list[str] = [key for key in STATES if key in inside] or (list(inside) if len(inside) == 1 else [])
    if called:
        return dict(inside[called[0]])
    if inside:
        raise ExportRefused(
            f"{file}: holds several state dicts ({listed(inside)}); save the one that is meant by itself"
        )
    keys = listed(map(str, state)) or "none"
    raise ExportRefused(
        f"{file}: is no state dict and holds none; expected names and their tensors, its keys are {keys}"
    )


def _is_state(value: Any) -> bool:
    """Whether it is names and their tensors, at least one."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(name, str) and isinstance(one, torch.Tensor) for name, one in value.items())
    )


def _why_not(file: Path, err: Exception) -> str:
    """What the file is instead of weights, and what to save instead of it."""
    save = "torch.save(net.state_dict(), FILE)"
    if _is_torchscript(file):
        return f"is a TorchScript archive, which holds code; save its weights where you trust it: {save}"
    if foreign := _FOREIGN.search(str(err)):
        return (
            f"is no plain state dict: it holds a pickled {foreign[1]}, which would be run as code; "
            f"save the weights alone where you trust it: {save}"
        )
    return f"is no plain state dict; save one with {save}"


def _is_torchscript(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False
