"""One service for most of these tests: starting it once is what makes them quick."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from servers import OwnServer
from services import Plain, RunningService


@pytest.fixture(scope="session")
def service_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnServer]:
    """The server of the session's service. Don't kill it, see `fresh_server`."""
    with OwnServer(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture(scope="session")
def service(service_server: OwnServer) -> Iterator[RunningService]:
    """`convq serve` with two workers and lenet, ready. Workers may be killed, the service may not."""
    with RunningService(service_server.url) as running:
        yield running


@pytest.fixture
def plain(service: RunningService, service_server: OwnServer) -> Iterator[Plain]:
    """A plain client of the session's service."""
    assert service.process.poll() is None
    with Plain(service_server.url) as client:
        yield client


@pytest.fixture
def fresh(fresh_server: OwnServer) -> Iterator[Plain]:
    """A plain client of this test's own server, which has no service yet."""
    with Plain(fresh_server.url) as client:
        yield client
