"""What the commands that talk to a running service share: the URL of its Redis, and which model is meant."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from convq.client import DEFAULT_URL, Client
from convq.client.calls import meant
from convq.errors import RedisUnavailable
from convq.queue.address import shown
from convq.settings import facts

Command = TypeVar("Command", bound=Callable[..., Any])

ANNOUNCED_WITHIN_S = 1.2
"""A service that has just become ready lists its models with its next heartbeat, at most a second later."""
ASK_AGAIN_S = 0.1


def redis_option(command: Command) -> Command:
    """`--redis URL`, with its variable."""
    known = facts("redis")
    return click.option(
        known["flag"],
        "url",
        envvar=known["variable"],
        show_envvar=True,
        metavar=known["metavar"],
        default=DEFAULT_URL,
        show_default=True,
        help="The server that the service uses.",
    )(command)


def model_option(command: Command) -> Command:
    """`--model NAME`."""
    text = "Which model; not needed where only one is served, or only one that yields classes."
    return click.option("--model", metavar="NAME", default=None, help=text)(command)


@contextmanager
def connected(url: str) -> Iterator[Client]:
    """A client, whose failure to connect says which URL was tried and how to name another."""
    with Client(url) as client:
        try:
            yield client
        except RedisUnavailable as error:
            raise RedisUnavailable(f"{error} (tried {shown(url)}; name another with --redis URL)") from None


def choose_model(client: Client, model: str | None, *, must_be_served: bool = True) -> str:
    """The model that is meant; a name that nobody serves is an error at once, not after the timeout."""
    if model is not None and not must_be_served:
        return model
    give_up_at = time.monotonic() + ANNOUNCED_WITHIN_S
    while True:
        described = client.served()
        served = sorted(described)
        if model in served:
            return str(model)
        if model is None and (name := meant(described)) is not None:
            return name
        if served or time.monotonic() >= give_up_at:
            raise click.ClickException(_not_served(model, served, must_be_served=must_be_served))
        time.sleep(ASK_AGAIN_S)


def _not_served(model: str | None, served: list[str], *, must_be_served: bool) -> str:
    if not served and not must_be_served:
        return "no worker serves any model now: say which one you mean, with --model NAME"
    if not served:
        what = "any model" if model is None else repr(model)
        return f"no worker serves {what}; start one on this Redis: convq serve --redis URL"
    if model is None:
        return f"say which model, with --model: {', '.join(served)}"
    near = difflib.get_close_matches(model, served, n=1)
    return f"no worker serves {model!r}; served: {', '.join(served)}." + (f" Did you mean {near[0]!r}?" if near else "")
