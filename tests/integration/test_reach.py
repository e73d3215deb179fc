"""No word of a job leads a worker to a key outside its shard: not its id, not its inbox, not its outputs.

Twice over: the code refuses such words, and the user `worker` of deploy/redis/users.acl could not write there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from guarded import Guarded

from convq.queue import Commits, Completion, Lease, LeaseKeeper, Shard, WorkQueue
from convq.queue.dead_letters import DeadLetters
from convq.queue.entries import MAX_INBOX_NAME
from servers import wait_until

SHARD = Shard("lenet")
OURS, JOBS = SHARD.prefix, SHARD.streams[1]
ELSEWHERE = [
    "other",
    "",
    "convq:models",
    "convq:{other}:inbox:me",
    "convq:{lenet.1}:inbox:me",
    "convq:{lenet}:inbox:",
    "convq:{lenet}:inbox:" + "x" * (MAX_INBOX_NAME + 1),
    "xconvq:{lenet}:inbox:me",
    "CONVQ:{lenet}:inbox:me",
    "convq:{lenet}:inbox:me\nother",
    "convq:{lenet}:inbox:me\0other",
    "convq:{lenet}:inbox:me,convq:models",
    "convq:{lenet}:inbox:../leases",
    *(f"{OURS}{name}" for name in ("leases", "cfg", "dead", "jobs", "jobs:high", "cancelled", "suspects", "result:x")),
]
"""Some of these are odd names of an inbox, and the others none."""
FIELDS = [{"reply_to": word} for word in ELSEWHERE] + [{"id": word} for word in ELSEWHERE]
FIELDS += [{"outputs": word} for word in ELSEWHERE]
STRANGERS = {"other": b"mine", "convq:{other}:inbox:me": b"mine", "convq:{lenet.1}:inbox:me": b"mine"}


@pytest.fixture
def admin(any_guarded: Guarded) -> Iterator[Any]:
    """For what the test itself does, on a server where strangers keep something too."""
    with redis.Redis.from_url(any_guarded.url("admin")) as connection:
        connection.mset(STRANGERS)
        yield connection
        assert STRANGERS == dict(zip(STRANGERS, connection.mget(list(STRANGERS)), strict=True))
        keys = {key.decode() for key in connection.keys("*")} - set(STRANGERS)
        assert set() == {key for key in keys if not key.startswith(OURS) and key != "convq:models"}


@pytest.fixture
def work(any_guarded: Guarded) -> Iterator[WorkQueue]:
    queue = WorkQueue(any_guarded.url("worker"), SHARD, worker="w", lease_ms=60_000)
    yield queue
    queue.close()


@pytest.fixture
def commits(any_guarded: Guarded) -> Iterator[Commits]:
    made = Commits(any_guarded.url("worker"), SHARD, result_ttl_ms=60_000)
    yield made
    made.close()


def push(admin: Any, **more: str) -> int:
    """One job for each strange word."""
    for fields in FIELDS:
        admin.xadd(JOBS, {"image": b"x", **fields, **more})
    return len(FIELDS)


def answers(admin: Any) -> int:
    """Documents in result keys and inboxes."""
    keys = [key for kind in ("result", "inbox") for key in admin.keys(f"{OURS}{kind}:*")]
    return sum(int(admin.llen(key)) for key in keys)


def test_answers_go_where_jobs_may_send_them(admin: Any, work: WorkQueue, commits: Commits) -> None:
    lease = work.take()
    count = push(admin)
    jobs = work.claim(lease, 1000, 50).jobs

    committed = commits.complete(lease, [Completion(job, b"{}") for job in jobs])

    assert (count, count) == (len(jobs), committed.published + len(committed.refused))
    assert committed.published == answers(admin)


def test_what_expires_in_the_server_goes_there_too(admin: Any, work: WorkQueue, commits: Commits) -> None:
    lease = work.take()
    count = push(admin, ttl_ms="0")
    wait_until(lambda: admin.time()[0] * 1000 > int(admin.xrevrange(JOBS, count=1)[0][0].split(b"-")[0]) + 1)

    (_, expired, _), delivery = work.expire(lease, 1000, 60_000)

    assert 0 < expired < count
    assert count == expired + len(delivery.jobs)
    assert expired == answers(admin)
    commits.complete(lease, [Completion(job, b"{}") for job in delivery.jobs])


def test_dead_letters_and_their_return_stay_in_the_shard(
    admin: Any, work: WorkQueue, commits: Commits, any_guarded: Guarded
) -> None:
    lease = work.take()
    count = push(admin)
    for job in work.claim(lease, 1000, 50).jobs:
        assert commits.bury(lease, Completion(job, b"{}"), "crash", "why")
    letters = DeadLetters(any_guarded.url("operator"), SHARD)
    forged = {"dead_reason": "", "dead_message": "", "dead_stream": "other", "dead_entry": "1-1", "image": "x"}
    admin.xadd(SHARD.dead, forged)

    back = list(letters.requeue([letter.id for letter in letters.newest_first()][1:]))
    letters.close()

    assert count == sum(one.entry is not None for one in back)


def test_cancelled_ids_and_suspects_are_words_and_not_keys(admin: Any, work: WorkQueue, any_guarded: Guarded) -> None:
    lease: Lease = work.take()
    admin.sadd(SHARD.cancelled, *ELSEWHERE)
    admin.xadd(JOBS, {"image": b"x", "id": "a"})
    (job,) = work.claim(lease, 10, 50).jobs
    keeper = LeaseKeeper(any_guarded.url("worker"), lease_ms=1000)

    assert 1 == keeper.fence(SHARD, lease.incarnation, [f"1:{word}" for word in (*ELSEWHERE, job.entry)], 1)
    keeper.close()
