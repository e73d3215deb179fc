"""`convq jobs`: where one job is, and withdrawing it."""

from __future__ import annotations

import click

from convq.cli.connection import choose_model, connected, model_option, redis_options
from convq.cli.output import for_programs, json_option, print_json, print_table
from convq.queue import Address


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
@model_option
@json_option
def status(ids: tuple[str, ...], address: Address, model: str | None, *, as_json: bool) -> None:
    """Say where jobs are: waiting, running, done or unknown.

    "done" means that a result waits to be read. A job whose result was read or has expired is "unknown", as one is that
    never was.

    \b
    convq jobs status 1763800000000-0
    convq jobs status order-17 --model lenet --json
    """
    with connected(address, model) as client:
        chosen = choose_model(client, model, must_be_served=False)
        found = [{"id": one, "model": chosen, "state": str(client.status(one, chosen))} for one in ids]
    _show(found, as_json=as_json)


@jobs.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@redis_options
@model_option
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
        chosen = choose_model(client, model, must_be_served=False)
        client.cancel(*ids, model=chosen)
        found = [
            {"id": one, "model": chosen, "state": str(client.status(one, chosen)), "cancel": "requested"} for one in ids
        ]
    _show(found, as_json=as_json)


def _show(found: list[dict[str, str]], *, as_json: bool) -> None:
    if for_programs(as_json=as_json):
        print_json(found)
    else:
        print_table(list(found[0]), [list(job.values()) for job in found])
