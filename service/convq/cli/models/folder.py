"""What the commands of `convq models` share: the option, the repository, and what is known of a model without loading it."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from convq.errors import ModelBroken
from convq.settings import facts

if TYPE_CHECKING:
    from convq.repository.manifest import Output
    from convq.repository.model_folders import ModelFolder
    from convq.repository.version_files import VersionFiles

# The same names as in convq.engine.onnx_session, which brings onnxruntime.
MODEL: Final = "model.onnx"
FEATURES: Final = "features.onnx"
REPORT: Final = "report.json"
CHECKSUMS: Final = {MODEL: "sha256", FEATURES: "features_sha256"}

OK: Final = "ok"
UNCHECKED: Final = "not checked"
MOST_HASHED_BYTES: Final = 8 << 30
"""Of all graphs whose checksums one listing compares, the newest of each model first; it takes some ten seconds."""
SHOWN_OF_INPUT: Final = (
    *("color", "dtype", "height", "width", "layout", "resize"),
    *("short_side", "long_side", "multiple_of", "align", "interpolation"),
)
SHORT: Final = 12
"""Digits of a checksum that tell versions apart."""

_DIR = facts("models")
models_option = click.option(
    _DIR["flag"],
    "root",
    metavar=_DIR["metavar"],
    envvar=_DIR["variable"],
    show_envvar=True,
    type=click.Path(path_type=Path),
    default=None,
    help="The model repository; models of the checkout, or those that come with convq.",
)


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a model, looked at without loading it."""

    number: int
    state: str
    """ok, what is wrong with its files, or that their checksums were not compared."""
    report: Mapping[str, Any]
    """`report.json`; empty where it cannot be read."""


@dataclass(slots=True)
class Budget:
    """How many bytes may still be read to compare checksums."""

    left_bytes: int = MOST_HASHED_BYTES


@dataclass(frozen=True, slots=True)
class BrokenModel:
    """A folder with a manifest that cannot be served as it is."""

    name: str
    reason: str


def open_models(root: Path | None) -> Iterator[ModelFolder | BrokenModel]:
    """Every model of the repository that is meant, broken ones too. Raises ModelBroken where there is no repository."""
    from convq.repository.model_folders import ModelRepository, default_root, names_in  # noqa: PLC0415 - brings pydantic's models

    root = root or default_root()
    for name in names_in(root):
        try:
            yield ModelRepository.open(root, [name])[name]
        except ModelBroken as error:
            yield BrokenModel(name, inside(root / name, error))


def passed_over(root: Path | None) -> dict[str, str]:
    """What lies in the repository and is no model, or no version of one -> why."""
    from convq.repository.model_folders import ModelRepository, default_root, names_in, rubbish_in  # noqa: PLC0415 - as above

    root = root or default_root()
    models = names_in(root)
    with contextlib.suppress(ModelBroken):
        said = ModelRepository.open(root).passed_over
        return {name: reason for name, reason in said.items() if name not in models}
    return rubbish_in(root)  # no model of it can be served


def newest_whole(folder: ModelFolder) -> tuple[int, dict[int, str]]:
    """The newest version whose files are whole, and why those above it are not. Raises ModelBroken where there is none."""
    broken: dict[int, str] = {}
    for number in reversed(folder.versions):
        found = _look_at(folder, number)
        if found.state == OK:
            return number, broken
        broken[number] = found.state
    number = folder.newest
    raise ModelBroken(f"{folder.name}, version {number}: {broken[number]}")


def open_model(root: Path | None, name: str) -> ModelFolder:
    """One model of the repository that is meant; the others may be broken. Raises ModelBroken."""
    from convq.repository.model_folders import ModelRepository, default_root  # noqa: PLC0415 - brings pydantic's models

    return ModelRepository.open(root or default_root(), [name])[name]


def inside(folder: Path, error: ModelBroken) -> str:
    """What an error says of a model, without the way to its folder."""
    return str(error).removeprefix(str(folder)).lstrip("/: ")


def versions_of(folder: ModelFolder, budget: Budget | None = None) -> list[Version]:
    """All versions of a model, the newest last, which is the first that the budget (None: a whole one) is spent on."""
    budget = budget or Budget()
    return [_look_at(folder, number, budget) for number in reversed(folder.versions)][::-1]


def document_of(folder: ModelFolder, version: Version) -> dict[str, Any]:
    """What is known of a model, and of one version of it, without loading it. Raises ModelBroken where labels are missing."""
    from convq.cli.models.detections import described  # noqa: PLC0415 - as the next one
    from convq.repository.version_files import VersionFiles, differing  # noqa: PLC0415 - brings pydantic's models

    files = VersionFiles.of(folder.path, version.number)
    manifest, detections = files.manifest, described(files)
    return {
        "name": folder.name,
        "description": manifest.description,
        "newest": folder.newest,
        "input": manifest.input.model_dump(include=set(SHOWN_OF_INPUT)),
        "extra_inputs": manifest.extra_inputs,
        "outputs": [_output_of(files, output) for output in manifest.outputs],
        "feature_maps": list(manifest.feature_maps),
        "labels": len(files.labels()),
        **({} if detections is None else {"detections": detections}),
        "limits": manifest.limits.model_dump(),
        "differs_from_model": differing(manifest, folder.manifest),
        **{key: version.report.get(key) for key in ("parameters", "accuracy", "sha256")},
    }


def check_sample(folder: ModelFolder, version: Version) -> None:
    """Raises ModelBroken where the warm-up sample that the version's manifest names cannot be read."""
    from convq.repository.version_files import VersionFiles  # noqa: PLC0415 - brings pydantic's models

    VersionFiles.of(folder.path, version.number).sample()


def _look_at(folder: ModelFolder, number: int, budget: Budget | None = None) -> Version:
    from convq.repository.version_files import VersionFiles  # noqa: PLC0415 - brings pydantic's models

    path = folder.path / str(number)
    try:
        report = _read_report(path / REPORT)
    except ModelBroken as error:
        return Version(number, str(error), {})
    try:
        manifest = VersionFiles.of(folder.path, number).manifest
    except ModelBroken as error:
        return Version(number, inside(path, error), report)
    for name, key in CHECKSUMS.items():
        if name == FEATURES and not (manifest.feature_maps and (path / name).exists()):
            continue
        if budget is not None and not _affords(path / name, budget):
            return Version(number, f"{UNCHECKED}: {name} is one of too many large files", report)
        if reason := _damage(path / name, report.get(key), key):
            return Version(number, reason, report)
    return Version(number, _numbered(folder, number) or OK, report)


def _numbered(folder: ModelFolder, number: int) -> str:
    """Why a version is not served under its number; empty where it is."""
    from convq.repository.numbering import ledger_of, mark_of, reused  # noqa: PLC0415 - brings pydantic's models

    try:
        return reused(number, ledger_of(folder.path).get(number), mark_of(folder.path, number))
    except ModelBroken as error:
        return inside(folder.path, error)


def _affords(file: Path, budget: Budget) -> bool:
    """Whether the budget has enough left for a file, which is then taken from it; one that is too large is not read anyway."""
    from convq.repository.files import MOST_BYTES  # noqa: PLC0415 - brings the engine's parts

    try:
        size_bytes = file.stat().st_size
    except OSError:
        return True
    if size_bytes <= min(budget.left_bytes, MOST_BYTES[file.name]):
        budget.left_bytes -= size_bytes
        return True
    return size_bytes > MOST_BYTES[file.name]


def _read_report(file: Path) -> dict[str, Any]:
    from convq.repository.files import MOST_BYTES, read_inside  # noqa: PLC0415 - brings the engine's parts

    try:
        report = json.loads(read_inside(file, file.parent.parent, MOST_BYTES[REPORT]))
    except ModelBroken as error:
        raise ModelBroken(_of_the_file(file, error)) from None
    except (ValueError, RecursionError):
        raise ModelBroken(f"{file.name} is no JSON document") from None
    if not isinstance(report, dict):
        raise ModelBroken(f"{file.name} is no JSON object")
    return report


def _damage(file: Path, expected: Any, key: str) -> str:
    """What is wrong with a file of a version; empty where it is the one whose SHA-256 is `expected`."""
    if not isinstance(expected, str):
        return f"{REPORT} has no {key}"
    from convq.repository.files import MOST_BYTES, open_inside  # noqa: PLC0415 - brings the engine's parts

    try:
        with open_inside(file, file.parent.parent, MOST_BYTES[file.name]) as content:
            actual = hashlib.file_digest(content, "sha256").hexdigest()
    except ModelBroken as error:
        return _of_the_file(file, error)
    except OSError as error:
        return f"{file.name} cannot be read: {error.strerror}"
    if actual != expected:
        return f"{file.name} has the SHA-256 {actual[:SHORT]}…; {REPORT} says {expected[:SHORT]}…"
    return ""


def _of_the_file(file: Path, error: ModelBroken) -> str:
    """What an error says of one file of a version, in a sentence that begins with its name."""
    return f"{file.name} {str(error).removeprefix(f'{file}: ')}"


def input_text(spec: dict[str, Any]) -> str:
    """The input of a `document_of`, in a few words."""
    if spec["color"] == "none":
        return "tensors" + (f" of {spec['dtype']}" if spec["dtype"] else "")
    sides = " x ".join(str(spec[side] or "any") for side in ("height", "width"))
    if spec["resize"] == "fit":
        said = [f"short side {spec['short_side']}"] if spec["short_side"] else []
        said += [f"at most {spec['long_side']} a side"] if spec["long_side"] else []
        sides = ", ".join([*said, f"a multiple of {spec['multiple_of']},"])
    return f"{sides} {spec['color']}" + (f", {spec['dtype']}" if spec["dtype"] else "")


def extra_text(extra: Mapping[str, Any]) -> str:
    """What the other inputs are given, in a few words."""
    shown = {
        name: given if isinstance(given, str) else ", ".join(f"{one:g}" for one in given)
        for name, given in extra.items()
    }
    return "; ".join(f"{name} = {given}" for name, given in shown.items())


def output_text(output: Mapping[str, Any]) -> str:
    """One output of a `document_of`, in a few words."""
    axis = 1 if output.get("time_first") else output["batch_axis"]
    place = "" if axis == 0 else ", no batch axis" if axis == "none" else f", batch axis {axis}"
    return f"{output['name']} ({output['meaning']}{_details(output)}{place})"


def _output_of(files: VersionFiles, output: Output) -> dict[str, Any]:
    """What a manifest says of one output, and how many labels it has where it means something. Raises ModelBroken."""
    said = {key: value for key, value in output.lasting().items() if value is not None}
    counts = output.meaning in ("segments", "text")
    return {**said, "count": len(files.labels_of(output))} if counts else said


def _details(output: Mapping[str, Any]) -> str:
    """What is special of a meaning, in words that go on after it."""
    details = {
        "segments": f"{output.get('count')} labels"
        + (f", {output['ignore']} is nothing" if "ignore" in output else ""),
        "text": f"{output.get('count')} characters, blank {output.get('blank', 'first')}"
        + ", space" * bool(output.get("space")),
        "keypoints": ", ".join(output.get("names", ())),
        "matte": "stretched" if output.get("stretch") else "",
        "depth": "inverse" if output.get("inverse") else "",
        "embedding": "" if output.get("normalize", True) else "not normalized",
        "value": "expectation" if output.get("expectation") else "",
    }.get(output["meaning"], "")
    return f": {details}" if details else ""


def accuracy_text(report: Mapping[str, Any]) -> str:
    """What a report says of accuracy; empty where it says nothing."""
    found = report.get("accuracy")
    if not isinstance(found, dict) or not isinstance(found.get("share"), int | float):
        return ""
    return f"{found['share']:.2%} on {found.get('dataset', 'its test set')}"
