"""`convq top`: the queues, their workers and who fills them, live."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, NoReturn

import click

from convq.cli.connection import redis_options
from convq.cli.display.frames import frame
from convq.cli.display.output import for_programs, json_option, print_json, print_line
from convq.cli.display.screen import Screen, terminal_size
from convq.cli.display.views import View
from convq.errors import RedisUnavailable
from convq.interrupts import between_imports
from convq.queue import Address, Shard
from convq.queue.diagnosis.glance import Glance, Glances
from convq.queue.keys import MODELS, is_model_name
from convq.queue.transport.pushers import Pusher, pushers

LIST_EVERY_S = 5.0
"""How often is asked again which models there are, and which connections push."""
MOST_MODELS = 100
MOST_LIST_BYTES = 16 << 20
FIRST_ROWS = 60
"""Of the one picture that `--once` shows; it may scroll."""


@dataclass(slots=True)
class _Watch:
    """What was seen so far."""

    glances: Glances
    chosen: tuple[str, ...]
    wants_connections: bool = False
    models: list[str] = field(default_factory=list)
    connections: list[Pusher] | None = None
    views: dict[str, View] = field(default_factory=dict)
    next_list_s: float = 0.0

    def look(self) -> None:
        """Look once at everything. Raises RedisUnavailable, RedisRefused."""
        if time.monotonic() >= self.next_list_s:
            self.models = list(self.chosen) or self._listed()
            self.connections = pushers(self.glances.link) if self.wants_connections else None
            self.next_list_s = time.monotonic() + LIST_EVERY_S
        before: Mapping[str, Glance] = {model: view.now for model, view in self.views.items()}
        self.views = {
            model: View(self.glances.look(Shard(model)), before.get(model)) for model in self.models[:MOST_MODELS]
        }

    def _listed(self) -> list[str]:
        (found,) = self.glances.link.flush([("HGETALL", MODELS)], MOST_LIST_BYTES)
        names = found[::2] if isinstance(found, list) else []
        return sorted(name.decode() for name in names if is_model_name(name))

    def facts(self) -> dict[str, Any]:
        """For programs."""
        moments = [view.now.at_ms for view in self.views.values()]
        connections = (
            None
            if self.connections is None
            else [
                {"name": one.name, "address": one.address, "user": one.user, "connections": one.connections}
                for one in self.connections
            ]
        )
        return {
            "time_ms": max(moments, default=None),
            "models": [view.facts() for view in self.views.values()],
            "connections": connections,
        }


@click.command()
@redis_options
@click.option(
    "--model", "models", metavar="NAME", multiple=True, help="Only this one; may be given again (all that are served)."
)
@click.option(
    "--interval",
    metavar="S",
    type=click.FloatRange(min=0.2, max=3600),
    default=1.0,
    show_default=True,
    help="Between two looks.",
)
@click.option("--connections", is_flag=True, help="Name connections that push, too: needs the right client|list.")
@click.option("--once", is_flag=True, help="Look twice, an interval apart, show that, and end.")
@json_option
def top(
    address: Address, models: tuple[str, ...], interval: float, *, connections: bool, once: bool, as_json: bool
) -> None:
    """Watch the queues live: what waits, how fast it moves, which hosts work on it and which clients fill it.

    On a terminal a picture that is drawn anew every second; q ends it. In a pipe, or with --json, one line of JSON for each
    look. All of it comes from Redis, where this user may look: of the users in deploy/redis/users.acl that is operator.

    Clients are told by the field `client` of their jobs, among a few hundred of the oldest and the newest jobs of each
    queue. Who gives no name is unnamed; --connections lists connections whose last command pushed a job then. A server
    that goes away is waited for.

    \b
    convq top
    convq top --model lenet --interval 5
    convq top --once --json | jq '.models[].clients'
    """
    for name in models:
        Shard(name)
    signal.signal(signal.SIGTERM, between_imports(_leave))
    watch = _Watch(Glances(address), models, connections)
    try:
        _look_first(watch, address)
        if for_programs(as_json=as_json):
            _print(watch, interval, once=once)
        elif once:
            _show_once(watch, interval, str(address))
        else:
            _show(watch, interval, str(address))
    finally:
        watch.glances.close()


def _look_first(watch: _Watch, address: Address) -> None:
    """A server that was never there is an error, and none to wait for."""
    try:
        watch.look()
    except RedisUnavailable as error:
        raise RedisUnavailable(f"{error} (tried {address}; name another with --redis URL)") from None


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    raise click.exceptions.Exit(0)


def _looks(watch: _Watch, interval_s: float) -> Iterator[str | None]:
    """Look again and again, an interval apart; why that was not possible, with the time when that began, or None."""
    since, next_s = "", time.monotonic() + interval_s
    while True:
        time.sleep(max(0.0, next_s - time.monotonic()))
        next_s = time.monotonic() + interval_s
        since, trouble = _look(watch, since)
        yield trouble


def _look(watch: _Watch, since: str) -> tuple[str, str | None]:
    """One look: since when there is trouble, and what it is."""
    try:
        watch.look()
    except RedisUnavailable as error:
        since = since or time.strftime("%H:%M:%S")
        return since, f"no answer since {since}: {error}"
    return "", None


def _print(watch: _Watch, interval_s: float, *, once: bool) -> None:
    for trouble in _looks(watch, interval_s):
        print_json([watch.facts() if trouble is None else {"error": trouble}])
        if once:
            if trouble is not None:
                raise RedisUnavailable(trouble)
            return


def _show_once(watch: _Watch, interval_s: float, where: str) -> None:
    trouble = next(_looks(watch, interval_s))
    if trouble is not None:
        raise RedisUnavailable(trouble)
    columns, _ = terminal_size()
    for line in frame(watch.views, watch.connections, columns, FIRST_ROWS, where, None):
        print_line(line.text)


def _show(watch: _Watch, interval_s: float, where: str) -> None:
    since, trouble = "", None
    with Screen() as screen:
        next_s = time.monotonic() + interval_s
        while True:
            columns, rows = terminal_size()
            screen.draw(frame(watch.views, watch.connections, columns, rows, where, trouble))
            if "q" in screen.wait(next_s - time.monotonic()).lower():
                return
            if time.monotonic() >= next_s:
                next_s = time.monotonic() + interval_s
                since, trouble = _look(watch, since)
