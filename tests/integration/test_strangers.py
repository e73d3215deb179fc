"""What the commands of operators say where strangers have written: one line that names the key, and never a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import redis

from convq.queue import LeaseKeeper, Shard
from convq.queue.diagnosis.strangers import look_for_strangers, take_out
from convq.queue.transport.address import Address, redis_cli
from faults.strangers import Stranger

SHARD = Shard("lenet")


def convq(url: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "convq", *words, "--redis", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def strangers(redis_url: str) -> Any:
    with redis.Redis.from_url(redis_url) as connection:
        connection.set(SHARD.leases, "x")
        connection.rpush(SHARD.dead, "x")
        connection.rpush(SHARD.job("mine"), "x")
        connection.set(SHARD.streams[0], "x")
        connection.xadd(SHARD.streams[1], {"a": "b"}, id="18446744073709551615-18446744073709551615")
        connection.xadd(SHARD.streams[2], {"a": "b"}, id=f"{int(connection.time()[0]) * 1000 + 60_000}-1")
        connection.hset("convq:models", mapping={b"\xff\x1b[2J": b"\x00", "lenet": "[]"})
        yield connection


def test_the_doctor_names_each_strange_key_and_what_mends_it(strangers: Any, redis_url: str) -> None:
    remarks = {remark.found: remark for remark in look_for_strangers(Address(redis_url), ["lenet"])}

    said = "\n".join(remarks)
    assert f"{SHARD.leases} holds a string, and must hold a zset" in remarks
    assert f"{SHARD.dead} holds a list, and must hold a stream" in remarks
    assert f"{SHARD.streams[0]} holds a string, and must hold a stream" in remarks
    assert r"convq:models has a field that names no model: '\xff\x1b[2J'" in remarks
    assert f"{SHARD.streams[1]} has an entry id" in said
    assert f"{SHARD.streams[2]} has an entry id" in said
    assert "DEL 'convq:{lenet}:leases'" in str(remarks[f"{SHARD.leases} holds a string, and must hold a zset"].remedy)
    assert 6 == len(remarks)
    assert strangers.ping()


def test_a_server_where_all_is_convqs_own_gives_no_remark(redis_url: str) -> None:
    keeper = LeaseKeeper(redis_url, lease_ms=1000)
    keeper.announce(SHARD, {}, 60_000, 10, 10)
    assert keeper.depth(SHARD) is not None
    keeper.close()

    assert [] == list(look_for_strangers(Address(redis_url), ["lenet"]))


@pytest.mark.usefixtures("strangers")
@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["dead", "list", "--model", "lenet"], 4, "holds something else"),
        (["dead", "show", "1-1", "--model", "lenet"], 4, "holds something else"),
        (["dead", "requeue", "--all", "--model", "lenet"], 4, "holds something else"),
        (["dead", "purge", "--all", "--model", "lenet"], 4, "holds something else"),
        (["jobs", "status", "mine", "--model", "lenet"], 0, "unknown"),
        (["jobs", "status", "18446744073709551615-18446744073709551615", "--model", "lenet"], 0, "waiting"),
        (["jobs", "cancel", "mine", "--model", "lenet"], 0, "unknown"),
        (["models", "list"], 0, "lenet"),
        (["doctor"], 4, "convq:{lenet}:leases holds a string"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_commands_meet_strange_keys_with_a_clear_line(redis_url: str, words: list[str], status: int, said: str) -> None:
    done = convq(redis_url, *words)

    assert status == done.returncode, done.stderr
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_list_of_models_that_is_no_hash_is_named(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as connection:
        connection.set("convq:models", "x")

    for words in (["doctor"], ["models", "list"], ["dead", "list"]):
        done = convq(redis_url, *words)
        assert "Traceback" not in done.stderr
        assert 0 != done.returncode
        assert "something else" in done.stdout + done.stderr or "convq:models holds a string" in done.stdout


def bash(command: str) -> str:
    """What a shell does with a command as it was printed."""
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    "words",
    [
        ["dead", "list"],
        ["dead", "show", "1-1"],
        ["dead", "requeue", "--all", "--all-models"],
        ["dead", "purge", "--all", "--all-models"],
        ["jobs", "status", "mine"],
        ["jobs", "cancel", "mine"],
        ["models", "list"],
    ],
    ids=" ".join,
)
def test_a_command_that_meets_a_key_of_another_type_names_it_and_the_command_that_mends_it(
    redis_url: str, words: list[str]
) -> None:
    with redis.Redis.from_url(redis_url) as connection:
        connection.set("convq:models", "x")

        done = convq(redis_url, *words)

        assert 4 == done.returncode, done.stderr
        assert "convq:models holds a string, and must hold a hash; mend it: redis-cli" in done.stderr
        assert 1 == len(done.stderr.splitlines())
        assert "1" == bash(done.stderr.partition("mend it: ")[2].partition("; RENAME it")[0])
        assert not connection.exists("convq:models")


def test_who_may_not_ask_for_types_is_told_of_the_list_of_models_all_the_same(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as connection:
        connection.set("convq:models", "x")
        connection.execute_command("ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@all", "-type")
        try:
            done = convq(redis_url.replace("://", "://reader:secret@", 1), "models", "list")
        finally:
            connection.execute_command("ACL", "DELUSER", "reader")

    assert 4 == done.returncode, done.stderr
    assert "convq:models holds a value of another type, and must hold a hash; mend it: redis-cli" in done.stderr


@pytest.mark.parametrize("model", [["--model", "lenet"], []], ids=["named", "the only one"])
@pytest.mark.parametrize("words", [["list"], ["show", "1-1"], ["requeue", "--all"], ["purge", "--all"]], ids=" ".join)
def test_dead_letters_that_are_no_stream_are_named_and_the_command_that_mends_it(
    redis_url: str, words: list[str], model: list[str]
) -> None:
    with redis.Redis.from_url(redis_url) as connection:
        connection.hset("convq:models", "lenet", "{}")
        connection.rpush(SHARD.dead, "x")

        done = convq(redis_url, "dead", *words, *(model or ["--all-models"] * ("--all" in words)))

        assert 4 == done.returncode, done.stderr
        assert f"{SHARD.dead} holds a list, and must hold a stream; mend it: redis-cli" in done.stderr
        assert "1" == bash(done.stderr.partition("mend it: ")[2].partition("; RENAME it")[0])
        assert not connection.exists(SHARD.dead)


NAMES = [
    b"\xff\x1b[31m",
    b"No Model",
    b"it's",
    b'"double"',
    b"a\\x41",
    b"",
    b"\x00\n\t ",
    b"$(echo x)`id`!",
    b"-n",
    b"--",
]
NAMES += [
    "\u6570\u5b57".encode(),
    b"\xe2\x80\xae",
    b"x" * 79 + b"\xff",
    b"y" * 81,
    b"\x00" * 100_000,
    bytes(range(256)),
]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name[:12]))
def test_the_command_that_the_doctor_prints_takes_that_field_out_and_no_other(redis_url: str, name: bytes) -> None:
    with redis.Redis.from_url(redis_url) as connection:
        connection.hset("convq:models", mapping={name: "x", "lenet": "{}", b"X" + name: "x"})
        found = list(look_for_strangers(Address(redis_url), []))
        (remark,) = (one for one in found if one.remedy and one.remedy == take_out(name, redis_cli(redis_url)))

        assert str(remark.remedy).isascii()
        assert str(remark.remedy).isprintable()
        assert "1" == bash(str(remark.remedy))
        assert {b"lenet", b"X" + name} == set(connection.hkeys("convq:models"))


def test_the_doctors_remedy_for_a_strange_field_works_as_it_is_printed(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as connection:
        connection.hset("convq:models", b"\xff\x1b[31m", "x")

        (finding,) = (
            one for one in map(json.loads, convq(redis_url, "doctor").stdout.splitlines()) if "field" in one["found"]
        )

        assert finding["found"].endswith(r"'\xff\x1b[31m'")
        assert "1" == bash(finding["remedy"])
        assert not connection.exists("convq:models")


def test_whatever_stands_in_the_keys_every_step_of_a_beat_ends_in_an_answer_or_a_refusal(redis_url: str) -> None:
    """The keeper's replies are parsed whatever they hold; only errors of convq's own tree come out."""
    from convq.errors import ConvqError  # noqa: PLC0415 - the oracle of this test alone

    keeper, stranger = LeaseKeeper(redis_url, lease_ms=1000), Stranger(7, "lenet")
    with redis.Redis.from_url(redis_url) as connection:
        for _ in range(400):
            connection.flushall()
            for command in stranger.draw().commands:
                connection.execute_command(*command)
            for step in (
                lambda: keeper.renew(SHARD, ["a"]),
                lambda: keeper.incarnations(SHARD),
                lambda: keeper.fence(SHARD, "a", ["1:5-5"], 1),
                lambda: keeper.announce(SHARD, {}, 1000, 10, 10),
                lambda: keeper.depth(SHARD),
                lambda: keeper.mend(SHARD),
                lambda: keeper.withdraw(keeper.listed()),
                lambda: keeper.strange_keys(SHARD),
                lambda: list(look_for_strangers(Address(redis_url), ["lenet"])),
            ):
                try:
                    step()
                except ConvqError:
                    continue
    keeper.close()
