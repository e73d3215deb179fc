"""Dead letters against real servers: what a letter holds, and that a requeue brings the same job back, once.

Who buries, requeues and submits are users of deploy/redis/users.acl: what needs more rights than they have fails here.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis
from guarded import Guarded

from convq.errors import BadField, QueueFull
from convq.protocol import Job, Priority
from convq.queue import (
    BlockingWire,
    Commits,
    Completion,
    Delivery,
    Lease,
    Producer,
    Received,
    Shard,
    Submission,
    WorkQueue,
    at_once,
)
from convq.queue.dead_letters import PAGE, DeadLetters
from servers import wait_until

IMAGE = bytes(range(256)) * 10


@dataclass
class Ward:
    """A shard with one worker that buries what it is told to."""

    url: str
    shard: Shard
    redis: Any
    producer: Producer
    letters: DeadLetters
    work: WorkQueue
    commits: Commits
    lease: Lease

    def submit(self, *jobs: Job, priority: Priority = Priority.NORMAL) -> list[str]:
        return at_once(self.producer.submit([Submission(job, priority) for job in jobs]))

    def claim(self) -> Delivery:
        return self.work.claim(self.lease, 1000, 50)

    def bury(self, *jobs: Job, priority: Priority = Priority.NORMAL) -> list[Received]:
        """Submit jobs and bury them all."""
        self.submit(*jobs, priority=priority)
        claimed: list[Received] = []
        while len(claimed) < len(jobs):
            claimed += self.claim().jobs
        for job in claimed:
            document = f'{{"v":1,"entry":"{job.entry}","status":"poisoned"}}'.encode()
            assert self.commits.bury(self.lease, Completion(job, document), "crash", "the network crashed twice")
        return claimed

    def answer(self) -> list[Received]:
        """Answer everything that waits."""
        jobs = self.claim().jobs
        self.commits.complete(self.lease, [Completion(job, b'{"status":"ok"}') for job in jobs])
        return jobs

    def ids(self) -> list[str]:
        return [letter.id for letter in self.letters.newest_first()]


@pytest.fixture
def ward(any_guarded: Guarded) -> Iterator[Ward]:
    url, worker, shard = any_guarded.url("operator"), any_guarded.url("worker"), Shard("lenet")
    connection, wire = redis.Redis.from_url(any_guarded.url("admin")), BlockingWire(any_guarded.url("producer"))
    work = WorkQueue(worker, shard, worker="w", lease_ms=60_000)
    commits = Commits(worker, shard, result_ttl_ms=60_000)
    made = Ward(url, shard, connection, Producer(wire, shard), DeadLetters(url, shard), work, commits, work.take())
    yield made
    made.letters.close()
    commits.close()
    work.close()
    at_once(wire.close())
    connection.close()


def test_a_letter_tells_all_but_the_image(ward: Ward) -> None:
    (job,) = ward.bury(Job(image=IMAGE, id="order-17", top_k=3, ttl_ms=60_000), priority=Priority.HIGH)

    (letter,) = ward.letters.newest_first()

    assert ("order-17", "lenet", "high", job.entry) == (letter.job, letter.model, letter.priority, letter.entry)
    assert ("crash", "the network crashed twice") == (letter.reason, letter.message)
    assert ("image", len(IMAGE)) == (letter.payload, letter.bytes)
    assert {"id": "order-17", "top_k": "3", "ttl_ms": "60000"} == letter.fields
    assert letter.died_ms >= job.submitted_ms
    assert letter == ward.letters.find(letter.id)
    assert IMAGE == ward.letters.payload(letter.id)


def test_a_job_without_an_id_is_listed_under_its_entry(ward: Ward) -> None:
    (job,) = ward.bury(Job(tensor=b"1234", dtype="uint8", shape="1,2,2"))

    (letter,) = ward.letters.newest_first()

    assert (job.entry, "tensor", 4) == (letter.job, letter.payload, letter.bytes)


def test_letters_come_newest_first_over_several_pages(ward: Ward) -> None:
    count = 2 * PAGE + 1
    ward.bury(*[Job(image=b"png", id=f"j{n}") for n in range(count)])

    assert [f"j{n}" for n in reversed(range(count))] == [letter.job for letter in ward.letters.newest_first()]
    assert count == len(ward.letters)


def test_a_field_as_long_as_an_image_is_cut(ward: Ward) -> None:
    ward.redis.xadd(ward.shard.streams[1], {"image": b"png", "novel": b"x" * 100_000})
    (job,) = ward.claim().jobs
    ward.commits.bury(ward.lease, Completion(job, b"{}"), "crash", "why")

    (letter,) = ward.letters.newest_first()

    assert len(letter.fields["novel"]) < 1100
    assert letter.fields["novel"].endswith("… (100000 bytes)")


@pytest.mark.parametrize("priority", list(Priority))
def test_a_requeued_job_is_the_same_job_in_the_same_lane(ward: Ward, priority: Priority) -> None:
    (before,) = ward.bury(Job(image=IMAGE, id="a", top_k=3, traceparent="00-x"), priority=priority)

    (done,) = ward.letters.requeue(ward.ids())
    (after,) = ward.claim().jobs

    assert ("a", after.entry) == (done.job, done.entry)
    assert (before.lane, "a", IMAGE, 3, "00-x") == (after.lane, after.id, after.image, after.top_k, after.traceparent)
    assert (None, 1, 0) == (after.problem, after.attempt, after.suspicion)
    assert 0 == len(ward.letters)
    assert f"{ward.shard.stream(priority)} {after.entry}".encode() == ward.redis.get(ward.shard.job("a"))


@pytest.mark.parametrize("own_id", ["order-17", None])
def test_a_client_that_waits_gets_the_new_answer_and_not_the_old_one(ward: Ward, own_id: str | None) -> None:
    (before,) = ward.bury(Job(image=IMAGE, id=own_id))
    job_id = own_id or before.entry
    assert 1 == ward.redis.llen(ward.shard.result(job_id))

    (done,) = ward.letters.requeue(ward.ids())
    assert [job_id] == [job.id for job in ward.answer()]

    assert job_id == done.job
    assert b'{"status":"ok"}' == at_once(ward.producer.result(job_id, 1.0))
    assert 0 == ward.redis.llen(ward.shard.result(job_id))


def test_an_answer_of_another_entry_with_the_same_id_is_left_alone(ward: Ward) -> None:
    ward.bury(Job(image=b"png", id="a"))
    key = ward.shard.result("a")
    ward.redis.lpush(key, b'{"v":1,"entry":"1-1","status":"ok"}', b"no json")

    list(ward.letters.requeue(ward.ids()))

    assert [b"no json", b'{"v":1,"entry":"1-1","status":"ok"}'] == ward.redis.lrange(key, 0, -1)


def test_two_who_requeue_the_same_letters_requeue_each_once(ward: Ward) -> None:
    ward.bury(*[Job(image=IMAGE, id=f"j{n}") for n in range(100)])
    ids, outcomes = ward.ids(), list[Any]()

    def requeue() -> None:
        other = DeadLetters(ward.url, ward.shard)
        outcomes.extend(other.requeue(ids))
        other.close()

    threads = [threading.Thread(target=requeue) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    requeued = [outcome.job for outcome in outcomes if outcome.entry]
    assert (400, 100) == (len(outcomes), len(requeued))
    assert {f"j{n}" for n in range(100)} == set(requeued)
    assert 100 == ward.redis.xlen(ward.shard.streams[1])
    assert 0 == len(ward.letters)


def test_the_limits_of_the_queue_do_not_count_for_what_was_in_it_before(ward: Ward) -> None:
    ward.bury(Job(image=IMAGE, id="a"))
    ward.redis.hset(ward.shard.cfg, mapping={"max_jobs": 0, "max_bytes": 1})
    ward.redis.hset(ward.shard.door, "bytes", 0)

    (done,) = ward.letters.requeue(ward.ids())

    assert done.entry is not None
    assert len(IMAGE) == int(ward.redis.hget(ward.shard.door, "bytes"))
    with pytest.raises(QueueFull):
        ward.submit(Job(image=b"png"))


def test_a_requeue_that_the_server_refuses_changes_nothing(ward: Ward) -> None:
    ward.bury(Job(image=IMAGE, id="a"))
    result = ward.redis.lrange(ward.shard.result("a"), 0, -1)
    limit = ward.redis.config_get("maxmemory")["maxmemory"]
    ward.redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(QueueFull, match="maxmemory"):
            list(ward.letters.requeue(ward.ids()))
    finally:
        ward.redis.config_set("maxmemory", limit)

    assert (1, 0) == (len(ward.letters), ward.redis.xlen(ward.shard.streams[1]))
    assert result == ward.redis.lrange(ward.shard.result("a"), 0, -1)


def test_entries_that_are_no_letters_are_left_and_told_and_all_others_are_requeued(ward: Ward) -> None:
    ward.redis.xadd(ward.shard.dead, {"what": "is this"})
    ward.bury(Job(image=b"png", id="a"))
    for _ in range(25):  # more than are asked for at once
        ward.redis.xadd(ward.shard.dead, {"what": "is this"})
    ward.bury(Job(image=b"png", id="b"))

    done = list(ward.letters.requeue(ward.ids()[::-1]))

    assert ["a", "b"] == [one.job for one in done if one.entry]
    assert 26 == sum(one.foreign for one in done)
    assert {one.id for one in done if one.foreign} == set(ward.ids())
    assert {"a", "b"} == {job.id for job in ward.answer()}
    assert "not told" == next(ward.letters.newest_first()).reason


def test_a_letter_that_is_gone_is_told_apart(ward: Ward) -> None:
    (missing,) = ward.letters.requeue(["1-1"])

    assert (None, None) == (missing.job, missing.entry)
    assert ward.letters.find("1-1") is None
    assert ward.letters.payload("1-1") is None
    with pytest.raises(BadField, match="convq dead list"):
        ward.letters.find("order-17")


def test_purge_takes_the_named_the_old_or_all(ward: Ward) -> None:
    ward.bury(*[Job(image=b"png", id=f"j{n}") for n in range(5)])
    first = ward.ids()[-1]

    assert [True, False] == ward.letters.purge([first, "1-1"])
    assert 0 == ward.letters.purge_older(60_000)
    ward.redis.delete(ward.shard.dead)
    ward.redis.xadd(ward.shard.dead, {"dead_reason": "old"}, id="1000-0")
    ward.redis.xadd(ward.shard.dead, {"dead_reason": "new"})
    assert 1 == ward.letters.purge_older(60_000)
    assert ["new"] == [letter.reason for letter in ward.letters.newest_first()]
    assert 1 == ward.letters.purge_older(0)
    assert [] == ward.ids()


def test_a_server_that_lost_its_scripts_is_sent_them_again(ward: Ward) -> None:
    ward.bury(Job(image=b"png", id="a"))
    ids = ward.ids()
    ward.redis.script_flush()

    (done,) = ward.letters.requeue(ids)

    assert "a" == done.job


def test_a_job_of_more_fields_than_lua_can_pass_on_is_buried_with_those_of_the_protocol(ward: Ward) -> None:
    stream = ward.shard.streams[1]
    fields = {"image": b"png", "id": "wide", **{f"field-{n}": "x" for n in range(10_000)}}
    ward.redis.execute_command("XADD", stream, "*", *(part for pair in fields.items() for part in pair))
    (job,) = ward.work.claim(ward.lease, 1, 100).jobs

    assert ward.commits.bury(ward.lease, Completion(job, b"{}"), "crash", "why")

    (letter,) = ward.redis.xrange(ward.shard.dead)
    assert (b"png", b"wide") == (letter[1][b"image"], letter[1][b"id"])
    assert (0, [b"{}"]) == (ward.redis.xlen(stream), ward.redis.lrange(ward.shard.result("wide"), 0, -1))


@pytest.mark.parametrize("name", ["id", "reply_to"])
def test_an_expired_job_whose_address_is_given_twice_goes_to_the_worker_which_knows_the_words(
    ward: Ward, name: str
) -> None:
    told = [name, ward.shard.inbox("a"), name, ward.shard.inbox("b"), "ttl_ms", "0", "image", b"png"]
    entry = ward.redis.execute_command("XADD", ward.shard.streams[1], "*", *told).decode()
    wait_until(lambda: ward.redis.time()[0] * 1000 > int(entry.partition("-")[0]) + 1)

    expired, delivery = ward.work.expire(ward.lease, 1000, 60_000)

    assert 0 == sum(expired)
    assert [(entry, None, True)] == [(job.id, job.reply_to, job.problem is not None) for job in delivery.jobs]


@pytest.mark.parametrize("name", ["id", "top_k", "image"])
def test_a_job_of_more_known_fields_than_lua_can_pass_on_is_buried_too(ward: Ward, name: str) -> None:
    entry = ward.redis.execute_command("XADD", ward.shard.streams[1], "*", "image", b"png", *[name, "1"] * 10_000)
    (job,) = ward.work.claim(ward.lease, 1, 100).jobs

    assert ward.commits.bury(ward.lease, Completion(job, b"{}"), "crash", "why")

    assert 1 == len(ward.letters)
    assert [b"{}"] == ward.redis.lrange(ward.shard.result(entry.decode()), 0, -1)


@pytest.mark.parametrize("ids", [("a", "b"), ("a", "a"), ("a", "no spaces"), ("no spaces",), ("x" * 2000,)])
def test_a_letter_whose_id_is_unusable_goes_by_what_it_is_answered_under(ward: Ward, ids: tuple[str, ...]) -> None:
    told = [part for one in ids for part in ("id", one)]
    entry = ward.redis.execute_command("XADD", ward.shard.streams[1], "*", *told, "image", b"png").decode()
    (job,) = ward.claim().jobs
    document = f'{{"v":1,"entry":"{entry}","status":"poisoned"}}'.encode()
    assert ward.commits.bury(ward.lease, Completion(job, document), "crash", "why")
    (letter,) = ward.letters.newest_first()

    (done,) = ward.letters.requeue([letter.id])
    (after,) = ward.answer()

    assert (entry, entry) == (job.id, letter.job)
    assert (done.entry, done.entry) == (done.job, after.id)
    assert 0 == ward.redis.llen(ward.shard.result(entry))
    assert [] == list(ward.redis.scan_iter(f"{ward.shard.job_prefix}*"))


def test_where_no_letter_can_be_written_the_job_is_answered_all_the_same(ward: Ward) -> None:
    at_once(ward.producer.submit([Submission(Job(image=b"png", id="x", reply_to=ward.shard.inbox("text")))]))
    (job,) = ward.work.claim(ward.lease, 1, 100).jobs
    ward.redis.set(ward.shard.dead, "a string")
    ward.redis.set(ward.shard.inbox("text"), "another")

    assert ward.commits.bury(ward.lease, Completion(job, b"{}"), "crash", "why")

    assert [b"{}"] == ward.redis.lrange(ward.shard.result("x"), 0, -1)
    assert b"another" == ward.redis.get(ward.shard.inbox("text"))
    ward.redis.delete(ward.shard.dead)
