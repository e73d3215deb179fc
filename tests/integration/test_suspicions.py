"""Evidence, not counts: whatever happens to a job, it is condemned for what it did alone or not at all."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shards import Bench, done

from convq.errors import LeaseLost
from convq.ipc.crash_marks import (
    COMPANY_POINTS,
    CRASH_POINTS,
    GREEDY_POINTS,
    KILL_POINTS,
    POISON_POINTS,
    SLOW_DECODES,
    is_condemned,
)
from convq.protocol import Job
from convq.queue import Accusation, Blame

POINTS = st.sampled_from([KILL_POINTS, GREEDY_POINTS, CRASH_POINTS])
BEGUN_POINTS = 2


@dataclass(frozen=True)
class Fate:
    """What happens to a job in one worker: it dies in company, alone with or without a judge, or not at all."""

    name: str
    points: int = 0


FATES = st.one_of(
    st.builds(Fate, st.just("company"), POINTS),
    st.builds(Fate, st.just("alone"), POINTS),
    st.builds(
        Fate, st.sampled_from(["alone, nobody lives", "alone, orderly", "alone, lease lost", "unmarked", "slow"])
    ),
)


def suffer(bench: Bench, fate: Fate) -> tuple[int, int]:
    """One worker takes the job over and meets this fate. Suspicion and slow decodes as it found them."""
    work, lease = bench.worker()
    (job,) = [*work.reclaim(lease, 1).jobs, *work.claim(lease, 1, 1).jobs]
    found, name = (job.suspicion, job.slow), f"{job.lane}:{job.entry}"
    accused: list[Accusation] = []
    if fate.name.startswith("alone"):
        assert work.suspicions.begin_alone(lease, job)
    if fate.name == "company":
        accused = [Accusation(name, Blame.COMPANY, fate.points)]
    elif fate.name in ("alone", "alone, orderly"):
        accused = [Accusation(name, Blame.ALONE, fate.points)]
    elif fate.name == "slow":
        accused = [Accusation(name, Blame.SLOW, CRASH_POINTS)]
    bench.keeper.fence(bench.shard, lease.incarnation, accused)
    if fate.name == "alone, lease lost":
        work.suspicions.absolve(lease)
    return found


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(FATES, max_size=9))
def test_a_job_is_condemned_by_what_it_did_alone(bench: Bench, fates: list[Fate]) -> None:
    bench.redis.delete(*bench.shard.streams, bench.shard.suspects, bench.shard.leases)
    bench.submit(Job(image=b"png"))
    for fate in fates:
        suffer(bench, fate)
    work, lease = bench.worker()
    (job,) = [*work.reclaim(lease, 1).jobs, *work.claim(lease, 1, 1).jobs]

    alone = sum(fate.points for fate in fates if fate.name == "alone")
    alone += BEGUN_POINTS * sum(fate.name == "alone, nobody lives" for fate in fates)
    company = sum(fate.points for fate in fates if fate.name == "company")
    slow = sum(fate.name == "slow" for fate in fates)
    assert slow == job.slow
    assert alone <= job.suspicion <= alone + min(company, COMPANY_POINTS)
    if is_condemned(job.suspicion, job.slow):
        assert alone >= POISON_POINTS - COMPANY_POINTS or slow >= SLOW_DECODES
    if alone >= POISON_POINTS or slow >= SLOW_DECODES:
        assert is_condemned(job.suspicion, job.slow)
    for used in bench.queues:
        used.close()
    bench.queues.clear()


def test_an_answer_forgets_what_was_known(bench: Bench) -> None:
    bench.submit(Job(image=b"png"))
    for fate in (Fate("company", 3), Fate("slow"), Fate("alone, nobody lives")):
        suffer(bench, fate)
    assert 2 == bench.redis.hlen(bench.shard.suspects)

    work, lease = bench.worker()
    (job,) = work.reclaim(lease, 1).jobs
    assert (5, 1) == (job.suspicion, job.slow)
    bench.commits.complete(lease, done([job]))
    assert 0 == bench.redis.hlen(bench.shard.suspects)


def test_burying_forgets_it_too(bench: Bench) -> None:
    bench.submit(Job(image=b"png"))
    for fate in (Fate("slow"), Fate("alone", 3)):
        suffer(bench, fate)
    work, lease = bench.worker()
    (job,) = work.reclaim(lease, 1).jobs

    assert bench.commits.bury(lease, done([job])[0], "poisoned", "why")
    assert 0 == bench.redis.hlen(bench.shard.suspects)


def test_what_is_known_comes_back_with_a_reply_that_was_lost(bench: Bench) -> None:
    bench.submit(Job(image=b"png"))
    suffer(bench, Fate("company", 3))
    suffer(bench, Fate("slow"))
    work, lease = bench.worker()
    work.reclaim(lease, 1)
    lease.held.clear()  # as if the reply had never come

    assert [(3, 1)] == [(job.suspicion, job.slow) for job in work.resume(lease).jobs]


def test_who_lost_the_job_or_the_lease_does_not_run_it_alone(bench: Bench) -> None:
    work, lease = bench.worker()
    first, second = bench.submit(Job(image=b"png"), Job(image=b"png"))
    one, other = work.claim(lease, 2, 100).jobs
    bench.redis.xack(bench.shard.streams[1], "workers", first)
    bench.redis.xdel(bench.shard.streams[1], first)

    assert not work.suspicions.begin_alone(lease, one)
    assert {(1, second)} == lease.held
    bench.keeper.fence(bench.shard, lease.incarnation)
    with pytest.raises(LeaseLost):
        work.suspicions.begin_alone(lease, other)
    assert 0 == bench.redis.hlen(bench.shard.suspects)


def test_a_stranger_in_the_place_of_the_suspects_stops_nobody(bench: Bench) -> None:
    bench.redis.set(bench.shard.suspects, "a stranger")
    bench.submit(Job(image=b"png"))
    suffer(bench, Fate("company", 3))
    suffer(bench, Fate("alone", 3))
    work, lease = bench.worker()
    (job,) = work.reclaim(lease, 1).jobs

    assert (0, 0) == (job.suspicion, job.slow)
    assert work.suspicions.begin_alone(lease, job)
    assert 1 == bench.commits.complete(lease, done([job])).published


def test_that_a_job_begins_is_written_down_once_however_often_it_is_said(bench: Bench) -> None:
    work, lease = bench.worker()
    bench.submit(Job(image=b"png"))
    (job,) = work.claim(lease, 1, 100).jobs

    assert work.suspicions.begin_alone(lease, job)
    assert work.suspicions.begin_alone(lease, job), "the first reply was lost"
    assert [b"2"] == bench.redis.hvals(bench.shard.suspects)
