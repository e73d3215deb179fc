"""One look at a queue from outside: right, bounded whatever lies there, and of every key that is not what it should be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from guarded import Guarded

from convq.queue import Address, LeaseKeeper, Shard, WorkQueue
from convq.queue.diagnosis.glance import MALFORMED, SAMPLED, Glances
from convq.queue.diagnosis.standstill import look_for_standstills
from convq.queue.transport.pushers import pushers
from servers import OwnServer

SHARD = Shard("lenet")
HIGH, NORMAL, LOW = SHARD.streams


@pytest.fixture
def glances(any_server: OwnServer) -> Iterator[Glances]:
    made = Glances(any_server.url)
    yield made
    made.close()


@pytest.fixture
def plain(any_server: OwnServer) -> Iterator[Any]:
    with redis.Redis.from_url(any_server.url) as connection:
        yield connection


def push(plain: Any, stream: str, count: int, **fields: Any) -> None:
    pipeline = plain.pipeline(transaction=False)
    for _ in range(count):
        pipeline.xadd(stream, fields)
    pipeline.execute()


def test_what_waits_who_holds_it_and_who_sent_it(any_server: OwnServer, glances: Glances, plain: Any) -> None:
    push(plain, NORMAL, 6, image=b"x", client="shop")
    push(plain, HIGH, 2, image=b"x")
    push(plain, LOW, 1, image=b"x", client="two words")
    work = WorkQueue(any_server.url, SHARD, worker="host-7.abcdef01-812", lease_ms=5000)
    lease = work.take()
    jobs = work.claim(lease, 4, 100).jobs
    seen = glances.look(SHARD)

    assert (2, 6, 1) == tuple(lane.length for lane in seen.lanes)
    assert len(jobs) == sum(lane.pending for lane in seen.lanes) > 0
    assert {"shop": 6, "": 2, MALFORMED: 1} == seen.clients
    assert 9 == seen.sampled == seen.jobs == sum(lane.added for lane in seen.lanes)
    (worker,) = seen.alive
    assert (lease.incarnation, "host-7", len(jobs)) == (worker.name, worker.host, worker.held)
    assert worker.asked_s is not None
    assert 0 < worker.left_s <= 5
    assert seen.oldest_age_s is not None
    work.close()


def test_an_empty_server_and_one_full_of_strange_keys(glances: Glances, plain: Any) -> None:
    assert (0, [], None) == (glances.look(SHARD).jobs, glances.look(SHARD).alive, glances.look(SHARD).oldest_age_s)
    for key in (*SHARD.streams, SHARD.leases, SHARD.cfg, SHARD.dead, SHARD.door):
        plain.set(key, "something else")
    assert (0, []) == (glances.look(SHARD).jobs, glances.look(SHARD).alive)
    plain.delete(SHARD.cfg, SHARD.leases)
    plain.hset(SHARD.cfg, mapping={"max_jobs": "many", "answered": "-1", "drain_per_s": "inf"})
    plain.zadd(SHARD.leases, {b"\xff\xfe\x1b[2J": 1e300, b"": 0})
    seen = glances.look(SHARD)
    assert (None, None, None) == (seen.limit_jobs, seen.answered, seen.drain_per_s)
    assert 2 == len(seen.workers)


@pytest.mark.parametrize(
    ("full", "ago_ms", "expected"), [(1, 0, 12.5), (1, 5_000, 12.5), (1, 20_000, None), (0, 0, None)]
)
def test_how_fast_a_queue_drains_is_told_where_it_was_measured_lately_while_jobs_waited(
    glances: Glances, plain: Any, full: int, ago_ms: int, expected: float | None
) -> None:
    measured_ms = int(plain.time()[0]) * 1000 - ago_ms
    plain.hset(SHARD.cfg, mapping={"drain_per_s": "12.5000", "drain_full": full, "drain_ms": measured_ms})

    assert expected == glances.look(SHARD).drain_per_s


def test_however_much_waits_a_look_reads_little(glances: Glances, plain: Any) -> None:
    push(plain, NORMAL, 5000, image=b"x" * 300, client="shop")
    assert glances.look(SHARD).sampled <= SAMPLED + 6
    assert 0 == glances.look(SHARD, 0, 0).sampled

    push(plain, LOW, 20, image=b"x" * 3_000_000, client="large")
    seen = glances.look(SHARD)
    assert 5020 == seen.jobs
    assert "large" in seen.clients
    assert seen.clients["large"] <= 4, "a few entries of 3 MB, not all"


def test_one_entry_of_very_many_fields_is_looked_at_whole(glances: Glances, plain: Any) -> None:
    flat = [part for number in range(20_000) for part in (f"f{number}", "v")]
    plain.execute_command("XADD", NORMAL, "*", *flat, "client", "shop")

    assert {"shop": 1} == glances.look(SHARD).clients


def test_a_hundred_thousand_names_are_a_sample(glances: Glances, plain: Any) -> None:
    pipeline = plain.pipeline(transaction=False)
    for number in range(10_000):
        pipeline.xadd(NORMAL, {"image": b"x", "client": f"random-{number}"})
    pipeline.execute()

    assert len(glances.look(SHARD).clients) <= SAMPLED + 6


def test_jobs_without_a_worker_and_a_full_queue_are_remarked(any_server: OwnServer, plain: Any) -> None:
    address = Address(any_server.url)
    assert [] == list(look_for_standstills(address, {"lenet": {}}))
    push(plain, NORMAL, 3, image=b"x")
    plain.hset(SHARD.cfg, "max_jobs", 3)

    alone, full = look_for_standstills(address, {"lenet": {"limits": {"max_batch_s": "soon"}}, "edges": {}})
    assert ("problem", "queue lenet") == (alone.level, alone.check)
    assert "3 jobs are in it" in alone.found
    assert "no worker is alive" in alone.found
    assert ("warning", True) == (full.level, "3 of 3 jobs" in full.found)


def test_a_service_that_does_not_export_hears_how_many_jobs_there_are(any_server: OwnServer, plain: Any) -> None:
    one, other = (LeaseKeeper(any_server.url, lease_ms=1000) for _ in range(2))
    push(plain, HIGH, 2, image=b"x")
    push(plain, LOW, 3, image=b"x")

    assert one.depth(SHARD) is not None
    assert other.depth(SHARD) is None
    assert 5 == one.jobs["lenet"][0] == other.jobs["lenet"][0]
    one.close()
    other.close()


def test_connections_that_push_are_told_to_whoever_may_know(any_guarded: Guarded) -> None:
    with redis.Redis.from_url(any_guarded.url("producer"), client_name="shop", driver_info=None) as pushing:
        pushing.xadd(NORMAL, {"image": b"x"})
        glances = Glances(any_guarded.url("admin"))
        glances.look(SHARD)
        found = pushers(glances.link)
        glances.close()

    assert found is not None
    assert [("shop", "producer", 1)] == [(one.name, one.user, one.connections) for one in found]
