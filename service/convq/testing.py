"""A pytest plugin: a real server and a real service for the tests of a program that uses convq.

In the ``conftest.py`` at the root of your tests::

    pytest_plugins = ["convq.testing"]

Then ask for ``convq_service``, or for ``convq_start`` where a test needs a service of its own. Needs pytest and
``convq[cpu,embedded]``; importing convq alone imports nothing of this.
"""

from __future__ import annotations

import difflib
import http.client
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import pytest

from convq.client import Client
from convq.embedded import EmbeddedServer
from convq.errors import ServiceFailed, SettingsError
from convq.harness.service_process import ChildService
from convq.queue.diagnosis.emptying import empty
from convq.settings import Settings, facts

__all__ = ["Service", "convq_service", "convq_settings", "convq_start"]

DEFAULTS: dict[str, Any] = {"workers": 1, "device": "cpu"}
OURS = ("redis", "redis_ca", "redis_cert", "redis_key", "redis_password_file", "http", "log", "data", "ready_file")
"""Settings that are not for a test to say."""
READY_WITHIN_S = 30.0
EMPTY_WITHIN_S = 30.0
POLL_S = 0.01


class Service:
    """A server on a free port of 127.0.0.1 and a ``convq serve`` on it, from ``with`` to the end of its block.

    ``settings`` are those of ``convq serve`` by their names in the README, without the dashes: ``models``, ``only``, ``workers``,
    ``result_ttl`` and so on. Without ``models`` it serves those that come with convq. Start it from the main thread: both processes
    end with the process that started them, however that ends.
    """

    def __init__(self, **settings: Any) -> None:
        """Raises SettingsError for a setting that there is not."""
        self._flags = _flags(DEFAULTS | settings)
        self._names = _models(settings)
        self._stack = ExitStack()
        self._server: EmbeddedServer | None = None
        self._child: ChildService | None = None
        self._client: Client | None = None

    @property
    def url(self) -> str:
        """URL of the server, for any client of Redis."""
        return self._running[0].url

    @property
    def metrics_url(self) -> str:
        """Where the service's metrics are."""
        return self._running[1].metrics_url

    @property
    def models(self) -> tuple[str, ...]:
        """The models that are served."""
        return self._names

    @property
    def client(self) -> Client:
        """A client of it; where several models yield classes, name the one that you mean in its calls."""
        if self._client is None:
            self._client = self._stack.enter_context(Client(self.url))
        return self._client

    @property
    def is_alive(self) -> bool:
        """Whether both processes run."""
        alive = self._server is not None and self._server.is_alive()
        return alive and self._child is not None and self._child.status() is None

    @property
    def is_ready(self) -> bool:
        """Whether the service itself says that all its workers ask for jobs."""
        if not self.is_alive:
            return False
        parts = urlsplit(self.metrics_url)
        asked = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=READY_WITHIN_S)
        try:
            asked.request("GET", "/readyz")
            return asked.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            asked.close()

    def renew(self) -> None:
        """What a test left is gone afterwards: jobs, results and all else in the database, and what it killed.

        Raises ServiceFailed where that does not come to an end.
        """
        give_up_at = time.monotonic() + READY_WITHIN_S
        while not self.is_ready:
            if not self.is_alive:
                self.stop()
                self.start()
            elif time.monotonic() > give_up_at:
                raise ServiceFailed(f"the service is not ready any more: {self._running[1].last_words}")
            else:
                time.sleep(POLL_S)
        empty(self.url, self._names, EMPTY_WITHIN_S)

    def start(self) -> None:
        """Start both, and return when the service is ready and has said what it serves. Raises ConvqError."""
        try:
            self._server = self._stack.enter_context(EmbeddedServer.start(port=0))
            self._child = self._stack.enter_context(ChildService("--redis", self._server.url, *self._flags))
            self._child.wait_ready()
            self._wait_announced()
        except BaseException:  # Ctrl-C too: what has been started must not stay behind
            self.stop()
            raise

    def stop(self) -> None:
        """End both: what was claimed is finished first. Twice does no harm."""
        self._stack.close()
        self._server = self._child = self._client = None

    @property
    def _running(self) -> tuple[EmbeddedServer, ChildService]:
        if self._server is None or self._child is None:
            raise RuntimeError("this service does not run: use it as `with Service() as service`, or call start()")
        return self._server, self._child

    def _wait_announced(self) -> None:
        """The list of models, from which a client knows the only one, follows with the next heartbeat."""
        give_up_at = time.monotonic() + READY_WITHIN_S
        while missing := set(self._names) - set(self.client.served()):
            if time.monotonic() > give_up_at or not self.is_alive:
                raise ServiceFailed(
                    f"the service does not serve {', '.join(sorted(missing))}: {self._running[1].last_words}"
                )
            time.sleep(POLL_S)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _flags(settings: Mapping[str, Any]) -> list[str]:
    """The settings as flags of ``convq serve``."""
    flags = []
    for name, value in settings.items():
        if name not in Settings.model_fields or name in OURS:
            known = [one for one in Settings.model_fields if one not in OURS]
            near = difflib.get_close_matches(name, known, n=1)
            raise SettingsError(
                f"no setting {name!r}; " + (f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}")
            )
        if value is not None:
            flags += [facts(name)["flag"], value if isinstance(value, str) else _text(value)]
    return flags


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _models(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of what will be served. Raises ModelBroken."""
    from convq.repository.model_folders import ModelRepository, default_root  # noqa: PLC0415 - brings the engine's parts

    only = settings.get("only")
    names = only.split(",") if isinstance(only, str) else only
    root = Path(settings["models"]) if settings.get("models") else default_root()
    return tuple(ModelRepository.open(root, [name.strip() for name in names] if names else None).models)


# -- fixtures ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def convq_settings() -> Mapping[str, Any]:
    """Settings of the session's service; write a fixture of this name to change them, such as ``{"models": "models"}``."""
    return {}


@pytest.fixture(scope="session")
def _convq_session(convq_settings: Mapping[str, Any]) -> Iterator[Service]:
    with Service(**convq_settings) as service:
        yield service


@pytest.fixture
def convq_service(_convq_session: Service) -> Service:
    """A service that is ready, on a server that is empty: one for the session, emptied before each test.

    A test may kill it: the next one gets a new one. With pytest-xdist every worker has its own.
    """
    _convq_session.renew()
    return _convq_session


@pytest.fixture
def convq_start(convq_settings: Mapping[str, Any]) -> Iterator[Callable[..., Service]]:
    """Starts services that belong to this test alone, each with a server of its own: ``convq_start(workers=2)``."""
    with ExitStack() as started:
        yield lambda **settings: started.enter_context(Service(**{**convq_settings, **settings}))
