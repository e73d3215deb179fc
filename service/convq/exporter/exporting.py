"""All of an export: load, draft, trace, prove and publish, in a folder that vanishes unless everything went well."""

from __future__ import annotations

import errno
import hashlib
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch import nn

from convq.errors import ConvqError, NotPlaced, SettingsError
from convq.exporter.detectors import as_served
from convq.exporter.drafts import draft
from convq.exporter.networks import Made, Place, make
from convq.exporter.presets import Preset, preset_of
from convq.exporter.versions import make as make_version
from convq.exporter.versions import publish, steps, write_report
from convq.exporter.weights import fit, read_weights
from convq.importer.dry_run import dry_run
from convq.importer.exporting import NO_WEIGHTS, Exported, ExportRequest, Step
from convq.importer.findings import Finding
from convq.importer.infer_outputs import LABELS
from convq.repository.keeping import next_number, settle, was_given
from convq.repository.manifest import FILE
from convq.repository.model_folders import NAME
from convq.repository.workshop import workshop

WORKSHOP: Final = ".export-"
SOURCE: Final = "net.py"

Measure = Callable[[Path, int], dict[str, Any]]
"""Of a model's folder and a version: what else its report should hold."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A network with its weights, in evaluation mode."""

    net: nn.Module
    preset: Preset | None
    origin: dict[str, Any]
    """Where both come from, for the report."""
    notes: list[str]


def export(
    request: ExportRequest, step: Step = lambda _doing, _steps: None, measure: Measure | None = None
) -> Exported:
    """Make the version that `request` asks for; `measure` adds to its report.

    Raises SettingsError, ExportRefused, ModelBroken, NotPlaced.
    """
    place, root = Place.of(request.network), Path(request.root)
    name = _name_of(place, root) if request.name is None else request.name
    if not NAME.fullmatch(name):
        raise SettingsError(f"'{name}' is no name for a model; expected --name [a-z0-9][a-z0-9_-]{{0,63}}")
    folder = root / name
    number = _number(folder, request)
    loaded = load(request)
    try:
        with workshop(root, WORKSHOP) as scratch:
            return _export(loaded, request, folder, number, scratch / name, step, measure)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise NotPlaced("somebody else has just added it; nothing was changed", is_taken=True) from None
        raise NotPlaced(f"{root}: cannot be written: {error.strerror}") from None


def load(request: ExportRequest) -> Loaded:
    """The network, with its weights. Raises SettingsError, ExportRefused.

    Without weights it must be a fixed one, whose parameters need no gradient, unless `none` says that random ones are wanted.
    """
    place = Place.of(request.network)
    made = make(place, request.arguments)
    file = Path(request.weights) if request.weights not in (None, NO_WEIGHTS) else None
    origin: dict[str, Any] = {"network": f"{Path(place.source).name}:{place.name or _made_by(made)}"}
    if request.arguments:
        origin["arguments"] = dict(request.arguments)
    notes: list[str] = []
    if file is not None:
        notes = [f"{file.name}: {note}" for note in fit(made.net, read_weights(file), file.name)]
        origin |= {"weights": file.name, "weights_sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    elif request.weights is None and (count := sum(p.numel() for p in made.net.parameters() if p.requires_grad)):
        raise SettingsError(
            f"{request.network} has {count:,} trainable parameters; expected --weights FILE, or --weights none for random ones"
        )
    elif request.weights == NO_WEIGHTS:
        notes = ["its weights are the random ones of its constructor: so are its answers"]
    made = Made(as_served(made.net), made.maker)
    return Loaded(made.net.eval(), preset_of(place, made, file, request.preset), origin, notes)


def _made_by(made: Made) -> str:
    return getattr(made.maker, "__name__", type(made.net).__name__)


def _name_of(place: Place, root: Path) -> str:
    """The name of a model that nobody has named: its folder in the repository, or else the network's, in snake case."""
    folder = Path(place.source).resolve().parent
    if place.is_file and folder.parent == root.resolve():
        return folder.name
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", place.name or folder.name).lower().replace(".", "_")


def _number(folder: Path, request: ExportRequest) -> int:
    """The version to make. Raises SettingsError where it is there, or was."""
    number = request.version or next_number(folder)
    if was_given(folder, number) and not request.force:
        there = "exists" if (folder / str(number)).exists() else "was given before"
        raise SettingsError(
            f"{folder / str(number)} {there}, and versions are immutable: without --version it is the next one"
        )
    return number


def _export(
    loaded: Loaded, request: ExportRequest, folder: Path, number: int, trial: Path, step: Step, measure: Measure | None
) -> Exported:
    """Everything that writes, in `trial` and at the end in `folder`."""
    findings, notes = _lay_out(loaded, request, folder, trial)
    try:
        total = steps(trial)
        report: dict[str, Any] = make_version(loaded.net, trial, number, lambda doing: step(doing, total))
    except ConvqError as err:
        raise type(err)(str(err).replace(str(trial), str(folder))) from err
    report |= loaded.origin
    if measure is not None:
        report |= measure(trial, number)
    write_report(trial / str(number), report)
    settled: list[int] = []
    if (folder / FILE).exists():
        settled = list(settle(folder, lambda one: dry_run(folder, one).reason))
    publish(trial, folder, number)
    return Exported(folder.name, number, folder, report, findings, [*loaded.notes, *notes], settled)


def _lay_out(loaded: Loaded, request: ExportRequest, folder: Path, trial: Path) -> tuple[list[Finding], list[str]]:
    """The model's folder without its versions, with a manifest: its own, or one that is drafted now.

    Raises SettingsError, ExportRefused.
    """
    if folder.is_dir():
        shutil.copytree(folder, trial, ignore=lambda _where, names: [one for one in names if one.isdecimal()])
    else:
        trial.mkdir()
    said = request.preparation.said() + (["--preset"] if request.preset else [])
    if (trial / FILE).exists():
        if said:
            raise SettingsError(
                f"{folder / FILE} says how images are prepared; change it there, without {', '.join(said)}"
            )
        return [], []
    made = draft(loaded.net, request.preparation, loaded.preset, request.network)
    (trial / FILE).write_text(made.text, encoding="utf-8")
    if made.labels:
        (trial / LABELS).write_text("".join(f"{label}\n" for label in made.labels), encoding="utf-8")
    place = Place.of(request.network)
    if place.is_file and not (trial / SOURCE).exists():
        shutil.copyfile(place.source, trial / SOURCE)
    return list(made.findings), list(made.notes)
