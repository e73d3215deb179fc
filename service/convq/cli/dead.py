"""`convq dead`: poisoned jobs; look at them, put them back, throw them away."""

from __future__ import annotations

import re
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from convq.cli.connection import connected, flags_given, redis_options
from convq.cli.display.output import (
    for_programs,
    json_option,
    print_facts,
    print_json,
    print_line,
    print_table,
    progress,
)
from convq.cli.letters import NAMED, Graves, letters_of
from convq.queue import Address
from convq.queue.dead_letters import Letter

UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
ONE_MODEL = click.option(
    "--model", metavar="NAME", default=None, help="Which model; without it all are looked through."
)
ALL_MODELS = click.option("--all-models", "everywhere", is_flag=True, help="With --all: the letters of every model.")
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
    """Look after dead letters: jobs that are not run any more, because workers died of them or decoding took too long.

    They are kept whole, and their clients were answered "poisoned". What is put back gets a second, final answer. A
    letter is found by its id, whichever model it is of.

    \b
    convq dead list
    convq dead requeue --all --model lenet
    """


@dead.command("list")
@redis_options
@ONE_MODEL
@json_option
def list_letters(address: Address, model: str | None, *, as_json: bool) -> None:
    """List dead letters of all models, the newest of each first. The images stay on the server.

    \b
    convq dead list
    convq dead list --model lenet --json | jq -r .reason | sort | uniq -c
    """
    programs, rows = for_programs(as_json=as_json), []
    with connected(address, model) as client:
        graves, served = Graves.of(address, client, model, strict=False), client.served()
        for name in graves.counts:
            with letters_of(address, name) as letters:
                for letter in letters.newest_first():
                    if programs:
                        print_json([_document(letter)])
                    else:
                        rows.append(_row(letter))
    if rows:
        print_table(["id", "model", "job", "when (UTC)", ">bytes", "reason", "message"], rows)
    elif not programs:
        unknown = ", and no worker serves it now" if model is not None and model not in served else ""
        print_line(f"no dead letters of {graves.names()}{unknown}", err=True)


@dead.command()
@click.argument("letter_id", metavar="ID")
@redis_options
@ONE_MODEL
@click.option("--save", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), help="Write its image there.")
@json_option
def show(letter_id: str, address: Address, model: str | None, save: Path | None, *, as_json: bool) -> None:
    """Show one dead letter: why it is there, and all fields of the job.

    \b
    convq dead show 1763800000000-0
    convq dead show 1763800000000-0 --model lenet --save culprit.png
    """
    with connected(address, model) as client:
        graves = Graves.of(address, client, model)
        owned = graves.sorted_out([letter_id])
        letter = None
        for name in owned.by_model:
            with letters_of(address, name) as letters:
                letter = letters.find(letter_id)
                if letter is not None and save is not None:
                    _save(letter, letters.payload(letter_id), save)
        if letter is None:
            raise click.ClickException(graves.not_there([letter_id], 1))
    if for_programs(as_json=as_json):
        print_json([_document(letter) | {"fields": letter.fields}])
        return
    what = f"{letter.bytes:,} bytes" + (f", written to {save}" if save else "; --save FILE writes it")
    facts = {"letter": letter.id, "job": letter.job, "model": letter.model, "priority": letter.priority}
    facts |= {"when": f"{_when(letter)} UTC", "reason": letter.reason, "message": letter.message, "entry": letter.entry}
    print_facts(facts | {letter.payload or "payload": what} | letter.fields)


@dead.command()
@IDS
@click.option("--all", "every", is_flag=True, help="All dead letters, of --model NAME or of --all-models.")
@redis_options
@ONE_MODEL
@ALL_MODELS
@json_option
def requeue(
    ids: tuple[str, ...], address: Address, model: str | None, *, every: bool, everywhere: bool, as_json: bool
) -> None:
    """Put dead letters back into the queue, as the same jobs: id, priority, fields and image.

    An old answer that nobody has read is taken back, and the time to live starts anew. The limits of the queue don't
    count here. Of two who requeue the same letter, one does. An entry that convq has not written is left and named, and
    the command ends with 1.

    \b
    convq dead requeue 1763800000000-0
    convq dead requeue --all --model lenet
    """
    _one_way(bool(ids), every)
    _whose(model, every=every, everywhere=everywhere)
    wrong: list[str] = []
    programs, rows = for_programs(as_json=as_json), []
    with connected(address, model) as client:
        graves = Graves.of(address, client, model)
        wanted, missing = _wanted(graves, ids)
        count = sum(map(len, wanted.values())) + len(missing)
        rows += [[one, "", "", "", "not there"] for one in missing]
        if programs:
            print_json({"id": one, "job": None, "entry": None, "model": model, "state": "not there"} for one in missing)
        for name, some in wanted.items():
            foreign: list[str] = []
            with letters_of(address, name) as letters:
                for done in progress(letters.requeue(some), len(some), "requeueing"):
                    state = "requeued" if done.entry else "no dead letter" if done.foreign else "not there"
                    if programs:
                        print_json(
                            [{"id": done.id, "job": done.job, "entry": done.entry, "model": name, "state": state}]
                        )
                    else:
                        rows.append([done.id, name, done.job or "", done.entry or "", state])
                    if not done.entry:
                        (foreign if done.foreign else missing).append(done.id)
            wrong += [_foreign(foreign, len(some), name, address)] if foreign else []
    if rows:
        print_table(["letter", "model", "job", "entry", "state"], rows)
    if not count:
        print_line(_nothing(graves), err=True)
    if missing and not every:  # with --all another requeue was quicker, and all is as it was asked for
        wrong.append(graves.not_there(missing, count))
    if wrong:
        raise click.ClickException("; ".join(wrong))


@dead.command()
@IDS
@click.option("--all", "every", is_flag=True, help="All dead letters, of --model NAME or of --all-models.")
@click.option(
    "--older-than", "older_ms", type=Age(), metavar="AGE", help="Those that died longer ago: 90s, 30m, 12h, 7d."
)
@redis_options
@ONE_MODEL
@ALL_MODELS
@json_option
def purge(
    ids: tuple[str, ...],
    address: Address,
    model: str | None,
    *,
    every: bool,
    everywhere: bool,
    older_ms: int | None,
    as_json: bool,
) -> None:
    """Delete dead letters for good. Their clients were answered when they died.

    \b
    convq dead purge 1763800000000-0
    convq dead purge --older-than 7d --model lenet
    convq dead purge --all --all-models
    """
    _one_way(bool(ids), every, older_ms is not None)
    _whose(model, every=not ids, everywhere=everywhere)
    with connected(address, model) as client:
        graves = Graves.of(address, client, model)
        if ids:
            wanted, missing = _wanted(graves, ids)
        else:
            wanted, missing = {name: [] for name in graves.counts}, []
        counts: dict[str, int] = {}
        for name, some in wanted.items():
            with letters_of(address, name) as letters:
                counts[name] = sum(letters.purge(some)) if ids else letters.purge_older(0 if every else older_ms or 0)
    if not ids and not any(counts.values()):
        counts = counts or dict.fromkeys([model] if model else [], 0)
        print_line(_nothing(graves), err=True)
    if for_programs(as_json=as_json):
        print_json({"model": name, "purged": count} for name, count in counts.items())
    else:
        for name, count in counts.items():
            print_line(f"{count:,} dead {'letter' if count == 1 else 'letters'} of {name} deleted")
    if missing:
        raise click.ClickException(graves.not_there(missing, len(set(ids))))


# -- what they share ----------------------------------------------------------------------------------------------------


def _wanted(graves: Graves, ids: tuple[str, ...]) -> tuple[dict[str, list[str]], list[str]]:
    """Model -> ids of its letters, the oldest first where none are named; and the ids that no model has.

    What dies again meanwhile is a new letter, and not requeued twice.
    """
    if ids:
        owned = graves.sorted_out(list(dict.fromkeys(ids)))
        return owned.by_model, owned.missing
    wanted = {}
    for name in graves.counts:
        with letters_of(graves.address, name) as letters:
            wanted[name] = [letter.id for letter in letters.newest_first()][::-1]
    return wanted, []


def _one_way(*given: bool) -> None:
    if sum(given) != 1:
        flags = "--all" if len(given) == 2 else "--all or --older-than"  # noqa: PLR2004 - ids and --all
        raise click.UsageError(f"say which dead letters: their ids, or {flags}, and only one of these")


def _whose(model: str | None, *, every: bool, everywhere: bool) -> None:
    """Many letters at a time are those of a model that is named, or expressly of all."""
    if everywhere and (model is not None or not every):
        raise click.UsageError("--all-models goes with --all or --older-than, and without --model")
    if every and model is None and not everywhere:
        raise click.UsageError("say whose dead letters: --model NAME, or --all-models")


def _nothing(graves: Graves) -> str:
    return f"no dead letters of {graves.names()}; {graves.where_to_look()}"


def _foreign(ids: list[str], wanted: int, model: str, address: Address) -> str:
    some = " ".join(ids[:NAMED]) + (" …" if len(ids) > NAMED else "")
    what = "is no dead letter" if len(ids) == 1 else "are no dead letters"
    return (
        f"{len(ids)} of {wanted} entries {what} of convq but written by somebody else, and left: "
        f"convq dead purge {some} --model {model}{flags_given(address)} deletes {'it' if len(ids) == 1 else 'them'}"
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


def _save(letter: Letter, payload: bytes | None, file: Path) -> None:
    if payload is None:
        raise click.ClickException(f"dead letter {letter.id} has no payload to save; it holds neither image nor tensor")
    try:
        file.write_bytes(payload)
    except OSError as error:
        raise click.ClickException(f"cannot write {file}: {error.strerror}; name another file with --save") from None
