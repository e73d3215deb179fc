"""`convq jobs`: where one job is, and withdrawing it."""

from __future__ import annotations

import click

from convq.cli.connection import choose_model, connected, redis_options
from convq.cli.display.output import for_programs, json_option, print_json, print_line, print_table
from convq.client import Client
from convq.protocol import JobState
from convq.queue import Address
from convq.queue.diagnosis.astray import Search, find_astray, when_answered
from convq.queue.diagnosis.unserved import Unserved, nearest_model

ANSWERED = "answered"
UNKNOWN_MEANS = (
    "it was answered and read, or its result has expired, or it was deleted, or it never was; "
    "submit it again with an id of its own, which tells them apart for 10 minutes"
)
NOT_LOOKED = "streams that nobody serves were not all looked through (that takes the user operator)"
MODEL = click.option(
    "--model", metavar="NAME", default=None, help="Which model; without it all that are served are asked."
)


@click.group()
def jobs() -> None:
    """Look at single jobs by their ids.

    \b
    convq jobs status 1763800000000-0
    convq jobs cancel order-17 order-18 --model lenet
    """


@jobs.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@redis_options
@MODEL
@json_option
def status(ids: tuple[str, ...], address: Address, model: str | None, *, as_json: bool) -> None:
    """Say where jobs are: waiting, running, done, answered or unknown.

    "done" means that a result waits to be read. "answered": the result was read, has expired, or went to an inbox; this is
    known for 10 minutes of jobs that were submitted with an id. Others that were answered are "unknown", and so are ids
    that never were. Without --model, streams that nobody serves are looked into too: of a job that waits there, columns say
    which stream it is, and which model was perhaps meant.

    \b
    convq jobs status 1763800000000-0
    convq jobs status order-17 --model lenet --json
    """
    with connected(address, model) as client:
        asked = _asked(client, model)
        places = {one: _known(client, one, asked) for one in ids}
        astray = _astray(address, [one for one, known in places.items() if not known], model)
        found: list[dict[str, str | None]] = []
        for one, known in places.items():
            found += [{"id": one, "model": name, "state": str(state)} for name, state in known.items()]
            if not known:
                found += _elsewhere(address, one, asked, astray)
        served = client.served()
        if model is not None and model not in served and any(job["state"] != str(JobState.DONE) for job in found):
            near = nearest_model(model, served)
            hint = f"nobody serves {model!r}" + (f"; did you mean {near}?" if near else "")
            found = [{**job, "served": hint} for job in found]
    _show(found, as_json=as_json)


@jobs.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@redis_options
@MODEL
@json_option
def cancel(ids: tuple[str, ...], address: Address, model: str | None, *, as_json: bool) -> None:
    """Withdraw jobs.

    Those that have not run end with the status "cancelled"; those that run or have run are answered as usual. Says where
    each job was when it was withdrawn.

    \b
    convq jobs cancel 1763800000000-0
    convq jobs cancel order-17 order-18 --model lenet
    """
    with connected(address, model) as client:
        owners = _owners(client, ids, model, address)
        for name in dict.fromkeys(owners.values()):
            client.cancel(*(one for one, owner in owners.items() if owner == name), model=name)
        found: list[dict[str, str | None]] = [
            {"id": one, "model": name, "state": str(client.status(one, name)), "cancel": "requested"}
            for one, name in owners.items()
        ]
    _show(found, as_json=as_json)


def _asked(client: Client, model: str | None) -> list[str]:
    """The models that may have the job: the one that is named, or all that are served."""
    if model is not None:
        return [model]
    return sorted(client.served()) or [choose_model(client, None, must_be_served=False)]


def _known(client: Client, job_id: str, models: list[str]) -> dict[str, JobState]:
    """Where the job is in each model that knows it."""
    states = {name: client.status(job_id, name) for name in models}
    return {name: state for name, state in states.items() if state is not JobState.UNKNOWN}


def _astray(address: Address, ids: list[str], model: str | None) -> Search:
    """Jobs that no served model knows, in the streams that nobody serves; nothing is looked for where a model is named."""
    return find_astray(address, ids) if ids and model is None else Search({}, whole=True)


def _elsewhere(address: Address, job_id: str, asked: list[str], astray: Search) -> list[dict[str, str | None]]:
    """What can be said of a job that is nowhere where one is looked for first."""
    if job_id in astray.found:
        waits = {"id": job_id, "state": str(JobState.WAITING)}
        return [
            {**waits, "model": stream.model, "stream": stream.key, "served": _nobody(stream)}
            for stream in astray.found[job_id]
        ]
    if (known := when_answered(address, job_id, asked)) is not None:
        return [{"id": job_id, "model": known[0], "state": ANSWERED, "means": str(known[1])}]
    alone = asked[0] if len(asked) == 1 else None
    means = UNKNOWN_MEANS if astray.whole else f"{UNKNOWN_MEANS}; {NOT_LOOKED}"
    return [{"id": job_id, "model": alone, "state": str(JobState.UNKNOWN), "means": means}]


def _nobody(stream: Unserved) -> str:
    near = "" if stream.nearest is None else f"; did you mean {stream.nearest}?"
    return ("no stream of a model" if stream.model is None else f"nobody serves {stream.model!r}") + near


def _owners(client: Client, ids: tuple[str, ...], model: str | None, address: Address) -> dict[str, str]:
    """Whose each job is. Raises ClickException where one is of none or of several, before any is withdrawn.

    Where only one model is asked, all are its own: to withdraw what it does not know yet does no harm.
    """
    asked = _asked(client, model)
    if model is not None:
        return dict.fromkeys(ids, model)
    places = {one: list(_known(client, one, asked)) for one in ids}
    astray = _astray(address, [one for one, known in places.items() if not known], model)
    return {one: _owner(one, known, asked, astray) for one, known in places.items()}


def _owner(job_id: str, known: list[str], asked: list[str], astray: Search) -> str:
    """Raises ClickException where it is not one model alone."""
    if not known and (streams := astray.found.get(job_id)):
        known = list(dict.fromkeys(_withdrawable(job_id, stream) for stream in streams))
    elif not known and len(asked) == 1:
        known = asked
    if not known:
        what = "it was answered and read, or never was" + ("" if astray.whole else f"; {NOT_LOOKED}")
        raise click.ClickException(f"job {job_id} is of none of {', '.join(asked)}: {what}; nothing was done")
    if len(known) > 1:
        which = f"models {', '.join(known)} have a job {job_id} each"
        raise click.ClickException(f"{which}: say which is meant, with --model NAME; nothing was done")
    return known[0]


def _withdrawable(job_id: str, stream: Unserved) -> str:
    """The model whose job it is. Raises ClickException for what lies in no stream of a model: nobody would obey."""
    if stream.model is None:
        said = f"job {job_id} waits in {stream.key}, {_nobody(stream)}: no service will ever run it; nothing was done"
        raise click.ClickException(said)
    print_line(f"job {job_id} waits in {stream.key}: {_nobody(stream)}", err=True)
    return stream.model


def _show(found: list[dict[str, str | None]], *, as_json: bool) -> None:
    if for_programs(as_json=as_json):
        print_json(found)
    else:
        names = list(dict.fromkeys(name for job in found for name in job))
        print_table(names, [[job.get(name) or "" for name in names] for job in found])
