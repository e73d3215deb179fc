"""`convq jobs`: where one job is, and withdrawing it."""

from __future__ import annotations

import click

from convq.cli.connection import choose_model, connected, redis_options
from convq.cli.display.output import for_programs, json_option, print_json, print_table
from convq.client import Client
from convq.protocol import JobState
from convq.queue import Address
from convq.queue.diagnosis.unserved import nearest_model

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
    """Say where jobs are: waiting, running, done or unknown.

    "done" means that a result waits to be read. A job whose result was read or has expired is "unknown", as one is that
    never was. Where nobody serves the model, a column says so, with the name that was perhaps meant.

    \b
    convq jobs status 1763800000000-0
    convq jobs status order-17 --model lenet --json
    """
    with connected(address, model) as client:
        asked = _asked(client, model)
        found: list[dict[str, str | None]] = []
        for one in ids:
            known = _known(client, one, asked)
            alone = asked[0] if len(asked) == 1 else None
            found += [{"id": one, "model": name, "state": str(state)} for name, state in known.items()] or [
                {"id": one, "model": alone, "state": str(JobState.UNKNOWN)}
            ]
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
        owners = _owners(client, ids, model)
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


def _owners(client: Client, ids: tuple[str, ...], model: str | None) -> dict[str, str]:
    """Whose each job is. Raises ClickException where one is of none or of several, before any is withdrawn.

    Where only one model is asked, all are its own: to withdraw what it does not know yet does no harm.
    """
    asked = _asked(client, model)
    if len(asked) == 1:
        return dict.fromkeys(ids, asked[0])
    owners = {}
    for one in ids:
        known = list(_known(client, one, asked))
        if not known:
            raise click.ClickException(
                f"job {one} is of none of {', '.join(asked)}: it was answered and read, or never was; nothing was done"
            )
        if len(known) > 1:
            which = f"models {', '.join(known)} have a job {one} each"
            raise click.ClickException(f"{which}: say which is meant, with --model NAME; nothing was done")
        owners[one] = known[0]
    return owners


def _show(found: list[dict[str, str | None]], *, as_json: bool) -> None:
    if for_programs(as_json=as_json):
        print_json(found)
    else:
        print_table(list(found[0]), [[value or "" for value in job.values()] for job in found])
