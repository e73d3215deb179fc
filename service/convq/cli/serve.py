"""`convq serve`: the service in the foreground, with a server of its own where none is named."""

from __future__ import annotations

import logging
import math
import os
import shlex
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from convq.cli.connection import REDIS_FILES
from convq.client import DEFAULT_URL
from convq.host.cgroups import ROOT, cpu_limit
from convq.interrupts import between_imports
from convq.queue import Address
from convq.queue.transport.address import redis_cli
from convq.settings import Settings, facts, load_settings
from convq.supervisor.ready_file import ReadyFile

if TYPE_CHECKING:
    from convq.embedded import EmbeddedServer
    from convq.repository.model_folders import ModelRepository

log = logging.getLogger("convq.serve")

REDIS_PORT = 6379
SAFER = "redis://USER@HOST and --redis-password-file FILE, or CONVQ_REDIS_URL"


def _setting_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """One option per setting. Values stay text: flags and variables are read by the same code, in `load_settings`."""
    for name in reversed(Settings.model_fields):
        field, known = Settings.model_fields[name], facts(name)
        default = field.get_default(call_default_factory=True, validated_data={})
        remark = known["variable"] + (f"; default {default}" if default not in (None, (), False) else "")
        text = f"{field.description}  [{remark}]"
        flag: dict[str, Any] = (
            {"is_flag": False, "flag_value": "1"} if field.annotation is bool else {}
        )  # its value may be left out
        command = click.option(known["flag"], name, metavar=known["metavar"], default=None, help=text, **flag)(command)
    return command


@click.command()
@_setting_options
@click.pass_context
def serve(context: click.Context, /, **flags: str | None) -> None:
    """Serve the models of a folder until told to stop.

    Worker processes pull jobs from Redis, batch them, run them and push the results back. Without --redis a server of
    its own is started and keeps its data between runs. SIGTERM and Ctrl-C drain: what was claimed is finished first; a
    second one ends at once. Every flag is also a variable, and the flag wins.

    \b
    convq serve
    convq serve --redis redis://10.0.0.5:6379/0 --workers 4 --http 0.0.0.0:9464
    CONVQ_ONLY=lenet convq serve --models /srv/models
    """
    settings = load_settings(flags, os.environ)
    ready = None if settings.ready_file is None else ReadyFile(settings.ready_file)  # first: who waits sees no old one
    # Until the supervisor takes over, SIGTERM must unwind like Ctrl-C does: temporary folders would stay behind.
    signal.signal(signal.SIGTERM, between_imports(_leave))
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, between_imports(_leave))
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # in the background of a terminal that stops who writes to it

    from convq import logs  # noqa: PLC0415 - heavy
    from convq.logs import event  # noqa: PLC0415 - heavy
    from convq.repository.model_folders import ModelRepository, default_root  # noqa: PLC0415 - heavy
    from convq.supervisor.supervisor import Supervisor  # noqa: PLC0415 - heavy
    from convq.worker.tracing.collector import check  # noqa: PLC0415 - heavy

    logs.set_up(settings.log)
    check(settings.otlp)
    address = _address(settings)
    repository = ModelRepository.open(settings.models or default_root(), settings.only or None, strict=settings.strict)
    for name, reason in repository.passed_over.items():
        event(log, logging.WARNING, "passed over in the folder of models", name=name, reason=reason)
    if flags["redis"] and Address(flags["redis"]).holds_password:
        event(log, logging.WARNING, "the password in --redis can be read in the list of processes", instead=SAFER)
    with _server(address, settings, repository) as server, _announced(ready, server) as announce:
        supervisor = Supervisor(
            settings,
            server.address,
            repository.root,
            tuple(repository.models),
            settings.workers or default_workers(settings.device),
            server.trouble,
            announce,
        )
        context.exit(supervisor.run())


def _leave(*_: object) -> NoReturn:
    sys.exit(0)


def _address(settings: Settings) -> Address | None:
    """The server that was named, looked at before anything is done that takes time. Raises SettingsError."""
    if settings.redis is None:
        return None
    address = Address(settings.redis, **{field: getattr(settings, name) for name, field in REDIS_FILES.items()})
    address.examine()
    return address


@dataclass(frozen=True, slots=True)
class _Server:
    """The Redis that is served: somebody else's, or our own."""

    address: Address
    own: EmbeddedServer | None = None

    def trouble(self) -> str | None:
        """Why the service cannot go on, if our own server is gone."""
        if self.own is None or self.own.is_alive():
            return None
        return f"the embedded server ended; {self.own.data / 'server.log'} says why"


@contextmanager
def _server(address: Address | None, settings: Settings, repository: ModelRepository) -> Iterator[_Server]:
    """The server to use. Our own is stopped last, when no worker needs it any more."""
    if address is not None:
        yield _Server(address)
        return
    from convq.embedded import EmbeddedServer  # noqa: PLC0415 - only here

    with EmbeddedServer.start(settings.data_folder, port=_port()) as own:
        _say_where(settings, own, repository)
        yield _Server(Address(f"unix://{own.socket}?db=0"), own)


@contextmanager
def _announced(file: ReadyFile | None, server: _Server) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """What writes the file that scripts wait for, where one is wanted; it is gone when the service has ended."""
    if file is None:
        yield lambda _: None
        return
    from convq.logs import event  # noqa: PLC0415 - heavy

    url = server.own.url if server.own else str(server.address)

    def announce(said: Mapping[str, Any]) -> None:
        try:
            file.write({"redis": url, **said})
        except OSError as error:
            event(log, logging.ERROR, "the ready file cannot be written", reason=error.strerror)

    try:
        yield announce
    finally:
        file.remove()


def _port() -> int:
    """The usual port, so that no client needs a URL; 0, for any free one, where somebody else has it."""
    try:
        socket.create_server(("127.0.0.1", REDIS_PORT)).close()
    except OSError:
        return 0
    return REDIS_PORT


def default_workers(device: str, root: Path = ROOT) -> int:
    """One worker a GPU where CUDA may be used, otherwise one a core that this process may run on and has the time of.

    A container may run on every core of a large machine, and have no more time than a few of them: that is its quota.
    """
    gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
    if device != "cpu" and gpus and _installed("onnxruntime-gpu"):
        return gpus
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, math.ceil(cpu_limit(root) or cores)))


def _installed(package: str) -> bool:
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True


def _say_where(settings: Settings, own: EmbeddedServer, repository: ModelRepository) -> None:
    """Where the server listens and what to paste: lines for people on a terminal, one event in a log."""
    url = own.url
    submit, (push, pop) = _to_paste(url, repository)
    from convq import logs  # noqa: PLC0415 - heavy

    if sys.stderr.isatty() and settings.log != "json":
        logs.say(f"{own.version} listens on {url} and keeps its data in {own.data}")
        logs.say(f"\npush a picture:   {submit}")
        logs.say(f"or with Redis:    {push}\n                  {pop}\n")
        return
    where = {"redis": url, "socket": str(own.socket), "data": str(own.data)}
    logs.event(log, logging.INFO, "embedded server", server=own.version, **where, submit=submit, redis_cli=[push, pop])


def _to_paste(url: str, repository: ModelRepository) -> tuple[str, list[str]]:
    """Lines that work as they are: the picture is a model's own warm-up sample."""
    name, picture = _sample(repository)
    only = "" if len(repository.models) == 1 else f" --model {name}"
    at = "" if url == DEFAULT_URL else f" --redis {url}"
    cli = redis_cli(url)
    push = f"id=$({cli} -x XADD 'convq:{{{name}}}:jobs' '*' image < {picture})"
    pop = f'{cli} BLPOP "convq:{{{name}}}:result:$id" 5'
    return f"convq submit {picture}{only}{at}", [push, pop]


def _sample(repository: ModelRepository) -> tuple[str, str]:
    """A model, if possible one that says what it sees, and a picture for it; a stand-in where no model brings one."""
    for name, folder in sorted(repository.models.items(), key=lambda item: item[1].manifest.classes is None):
        warmup = folder.manifest.warmup
        if warmup is not None and (folder.path / warmup.sample).is_file():
            return name, shlex.quote(str((folder.path / warmup.sample).resolve()))
    return next(iter(repository.models)), "picture.png"
