"""Gets a network out of somebody's Python file, an installed package such as torchvision, or timm's registry.

What is wrong is one line: SettingsError for what was asked for, ExportRefused for what the code itself did.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import torch
from torch import nn

from convq.errors import ExportRefused, SettingsError
from convq.host.extras import install_packages

SEED: Final = 7  # of what a constructor draws at random, so that two exports of an untrained network are equal
SHOWN: Final = 3  # names in a message; the rest is counted
EXPECTED: Final = "expected FILE.py:CLASS, MODULE:NAME such as torchvision.models:resnet50, or timm:NAME"
TIMM: Final = "timm"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a network comes from, as the command line names it."""

    source: str
    """A file, a module, or `timm`."""
    name: str
    """Of the class or function there; empty where the file has only one network."""

    @property
    def is_file(self) -> bool:
        """Whether the source is a Python file of the user's own."""
        return self.source.endswith(".py")

    @property
    def package(self) -> str:
        """The package that it is installed with; empty for a file."""
        return "" if self.is_file else self.source.partition(".")[0]

    @classmethod
    def of(cls, text: str) -> Place:
        """`FILE.py`, `FILE.py:NAME`, `MODULE:NAME` or `timm:NAME`. Raises SettingsError."""
        if text.endswith(".py"):
            return cls(text, "")
        source, separator, name = text.rpartition(":")
        if not separator or not source or not name:
            raise SettingsError(f"{text!r}: {EXPECTED}")
        if "/" in source and not source.endswith(".py"):
            raise SettingsError(f"{source}: is no Python file; {EXPECTED}")
        return cls(source, name)


@dataclass(frozen=True, slots=True)
class Made:
    """A network with the random weights of its constructor, and what made it."""

    net: nn.Module
    maker: Callable[..., Any]


def make(place: Place, arguments: Mapping[str, Any]) -> Made:
    """Call the class or function that `place` names. Raises SettingsError, ExportRefused."""
    if place.source == TIMM:
        return _from_timm(place.name, arguments)
    module = _import_file(Path(place.source)) if place.is_file else _import_module(place.source)
    maker = _named(module, place.name or _only_network(module), place)
    return Made(_call(maker, place.name or maker.__name__, arguments), maker)


def listed(names: Iterable[str]) -> str:
    """The first few of them, in order."""
    ordered = sorted(names)
    return ", ".join(ordered[:SHOWN]) + (", …" if len(ordered) > SHOWN else "")


def nearest(name: str, names: Iterable[str]) -> str:
    """What the user may have meant: the nearest name, or the first few there are."""
    there = list(names)
    near = get_close_matches(name, there, n=1)
    return f"did you mean '{near[0]}'?" if near else f"there are {listed(there) or 'none'}"


def first_line(err: BaseException) -> str:
    """The first line of what it says, which is where errors say what happened."""
    return next(iter(str(err).strip().splitlines()), "no reason given")


# -- where it is defined ----------------------------------------------------------------------------------------------


def _import_file(file: Path) -> ModuleType:
    if not file.is_file():
        raise SettingsError(f"{file}: there is no such Python file; {EXPECTED}")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise SettingsError(f"{file}: cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.resolve().parent))  # the file may import its neighbours, as when it is run
    try:
        spec.loader.exec_module(module)
    except Exception as err:
        # Somebody else's file: it may raise anything, and whatever it is, that is what the user must see.
        raise _not_imported(str(file), err) from err
    finally:
        sys.path.pop(0)
    return module


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as err:
        # As in `_import_file`: an installed package is somebody else's code too.
        raise _not_imported(name, err) from err


def _not_imported(what: str, err: Exception) -> Exception:
    """What to raise where `what` cannot be imported."""
    missing = (err.name or "") if isinstance(err, ModuleNotFoundError) else ""
    package = missing.partition(".")[0]
    if missing and package != missing and importlib.util.find_spec(package) is not None:
        return SettingsError(f"{package} is installed and has no module '{missing}'; {EXPECTED}")
    if missing:
        needs = (
            f"no package '{package}' is installed" if what.partition(".")[0] == package else f"{what} needs {package}"
        )
        return SettingsError(f"{needs}; run: {install_packages(package)}")
    hint = ""
    if what.partition(".")[0] in ("torchvision", TIMM):
        hint = f"; is the {_release('torchvision')} the one that was made for torch {torch.__version__}?"
    return ExportRefused(f"{what}: cannot be imported: {type(err).__name__}: {first_line(err)}{hint}")


def _release(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return package


def _named(module: ModuleType, name: str, place: Place) -> Callable[..., Any]:
    found: Any = getattr(module, name, None)
    if not callable(found):
        raise SettingsError(f"{place.source} has no '{name}'; {nearest(name, _makers(module, place))}")
    made: Callable[..., Any] = found
    return made


def _makers(module: ModuleType, place: Place) -> list[str]:
    """What may make a network: the classes of the file, or whatever the module offers."""
    if place.is_file:
        return _networks(module)
    return [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]


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
        raise SettingsError(f"{module.__file__} defines {listed(names) or 'no network'}; expected FILE.py:CLASS")
    return names[0]


def _from_timm(name: str, arguments: Mapping[str, Any]) -> Made:
    timm: Any = _import_module(TIMM)
    if not timm.is_model(name):
        raise SettingsError(f"timm {timm.__version__} has no '{name}'; {nearest(name, timm.list_models())}")

    def maker(**given: Any) -> Any:
        return timm.create_model(name, **given)

    return Made(_call(maker, name, arguments), maker)


# -- how it is made ---------------------------------------------------------------------------------------------------


def _call(maker: Callable[..., Any], name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The network that `maker` makes. Raises SettingsError for arguments that do not fit, ExportRefused."""
    _must_take(maker, name, arguments)
    torch.manual_seed(SEED)
    said = f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"
    try:
        made = maker(**arguments)
    except Exception as err:
        # As in `_import_file`: the constructor is somebody else's.
        kind = SettingsError if isinstance(err, TypeError) and arguments else ExportRefused
        raise kind(f"{said} failed: {type(err).__name__}: {first_line(err)}") from err
    if not isinstance(made, nn.Module):
        raise SettingsError(f"{said} gave a {type(made).__name__}; expected an nn.Module")
    return made


def _must_take(maker: Callable[..., Any], name: str, arguments: Mapping[str, Any]) -> None:
    """Whether the arguments fit the signature, as far as that says. Raises SettingsError."""
    try:
        signature = inspect.signature(maker)
    except (TypeError, ValueError):  # of C, or odd: the call itself will say
        return
    try:
        signature.bind(**arguments)
    except TypeError as err:
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        known = [one for one, parameter in signature.parameters.items() if parameter.kind in kinds]
        wrong = next((one for one in arguments if one not in known), None)
        if wrong is not None:
            raise SettingsError(f"--arg {wrong}: {name} takes no such argument; {nearest(wrong, known)}") from err
        raise SettingsError(f"{name}: {first_line(err)}; give it with --arg NAME=VALUE") from err
