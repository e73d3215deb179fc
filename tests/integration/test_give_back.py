"""What a worker holds and will not run now goes to whoever has time, and nothing is held against it."""

from __future__ import annotations

import pytest
from shards import Bench, done, entries

from convq.errors import LeaseLost
from convq.protocol import Job, Priority


def test_what_is_given_back_is_taken_at_once_and_counts_as_no_attempt(bench: Bench) -> None:
    busy, lease = bench.worker()
    first, second, third = bench.submit(*[Job(image=b"png")] * 3)
    jobs = busy.claim(lease, 10, 100).jobs

    assert 2 == busy.give_back(lease, jobs[1:])
    assert {(1, first)} == lease.held

    idle, other = bench.worker()
    taken = idle.reclaim(other, 10)
    assert ([second, third], [1, 1], [0, 0]) == (
        entries(taken),
        [job.attempt for job in taken.jobs],
        [job.suspicion for job in taken.jobs],
    )
    assert 2 == bench.commits.complete(other, done(taken.jobs)).published
    assert 1 == bench.commits.complete(lease, done(jobs)).published


def test_what_died_twice_and_was_given_back_has_died_twice(bench: Bench) -> None:
    bench.submit(Job(image=b"png"))
    for _ in range(2):
        work, lease = bench.worker()
        work.claim(lease, 10, 10)
        work.reclaim(lease, 10)
        bench.keeper.fence(bench.shard, lease.incarnation, ["1:x"], 3)
    middle, its = bench.worker()
    (job,) = middle.reclaim(its, 10).jobs
    middle.give_back(its, [job])
    last, lease = bench.worker()

    assert [3] == [job.attempt for job in last.reclaim(lease, 10).jobs]


def test_a_job_is_given_back_in_its_own_lane_and_only_once(bench: Bench) -> None:
    work, lease = bench.worker()
    low, high = (bench.submit(Job(image=b"png"), priority=one)[0] for one in (Priority.LOW, Priority.HIGH))
    jobs = work.claim(lease, 10, 100).jobs

    assert [2, 0] == [work.give_back(lease, jobs) for _ in range(2)]
    assert [high, low] == entries(work.reclaim(lease, 10))


def test_what_is_given_back_is_published_by_whoever_takes_it_and_by_nobody_else(bench: Bench) -> None:
    work, lease = bench.worker()
    (entry,) = bench.submit(Job(image=b"png"))
    jobs = work.claim(lease, 10, 100).jobs
    work.give_back(lease, jobs)

    assert (0, 1) == ((late := bench.commits.complete(lease, done(jobs))).published, late.lost)
    assert [] == bench.results(entry)


def test_a_worker_that_was_declared_dead_gives_nothing_back(bench: Bench) -> None:
    work, lease = bench.worker()
    bench.submit(Job(image=b"png"))
    jobs = work.claim(lease, 10, 100).jobs
    bench.keeper.fence(bench.shard, lease.incarnation)

    with pytest.raises(LeaseLost, match="silent for too long"):
        work.give_back(lease, jobs)
    heir, new = bench.worker()
    assert [2] == [job.attempt for job in heir.reclaim(new, 10).jobs]
