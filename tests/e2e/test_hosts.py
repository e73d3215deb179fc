"""Hosts that have an IPv6 address, have no address any more, or are none: everything works, waits, or says so in one line."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis

from convq.errors import RedisUnavailable, SettingsError
from convq.queue import Address
from convq.queue.transport.link import Link
from servers import OwnServer
from services import SAMPLE, RunningService


def convq(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "convq", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)


@pytest.fixture
def over_ipv6(fresh_server: OwnServer) -> str:
    """The URL of a server that listens on ::1 too; skipped where there is no IPv6."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    with redis.Redis.from_url(fresh_server.url) as connection:
        connection.config_set("bind", "127.0.0.1 ::1")
    return f"redis://[::1]:{fresh_server.port}/0"


def test_a_service_and_its_commands_reach_each_other_over_ipv6(over_ipv6: str) -> None:
    with RunningService(over_ipv6, "--http", "[::1]:0", workers=1) as service:
        assert service.http.startswith("http://[::1]:")
        assert (200, True) == (service.get("/readyz")[0], "convq_" in service.get("/metrics")[1])
        submitted = convq("submit", SAMPLE / "seven.png", "--redis", over_ipv6, "--json")
        asked = convq("doctor", "--redis", over_ipv6)
        measured = convq("bench", "--redis", over_ipv6, "--seconds", "1", "--json")

    assert (0, True) == (submitted.returncode, '"label": "7"' in submitted.stdout), submitted.stderr
    assert 0 == asked.returncode, asked.stdout
    assert 0 == measured.returncode, measured.stderr


HOSTS_THAT_ARE_NONE = [
    "cache..example",
    f"{'a' * 64}.example",
    ".".join(["a" * 60] * 5),
    "a b",
    "a%20b",
    "a%00b",
    "a%0ab",
    ".",
    "*",
    "ca$he",
    "\udcff",
    f"{'ü' * 64}.example",
]


@pytest.mark.parametrize("host", HOSTS_THAT_ARE_NONE)
def test_what_is_no_host_is_refused_before_anything_is_looked_up(host: str) -> None:
    with pytest.raises(SettingsError, match="is no name of a host"):
        Link(f"redis://{host}:6379/0")


@pytest.mark.parametrize("host", ["cache", "cache.example.", "redis_1", "bücher.example", "[fe80::1%25eth0]", "[::]"])
def test_what_may_be_a_host_is_looked_up(host: str) -> None:
    Address(f"redis://{host}:6379/0").examine()


def test_a_command_that_is_given_no_host_ends_with_2_and_one_without_an_address_with_4() -> None:
    none, unknown = (convq("doctor", "--redis", f"redis://{host}") for host in ("cache..example", "cache.invalid"))

    assert (2, True) == (none.returncode, "is no name of a host" in none.stdout)
    assert 4 == unknown.returncode
    assert "Traceback" not in none.stderr + unknown.stderr


def test_a_name_that_has_no_address_any_more_is_a_server_that_is_away(
    fresh_server: OwnServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = Link(f"redis://localhost:{fresh_server.port}/0")
    assert link.call("PING")

    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with monkeypatch.context() as without_names:
        without_names.setattr(socket, "getaddrinfo", unknown)
        link.close()
        with pytest.raises(RedisUnavailable):
            link.call("PING")
    assert link.call("PING")
    link.close()
