"""Which service exports a queue, and what it says of it, against real servers."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from convq.errors import QueueFull
from convq.ipc.series import LAYOUT
from convq.ipc.shared_memory import Board
from convq.protocol import Job
from convq.queue import (
    BlockingWire,
    Commits,
    Completion,
    LeaseKeeper,
    Producer,
    Shard,
    Submission,
    WorkQueue,
    at_once,
)
from convq.queue.keys import GROUP
from convq.queue.supervision import LaneDepth, ShardDepth
from convq.queue.transport.address import Address
from convq.settings import Settings
from convq.supervisor.beat.heartbeat import Heartbeat
from servers import OwnServer, wait_until

TERM_S = 0.4
STREAM = "convq:{lenet}:jobs"


@dataclass
class Queue:
    """A shard, a client of it, and two services that want to export it."""

    url: str
    shard: Shard
    redis: Any
    producer: Producer
    one: LeaseKeeper
    other: LeaseKeeper

    def submit(self, *jobs: Job) -> list[str]:
        return at_once(self.producer.submit([Submission(job) for job in jobs]))

    def depth(self) -> ShardDepth:
        """What the exporting service is told."""
        depth = self.one.depth(self.shard) or self.other.depth(self.shard)
        assert depth is not None
        return depth

    def limit(self, max_jobs: int = 1_000_000, max_bytes: int = 1 << 40) -> None:
        self.one.announce(self.shard, {}, 60_000, max_jobs, max_bytes)

    def know(self, **facts: Any) -> None:
        """Write what services and scripts keep of the shard."""
        self.redis.hset(self.shard.cfg, mapping=facts)


@pytest.fixture
def queue(any_server: OwnServer) -> Iterator[Queue]:
    url, shard = any_server.url, Shard("lenet")
    connection, wire = redis.Redis.from_url(url), BlockingWire(url)
    one, other = (LeaseKeeper(url, lease_ms=round(TERM_S * 1e3)) for _ in range(2))
    yield Queue(url, shard, connection, Producer(wire, shard), one, other)
    one.close()
    other.close()
    at_once(wire.close())
    connection.close()


# -- one exports --------------------------------------------------------------------------------------------------------


def test_of_many_services_that_ask_at_once_one_is_elected(queue: Queue) -> None:
    keepers = [LeaseKeeper(queue.url, lease_ms=60_000) for _ in range(8)]
    together, told = threading.Barrier(len(keepers)), []

    def ask(keeper: LeaseKeeper) -> None:
        together.wait()
        told.extend([keeper.depth(queue.shard) for _ in range(5)])

    threads = [threading.Thread(target=ask, args=(keeper,)) for keeper in keepers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for keeper in keepers:
        keeper.close()

    assert 40 == len(told)
    assert 5 == sum(depth is not None for depth in told)


def test_who_goes_on_asking_stays_elected_longer_than_its_term(queue: Queue) -> None:
    assert queue.one.depth(queue.shard)
    over_at = time.monotonic() + 2 * TERM_S

    def still_mine() -> bool:
        asked_s = time.monotonic()
        assert queue.one.depth(queue.shard)
        if queue.other.depth(queue.shard) is not None:
            assert time.monotonic() - asked_s > TERM_S, "elected within the other's term"
            queue.other.resign(queue.shard)  # this test itself stood still for so long
        return time.monotonic() > over_at

    wait_until(still_mine, every_s=TERM_S / 8)


def test_another_is_elected_when_the_term_of_a_silent_one_is_over_and_no_sooner(queue: Queue) -> None:
    mine = queue.one.depth(queue.shard)
    assert mine is not None

    wait_until(lambda: queue.other.depth(queue.shard), 5)

    assert time.monotonic() >= mine.valid_until_s, "two exported at one moment"
    assert queue.one.depth(queue.shard) is None


def test_who_resigns_is_followed_at_once_and_only_the_elected_can_resign(queue: Queue) -> None:
    assert queue.one.depth(queue.shard)
    queue.other.resign(queue.shard)
    assert queue.other.depth(queue.shard) is None

    queue.one.resign(queue.shard)

    assert queue.other.depth(queue.shard)


def test_a_clock_that_went_back_an_hour_leaves_the_queue_with_an_exporter(queue: Queue) -> None:
    assert queue.one.depth(queue.shard)
    queue.know(exporter_ms=int(queue.redis.time()[0]) * 1000 + 3_600_000)

    assert queue.other.depth(queue.shard)


def test_at_maxmemory_one_is_elected_and_told(queue: Queue) -> None:
    queue.submit(Job(image=b"png"))
    limit = queue.redis.config_get("maxmemory")["maxmemory"]
    queue.redis.config_set("maxmemory", 1)
    try:
        depth = queue.one.depth(queue.shard)
        assert queue.other.depth(queue.shard) is None
    finally:
        queue.redis.config_set("maxmemory", limit)
    assert depth is not None
    assert 1 == depth.lanes[1].length


def test_a_service_that_drains_exports_nothing_any_more_and_lets_another_at_once(queue: Queue) -> None:
    settings = Settings(lease=60, redis=queue.url)
    heartbeat = Heartbeat(settings, Address(queue.url), Board(LAYOUT, 1, 1), ("lenet",), [])
    heartbeat.start()
    try:
        wait_until(heartbeat.depths)
        assert queue.other.depth(queue.shard) is None

        heartbeat.drain()

        assert {} == heartbeat.depths()
        wait_until(lambda: queue.other.depth(queue.shard), 2)
    finally:
        heartbeat.stop()


def test_a_service_that_cannot_reach_the_server_stops_exporting_when_its_term_is_over(fresh_server: OwnServer) -> None:
    settings = Settings(lease=1, redis=fresh_server.url)
    heartbeat = Heartbeat(settings, Address(fresh_server.url), Board(LAYOUT, 1, 1), ("lenet",), [])
    heartbeat.start()
    try:
        wait_until(heartbeat.depths)
        fresh_server.kill()

        wait_until(lambda: not heartbeat.depths(), 3)

        fresh_server.start()
        wait_until(heartbeat.depths)
    finally:
        heartbeat.stop()


# -- what it says -------------------------------------------------------------------------------------------------------


def test_jobs_ever_added_are_counted_through_every_door_and_after_they_are_answered(queue: Queue) -> None:
    queue.submit(*[Job(image=b"png")] * 3)
    queue.redis.xadd(STREAM, {"image": b"png"})
    work, commits = (
        WorkQueue(queue.url, queue.shard, worker="w", lease_ms=60_000),
        Commits(queue.url, queue.shard, result_ttl_ms=60_000),
    )
    lease = work.take()
    commits.complete(lease, [Completion(job, b"{}") for job in work.claim(lease, 10, 100).jobs])
    work.close()
    commits.close()

    assert [(0, 0), (0, 4), (0, 0)] == [(lane.length, lane.added) for lane in queue.depth().lanes]


def test_limits_and_bytes_are_those_of_the_door(queue: Queue) -> None:
    before = queue.depth()
    assert (None, None, None) == (before.limit_jobs, before.limit_bytes, before.held_bytes)
    queue.limit(max_jobs=70, max_bytes=1 << 20)
    queue.submit(Job(image=b"x" * 5000))

    depth = queue.depth()

    assert (70, 1 << 20) == (depth.limit_jobs, depth.limit_bytes)
    assert depth.held_bytes is not None
    assert 5000 <= depth.held_bytes < 20_000


def test_entries_from_the_future_are_told_and_are_as_old_as_they_were_seen(queue: Queue) -> None:
    now_s = int(queue.redis.time()[0])
    queue.redis.xadd(STREAM, {"image": "x"}, id=f"{(now_s + 3600) * 1000}-1")
    queue.redis.xadd(STREAM, {"image": "x"})  # inherits that time

    assert 3590 < queue.depth().lanes[1].ahead_s <= 3600
    wait_until(lambda: queue.depth().lanes[1].oldest_age_s > 0.2)
    first, _ = queue.redis.xrange(STREAM)
    queue.redis.xdel(STREAM, first[0])
    assert 0.2 > queue.depth().lanes[1].oldest_age_s, "another is the oldest now"
    wait_until(lambda: queue.depth().lanes[1].oldest_age_s > 0.2)
    assert 0 == queue.depth().lanes[0].ahead_s


def test_a_term_that_nobody_can_grant_binds_nobody(queue: Queue) -> None:
    now_ms = int(queue.redis.time()[0]) * 1000
    for since, term in ((now_ms, 10**12), (now_ms + 10**9, 1000), (b"nan", b"inf"), (b"\xff", b""), (-1, -1)):
        queue.know(exporter="a ghost", exporter_ms=since, exporter_term_ms=term)
        wait_until(lambda: queue.one.depth(queue.shard) or queue.other.depth(queue.shard), 8)


def test_a_key_that_is_no_stream_counts_as_empty_and_hides_no_other(queue: Queue) -> None:
    queue.redis.set(f"{STREAM}:high", "not a stream")
    queue.redis.set(queue.shard.dead, "neither")
    queue.submit(Job(image=b"png"))

    depth = queue.depth()

    assert [0, 1, 0] == [lane.length for lane in depth.lanes]
    assert 0 == depth.dead_letters


def test_jobs_that_no_group_knows_of_lag(queue: Queue) -> None:
    queue.submit(*[Job(image=b"png")] * 3)

    assert (3, 0, 3) == (queue.depth().lanes[1].length, queue.depth().lanes[1].pending, queue.depth().lanes[1].lag)


# -- how long it takes ---------------------------------------------------------------------------------------------------


def test_a_job_that_is_answered_before_an_older_one_hides_the_lag_and_not_how_many_wait(queue: Queue) -> None:
    first, second, _ = queue.submit(Job(image=b"1"), Job(image=b"2"), Job(image=b"3"))
    queue.redis.xgroup_create(STREAM, GROUP, "0")
    for worker in ("one", "other"):
        queue.redis.xreadgroup(GROUP, worker, {STREAM: ">"}, count=1)

    def answered(entry: str) -> LaneDepth:
        queue.redis.xack(STREAM, GROUP, entry)
        queue.redis.xdel(STREAM, entry)
        return queue.depth().lanes[1]

    newest, both = answered(second), answered(first)

    assert (None, 1, 2) == (newest.lag, newest.pending, newest.length)
    assert (1, 0, 1) == (both.lag, both.pending, both.length)


def test_what_waits_is_answered_in_its_number_over_the_drain_rate(queue: Queue) -> None:
    assert 0 == queue.depth().drain_s, "nothing waits: the rate does not matter"
    queue.submit(*[Job(image=b"png")] * 30)
    assert queue.depth().drain_s is None
    now_ms = int(queue.redis.time()[0]) * 1000

    queue.know(drain_per_s="12.0000", drain_full=1, drain_ms=now_ms)
    assert 2.5 == queue.depth().drain_s
    queue.know(drain_per_s="0.0000")
    assert math.inf == queue.depth().drain_s
    queue.know(drain_per_s="12.0000", drain_full=0)
    assert queue.depth().drain_s is None, "measured while nothing waited: only what came in"
    queue.know(drain_full=1, drain_ms=now_ms - 20_000)
    assert queue.depth().drain_s is None, "nobody measures any more"
    queue.know(drain_ms=now_ms, drain_per_s="0x0F")
    assert 2.0 == queue.depth().drain_s, "a number as a stranger writes it, and no reason to stop"


# -- who was refused -----------------------------------------------------------------------------------------------------


def refused(queue: Queue, *jobs: Job) -> bool:
    try:
        queue.submit(*jobs)
    except QueueFull:
        return True
    return False


def test_refused_jobs_are_counted_by_the_limit_that_was_reached_whichever_door_they_came_to(queue: Queue) -> None:
    assert {"jobs": 0, "bytes": 0} == queue.depth().refused
    queue.one.keep_functions()
    queue.limit(max_jobs=2)
    assert not refused(queue, Job(image=b"x"), Job(image=b"y", id="known"))

    assert refused(queue, Job(image=b"x"))
    assert refused(queue, *[Job(image=b"x")] * 5), "more than may ever be in it"
    assert refused(queue, Job(image=b"y", id="known"), Job(image=b"x"))
    with pytest.raises(redis.ResponseError, match="QUEUEFULL"):
        queue.redis.fcall("convq_submit", 1, STREAM, "image", b"png")
    assert {"jobs": 1 + 5 + 1 + 1, "bytes": 0} == queue.depth().refused

    queue.limit(max_bytes=10)
    assert refused(queue, *[Job(image=b"x" * 11)] * 2)
    with pytest.raises(redis.ResponseError, match="QUEUEFULL"):
        queue.redis.fcall("convq_submit", 1, STREAM, "image", b"png")
    assert {"jobs": 8, "bytes": 3} == queue.depth().refused


def test_a_full_queue_says_so_at_maxmemory_too_where_it_cannot_count(queue: Queue) -> None:
    queue.limit(max_jobs=1)
    queue.submit(Job(image=b"png"))
    limit = queue.redis.config_get("maxmemory")["maxmemory"]
    queue.redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(QueueFull, match="1 jobs are in the queue, 1 may be"):
            queue.submit(Job(image=b"png"))
    finally:
        queue.redis.config_set("maxmemory", limit)
    assert {"jobs": 0, "bytes": 0} == queue.depth().refused


def test_who_may_only_read_the_limits_is_refused_as_a_full_queue_refuses(queue: Queue) -> None:
    queue.limit(max_jobs=1)
    queue.submit(Job(image=b"png"))
    rights = ["+@all", "-hincrby"]
    queue.redis.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~*", *rights)
    wire = BlockingWire(queue.url.replace("redis://", "redis://reader:pw@"))
    try:
        with pytest.raises(QueueFull, match="1 jobs are in the queue"):
            at_once(Producer(wire, queue.shard).submit([Submission(Job(image=b"png"))]))
    finally:
        at_once(wire.close())
        queue.redis.acl_deluser("reader")
