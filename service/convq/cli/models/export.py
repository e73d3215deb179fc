"""`convq export`: from a network in PyTorch to a version that is proven and can be served, without writing a file."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convq.cli.display.output import for_programs, json_option, new_console, print_json, print_line, print_table
from convq.cli.models.add import TASKS, how_sure, shown_value
from convq.cli.models.flags import ACTIVATIONS, as_scale, as_size, per_channel, placing_options
from convq.cli.models.folder import models_option
from convq.cli.versions import version_option

if TYPE_CHECKING:
    from convq.importer.exporting import Exported, ExportRequest, Preparation, Step
    from convq.importer.findings import Finding

KEYS = (
    *("color", "scale", "mean", "std", "labels", "task", "like", "activation", "max_batch"),
    *("resize", "short_side", "long_side", "align", "pad_value", "interpolation", "multiple_of"),
)


def _as_arguments(_context: click.Context, _option: click.Parameter, given: Sequence[str]) -> dict[str, Any]:
    """`NAME=VALUE`, each value a Python literal such as 10, 0.5, True or (1, 2), or else the text itself."""
    found: dict[str, Any] = {}
    for one in given:
        name, separator, text = one.partition("=")
        if not separator or not name.isidentifier():
            raise click.BadParameter(f"{one!r}; expected NAME=VALUE, such as num_classes=10")
        try:
            found[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            found[name] = text
    return found


def _as_sides(context: click.Context, option: click.Parameter, value: str | None) -> tuple[int, int] | str | None:
    """`224`, `480x640` (height first), or `any`."""
    if value in (None, "any"):
        return value
    return as_size(context, option, f"{value}x{value}" if value.isdecimal() else value)


def network_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What says which network, and as what it is kept."""
    file = click.Path(dir_okay=False)
    for option in (
        click.argument("network", metavar="NETWORK"),
        click.option("--weights", metavar="FILE|none", type=file, help="none: random ones, to try it out."),
        click.option(
            "--arg",
            "arguments",
            metavar="NAME=VALUE",
            multiple=True,
            callback=_as_arguments,
            help="For its constructor.",
        ),
        click.option("--preset", metavar="NAME", help="Which of torchvision's weights says how images are prepared."),
        click.option("--name", metavar="NAME", help="What jobs call the model (the network's name)."),
        models_option,
        version_option("The version's number (the next one)."),
        click.option("--force", is_flag=True, help="Replace a version that exists, which nobody has served yet."),
    )[::-1]:
        command = option(command)
    return command


def preparation_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What says how images are prepared and what outputs mean: of models that have no manifest yet."""
    file = click.Path(exists=True, dir_okay=False)
    for option in (
        click.option("--size", metavar="N|HxW|any", callback=_as_sides, help="Pixels of the network's input."),
        click.option("--color", type=click.Choice(["rgb", "bgr", "gray"]), help="The order of its channels."),
        placing_options,
        click.option(
            "--scale", metavar="X", type=float, callback=as_scale, help="Levels 0 to 255 are multiplied by this,"
        ),
        click.option(
            "--mean", metavar="A,B,C", callback=per_channel, help="then this is subtracted (above 1: of levels),"
        ),
        click.option("--std", metavar="A,B,C", callback=per_channel, help="then divided by this."),
        click.option("--labels", metavar="FILE", type=file, help="Names of the classes, one a line."),
        click.option(
            "--task",
            type=click.Choice(TASKS),
            help="What the (first) output means.",
        ),
        click.option("--like", metavar="FAMILY", help="Its family of detectors, such as yolo8 or detr."),
        click.option("--activation", type=click.Choice(ACTIVATIONS), help="What makes scores of its values."),
        click.option(
            "--max-batch", metavar="N", type=click.IntRange(1, 4096), help="Jobs in one call of the network (64)."
        ),
    )[::-1]:
        command = option(command)
    return command


@click.command()
@network_options
@preparation_options
@json_option
def export(**given: Any) -> None:
    """Bring a network from PyTorch: export it to ONNX, prove that it computes the same, add it to the models.

    NETWORK is torchvision.models:NAME, timm:NAME, FILE.py:CLASS, or MODULE:NAME of any installed package. How images are
    prepared is taken from torchvision's weights.transforms() and timm's pretrained_cfg, where these know the network; what
    nothing can tell is assumed and printed, with the flag that settles it. Nothing is written unless onnxruntime and
    PyTorch agree. If the model exists already, this becomes its next version, under the manifest that is there.

    Needs PyTorch: the extra `models`. It runs your code, and torch, in a process of its own. A file of weights runs nothing:
    a state dict (.safetensors, .pth, .pt, .ckpt), also inside a checkpoint of Lightning or your own.

    \b
    convq export torchvision.models:resnet50 --weights resnet50.pth
    convq export torchvision.models:resnet18 --weights mine.ckpt --arg num_classes=10 \\
        --labels classes.txt --name defects
    convq export timm:mobilenetv3_small_050.lamb_in1k --weights model.safetensors --name small
    convq export net.py:Net --weights net.pth --size 224 --mean 0.5 --std 0.25
    convq export torchvision.models:resnet18 --weights none           # random, to try it out
    """
    from convq.importer.exporting import export_apart  # noqa: PLC0415 - brings numpy

    with bar() as step:
        made = export_apart(request_of(given), step)
    show(made, as_json=given["as_json"])


def request_of(given: Mapping[str, Any]) -> ExportRequest:
    """What the options ask for."""
    from convq.importer.exporting import ExportRequest  # noqa: PLC0415 - brings numpy
    from convq.repository.model_folders import default_root  # noqa: PLC0415 - as above

    root: Path = given["root"] or default_root()
    keys = ("network", "weights", "preset", "arguments", "name", "version", "force")
    asked = {key: given[key] for key in keys}
    return ExportRequest(root=str(root.absolute()), preparation=_preparation(given), **asked)


def _preparation(given: Mapping[str, Any]) -> Preparation:
    from convq.importer.exporting import Preparation  # noqa: PLC0415 - brings numpy

    any_size = given["size"] == "any"
    said = {key: given[key] for key in KEYS}
    return Preparation(size=None if any_size else given["size"], any_size=any_size, **said)


@contextmanager
def bar() -> Iterator[Step]:
    """A progress bar on standard error, where that is a terminal; what is yielded moves it on to what is done next."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415 - not needed in a pipe

    console = new_console(stderr=True)
    columns = BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}")
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("loading", total=None, completed=-1)  # the first step begins, it has not been done
        yield lambda doing, steps: progress.update(task, total=steps, advance=1, description=doing)


def show(made: Exported, *, as_json: bool) -> None:
    """What was made and what was assumed, as a table, or as JSON with the assumptions on standard error."""
    for note in made.notes:
        print_line(f"{made.name}: {note}", err=True)
    for line in _assumptions(made.assumed):
        print_line(f"{made.name}: assumed {line}", err=True)
    if made.settled:
        these = ", ".join(map(str, made.settled))
        print_line(
            f"{made.name}: versions without a manifest of their own got a copy of the model's: {these}", err=True
        )
    if for_programs(as_json=as_json):
        document = made.to_json()
        document["report"] = {key: value for key, value in made.report.items() if key != "layers"}
        print_json([document])
        return
    if made.findings:
        rows = [[place, value, one.why, how_sure(one)] for one in made.findings for place, value in [_shown(one)]]
        print_table(["what", "value", "from", "how sure"], rows)
        print_line()
    worst = max(made.report["max_difference"].values())
    print_line(
        f"{made.name}, version {made.version}, is in {made.path}; onnxruntime and PyTorch differ by {worst:.1e} at most"
    )
    print_line(f"serve it: convq serve --models {made.path.parent} --only {made.name}")


def _assumptions(assumed: Sequence[Finding]) -> Iterator[str]:
    """One line for everything that was assumed for one reason: the values, the reason, the flags that settle it."""
    from convq.importer.findings import flag_of  # noqa: PLC0415 - brings numpy

    for why in dict.fromkeys(one.why for one in assumed):
        same = [one for one in assumed if one.why == why]
        flags = dict.fromkeys(map(flag_of, same))
        settle = "settle it" if len(flags) > 1 else "settles it"
        yield f"{', '.join(map(_said, same))}: {why}; {', '.join(flags)} {settle}"


def _said(one: Finding) -> str:
    place, value = _shown(one)
    return f"{place} = {value}" if one.value is not None else place


def _shown(one: Finding) -> tuple[str, str]:
    """Where a value stands in the manifest, and what it is."""
    from convq.importer.manifest_writer import place_of  # noqa: PLC0415 - brings numpy

    return place_of(one), shown_value(one.value)
