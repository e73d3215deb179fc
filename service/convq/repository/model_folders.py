"""A folder of models on disk: which models and versions there are. Loads none of them until asked."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from convq.errors import ModelBroken
from convq.protocol import VERSION_DIGITS
from convq.repository.bounds import is_inside
from convq.repository.manifest import FILE, Manifest
from convq.repository.version_files import HOLDS, report_of

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
NEEDED: Final = ("model.onnx", "report.json")
"""The files without which a version is not whole; one that is being copied lacks them for a while."""
TEMPLATE: Final = "manifest.template.toml"
"""Lies in the place of a manifest in a folder of the checkout whose version is yet to be built: `make models`."""
MOST_HELD: Final = 100
"""So many files besides these are looked for."""
MOST_MODELS: Final = 100
"""Each has threads, connections and metrics of its own in every worker."""
_VERSION = re.compile(rf"[1-9][0-9]{{0,{VERSION_DIGITS - 1}}}")
_NO_MODELS = frozenset({"lost+found", "__pycache__"})
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """One model of a repository: its manifest has been read, its graphs have not."""

    name: str
    path: Path
    versions: tuple[int, ...]
    """Ascending; at least one."""
    manifest: Manifest

    @property
    def newest(self) -> int:
        """The newest version."""
        return self.versions[-1]


@dataclass(frozen=True, slots=True)
class ModelRepository:
    """The models that a service was told to serve, found and checked as far as that goes without loading them."""

    root: Path
    models: Mapping[str, ModelFolder]
    """By name, in alphabetical order; at least one."""
    passed_over: Mapping[str, str] = field(default_factory=dict)
    """What lies there and is not served -> why: `name`, or `name/folder` for what is no version of a model."""

    @classmethod
    def open(cls, root: Path, only: Sequence[str] | None = None, *, strict: bool = False) -> ModelRepository:
        """Every model under `root`, or those named in `only`.

        A model is a folder with a `manifest.toml`. What else lies there, and a model that cannot be served as it is, is
        passed over. Raises ModelBroken, with file and reason, when a model of `only` is not there or cannot be served,
        when there is none at all, or when any is broken and it is `strict`.
        """
        entries = _entries(root)
        found = _found(entries, root)
        if only is not None:
            return cls(root, _chosen(root, found, only))
        models, broken = {}, {}
        for name, path in found.items():
            try:
                models[name] = _examine(path)
            except ModelBroken as err:
                broken[name] = str(err)
        kept, beyond = _within_bound(models)
        broken |= beyond
        if not models or (strict and broken):
            more = f" (and {len(broken) - _SHOWN} more)" if len(broken) > _SHOWN else ""
            raise ModelBroken("; ".join(list(broken.values())[:_SHOWN]) + more)
        return cls(root, kept, {**_rubbish(entries, found), **_no_versions(kept), **broken})

    def __getitem__(self, name: str) -> ModelFolder:
        """The model of that name; raises ModelBroken with the nearest name where there is none."""
        if name not in self.models:
            raise ModelBroken(f"{self.root}: {_no_such(name, list(self.models))}")
        return self.models[name]


def names_in(root: Path) -> list[str]:
    """The names of the folders under `root` that have a manifest, whatever it is. Raises ModelBroken where there is none."""
    return list(_found(_entries(root), root))


def rubbish_in(root: Path) -> dict[str, str]:
    """What lies under `root` and somebody may have taken for a model -> why it is none. Raises ModelBroken without models."""
    entries = _entries(root)
    return _rubbish(entries, _found(entries, root))


def default_root() -> Path:
    """`models` of the checkout that this file belongs to, or else the copy inside the installed package."""
    here = Path(__file__).resolve()
    source, checkout = here.parents[2], here.parents[3]
    if source.name == "service" and any(checkout.glob(f"models/*/{FILE}")):
        return checkout / "models"
    return here.parents[1] / "models"


def missing_in(version: Path) -> str:
    """What keeps a version's folder from being whole, in words that go on after its name; empty where it is."""
    try:
        lacks = _lacks(version)
    except OSError as err:
        return f"cannot be read: {err.strerror}"
    return f"is not whole: it has no {' and no '.join(lacks)}" if lacks else ""


def is_gone(version: Path) -> bool:
    """Whether a version that was whole is deleted, or being deleted; not where that cannot be told."""
    try:
        return bool(_lacks(version))
    except OSError:
        return False


def _lacks(version: Path) -> list[str]:
    """Which files a version's folder does not have. Raises OSError."""
    lacks = [name for name in NEEDED if not (version / name).exists()]
    return lacks or [name for name in _held_by(version) if not (version / name).exists()]


def _held_by(version: Path) -> list[str]:
    """What its report says that lies in a version's folder; nothing for a report that cannot be read: that is found later."""
    try:
        said = report_of(version.parent, int(version.name)).get(HOLDS, [])
    except ModelBroken:
        return []
    names = said if isinstance(said, list) else []
    return [name for name in names if isinstance(name, str) and is_inside(name)][:MOST_HELD]


def versions_in(path: Path) -> tuple[int, ...]:
    """The numbers of the version folders of one model, ascending. Raises OSError where the folder cannot be read."""
    return tuple(sorted(int(sub.name) for sub in path.iterdir() if _VERSION.fullmatch(sub.name) and sub.is_dir()))


def with_way(text: str, folder: Path, instead: str) -> str:
    """`text` with `instead` for the way to `folder`, where a path begins with it: relative or absolute, never in its middle."""
    ways = {str(folder), str(folder.absolute()), str(folder.resolve())}
    either = "|".join(re.escape(way) for way in sorted(ways, key=len, reverse=True))
    return re.sub(rf"(?<![^\s'\"(=:])(?:{either})/", lambda _: instead, text)


def _entries(root: Path) -> list[Path]:
    try:
        return sorted(root.iterdir())
    except OSError as err:
        raise ModelBroken(f"{root}: cannot be read: {err.strerror}") from None


def _found(entries: Sequence[Path], root: Path) -> dict[str, Path]:
    """The folders that say that they are models, whatever their manifest is. Raises ModelBroken where there are none."""
    found = {path.name: path for path in entries if not path.name.startswith(".") and os.path.lexists(path / FILE)}
    if not found:
        raise ModelBroken(f"{root}: holds no models; expected folders with a {FILE}")
    return found


def _chosen(root: Path, found: Mapping[str, Path], only: Sequence[str]) -> dict[str, ModelFolder]:
    """Those that are named, each of which must be one that can be served."""
    if not only:
        raise ModelBroken(f"{root}: no model was chosen; there are {', '.join(found)}")
    if len(set(only)) > MOST_MODELS:
        raise ModelBroken(f"{root}: {len(set(only))} models were chosen; one service serves at most {MOST_MODELS}")
    for name in only:
        if name not in found:
            raise ModelBroken(f"{root}: {_no_such(name, list(found))}")
    return {name: _examine(found[name]) for name in sorted(set(only))}


def _within_bound(models: Mapping[str, ModelFolder]) -> tuple[dict[str, ModelFolder], dict[str, str]]:
    """The first `MOST_MODELS` by name, and why each of the others is passed over."""
    names = list(models)
    why = f"there are {len(names)} models, and one service serves at most {MOST_MODELS}; --only names which"
    kept = {name: models[name] for name in names[:MOST_MODELS]}
    return kept, {name: f"{models[name].path}: {why}" for name in names[MOST_MODELS:]}


def _rubbish(entries: Sequence[Path], found: Mapping[str, Path]) -> dict[str, str]:
    """Folders and graphs that somebody may have taken for models; other files and what is hidden are nobody's business."""
    said = {}
    for path in entries:
        if path.name in found or path.name.startswith(".") or path.name in _NO_MODELS:
            continue
        if path.suffix == ".onnx":
            said[path.name] = f"{path}: is no folder with a {FILE}; `convq models add` makes one of a graph"
        elif path.is_symlink() and not path.exists():
            said[path.name] = f"{path}: is a link to what is not there"
        elif path.is_dir():
            readable = os.access(path, os.R_OK | os.X_OK)
            said[path.name] = f"{path}: {_no_model(path) if readable else 'cannot be read: Permission denied'}"
    return said


def _no_model(path: Path) -> str:
    """Why a folder without a manifest is none, in words that go on after its name."""
    built = (path / TEMPLATE).is_file()
    return f"is not built yet; make models builds it from its {TEMPLATE}" if built else f"holds no {FILE}"


def _no_versions(models: Mapping[str, ModelFolder]) -> dict[str, str]:
    """Folders of models that hold a graph, and whose names are not those of versions."""
    expected = f"expected a number of at most {VERSION_DIGITS} digits without zeros before it"
    return {
        f"{model.name}/{sub.parent.name}": f"{sub.parent}: is no version; {expected}"
        for model in models.values()
        for sub in sorted(model.path.glob(f"*/{NEEDED[0]}"))
        if not _VERSION.fullmatch(sub.parent.name) and not sub.parent.name.startswith(".")
    }


def _examine(path: Path) -> ModelFolder:
    if not NAME.fullmatch(path.name):
        raise ModelBroken(f"{path}: the folder's name is the model's; expected [a-z0-9][a-z0-9_-]{{0,63}}")
    try:
        versions = versions_in(path)
    except OSError as err:
        raise ModelBroken(f"{path}: cannot be read: {err.strerror}") from None
    if not versions:
        raise ModelBroken(f"{path}: holds no version; expected a folder such as 1 with {' and '.join(NEEDED)}")
    return ModelFolder(path.name, path, versions, Manifest.read(path))


def _no_such(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(names)}"
    return f"has no model '{name}'; {hint}"
