"""A folder of models on disk: which models and versions there are. Loads none of them until asked."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from convq.errors import ModelBroken
from convq.inference.manifest import FILE, Manifest

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")


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

    @classmethod
    def open(cls, root: Path, only: Sequence[str] | None = None) -> ModelRepository:
        """Every model under `root`, or those named in `only`.

        A model is a folder with a `manifest.toml`; whatever else lies there is ignored. Raises ModelBroken, with file
        and reason, when one of them cannot be served, when a name of `only` is not there, or when there is none at all.
        """
        try:
            found = {path.name: path for path in sorted(root.iterdir()) if (path / FILE).is_file()}
        except OSError as err:
            raise ModelBroken(f"{root}: cannot be read: {err.strerror}") from None
        if not found:
            raise ModelBroken(f"{root}: holds no models; expected folders with a {FILE}")
        if only is not None and not only:
            raise ModelBroken(f"{root}: no model was chosen; there are {', '.join(found)}")
        for name in only or ():
            if name not in found:
                raise ModelBroken(f"{root}: {_no_such(name, list(found))}")
        names = sorted(set(only)) if only is not None else list(found)
        return cls(root, {name: _examine(found[name]) for name in names})

    def __getitem__(self, name: str) -> ModelFolder:
        """The model of that name; raises ModelBroken with the nearest name where there is none."""
        if name not in self.models:
            raise ModelBroken(f"{self.root}: {_no_such(name, list(self.models))}")
        return self.models[name]


def default_root() -> Path:
    """`models` of the checkout that this file belongs to, or else the copy inside the installed package."""
    here = Path(__file__).resolve()
    source, checkout = here.parents[2], here.parents[3]
    if source.name == "service" and any(checkout.glob(f"models/*/{FILE}")):
        return checkout / "models"
    return here.parents[1] / "models"


def versions_in(path: Path) -> tuple[int, ...]:
    """The numbers of the version folders of one model, ascending. Raises OSError where the folder cannot be read."""
    return tuple(sorted(int(sub.name) for sub in path.iterdir() if _VERSION.fullmatch(sub.name) and sub.is_dir()))


def _examine(path: Path) -> ModelFolder:
    if not NAME.fullmatch(path.name):
        raise ModelBroken(f"{path}: the folder's name is the model's; expected [a-z0-9][a-z0-9_-]{{0,63}}")
    versions = versions_in(path)
    if not versions:
        raise ModelBroken(f"{path}: holds no version; expected a folder such as 1 with model.onnx and report.json")
    return ModelFolder(path.name, path, versions, Manifest.read(path))


def _no_such(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(names)}"
    return f"has no model '{name}'; {hint}"
