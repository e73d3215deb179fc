"""Which servers are refused, which are warned of, and that the mending command mends: real servers, set up badly."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis

from convq.errors import RedisRefused
from convq.queue import Address, LeaseKeeper
from convq.queue.diagnosis.health import CLOCK_SLACK_S, CheckResult, Server, _clock, _crashes, look_at
from convq.queue.diagnosis.server_versions import known_crashes
from convq.queue.transport.link import Link
from servers import OwnServer, wait_until


@pytest.fixture
def patient(fresh_server: OwnServer) -> Iterator[Any]:
    with redis.Redis.from_url(fresh_server.url, decode_responses=True) as connection:
        yield connection


@pytest.fixture
def keeper(fresh_server: OwnServer) -> Iterator[LeaseKeeper]:
    made = LeaseKeeper(fresh_server.url, lease_ms=1000)
    yield made
    made.close()


def found(server: Server, level: str) -> dict[str, CheckResult]:
    return {remark.check: remark for remark in server.remarks if remark.level == level}


def busy_with(patient: Any) -> list[str]:
    """What of its work on its files is not done."""
    return [name for name, value in patient.info("persistence").items() if value == 1]


def mend(remark: CheckResult) -> None:
    """Do what the remark says."""
    assert remark.remedy is not None
    subprocess.run(["bash", "-c", remark.remedy], check=True, capture_output=True)


def test_a_server_as_we_start_it_gives_no_reason_to_complain(any_server: OwnServer) -> None:
    keeper = LeaseKeeper(any_server.url, lease_ms=1000)

    assert {"ok"} == {remark.level for remark in keeper.inspect().remarks}
    assert () == keeper.inspect().warnings
    keeper.close()


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("redis://redis.example:6379/0", True),
        ("redis://user@10.0.0.5", True),
        ("redis://user:password@10.0.0.5", False),
        ("redis://localhost", False),
        ("redis://127.0.0.2", False),
        ("redis://[::1]:6379", False),
        ("unix:///run/s", False),
    ],
)
def test_a_server_elsewhere_that_asks_for_no_password_is_warned_of(
    any_server: OwnServer, url: str, *, warned: bool
) -> None:
    link = Link(any_server.url)

    assert warned == ("access" in found(look_at(link, Address(url)), "warning"))
    assert "access" not in found(look_at(link, Address(url, password_file="/run/secrets/redis")), "warning")  # noqa: S106
    link.close()


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random", "volatile-ttl", "volatile-lfu"])
def test_a_server_that_evicts_is_refused_with_the_command_that_mends_it(
    patient: Any, keeper: LeaseKeeper, policy: str
) -> None:
    patient.config_set("maxmemory-policy", policy)

    with pytest.raises(RedisRefused, match=f"policy {policy}: .*CONFIG SET maxmemory-policy noeviction") as refused:
        keeper.inspect()

    assert "\n" not in str(refused.value)
    mend(found(keeper.look(), "problem")["maxmemory"])
    assert "noeviction" == keeper.inspect().maxmemory_policy


def test_a_replica_is_refused(patient: Any, keeper: LeaseKeeper, any_server: OwnServer) -> None:
    patient.replicaof("127.0.0.1", any_server.port)

    with pytest.raises(RedisRefused, match="it is a replica: it takes no jobs; mend it: point --redis at its master"):
        keeper.inspect()
    assert wait_until(lambda: "slave" == keeper.look().role)


def test_what_only_deserves_a_warning_is_not_refused(patient: Any, keeper: LeaseKeeper) -> None:
    patient.config_set("maxmemory", 0)
    patient.config_set("appendonly", "no")

    server = keeper.inspect()

    assert {"maxmemory", "persistence"} == {remark.check for remark in server.warnings} == set(found(server, "warning"))
    for remark in server.warnings:
        mend(remark)
    assert () == keeper.inspect().warnings
    # a server that still writes its first append-only file does not listen to SIGTERM
    wait_until(lambda: not {"aof_rewrite_in_progress", "aof_rewrite_scheduled"} & set(busy_with(patient)))


@pytest.mark.parametrize(
    ("filled", "who"), [(0.95, "answers of more than 1 MiB are refused"), (1.1, "jobs are refused")]
)
def test_a_server_that_refuses_jobs_or_answers_is_named(
    patient: Any, keeper: LeaseKeeper, filled: float, who: str
) -> None:
    ballast_bytes = (
        32 << 20
    )  # beside it, what clients take does not matter; what the command took goes back a little later
    patient.set("ballast", bytes(ballast_bytes))
    wait_until(lambda: patient.info("memory")["used_memory"] < 1.2 * ballast_bytes)
    patient.config_set("maxmemory", int(patient.info("memory")["used_memory"] / filled))
    full = keeper.inspect()
    patient.config_set("maxmemory", "256mb")
    patient.delete("ballast")

    (remark,) = full.warnings
    assert "maxmemory" == remark.check
    assert f": {who}" in remark.found
    assert () == keeper.inspect().warnings


@pytest.mark.parametrize("ahead_s", [-3600.0, CLOCK_SLACK_S + 1])
def test_a_clock_that_is_far_off_is_told_and_does_not_matter(keeper: LeaseKeeper, ahead_s: float) -> None:
    known = keeper.inspect()
    assert known.clock_ahead_s is not None
    assert abs(known.clock_ahead_s) < 1

    (remark,) = _clock(replace(known, clock_ahead_s=ahead_s))

    assert "warning" == remark.level
    assert "jobs do not mind" in remark.found


@pytest.mark.parametrize(
    ("version", "reasons", "target"),
    [
        ("8.1.9", [], ""),
        ("8.2.0", ["#14276", "#14323"], "8.2.2"),
        ("8.2.1", ["#14323"], "8.2.2"),
        ("8.2.1-rc1", ["#14323"], "8.2.2"),
        ("8.2.2", [], ""),
        ("10.0.0", [], ""),
        ("", [], ""),
    ],
)
def test_a_version_that_crashes_on_streams_is_named_with_the_version_to_go_to(
    version: str, reasons: list[str], target: str
) -> None:
    told, upgrade = known_crashes("redis", version)

    assert (len(reasons), target) == (len(told), upgrade)
    assert all(reason in text for reason, text in zip(reasons, told, strict=True))
    assert ([], "") == known_crashes("valkey", version)


@pytest.mark.parametrize(("version", "levels"), [("8.2.0", ["warning"]), ("8.2.2", [])])
def test_such_a_version_is_warned_of_and_not_refused(keeper: LeaseKeeper, version: str, levels: list[str]) -> None:
    remarks = list(_crashes(replace(keeper.inspect(), name="redis", version=version)))

    assert levels == [remark.level for remark in remarks]
    assert all("upgrade the server to 8.2.2" in str(remark) and "lose jobs" in str(remark) for remark in remarks)
