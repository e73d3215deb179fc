"""`convq dead`: jobs that killed their workers; look at them, put them back, throw them away."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from convq.cli.connection import choose_model, connected, model_option, redis_options
from convq.cli.output import for_programs, json_option, print_facts, print_json, print_line, print_table, progress
from convq.client import Client
from convq.queue import Address, Shard
from convq.queue.dead import DeadLetters, Letter

UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
NAMED = 10
"""So many entries are named in a message."""
IDS = click.argument("ids", nargs=-1, metavar="[ID...]")


class Age(click.ParamType):  # type: ignore[type-arg]  # generic in click's stubs of late, not when it runs
    """A number and a unit, like 90s, 30m, 12h or 7d, as milliseconds."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """See click."""
        match = re.fullmatch(r"(\d{1,9})([smhd])", value)
        if not match:
            self.fail(f"{value!r} is no age; expected a number and s, m, h or d, like 12h", param, ctx)
        return int(match[1]) * UNITS_MS[match[2]]


@click.group()
def dead() -> None:
    """Look after dead letters: jobs that killed their worker twice, kept whole.

    Their clients were answered "poisoned". What is put back gets a second, final answer.

    \b
    convq dead list
    convq dead requeue --all --model lenet
    """


@dead.command("list")
@redis_options
@click.option("--model", metavar="NAME", default=None, help="Which model; every one that is served without it.")
@json_option
def list_letters(address: Address, model: str | None, *, as_json: bool) -> None:
    """List dead letters, newest first. The images stay on the server.

    \b
    convq dead list
    convq dead list --model lenet --json | jq -r .reason | sort | uniq -c
    """
    with connected(address, model) as client:
        names = [model] if model else sorted(client.served()) or [choose_model(client, None)]
        programs, rows = for_programs(as_json=as_json), []
        for name in names:
            with _letters(address, name) as letters:
                for letter in letters.newest_first():
                    if programs:
                        print_json([_document(letter)])
                    else:
                        rows.append(_row(letter))
    if rows:
        print_table(["id", "model", "job", "when (UTC)", ">bytes", "reason", "message"], rows)
    elif not programs:
        print_line(f"no dead letters of {', '.join(names)}", err=True)


@dead.command()
@click.argument("letter_id", metavar="ID")
@redis_options
@model_option
@click.option("--save", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), help="Write its image there.")
@json_option
def show(letter_id: str, address: Address, model: str | None, save: Path | None, *, as_json: bool) -> None:
    """Show one dead letter: why it is there, and all fields of the job.

    \b
    convq dead show 1763800000000-0
    convq dead show 1763800000000-0 --model lenet --save culprit.png
    """
    with _chosen(address, model) as (name, letters):
        letter = letters.find(letter_id)
        if letter is None:
            raise click.ClickException(_not_there([letter_id], 1, name))
        if save is not None:
            payload = letters.payload(letter_id)
            if payload is None:
                raise click.ClickException(
                    f"dead letter {letter_id} has no payload to save; it holds neither image nor tensor"
                )
            _write(save, payload)
    if for_programs(as_json=as_json):
        print_json([_document(letter) | {"fields": letter.fields}])
        return
    what = f"{letter.bytes:,} bytes" + (f", written to {save}" if save else "; --save FILE writes it")
    facts = {"letter": letter.id, "job": letter.job, "model": letter.model, "priority": letter.priority}
    facts |= {"when": f"{_when(letter)} UTC", "reason": letter.reason, "message": letter.message, "entry": letter.entry}
    print_facts(facts | {letter.payload or "payload": what} | letter.fields)


@dead.command()
@IDS
@click.option("--all", "every", is_flag=True, help="All of the model's dead letters.")
@redis_options
@model_option
@json_option
def requeue(ids: tuple[str, ...], address: Address, model: str | None, *, every: bool, as_json: bool) -> None:
    """Put dead letters back into the queue, as the same jobs: id, priority, fields and image.

    An old answer that nobody has read is taken back, and the time to live starts anew. The limits of the queue don't
    count here. Of two who requeue the same letter, one does. An entry that convq has not written is left and named, and
    the command ends with 1.

    \b
    convq dead requeue 1763800000000-0
    convq dead requeue --all --model lenet
    """
    _one_way(bool(ids), every)
    with _chosen(address, model) as (name, letters):
        # All that is there now, the oldest first; what dies again meanwhile is a new letter, and not requeued twice.
        wanted = [letter.id for letter in letters.newest_first()][::-1] if every else list(dict.fromkeys(ids))
        missing: list[str] = []
        foreign: list[str] = []
        programs, rows = for_programs(as_json=as_json), []
        for done in progress(letters.requeue(wanted), len(wanted), "requeueing"):
            state = "requeued" if done.entry else "no dead letter" if done.foreign else "not there"
            if programs:
                print_json([{"id": done.id, "job": done.job, "entry": done.entry, "model": name, "state": state}])
            else:
                rows.append([done.id, done.job or "", done.entry or "", state])
            if not done.entry:
                (foreign if done.foreign else missing).append(done.id)
    if rows:
        print_table(["letter", "job", "entry", "state"], rows)
    elif not programs:
        print_line(f"no dead letters of {name}", err=True)
    wrong = [_foreign(foreign, len(wanted), name)] if foreign else []
    if missing and not every:  # with --all another requeue was quicker, and all is as it was asked for
        wrong.append(_not_there(missing, len(wanted), name))
    if wrong:
        raise click.ClickException("; ".join(wrong))


@dead.command()
@IDS
@click.option("--all", "every", is_flag=True, help="All of the model's dead letters.")
@click.option(
    "--older-than", "older_ms", type=Age(), metavar="AGE", help="Those that died longer ago: 90s, 30m, 12h, 7d."
)
@redis_options
@model_option
@json_option
def purge(
    ids: tuple[str, ...], address: Address, model: str | None, *, every: bool, older_ms: int | None, as_json: bool
) -> None:
    """Delete dead letters for good. Their clients were answered when they died.

    \b
    convq dead purge 1763800000000-0
    convq dead purge --older-than 7d --model lenet
    """
    _one_way(bool(ids), every, older_ms is not None)
    missing: list[str] = []
    with _chosen(address, model) as (name, letters):
        if ids:
            wanted = list(dict.fromkeys(ids))
            missing = [one for one, there in zip(wanted, letters.purge(wanted), strict=True) if not there]
            count = len(wanted) - len(missing)
        else:
            count = letters.purge_older(0 if every else older_ms or 0)
    if for_programs(as_json=as_json):
        print_json([{"model": name, "purged": count}])
    else:
        print_line(f"{count:,} dead {'letter' if count == 1 else 'letters'} of {name} deleted")
    if missing:
        raise click.ClickException(_not_there(missing, len(wanted), name))


# -- what they share ----------------------------------------------------------------------------------------------------


@contextmanager
def _letters(address: Address, model: str) -> Iterator[DeadLetters]:
    letters = DeadLetters(address, Shard(model))
    try:
        yield letters
    finally:
        letters.close()


@contextmanager
def _chosen(address: Address, model: str | None) -> Iterator[tuple[str, DeadLetters]]:
    """The model that is meant and its dead letters."""
    with connected(address, model) as client:
        name = _name(client, model)
        with _letters(address, name) as letters:
            yield name, letters


def _name(client: Client, model: str | None) -> str:
    """A model that nobody serves now has dead letters all the same: that may be why nobody does."""
    return choose_model(client, model, must_be_served=False)


def _one_way(*given: bool) -> None:
    if sum(given) != 1:
        flags = "--all" if len(given) == 2 else "--all or --older-than"  # noqa: PLR2004 - ids and --all
        raise click.UsageError(f"say which dead letters: their ids, or {flags}, and only one of these")


def _not_there(missing: list[str], wanted: int, model: str) -> str:
    which = (
        f"dead letter {missing[0]} is"
        if wanted == 1
        else f"{len(missing)} of {wanted} dead letters, like {missing[0]}, are"
    )
    return f"{which} not there: requeued or purged, or of another model; convq dead list --model {model} shows what is"


def _foreign(ids: list[str], wanted: int, model: str) -> str:
    some = " ".join(ids[:NAMED]) + (" …" if len(ids) > NAMED else "")
    what = "is no dead letter" if len(ids) == 1 else "are no dead letters"
    return (
        f"{len(ids)} of {wanted} entries {what} of convq but written by somebody else, and left: "
        f"convq dead purge {some} --model {model} deletes {'it' if len(ids) == 1 else 'them'}"
    )


def _when(letter: Letter) -> str:
    try:
        return f"{datetime.fromtimestamp(letter.died_ms / 1e3, UTC):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):  # an id of a year that no calendar has
        return f"{letter.died_ms} ms"


def _document(letter: Letter) -> dict[str, Any]:
    return {name: value for name, value in asdict(letter).items() if name != "fields"}


def _row(letter: Letter) -> list[str]:
    return [letter.id, letter.model, letter.job, _when(letter), f"{letter.bytes:,}", letter.reason, letter.message]


def _write(file: Path, payload: bytes) -> None:
    try:
        file.write_bytes(payload)
    except OSError as error:
        raise click.ClickException(f"cannot write {file}: {error.strerror}; name another file with --save") from None
