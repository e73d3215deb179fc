"""An ONNX file becomes a model of a repository, or the next version of one, as a whole or not at all.

The file is read, probed for a manifest, tried under it, and put in place in one step. All of it is made in a folder that no
service looks into, and which goes where anything fails: the repository is then as it was. Every door of convq that takes
models calls `add_model`; none of them need know how.
"""

from __future__ import annotations

import datetime as dt
import errno
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from convq.errors import ConvqError, ModelBroken, NotPlaced, RequestRefused, SettingsError
from convq.importer.dry_run import WITHIN_S, dry_run, examined, noted
from convq.importer.findings import Finding, Overrides
from convq.importer.infer_outputs import LABELS
from convq.importer.manifest_writer import place_of
from convq.importer.probing import Probed, probe
from convq.protocol import LAST_VERSION
from convq.repository.files import MOST_BYTES, MOST_LABELS_BYTES, MOST_SAMPLE_BYTES, read_inside
from convq.repository.keeping import GRAPH, keep_with, next_number, place, settle, was_given
from convq.repository.manifest import FILE
from convq.repository.model_folders import NAME, ModelFolder, ModelRepository, with_way
from convq.repository.numbering import mark_of, record
from convq.repository.onnx_metadata import origin_of, read_whole
from convq.repository.version_files import HOLDS, REPORT
from convq.repository.workshop import workshop

WORKSHOP: Final = ".adding-"
WISHES: Final = tuple(one.name for one in fields(Overrides) if one.name != "labels")
NAMELESS: Final = ("tensor", "image", "depth", "embed")
"""Tasks without names of anything."""
CLASSES: Final = 'for other classes see models/README.md, "Changing the classes"'
SLOW: Final = "--within gives it longer; a smaller --size (where its sides are free) or --max-batch makes it quicker"


@dataclass(frozen=True, slots=True)
class AddRequest:
    """An ONNX file, and what is known about it."""

    file: Path
    """It may have weights in files beside it."""
    root: Path
    """The model repository; made where it is not there."""
    name: str
    """What jobs call the model. Where it is there, the file becomes its next version."""
    version: int | None = None
    """The number of the version; None: the next one."""
    labels: Sequence[str] | None = None
    """Names of the classes, in the order of the output; None: made up where there are classes."""
    wishes: Overrides = field(default_factory=Overrides)
    """What the graph cannot tell. `labels` in it is set from the names above."""
    within_s: float = WITHIN_S
    """Longest time for each of the processes that look at the graph and try it."""

    def known(self) -> Overrides:
        """All that was said about the graph."""
        return replace(self.wishes, labels=None if self.labels is None else len(self.labels))

    def said(self) -> Iterator[str]:
        """The names of what was said about the graph, as the flags of the command have them."""
        if self.labels is not None:
            yield "labels"
        sides = {"height": "size", "width": "size"}
        given = (key for key in WISHES if getattr(self.wishes, key) is not None)
        yield from dict.fromkeys(sides.get(key, key.replace("_", "-")) for key in given)


@dataclass(frozen=True, slots=True)
class Added:
    """The version that is in its place now."""

    name: str
    version: int
    path: Path
    """The model's folder."""
    report: Mapping[str, Any]
    """Its `report.json`."""
    findings: Sequence[Finding]
    """How the manifest came about, value by value; none where the model was there with its manifest."""
    check: Mapping[str, Any]
    """What `examined` found."""
    settled: Sequence[int] | None = None
    """Older versions that had no manifest of their own and were given one; None for a new model."""

    @property
    def assumed(self) -> list[str]:
        """The keys of the manifest that nothing could tell for sure: somebody should check them."""
        return [place_of(one) for one in self.findings if one.source == "assumed"]


def add_model(request: AddRequest) -> Added:
    """Bring an ONNX file into a repository. Blocks for seconds; nothing that is there is ever overwritten.

    Raises:
        RequestRefused: the request contradicts itself, or the model that is there.
        SettingsError: the graph contradicts what was said about it.
        ModelBroken: the graph cannot be served, or the model that is there is broken.
        NotPlaced: somebody else has just added it, or the repository cannot be written.
    """
    if not NAME.fullmatch(request.name):
        raise RequestRefused(f"{request.name!r}; expected {NAME.pattern}", "name")
    if request.version is not None and not 1 <= request.version <= LAST_VERSION:
        raise RequestRefused(f"{request.version}; expected a number from 1 to {LAST_VERSION}", "version")
    there = request.root / request.name
    if (there / FILE).exists():
        return _next_version(request, ModelRepository.open(request.root, [request.name])[request.name])
    if there.exists():
        raise ModelBroken(f"{there}: is there and holds no manifest.toml; give another name, or move it away")
    return _new_model(request)


# -- the two ways -----------------------------------------------------------------------------------------------------


def _new_model(request: AddRequest) -> Added:
    """Write the whole folder beside its place, check it there, and move it in one step."""
    version, labels, target = request.version or 1, request.labels, request.root / request.name
    if labels is not None and request.wishes.task in NAMELESS:
        raise RequestRefused(f"--labels are names of classes; --task {request.wishes.task} has none", "labels")
    with _workshop(request.root) as made:
        folder = made / request.name
        report = _take_in(request.file, folder / str(version))
        found = _probed(folder / str(version) / GRAPH, request)
        (folder / FILE).write_text(found.manifest, encoding="utf-8")
        if found.classes:
            names = labels or found.names or [f"class {index}" for index in range(found.classes)]
            (folder / LABELS).write_text("".join(f"{label}\n" for label in names), encoding="utf-8")
        report = _kept(folder, version, report)
        check = _examined(folder, version, request, slow=SLOW)
        record(folder, {version: mark_of(folder, version, only_own=True)})
        folder.rename(target)
    return Added(request.name, version, target, report, found.findings, check)


def _next_version(request: AddRequest, model: ModelFolder) -> Added:
    """Check the file under a copy of the manifest that is there, then move the version in one step."""
    chosen = request.version or next_number(model.path)
    _must_fit(request, model, chosen)
    with _workshop(model.path.parent) as made:
        folder = made / model.name
        report = _take_in(request.file, folder / str(chosen))
        _copy_surroundings(model, folder)
        report = _kept(folder, chosen, report)
        check = _examined(folder, chosen, request, under=f"; the manifest that holds for it is {model.path / FILE}")
        settled = settle(model.path, partial(_objection, model.path, within_s=request.within_s))
        place(folder / str(chosen), model.path, chosen)
    return Added(model.name, chosen, model.path, report, (), check, settled)


def _must_fit(request: AddRequest, model: ModelFolder, version: int) -> None:
    """Whether a model that is there can have this as its next version. Raises RequestRefused."""
    if version > LAST_VERSION:
        raise RequestRefused(f"{model.name} has the last version that there can be, {LAST_VERSION}", "version")
    if version in model.versions:
        raise RequestRefused(f"{model.name} has a version {version} already, and versions never change", "version")
    if was_given(model.path, version):
        why = f"{model.name} had a version {version} before, and numbers are never given twice"
        raise RequestRefused(why, "version")
    for key in request.said():
        why = f"{model.name} is there already: its manifest holds for this version too; no --{key}"
        raise RequestRefused(f"{why}; {CLASSES}" if key in ("labels", "task") else why, key)


# -- its steps --------------------------------------------------------------------------------------------------------


@contextmanager
def _workshop(root: Path) -> Iterator[Path]:
    """A folder on the same file system, which no service looks into, for as long as it takes."""
    try:
        with workshop(root, WORKSHOP) as made:
            try:
                yield made
            except ModelBroken as error:
                said = ModelBroken(with_way(str(error), made, f"{root}/"))
                raise noted(said, "\n".join(getattr(error, "__notes__", ()))) from None
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise NotPlaced("somebody else has just added it; nothing was changed", is_taken=True) from None
        raise NotPlaced(f"{root}: cannot be written: {error.strerror}") from None


def _take_in(file: Path, folder: Path) -> dict[str, Any]:
    """Write the two files of a version; returns the report. Raises ModelBroken, OSError."""
    content, weights_from = read_whole(file)
    origin = origin_of(content)
    report: dict[str, Any] = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "source": "added",
        "file": file.name.encode(errors="replace").decode(),  # a name need not be text
    }
    optional = {
        "weights_from": list(weights_from),
        "opset": origin.opsets.get(""),
        "other_opsets": {domain: number for domain, number in origin.opsets.items() if domain},
        "ir_version": origin.ir_version,
        "producer": origin.producer,
    }
    report |= {key: value for key, value in optional.items() if value}
    folder.mkdir(parents=True)
    (folder / GRAPH).write_bytes(content)
    _write_report(folder, report)
    return report


def _write_report(folder: Path, report: Mapping[str, Any]) -> None:
    (folder / REPORT).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _probed(model: Path, request: AddRequest) -> Probed:
    """What the graph shows. Raises ModelBroken, or SettingsError where something that was said contradicts it."""
    found = probe(model, str(request.file), request.known(), within_s=request.within_s)
    if not found.ok:
        kind = SettingsError if found.exit_code == SettingsError.exit_code else ModelBroken
        hint = f"; {SLOW}" if found.timed_out else ""
        is_named = found.reason.startswith(str(request.file))
        raise noted(kind((found.reason if is_named else f"{request.file}: {found.reason}") + hint), found.traceback)
    return found


def _copy_surroundings(model: ModelFolder, folder: Path) -> None:
    """What a version needs besides its own two files: manifest, labels, warm-up sample. Raises ModelBroken, OSError."""
    warmup = model.manifest.warmup
    named = {FILE: MOST_BYTES[FILE], **dict.fromkeys(model.manifest.labels_files, MOST_LABELS_BYTES)}
    if warmup is not None:
        named[warmup.sample] = MOST_SAMPLE_BYTES
    for name, most_bytes in named.items():
        if name:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(read_inside(model.path / name, model.path, most_bytes))


def _kept(folder: Path, version: int, report: Mapping[str, Any]) -> dict[str, Any]:
    """Put what a version is made with into its folder, and its names into the report; returns that."""
    found = {**report, HOLDS: keep_with(folder, version)}
    _write_report(folder / str(version), found)
    return found


def _examined(folder: Path, version: int, request: AddRequest, *, under: str = "", **options: Any) -> Mapping[str, Any]:
    """`examined`, whose errors name the file that somebody brought: its copy in the workshop is gone by then."""
    try:
        return examined(folder, version, within_s=request.within_s, **options)
    except ConvqError as error:
        said = str(error).replace(str(folder.absolute() / str(version) / GRAPH), str(request.file)) + under
        raise noted(type(error)(said), "\n".join(getattr(error, "__notes__", ()))) from None


def _objection(folder: Path, version: int, *, within_s: float) -> str:
    """Why a version cannot be served with the manifest that holds for it now; empty where it can."""
    return dry_run(folder, version, within_s=within_s).reason
