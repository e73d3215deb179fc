r"""Exports a network to ONNX, proves that it is the same network, and adds it to a model repository as a version.

A network that convq has never seen, in one command; a service that watches the folder then serves it:

    python models/export.py resnet.py:ResNet18 --weights resnet18.pth --size 224 --labels imagenet.txt \
        --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --resize crop --short-side 256

The next version of a model that has a manifest, which then says all of that, with the accuracy on a whole test set:

    python models/export.py models/lenet/net.py:LeNet --weights models/lenet/weights.safetensors --data DIR

A network with fixed weights, image in, image out, any size:

    python models/export.py blur.py:Blur --size any --image

The graph takes the manifest's input. Where that is uint8 the normalisation is inside: by the network's own `mean` and
`std` (for pixels from 0 to 1) if it has them, otherwise the network takes uint8 itself. The names under the manifest's
[feature_maps] are those of submodules, such as conv1 = "features.0": what they give goes into features.onnx beside
model.onnx. The manifest, its labels and its sample are copied into the version's folder: what is changed in the model's
later holds for later versions. Nothing is written when onnxruntime and PyTorch differ by more than 1e-4 at a batch of 1, 2, 7 or the
manifest's maximum: absolutely for class scores, otherwise as a share of the output's largest number if that is above
1. A version is immutable: an existing one is only replaced with --force, which is for versions that nobody has served
yet.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

try:
    from drafts import LABELS, Draft, guesses, manifest_text, name_of  # type: ignore[import-not-found]
    from networks import Refused, load  # type: ignore[import-not-found]
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from torch import nn
    from versions import Step, accuracy, make, publish, steps, write_report  # type: ignore[import-not-found]
except ModuleNotFoundError as missing:
    sys.exit(f"export: {missing.name} is not installed; run in the checkout: pip install -e '.[models]'")

from convq.errors import ConvqError
from convq.importer.dry_run import dry_run
from convq.printable import strict_json
from convq.protocol import LAST_VERSION, VERSION_DIGITS
from convq.repository.keeping import next_number, settle, was_given
from convq.repository.manifest import FILE
from convq.repository.model_folders import NAME
from convq.repository.workshop import workshop

HERE = Path(__file__).resolve().parent
INTERRUPTED = 130  # as shells say it
# Flags that write a manifest, besides --size: a model that has one says these things there.
MEAN = "normalisation before the graph, for pixels from 0 to 1; a mean or std above 1 means levels from 0 to 255"
DRAFT = ("color", "mean", "std", "resize", "short_side", "labels", "image")


def main() -> None:
    """Load, export, compare, report."""
    args = arguments()
    try:
        drafted = not (args.models / (args.name or name_of(args.net, args.models)) / FILE).exists()
        name, report = export(args)
    except (Refused, ConvqError) as err:
        if args.traceback:
            raise
        sys.exit(f"export: {err}")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    for line in guesses((args.models / name / FILE).read_text(encoding="utf-8")) if drafted else ():
        print(f"guessed in {args.models / name / FILE}: {line}", file=sys.stderr)
    print(f"serve it: convq serve --models {args.models} --only {name}", file=sys.stderr)
    print(strict_json({key: value for key, value in report.items() if key != "layers"}, indent=2))


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, as `--help` explains it; that of this process unless `given`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("net", metavar="FILE.py:NAME", help="a class, or a function, that makes the network without arguments")
    add("--weights", type=Path, metavar="FILE", help=".safetensors, .pth or .pt; not for networks with fixed weights")
    add("--untrained", action="store_true", help="export the random weights of the constructor")
    add("--name", help="the model's name and folder; default: the folder of FILE.py, or the name of the class")
    add("--version", type=version, metavar="N", help="default: the next one")
    add("--models", type=Path, default=HERE, metavar="DIR", help="the model repository; default: that of this file")
    add("--force", action="store_true", help="replace a version that exists")
    add("--data", type=Path, metavar="DIR", help="IDX files: measures the accuracy on the whole test set")
    add("--dataset", choices=["mnist", "fashion"], default="mnist")
    add("--traceback", action="store_true", help="show the whole of an error")
    draft = parser.add_argument_group("for a model that has no manifest.toml yet").add_argument
    draft(
        "--size", type=size, default=argparse.SUPPRESS, metavar="N|HxW|any", help="pixels of the graph's input; needed"
    )
    draft("--color", choices=["gray", "rgb", "bgr"], help="default: by the channels of the first convolution")
    draft("--mean", type=triple, metavar="R[,G,B]", help=MEAN)
    draft("--std", type=triple, metavar="R[,G,B]")
    draft("--resize", choices=["stretch", "crop", "letterbox", "none"], help="default: stretch; none for any size")
    draft("--short-side", type=int, metavar="PX", help="with --resize crop")
    draft("--labels", type=Path, metavar="FILE", help="one class name a line; makes it a classifier")
    draft("--image", action="store_true", help="its first output is an image")
    return parser.parse_args(given)


def version(text: str) -> int:
    """A number that the folder of a version may have."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[: VERSION_DIGITS + 1]) <= LAST_VERSION:
        raise argparse.ArgumentTypeError(f"{text[:40]!r}; expected a number from 1 to {LAST_VERSION}")
    return int(text)


def size(text: str) -> tuple[int, int] | None:
    """`224`, `480x640` (height first), or `any`."""
    if text == "any":
        return None
    height, _, width = text.partition("x")
    return int(height), int(width or height)


def triple(text: str) -> tuple[float, ...]:
    """`0.5` or `0.485,0.456,0.406`."""
    return tuple(map(float, text.split(",")))


def export(args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """All of it, in a folder beside the others that vanishes unless everything went well: the model's name, the report.

    Raises Refused, or what convq raises for a model that it cannot serve.
    """
    name = args.name or name_of(args.net, args.models)
    if not NAME.fullmatch(name):
        raise Refused(f"'{name}' is no name for a model; expected --name [a-z0-9][a-z0-9_-]{{0,63}}")
    folder: Path = args.models / name
    number = args.version or next_number(folder)
    if was_given(folder, number) and not args.force:
        there = "exists" if (folder / str(number)).exists() else "was given before"
        raise Refused(
            f"{folder / str(number)} {there}, and versions are immutable: without --version it is the next one"
        )
    net = load(args.net, args.weights, untrained=args.untrained)
    with workshop(args.models, ".export-") as scratch:
        trial = scratch / name
        lay_out(net, folder, trial, args)
        try:
            with bar(steps(trial)) as step:
                report: dict[str, Any] = make(net, trial, number, step)
        except ConvqError as err:
            raise Refused(str(err).replace(str(trial), str(folder))) from err
        if args.data:
            report["accuracy"] = accuracy(trial, number, args.data, args.dataset)
            write_report(trial / str(number), report)
        if (folder / FILE).exists():
            for settled in settle(folder, lambda one: dry_run(folder, one).reason):
                print(f"version {settled} had no {FILE} of its own: it has a copy of the model's now", file=sys.stderr)
        publish(trial, folder, number)
    return name, report


def lay_out(net: nn.Module, folder: Path, trial: Path, args: argparse.Namespace) -> None:
    """The model's folder without its versions, with a manifest: its own, or one that is drafted now. Raises Refused."""
    if folder.is_dir():
        shutil.copytree(folder, trial, ignore=lambda _where, names: [one for one in names if one.isdecimal()])
    else:
        trial.mkdir()
    given = {flag: value for flag, value in vars(args).items() if flag in DRAFT and value}
    if (trial / FILE).exists():
        if given or "size" in args:
            flags = ", ".join(f"--{flag.replace('_', '-')}" for flag in [*given, *(["size"] if "size" in args else [])])
            raise Refused(f"{folder / FILE} says how images are prepared; change it there, without {flags}")
        return
    if "size" not in args:
        raise Refused(
            f"{folder} has no {FILE} yet: say --size N, HxW or any, and what else --help names for a new model"
        )
    (trial / FILE).write_text(manifest_text(net, Draft(size=args.size, **given)), encoding="utf-8")
    if args.labels:
        shutil.copyfile(args.labels, trial / LABELS)
    if not (trial / "net.py").exists():
        shutil.copyfile(args.net.rpartition(":")[0] or args.net, trial / "net.py")


@contextmanager
def bar(total: int) -> Iterator[Step]:
    """A progress bar on standard error; what is yielded moves it on to what is done next."""
    columns = BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}")
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total, completed=-1)  # the first step begins, it has not been done
        yield lambda text: progress.update(task, advance=1, description=text)


if __name__ == "__main__":
    main()
