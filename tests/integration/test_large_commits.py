"""Documents of megabytes on their way out: in portions, only where the server has room, and each at most once."""

from __future__ import annotations

import pytest
from shards import Bench, done

from convq.errors import LeaseLost
from convq.protocol import Job
from convq.queue import Completion, Received
from convq.queue.commits import LARGE_BYTES, PORTION_BYTES
from convq.queue.deliveries import Lease

MIB = 1 << 20


def claimed(bench: Bench, count: int) -> tuple[Lease, list[Received]]:
    work, lease = bench.worker()
    bench.submit(*[Job(image=b"png", id=f"job-{i}") for i in range(count)])
    return lease, list(work.claim(lease, count, 1, 1 << 30).jobs)


def commits_made(bench: Bench) -> int:
    """Calls of scripts so far."""
    stats = bench.redis.info("commandstats")
    return sum(int(stats.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in ("eval", "evalsha"))


def fill(bench: Bench, free_bytes: int) -> None:
    """Leave so many bytes under maxmemory."""
    bench.redis.config_set("maxmemory", int(bench.redis.info("memory")["used_memory"]) + free_bytes)


@pytest.fixture(autouse=True)
def limit_as_before(bench: Bench) -> object:
    before = bench.redis.config_get("maxmemory")["maxmemory"]
    yield
    bench.redis.config_set("maxmemory", before)


@pytest.mark.parametrize(
    ("sizes", "calls"),
    [
        ([100] * 64, 1),
        ([PORTION_BYTES // 2] * 4, 2),
        ([3 * MIB] * 5, 3),
        ([100, 20 * MIB, 100, 100], 3),
        ([100] * 501, 2),
    ],
)
def test_documents_are_committed_in_portions_and_a_large_one_by_itself(
    bench: Bench, sizes: list[int], calls: int
) -> None:
    lease, jobs = claimed(bench, len(sizes))
    bench.redis.config_set("maxmemory", 0)
    documents = [bytes([65 + i % 26]) * size for i, size in enumerate(sizes)]
    bench.commits.complete(lease, [])  # connects
    before = commits_made(bench)

    committed = bench.commits.complete(lease, list(map(Completion, jobs, documents)))

    made = commits_made(bench) - before
    assert calls <= made <= calls + 1  # one more where the server did not know the script
    assert (len(sizes), 0, [], []) == (committed.published, committed.lost, committed.refused, committed.no_room)
    assert [[document] for document in documents] == [bench.results(job.id) for job in jobs]


def test_large_documents_without_room_are_kept_and_told_and_small_ones_of_the_same_call_are_published(
    bench: Bench,
) -> None:
    lease, jobs = claimed(bench, 4)
    fill(bench, 64 * MIB)
    large, small = b"x" * (7 * MIB), b"small"
    documents = [small, large, small, large]

    first = bench.commits.complete(lease, list(map(Completion, jobs[:2], documents[:2])))
    fill(bench, 8 * MIB)
    second = bench.commits.complete(lease, list(map(Completion, jobs[2:], documents[2:])))

    assert (2, []) == (first.published, first.no_room)
    assert (1, [jobs[3]]) == (second.published, second.no_room)
    assert [small] == bench.results(jobs[2].id)
    assert [] == bench.results(jobs[3].id)
    assert (jobs[3].lane, jobs[3].entry) in lease.held

    brief = bench.commits.complete(lease, [Completion(jobs[3], b"no room", failed=True)])

    assert (1, 0) == (brief.published, brief.lost)
    assert [b"no room"] == bench.results(jobs[3].id)
    assert (jobs[3].lane, jobs[3].entry) not in lease.held


def test_a_large_answer_leaves_a_tenth_of_the_server_to_others(bench: Bench) -> None:
    lease, jobs = claimed(bench, 30)
    fill(bench, 40 * MIB)
    most = int(bench.redis.config_get("maxmemory")["maxmemory"])

    committed = bench.commits.complete(lease, done(jobs, b"x" * (3 * MIB)))

    assert committed.published > 0
    assert committed.no_room
    assert len(jobs) == committed.published + len(committed.no_room)
    assert bench.redis.info("memory")["used_memory"] < most * 0.91
    assert bench.submit(Job(image=b"another"))


def test_small_documents_go_out_although_the_server_is_full(bench: Bench) -> None:
    lease, jobs = claimed(bench, 64)
    fill(bench, 0)

    committed = bench.commits.complete(lease, done(jobs, b"x" * (LARGE_BYTES // 64)))

    assert (64, []) == (committed.published, committed.no_room)


def test_a_call_that_is_repeated_publishes_nothing_twice_although_its_room_is_gone_now(bench: Bench) -> None:
    lease, jobs = claimed(bench, 2)
    completions = done(jobs, b"x" * (2 * MIB))
    first = bench.commits.complete(lease, completions)
    fill(bench, 0)

    again = bench.commits.complete(lease, completions)
    told = bench.commits.complete(lease, [Completion(job, b"no room", failed=True) for job in again.no_room])

    assert (2, 0) == (first.published, again.published)
    assert (0, 2) == (told.published, told.lost)
    assert [1, 1] == [len(bench.results(job.id)) for job in jobs]


def test_who_was_declared_dead_is_told_so_before_room_is_looked_for(bench: Bench) -> None:
    lease, jobs = claimed(bench, 1)
    fill(bench, 0)
    bench.redis.zrem(bench.shard.leases, lease.incarnation)

    with pytest.raises(LeaseLost):
        bench.commits.complete(lease, done(jobs, b"x" * (2 * MIB)))


def test_a_worker_that_may_not_ask_for_room_publishes_as_before(bench: Bench) -> None:
    lease, jobs = claimed(bench, 1)
    fill(bench, 0)
    bench.redis.execute_command("ACL", "SETUSER", "worker", "-info")
    try:
        committed = bench.commits.complete(lease, done(jobs, b"x" * (2 * MIB)))
    finally:
        bench.redis.execute_command("ACL", "SETUSER", "worker", "+info")
        bench.redis.acl_log_reset()

    assert (1, []) == (committed.published, committed.no_room)
