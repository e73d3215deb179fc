"""`convq models add`: an ONNX file becomes a model of the repository, with a manifest inferred from its graph."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convq.cli.display.output import for_programs, json_option, print_json, print_line, print_table
from convq.cli.models.check import show_examination, within_option
from convq.cli.models.flags import ACTIVATIONS, as_scale, as_size, per_channel, placing_options
from convq.cli.models.folder import models_option
from convq.cli.versions import version_option
from convq.errors import ModelBroken, RequestRefused, SettingsError
from convq.printable import brief

if TYPE_CHECKING:
    from convq.importer.adding import Added
    from convq.importer.findings import Finding, Overrides, Value

TASKS = ["detect", "segment", "pose", "classes", "image", "text", "embed", "depth", "tensor"]
KNOWN = (
    *("color", "scale", "mean", "std", "task", "like", "activation", "max_batch"),
    *("resize", "short_side", "long_side", "align", "pad_value", "interpolation", "multiple_of"),
)
LONGEST_VALUE = 60
"""Characters of a value in a table."""
SURE = {
    "given": "you said so",
    "preset": "its package says so",
    "graph": "the graph says so",
    "measured": "it was tried",
    "assumed": "CHECK THIS",
}


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
@placing_options
@click.option(
    "--task",
    type=click.Choice(TASKS),
    help="What comes out: objects (detect; segment with masks, pose with keypoints), classes, an image, …; tensor: numbers.",
)
@click.option("--like", metavar="FAMILY", help="Its family of detectors, such as yolo8, detr or scrfd.")
@click.option("--activation", type=click.Choice(ACTIVATIONS), help="What makes scores of its values.")
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

    Detectors of families that are known by their metadata or by the shapes of their outputs get [detections]; --like names
    the family where that is not so.

    \b
    convq models add yolo11n.onnx --name yolo
    convq models add faces.onnx --name faces --like scrfd --size 640x640
    convq models add resnet.onnx --name resnet --labels classes.txt \\
        --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
    convq models add resnet-better.onnx --name resnet
    """
    from convq.importer.adding import AddRequest, add_model  # noqa: PLC0415 - brings the engine's parts
    from convq.repository.model_folders import default_root  # noqa: PLC0415 - as above

    names = _read_labels(given["labels"], is_alphabet=given["task"] == "text")
    known, within_s = _known(given), given["within_s"]
    request = AddRequest(file, root or default_root(), name, version, names, known, within_s)
    try:
        added = add_model(request)
    except RequestRefused as error:
        raise _wrong_usage(error) from None
    if for_programs(as_json=given["as_json"]):
        if added.assumed:
            own = added.path / str(added.version) / "manifest.toml"
            print_line(f"{name}: assumed {', '.join(added.assumed)}; check {own}", err=True)
        print_json([_document(added)])
    else:
        _show(added)


def _wrong_usage(error: RequestRefused) -> click.UsageError:
    if error.field == "name":
        return click.BadParameter(str(error), param_hint="--name")
    return click.UsageError(str(error))


def _known(given: Mapping[str, Any]) -> Overrides:
    """What the flags say of the graph."""
    from convq.importer.findings import Overrides  # noqa: PLC0415 - brings the engine's parts

    height, width = given["size"] or (None, None)
    return Overrides(height=height, width=width, **{key: given[key] for key in KNOWN})


def _read_labels(file: Path | None, *, is_alphabet: bool) -> list[str] | None:
    """One class name a line, or of an alphabet one sign, which may be a blank."""
    if file is None:
        return None
    from convq.repository.files import MOST_LABELS_BYTES, alphabet_of, labels_of, read_given, repeated  # noqa: PLC0415 - as above

    try:
        content = read_given(file, MOST_LABELS_BYTES)
        if is_alphabet:
            return list(alphabet_of(content, file))
        labels = list(labels_of(content, file))
    except ModelBroken as error:
        raise SettingsError(str(error)) from None
    if twice := repeated(labels):
        print_line(f"{file}: several classes have one name: {twice}", err=True)
    return labels


def _document(added: Added) -> dict[str, Any]:
    """For programs."""
    from convq.importer.findings import as_json  # noqa: PLC0415 - brings the engine's parts

    said = {"name": added.name, "version": added.version, "path": str(added.path)}
    made = {"report": added.report, "findings": as_json(added.findings), "check": added.check}
    return {**said, **made, **({} if added.settled is None else {"settled": added.settled})}


# -- for people -------------------------------------------------------------------------------------------------------


def _show(added: Added) -> None:
    from convq.importer.manifest_writer import place_of  # noqa: PLC0415 - brings the engine's parts

    if added.findings:
        rows = [[place_of(one), shown_value(one.value), one.why, how_sure(one)] for one in added.findings]
        print_table(["what", "value", "from", "how sure"], rows)
        print_line()
    if sources := added.report.get("weights_from"):
        print_line(f"model.onnx now holds the weights of {', '.join(sources)} too.")
    show_examination(added.check)
    print_line()
    print_line(f"{added.name}, version {added.version}, is in {added.path}")
    if added.settled:
        these = ", ".join(map(str, added.settled))
        print_line(f"The manifest as it is now was copied into the folders of versions without one: {these}.")
    if added.assumed:
        print_line(f"Check in its manifest.toml what was assumed: {', '.join(added.assumed)}.")
        own = f"{added.version}/manifest.toml"
        print_line(f"What decides is its own, {own}; the model's manifest.toml is what the next version is made with.")
        print_line("The graph cannot tell mean, std and the order of colours: they are those of the training.")


def how_sure(finding: Finding) -> str:
    """For a table: where a value is from, and of what was assumed the flag that would settle it."""
    from convq.importer.findings import flag_of  # noqa: PLC0415 - brings numpy

    sure, flag = SURE[finding.source], flag_of(finding)
    return f"{sure}: {flag}" if finding.source == "assumed" and flag.startswith("--") else sure


def shown_value(value: Value) -> str:
    """A value of the manifest in a table."""
    if isinstance(value, tuple):
        return brief(", ".join(shown_value(part) for part in value), LONGEST_VALUE)
    return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
