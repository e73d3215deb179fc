"""`convq models eval`: how right a version is on the user's own pictures, and whether another one is better."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convq.cli.connection import choose_model, connected, named_redis_options
from convq.cli.display.output import for_programs, json_option, print_json, print_line, progress
from convq.cli.models.folder import models_option, newest_whole, open_model
from convq.cli.models.scores import show_scores
from convq.cli.versions import version_option
from convq.errors import ConvqError
from convq.evaluation.classes import read_names, resolve
from convq.evaluation.dataset import Dataset, read_dataset
from convq.evaluation.tally import Failed, Said, Tally, compare
from convq.protocol import LAST_VERSION
from convq.queue import Address

if TYPE_CHECKING:
    from convq.client import Client
    from convq.engine.engine import Engine

INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class _Asked:
    """Who is asked: one version, or two, each with the names of its classes."""

    source: str
    """folder or served."""
    versions: Sequence[int]
    labels: Sequence[Sequence[str]]
    answers: Iterator[tuple[int, Said | Failed]]
    """Which of the versions, and what it says."""


@click.command("eval")
@click.argument("name")
@click.argument("data", metavar="DIR|CSV", type=click.Path(path_type=Path))
@version_option("Which version (the newest that is whole; with --redis, the one that answers).")
@click.option("--against", metavar="M", type=click.IntRange(1, LAST_VERSION), help="Compare with this version.")
@click.option(
    "--classes",
    "names_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="What the data calls the classes, a line each in the model's order.",
)
@click.option(
    "--at-least", metavar="SHARE", type=click.FloatRange(0, 1), help="End with 1 below this accuracy, like 0.95."
)
@click.option(
    "--worst", metavar="N", type=click.IntRange(0, 10_000), default=10, show_default=True, help="Pictures shown."
)
@models_option
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="For the folder."
)
@named_redis_options("Ask the service on this server, through its queue, and not the model folder.", by_variable=False)
@click.option(
    "--timeout", metavar="S", type=float, default=60.0, show_default=True, help="Longest wait for the service."
)
@json_option
@click.pass_context
def evaluate(context: click.Context, /, name: str, data: Path, address: Address | None, **given: Any) -> None:
    """How right a model is on your own pictures.

    DIR holds a folder for each class, named like it; pictures may lie at any depth below. Instead it may be a CSV file with
    a path, relative to the file, and a class in each line. A name that is no class of the model ends it, with the nearest;
    the index of a class will do where no class has a number for its name. For other names, give --classes FILE.

    The version in the model folder is asked, in this process; with --redis URL the one that is served, through the queue.
    --against M asks a second version about the same pictures and shows where the two differ. p says how probable so uneven
    a split would be if both were equally good (McNemar's exact test).

    Ends with 0 when every picture was answered; with 1 when one could not be, which is said with the reason and does not
    count as wrong, and below --at-least; with 2 where the data cannot be used. Ctrl-C shows what there is so far.

    \b
    convq models eval lenet digits/
    convq models eval lenet digits.csv --version 2 --against 1
    convq models eval lenet digits/ --redis redis://10.0.0.5:6379/0 --json | jq .top1.share
    """
    if given["against"] is not None and given["against"] == given["version"]:
        raise click.UsageError("--against names the version that is evaluated anyway")
    _one_source(context, address)
    dataset = read_dataset(data)
    with ExitStack() as stack:
        asks = _of_folder(name, dataset, given) if address is None else _of_service(name, dataset, address, given)
        asked = stack.enter_context(asks)
        tallies, notes = _tallies(name, dataset, asked, given)
        trouble = _gather(asked, tallies, len(dataset))
    document = _document(name, data, dataset, asked, tallies, complete=trouble is None)
    document["notes"] += notes
    if for_programs(as_json=given["as_json"]):
        print_json([document])
    else:
        show_scores(document)
    context.exit(_exit_code(document, trouble, given["at_least"]))


def _one_source(context: click.Context, address: Address | None) -> None:
    """Raise click.UsageError for flags that belong to the model folder, beside --redis."""
    if address is None:
        return
    for name, flag in (("root", "--models"), ("device", "--device")):
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{flag} is about the model folder, and --redis asks a service: give one of them")


# -- who is asked --------------------------------------------------------------------------------------------------------


@contextmanager
def _of_folder(name: str, dataset: Dataset, given: dict[str, Any]) -> Iterator[_Asked]:
    from convq.evaluation.local import answers, load  # noqa: PLC0415 - brings the engine

    folder = open_model(given["root"], name)
    for version in filter(None, (given["version"], given["against"])):
        if version not in folder.versions:
            raise click.UsageError(f"{name} has no version {version}; there is {', '.join(map(str, folder.versions))}")
    version = given["version"]
    if version is None:
        version, broken = newest_whole(folder)
        for number, reason in broken.items():
            print_line(f"version {number} is passed over: {reason}", err=True)
    versions = [version] if given["against"] is None else [version, given["against"]]
    if len(set(versions)) < len(versions):
        raise click.UsageError("--against names the version that is evaluated anyway")
    engines: list[Engine] = [load(folder.path, one, given["device"]) for one in versions]
    for engine in engines:
        if engine.classes is None:
            raise click.UsageError(
                f"{name}, version {engine.version}, yields no classes: there is nothing to be right about"
            )
    said = answers(engines, ((number, dataset.path(number)) for number in range(len(dataset))))
    yield _Asked("folder", versions, [engine.labels for engine in engines], said)


@contextmanager
def _of_service(name: str, dataset: Dataset, address: Address, given: dict[str, Any]) -> Iterator[_Asked]:
    with connected(address, name) as client:
        choose_model(client, name)
        served = client.served()[name]
        if not served.get("classes"):
            raise click.UsageError(f"{name} yields no classes: there is nothing to be right about")
        wanted = [given["version"] or served["serving"], *([given["against"]] if given["against"] else [])]
        for version in wanted:
            if version not in served["versions"]:
                there = ", ".join(map(str, served["versions"]))
                raise click.UsageError(
                    f"version {version} of {name} is not served; there is {there} (versions.keep keeps more)"
                )
        labels = [_labels(client, name, served["labels"], version, dataset, given["timeout"]) for version in wanted]
        said = _in_turn(client, name, wanted, dataset, given["timeout"])
        try:
            yield _Asked("served", wanted, labels, said)
        finally:
            said.close()  # withdraws what is on its way


def _labels(client: Client, name: str, count: int, version: int, dataset: Dataset, timeout_s: float) -> Sequence[str]:
    from convq.evaluation.served import learn  # noqa: PLC0415

    learnt = learn(client, name, count, version, map(dataset.path, range(len(dataset))), timeout_s)
    if learnt is None:
        raise click.ClickException(f"none of the {len(dataset)} pictures was answered: nothing is known of {name}")
    return learnt


def _in_turn(client: Client, name: str, versions: Sequence[int], dataset: Dataset, timeout_s: float) -> Any:
    """One version after the other, as each job is for one."""
    from convq.evaluation.served import answers  # noqa: PLC0415

    for place, version in enumerate(versions):
        pictures = ((number, dataset.path(number)) for number in range(len(dataset)))
        for answer in answers(client, name, version, pictures, timeout_s):
            yield place, answer


# -- what comes of it ----------------------------------------------------------------------------------------------------


def _tallies(name: str, dataset: Dataset, asked: _Asked, given: dict[str, Any]) -> tuple[list[Tally], list[str]]:
    """One for each version, and what is to be said of names. Raises BadDataset."""
    made, notes = [], list[str]()
    for version, labels in zip(asked.versions, asked.labels, strict=True):
        whose = name if len(asked.versions) == 1 else f"{name}, version {version}"
        names = labels if given["names_file"] is None else read_names(given["names_file"], labels)
        found, remarks = resolve(dataset.labels, names, whose)
        notes = notes or remarks
        made.append(Tally([found[label] for label in dataset.labels], labels, given["worst"]))
    return made, notes


def _gather(asked: _Asked, tallies: Sequence[Tally], pictures: int) -> BaseException | None:
    """Count all answers; what ended that early, where something did."""
    answers: Iterable[tuple[int, Said | Failed]] = asked.answers
    try:
        for place, answer in progress(answers, pictures * len(tallies), "evaluating"):
            tallies[place].add(answer)
    except (KeyboardInterrupt, ConvqError) as trouble:
        return trouble
    return None


def _document(
    name: str, data: Path, dataset: Dataset, asked: _Asked, tallies: Sequence[Tally], *, complete: bool
) -> dict[str, Any]:
    document = {
        "model": name,
        "version": asked.versions[0],
        "source": asked.source,
        "data": str(data),
        "pictures": len(dataset),
        "complete": complete,
        "notes": list(dataset.notes),
        **tallies[0].document(dataset.names),
    }
    if len(tallies) > 1:
        other = tallies[1].document(dataset.names)
        kept = {key: other[key] for key in ("answered", "failed", "top1", "top5", "classes")}
        document["against"] = {"version": asked.versions[1], **kept, **compare(tallies[0], tallies[1], dataset.names)}
    return document


def _exit_code(document: dict[str, Any], trouble: BaseException | None, at_least: float | None) -> int:
    """Raises what ended the evaluation early, unless that was the user."""
    if isinstance(trouble, KeyboardInterrupt):
        print_line("convq: interrupted: these are the pictures that were answered until then", err=True)
        return INTERRUPTED
    if trouble is not None:
        raise trouble
    failed = document["failed"]["count"] + document.get("against", {"failed": {"count": 0}})["failed"]["count"]
    if failed:
        raise click.ClickException(f"{failed} of {document['pictures']} pictures were not answered: see failed")
    share = document["top1"]["share"]
    if at_least is not None and share < at_least:
        raise click.ClickException(f"the accuracy is {share:.2%}; --at-least wants {at_least:.2%}")
    return 0
