"""A backlog whose time is over is answered inside the server: its images do not cross the wire."""

from __future__ import annotations

from typing import Any

import pytest

from convq.queue import Shard, WorkQueue
from servers import OwnServer, wait_until
from services import JOBS, Plain, RunningService, seven

SIZE = 100_000


def stale(plain: Plain, jobs: int, **fields: Any) -> list[str]:
    """Jobs that were wanted within a millisecond, long ago, with images that are heavy to move."""
    base = 1_000
    pipeline = plain.redis.pipeline()
    for i in range(jobs):
        pipeline.xadd(JOBS, {"image": bytes(SIZE), "ttl_ms": 1, **fields}, id=f"{base + i}-0")
    return [entry.decode() for entry in pipeline.execute()]


def sent_bytes(plain: Plain) -> int:
    return int(plain.redis.info("stats")["total_net_output_bytes"])


def test_expired_jobs_are_all_answered_and_few_images_move(fresh_server: OwnServer, fresh: Plain) -> None:
    inbox = "convq:{lenet}:inbox:stale"
    ids = stale(fresh, 1_500, reply_to=inbox)
    (live,) = fresh.burst([{"image": seven(), "ttl_ms": 600_000}])
    before = sent_bytes(fresh)

    with RunningService(fresh_server.url) as service:
        assert "7" == fresh.answer(live).label
        wait_until(lambda: fresh.redis.llen(inbox) == len(ids))
        wait_until(fresh.nothing_left)
        moved = sent_bytes(fresh) - before
        wait_until(
            lambda: (
                sum(v for k, v in service.metrics()["convq_jobs_total"].items() if ("outcome", "expired") in k) == 1_500
            )
        )

    answers = fresh.inbox(inbox)
    assert sorted(ids) == sorted(answer.id for answer in answers)
    assert {"expired"} == {answer.status for answer in answers}
    assert moved < 1_500 * SIZE / 3


@pytest.mark.parametrize(
    ("fields", "taken"),
    [
        ({"ttl_ms": "1"}, True),
        ({"ttl_ms": "1", "id": "mine"}, True),
        ({"ttl_ms": "1", "id": "not mine"}, False),
        ({"ttl_ms": "soon"}, False),
        ({"ttl_ms": "1", "reply_to": "elsewhere"}, False),
        ({"ttl_ms": "1", "reply_to": "convq:{lenet}:inbox:text"}, False),
        ({"ttl_ms": "999999999999999"}, False),
        ({}, False),
    ],
)
def test_only_what_is_plainly_expired_is_answered_in_the_server(
    any_server: OwnServer, fields: Any, taken: bool
) -> None:
    with Plain(any_server.url) as plain:
        work = WorkQueue(any_server.url, Shard("lenet"), worker='a "host"-1', lease_ms=4_000)
        lease = work.take()
        plain.redis.set("convq:{lenet}:inbox:text", "no list")
        plain.push({"image": b"x", **fields}, entry="5-0")

        expired, delivery = work.expire(lease, 10, 60_000)

        assert ([0, int(taken), 0], 1 - int(taken)) == (expired, len(delivery.jobs))
        if taken:
            answer = plain.answer(fields.get("id", "5-0"))
            assert ("expired", "5-0", 'a "host"-1') == (answer.status, answer.entry, answer.worker)
            assert 0 == plain.redis.xlen(JOBS)
        work.close()
