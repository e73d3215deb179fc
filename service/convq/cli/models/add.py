"""`convq models add`: an ONNX file becomes a model of the repository, with a manifest inferred from its graph."""

from __future__ import annotations

import datetime as dt
import errno
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convq.cli.display.output import for_programs, json_option, print_json, print_line, print_table
from convq.cli.models.check import examined, noted, show_examination, within_option
from convq.cli.models.flags import as_scale, as_size, per_channel
from convq.cli.models.folder import models_option
from convq.cli.versions import version_option
from convq.errors import ConvqError, ModelBroken, SettingsError
from convq.protocol import LAST_VERSION

if TYPE_CHECKING:
    from convq.importer.infer_input import Overrides
    from convq.repository.model_folders import ModelFolder

MODEL = "model.onnx"
LABELS = "labels.txt"
WISHES = ("color", "size", "scale", "mean", "std", "task", "max_batch")
CLASSES = 'for other classes see models/README.md, "Changing the classes"'
SLOW = "--within gives it longer; a smaller --size (where its sides are free) or --max-batch makes it quicker"
SURE = {"given": "you said so", "graph": "the graph says so", "measured": "it was tried", "assumed": "CHECK THIS"}


@click.command()
@click.argument("file", metavar="FILE.onnx", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", metavar="NAME", required=True, help="What jobs call the model: a-z, 0-9, _ and -.")
@models_option
@version_option("The version's number (the next one).")
@click.option(
    "--labels",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Names of the classes, one a line, in the order of the output.",
)
@click.option(
    "--color", type=click.Choice(["rgb", "bgr", "gray", "none"]), help="none: jobs bring tensors, not images."
)
@click.option("--size", metavar="HxW", callback=as_size, help="Pixels, where the graph leaves its sides free.")
@click.option(
    "--scale", metavar="X", type=float, callback=as_scale, help="Pixels from 0 to 255 are multiplied by this first."
)
@click.option(
    "--mean", metavar="A,B,C", callback=per_channel, help="Then this is subtracted (above 1: of levels 0 to 255),"
)
@click.option("--std", metavar="A,B,C", callback=per_channel, help="then divided by this.")
@click.option(
    "--task",
    type=click.Choice(["classes", "tensor"]),
    help="classes: some output holds a value for each class; tensor: outputs are given back as numbers.",
)
@click.option(
    "--max-batch", metavar="N", type=click.IntRange(min=1, max=4096), help="Jobs in one call of the graph (64)."
)
@within_option()
@json_option
def add(file: Path, name: str, root: Path | None, version: int | None, **given: Any) -> None:
    """Bring an ONNX file: look into its graph, write a manifest, check that it can be served.

    What the graph says is taken from it, and a few runs on noise show the rest; what neither tells, such as the mean and
    the order of colours that the network was trained with, is assumed and marked in manifest.toml for you to check.
    Nothing is written unless the model can be served; nothing is ever overwritten. If the model exists already, FILE
    becomes its next version, under the manifest that is there.

    \b
    convq models add resnet.onnx --name resnet --labels classes.txt \\
        --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
    convq models add resnet-better.onnx --name resnet
    """
    from convq.repository.model_folders import NAME, ModelRepository, default_root  # noqa: PLC0415 - brings the engine's parts

    if not NAME.fullmatch(name):
        raise click.BadParameter(f"{name!r}; expected {NAME.pattern}", param_hint="--name")
    root = root or default_root()
    if (root / name / "manifest.toml").exists():
        document = _next_version(file, ModelRepository.open(root, [name])[name], version, given)
    elif (root / name).exists():
        raise ModelBroken(f"{root / name}: is there and holds no manifest.toml; give another name, or move it away")
    else:
        document = _new_model(file, root, name, version or 1, given)
    if for_programs(as_json=given["as_json"]):
        if assumed := _assumed(document):
            own = Path(document["path"]) / str(document["version"]) / "manifest.toml"
            print_line(f"{name}: assumed {', '.join(assumed)}; check {own}", err=True)
        print_json([document])
    else:
        _show(document)


# -- the two ways -----------------------------------------------------------------------------------------------------


def _new_model(file: Path, root: Path, name: str, version: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """Write the whole folder beside its place, check it there, and move it in one step."""
    from convq.repository.numbering import mark_of, record  # noqa: PLC0415 - brings pydantic's models

    labels = _read_labels(given["labels"])
    if labels is not None and given["task"] == "tensor":
        raise click.UsageError("--labels are names of classes; --task tensor has none")
    with _workshop(root) as workshop:
        folder = workshop / name
        report = _take_in(file, folder / str(version))
        found = _probed(folder / str(version) / MODEL, file, _wishes(given, labels), given["within_s"])
        (folder / "manifest.toml").write_text(found["manifest"], encoding="utf-8")
        if found["classes"]:
            names = labels or [f"class {index}" for index in range(found["classes"])]
            (folder / LABELS).write_text("".join(f"{label}\n" for label in names), encoding="utf-8")
        report = _kept(folder, version, report)
        document = _examined(folder, version, file, "", within_s=given["within_s"], slow=SLOW)
        record(folder, {version: mark_of(folder, version, only_own=True)})
        folder.rename(root / name)
    said = {"name": name, "version": version, "path": str(root / name)}
    return {**said, "report": report, "findings": found["findings"], "check": document}


def _next_version(file: Path, model: ModelFolder, version: int | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Check FILE under a copy of the manifest that is there, then move the version in one step."""
    from convq.repository.keeping import next_number, place, settle, was_given  # noqa: PLC0415 - brings pydantic's models

    chosen = version or next_number(model.path)
    if chosen > LAST_VERSION:
        raise click.UsageError(f"{model.name} has the last version that there can be, {LAST_VERSION}")
    if chosen in model.versions:
        raise click.UsageError(f"{model.name} has a version {chosen} already, and versions never change")
    if was_given(model.path, chosen):
        raise click.UsageError(f"{model.name} had a version {chosen} before, and numbers are never given twice")
    for key in ("labels", *WISHES):
        if given[key] is not None:
            refusal = (
                f"{model.name} is there already: its manifest holds for this version too; no --{key.replace('_', '-')}"
            )
            raise click.UsageError(f"{refusal}; {CLASSES}" if key in ("labels", "task") else refusal)
    with _workshop(model.path.parent) as workshop:
        folder = workshop / model.name
        report = _take_in(file, folder / str(chosen))
        _copy_surroundings(model, folder)
        report = _kept(folder, chosen, report)
        under = f"; the manifest that holds for it is {model.path / 'manifest.toml'}"
        document = _examined(folder, chosen, file, under, within_s=given["within_s"])
        settled = settle(model.path, partial(_objection, model.path, within_s=given["within_s"]))
        place(folder / str(chosen), model.path, chosen)
    said = {"name": model.name, "version": chosen, "path": str(model.path)}
    return {**said, "report": report, "findings": [], "check": document, "settled": settled}


def _examined(folder: Path, version: int, file: Path, under: str, **options: Any) -> dict[str, Any]:
    """`examined`, whose errors name the file that somebody brought: its copy in the workshop is gone by then."""
    try:
        return examined(folder, version, **options)
    except ConvqError as error:
        said = str(error).replace(str(folder.absolute() / str(version) / MODEL), str(file)) + under
        raise noted(type(error)(said), "\n".join(getattr(error, "__notes__", ()))) from None


def _kept(folder: Path, version: int, report: Mapping[str, Any]) -> dict[str, Any]:
    """Put what a version is made with into its folder, and its names into the report; returns that."""
    from convq.repository.keeping import keep_with  # noqa: PLC0415 - brings pydantic's models
    from convq.repository.version_files import HOLDS, REPORT  # noqa: PLC0415 - as above

    found = {**report, HOLDS: keep_with(folder, version)}
    text = json.dumps(found, indent=2, ensure_ascii=False) + "\n"
    (folder / str(version) / REPORT).write_text(text, encoding="utf-8")
    return found


def _objection(folder: Path, version: int, *, within_s: float) -> str:
    """Why a version cannot be served with the manifest that holds for it now; empty where it can."""
    from convq.importer.dry_run import dry_run  # noqa: PLC0415 - brings the engine's parts

    return dry_run(folder, version, within_s=within_s).reason


@contextmanager
def _workshop(root: Path) -> Iterator[Path]:
    """A folder on the same file system, which no service looks into, for as long as it takes."""
    from convq.repository.model_folders import with_way  # noqa: PLC0415 - brings the engine's parts
    from convq.repository.workshop import workshop  # noqa: PLC0415 - as above

    try:
        with workshop(root, ".adding-") as made:
            try:
                yield made
            except ModelBroken as error:
                said = ModelBroken(with_way(str(error), made, f"{root}/"))
                raise noted(said, "\n".join(getattr(error, "__notes__", ()))) from None
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise click.ClickException("somebody else has just added it; nothing was changed") from None
        raise click.ClickException(f"{root}: cannot be written: {error.strerror}") from None


def _take_in(file: Path, folder: Path) -> dict[str, Any]:
    """Write the two files of a version; returns the report."""
    from convq.repository.onnx_metadata import origin_of, read_whole  # noqa: PLC0415 - brings the engine's parts

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
    (folder / MODEL).write_bytes(content)
    (folder / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return report


def _probed(model: Path, file: Path, wishes: Overrides, within_s: float) -> dict[str, Any]:
    """What the graph shows. Raises ModelBroken, or SettingsError where a flag contradicts it."""
    from convq.importer.probing import probe  # noqa: PLC0415 - brings the engine's parts

    found = probe(model, str(file), wishes, within_s=within_s)
    if not found["ok"]:
        kind = SettingsError if found["exit_code"] == SettingsError.exit_code else ModelBroken
        reason = found["reason"]
        hint = f"; {SLOW}" if found.get("timed_out") else ""
        said = (reason if reason.startswith(str(file)) else f"{file}: {reason}") + hint
        raise noted(kind(said), found.get("traceback", ""))
    return found


def _wishes(given: Mapping[str, Any], labels: Sequence[str] | None) -> Overrides:
    from convq.importer.infer_input import Overrides  # noqa: PLC0415 - brings the engine's parts

    height, width = given["size"] or (None, None)
    plain = {key: given[key] for key in ("color", "scale", "mean", "std", "task", "max_batch")}
    return Overrides(labels=len(labels) if labels is not None else None, height=height, width=width, **plain)


def _read_labels(file: Path | None) -> list[str] | None:
    """One class name a line."""
    if file is None:
        return None
    from convq.repository.files import MOST_LABELS_BYTES, labels_of, read_given, repeated  # noqa: PLC0415 - as above

    try:
        labels = list(labels_of(read_given(file, MOST_LABELS_BYTES), file))
    except ModelBroken as error:
        raise SettingsError(str(error)) from None
    if twice := repeated(labels):
        print_line(f"{file}: several classes have one name: {twice}", err=True)
    return labels


def _copy_surroundings(model: ModelFolder, folder: Path) -> None:
    """What a version needs besides its own two files: manifest, labels, warm-up sample."""
    from convq.repository.files import (  # noqa: PLC0415 - brings the engine's parts
        MOST_BYTES,
        MOST_LABELS_BYTES,
        MOST_SAMPLE_BYTES,
        read_inside,
    )

    classes, warmup = model.manifest.classes, model.manifest.warmup
    named = {
        "manifest.toml": MOST_BYTES["manifest.toml"],
        classes.labels if classes else None: MOST_LABELS_BYTES,
        warmup.sample if warmup else None: MOST_SAMPLE_BYTES,
    }
    for name, most_bytes in named.items():
        if name is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(read_inside(model.path / name, model.path, most_bytes))


# -- for people -------------------------------------------------------------------------------------------------------


def _show(document: Mapping[str, Any]) -> None:
    findings = document["findings"]
    if findings:
        rows = [[_key(one), _text(one["value"]), one["why"], SURE[one["source"]]] for one in findings]
        print_table(["what", "value", "from", "how sure"], rows)
        print_line()
    if sources := document["report"].get("weights_from"):
        print_line(f"model.onnx now holds the weights of {', '.join(sources)} too.")
    show_examination(document["check"])
    print_line()
    print_line(f"{document['name']}, version {document['version']}, is in {document['path']}")
    if settled := document.get("settled"):
        these = ", ".join(map(str, settled))
        print_line(f"The manifest as it is now was copied into the folders of versions without one: {these}.")
    if assumed := _assumed(document):
        print_line(f"Check in its manifest.toml what was assumed: {', '.join(assumed)}.")
        own = f"{document['version']}/manifest.toml"
        print_line(f"What decides is its own, {own}; the model's manifest.toml is what the next version is made with.")
        print_line("The graph cannot tell mean, std and the order of colours: they are those of the training.")


def _assumed(document: Mapping[str, Any]) -> list[str]:
    """The keys of the manifest that nothing could tell for sure."""
    return [_key(one) for one in document["findings"] if one["source"] == "assumed"]


def _key(finding: Mapping[str, Any]) -> str:
    return f"{finding['of']}: {finding['key']}" if finding["of"] else f"{finding['table']}.{finding['key']}"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_text(part) for part in value)
    return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
