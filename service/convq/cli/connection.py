"""What the commands that talk to a running service share: the address of its Redis, and which model is meant."""

from __future__ import annotations

import difflib
import functools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from convq.cli.display.output import print_line
from convq.client import DEFAULT_URL, Client
from convq.client.calls import meant
from convq.errors import BadField, RedisUnavailable, StrangeKey
from convq.queue import Address
from convq.queue.transport.address import flags
from convq.settings import Settings, facts

Command = TypeVar("Command", bound=Callable[..., Any])

ANNOUNCED_WITHIN_S = 1.2
"""A service that has just become ready lists its models with its next heartbeat, at most a second later."""
ASK_AGAIN_S = 0.1


REDIS_FILES = {"redis_ca": "ca", "redis_cert": "cert", "redis_key": "key", "redis_password_file": "password_file"}
"""Setting -> field of `Address`."""


def redis_options(command: Command) -> Command:
    """`--redis URL` and the files that belong to it, with their variables; the command gets them as one `address`."""
    return _address_of(_redis_option(DEFAULT_URL, "The server that the service uses."), command)


def named_redis_options(text: str, *, by_variable: bool) -> Callable[[Command], Command]:
    """The same for a command that does without a server too: its `address` is None where none is named."""
    return lambda command: _address_of(_redis_option(None, text, by_variable=by_variable), command)


def _redis_option(default: str | None, text: str, *, by_variable: bool = True) -> Callable[[Command], Command]:
    known = facts("redis")
    return click.option(
        known["flag"],
        "redis",
        envvar=known["variable"] if by_variable else None,
        show_envvar=True,
        metavar=known["metavar"],
        default=default,
        show_default=True,
        help=text,
    )


def _address_of(redis_option: Callable[[Command], Command], command: Command) -> Command:
    @functools.wraps(command)
    def with_address(*args: Any, redis: str | None, **given: Any) -> Any:
        for name in REDIS_FILES if redis is None else ():
            if click.get_current_context().get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
                raise click.UsageError(f"{facts(name)['flag']} belongs to a server: name it with --redis")
        files = {field: given.pop(name) for name, field in REDIS_FILES.items()}
        return command(*args, address=None if redis is None else Address(redis, **files), **given)

    wrapped: Any = with_address
    for name in reversed(REDIS_FILES):
        known, text = facts(name), Settings.model_fields[name].description or ""
        wrapped = click.option(
            known["flag"],
            name,
            envvar=known["variable"],
            show_envvar=True,
            metavar=known["metavar"],
            type=click.Path(path_type=Path),
            help=text[0].upper() + text[1:] + ".",
        )(wrapped)
    return redis_option(wrapped)


def flags_given(address: Address) -> str:
    """The options that name this server, to be put behind a command that is shown; none where a variable or nothing did."""
    source = click.get_current_context().get_parameter_source("redis")
    return f" {flags(address)}" if source is click.core.ParameterSource.COMMANDLINE else ""


def model_option(command: Command) -> Command:
    """`--model NAME`."""
    text = "Which model; not needed where only one is served, or only one that yields classes."
    return click.option("--model", metavar="NAME", default=None, help=text)(command)


@contextmanager
def connected(address: Address, model: str | None = None) -> Iterator[Client]:
    """A client, whose failure to connect says which URL was tried and how to name another.

    Where the server refuses because a key is of another type, the keys of `model` (None: of all that are listed) that are
    so are named, each with the command that mends it. Raises StrangeKey then.
    """
    with Client(address) as client:
        try:
            yield client
        except RedisUnavailable as error:
            raise RedisUnavailable(f"{error} (tried {address}; name another with --redis URL)") from None
        except (BadField, StrangeKey) as error:
            if "WRONGTYPE" not in str(error):
                raise
            raise StrangeKey(_strange_keys(address, model) or str(error)) from None


def _strange_keys(address: Address, model: str | None) -> str:
    """Which keys hold another type than convq's, and what mends each; empty where this user may not ask."""
    from convq.queue.diagnosis.strangers import wrong_types  # noqa: PLC0415 - for a server where something is wrong

    said = [str(remark) for remark in wrong_types(address, model)]
    return f"a key that convq keeps holds something else: {'; '.join(said)}" if said else ""


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
            _say_which(name, served)
            return name
        if served or time.monotonic() >= give_up_at:
            raise click.ClickException(_not_served(model, served, must_be_served=must_be_served))
        time.sleep(ASK_AGAIN_S)


def _say_which(name: str, served: list[str]) -> None:
    """Tell people which of several models was taken for them; programs find it in the answers."""
    if len(served) > 1 and sys.stderr.isatty():
        others = ", ".join(one for one in served if one != name)
        print_line(f"model {name}, the only one served that yields classes; others with --model: {others}", err=True)


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
