"""Gets a network out of somebody's Python file, and its weights out of a file that can run no code.

What is wrong with either is `Refused`, in one line.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

SEED = 7  # of what a constructor draws at random, so that two exports of an untrained network are equal
STATES = ("state_dict", "model_state_dict")
"""Under these keys a checkpoint has the network's own weights, whatever else it holds."""
AVERAGED = "n_averaged"
"""What AveragedModel counts in, beside the weights."""
SHOWN = 3  # names in a message; the rest is counted


class Refused(Exception):
    """The network cannot be exported as it is. The message is one line: what is wrong, what was expected."""


def load(where: str, weights: Path | None, *, untrained: bool = False) -> nn.Module:
    """The network named by `FILE.py:NAME`, with its weights, in evaluation mode.

    NAME is a class, or a function, that makes the network without arguments; it may be left out where the file defines
    one network only. Without `weights` the network must be a fixed one, whose parameters need no gradient, unless
    `untrained` says that random ones are wanted. Raises Refused.
    """
    path, separator, name = where.rpartition(":")
    file = Path(path if separator else where)
    module = _import(file)
    made = _make(module, name if separator else _only_network(module), file)
    if weights is not None:
        fit(made, read_weights(weights), weights.name)
    elif not untrained and (count := sum(p.numel() for p in made.parameters() if p.requires_grad)):
        raise Refused(
            f"{where} has {count:,} trainable parameters; expected --weights, or --untrained for random answers"
        )
    return made.eval()


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    """The state dict in a .safetensors, .pth or .pt file; that of a checkpoint that holds more. Raises Refused."""
    if not file.is_file():
        raise Refused(f"{file}: there is no such file")
    if file.suffix not in {".safetensors", ".pth", ".pt"}:
        raise Refused(f"{file}: expected weights as .safetensors, .pth or .pt")
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError) as err:
        raise Refused(f"{file}: cannot be read: {_line(err)}") from err
    except Exception as err:
        # torch.load fails on foreign bytes with whatever its parts raise, from KeyError to UnpicklingError.
        raise Refused(f"{file}: is no plain state dict; save one with torch.save(net.state_dict(), …)") from err
    found = _tensors_in(state, file)
    # What nn.DataParallel and AveragedModel add when they are saved instead of the network inside.
    return {name.removeprefix("module."): value for name, value in found.items() if name != AVERAGED}


def _tensors_in(state: Any, file: Path) -> Mapping[str, torch.Tensor]:
    """The state dict itself, or that of a checkpoint which holds it under some key, such as `model` or `net`.

    Raises Refused where it holds none, or several of which none is called `state_dict`.
    """
    if _is_state(state):
        return dict(state)
    if not isinstance(state, Mapping):
        raise Refused(f"{file}: is no state dict but a {type(state).__name__}; expected names and their tensors")
    inside = {str(key): value for key, value in state.items() if _is_state(value)}
    called = [key for key in STATES if key in inside] or (list(inside) if len(inside) == 1 else [])
    if called:
        return dict(inside[called[0]])
    if inside:
        raise Refused(f"{file}: holds several state dicts ({listed(inside)}); save the one that is meant by itself")
    keys = listed(map(str, state)) or "none"
    raise Refused(f"{file}: is no state dict and holds none; expected names and their tensors, its keys are {keys}")


def _is_state(value: Any) -> bool:
    """Whether it is names and their tensors, at least one."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(name, str) and isinstance(one, torch.Tensor) for name, one in value.items())
    )


def fit(net: nn.Module, state: Mapping[str, torch.Tensor], file: str) -> None:
    """Put the weights into the network. Raises Refused where names or shapes are not those of the network."""
    own = net.state_dict()
    complaints = {
        "missing": own.keys() - state.keys(),
        "unknown to the network": state.keys() - own.keys(),
        "of another shape": {name for name in own.keys() & state.keys() if own[name].shape != state[name].shape},
    }
    said = [f"{len(names)} {what} ({listed(names)})" for what, names in complaints.items() if names]
    if said:
        raise Refused(f"{file} does not fit the network: of its {len(own)} tensors, {'; '.join(said)}")
    net.load_state_dict(state)


def listed(names: Iterable[str]) -> str:
    """The first few of them, in order."""
    ordered = sorted(names)
    return ", ".join(ordered[:SHOWN]) + (", …" if len(ordered) > SHOWN else "")


def nearest(name: str, names: Iterable[str]) -> str:
    """What the user may have meant: the nearest name, or the first few there are."""
    there = list(names)
    near = get_close_matches(name, there, n=1)
    return f"did you mean '{near[0]}'?" if near else f"there are {listed(there) or 'none'}"


def _import(file: Path) -> ModuleType:
    if not file.is_file() or file.suffix != ".py":
        raise Refused(f"{file}: there is no such Python file; expected FILE.py:CLASS")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise Refused(f"{file}: cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.resolve().parent))  # the file may import its neighbours, as when it is run
    try:
        spec.loader.exec_module(module)
    except Exception as err:
        # Somebody else's file: it may raise anything, and whatever it is, that is what the user must see.
        raise Refused(f"{file}: cannot be imported: {type(err).__name__}: {_line(err)}") from err
    finally:
        sys.path.pop(0)
    return module


def _networks(module: ModuleType) -> list[str]:
    """The classes of networks that the file itself defines."""
    return [
        name
        for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, nn.Module) and value.__module__ == module.__name__
    ]


def _only_network(module: ModuleType) -> str:
    names = _networks(module)
    if len(names) != 1:
        raise Refused(f"{module.__file__} defines {listed(names) or 'no network'}; expected FILE.py:CLASS")
    return names[0]


def _make(module: ModuleType, name: str, file: Path) -> nn.Module:
    make: Any = getattr(module, name, None)
    if not callable(make):
        raise Refused(f"{file} defines no '{name}'; {nearest(name, _networks(module))}")
    torch.manual_seed(SEED)
    try:
        made = make()
    except Exception as err:
        # As in `_import`: the constructor is somebody else's.
        raise Refused(f"{name}() failed: {type(err).__name__}: {_line(err)}") from err
    if not isinstance(made, nn.Module):
        raise Refused(f"{name}() gave a {type(made).__name__}; expected an nn.Module")
    return made


def _line(err: BaseException) -> str:
    """The first line of what it says, which is where errors say what happened."""
    return next(iter(str(err).strip().splitlines()), "no reason given")
