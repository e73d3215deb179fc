"""One shard of the queue against real servers: submit, claim, complete, reclaim, and who may publish.

Producer and workers are users of deploy/redis/users.acl: what needs more rights than they have fails here.
"""

from __future__ import annotations

import pytest
from shards import LEASE_MS, Bench, done, entries

from convq.errors import LeaseLost, QueueFull
from convq.protocol import Job, JobState, Priority
from convq.queue import Completion, Shard, Submission, at_once
from servers import wait_until


def test_a_job_travels_from_submit_to_result_and_leaves_nothing_behind(bench: Bench) -> None:
    work, lease = bench.worker()
    (entry,) = bench.submit(Job(image=b"png"))

    delivery = work.claim(lease, 10, 100)
    committed = bench.commits.complete(lease, done(delivery.jobs))

    assert ([entry], 1, 0) == (entries(delivery), committed.published, committed.lost)
    assert b"done" == at_once(bench.producer.result(entry, 1.0))
    assert 0 == bench.redis.xlen(bench.shard.streams[1])
    assert set() == lease.held


def test_a_second_commit_of_the_same_jobs_publishes_nothing(bench: Bench) -> None:
    work, lease = bench.worker()
    (entry,) = bench.submit(Job(image=b"png"))
    jobs = work.claim(lease, 10, 100).jobs
    bench.commits.complete(lease, done(jobs, b"first"))

    again = bench.commits.complete(lease, done(jobs, b"second"))

    assert (0, 1) == (again.published, again.lost)
    assert [b"first"] == bench.results(entry)


def test_a_worker_without_a_lease_publishes_nothing(bench: Bench) -> None:
    work, lease = bench.worker()
    (entry,) = bench.submit(Job(image=b"png"))
    jobs = work.claim(lease, 10, 100).jobs

    assert 1 == bench.keeper.fence(bench.shard, lease.incarnation)
    with pytest.raises(LeaseLost):
        bench.commits.complete(lease, done(jobs))

    assert [] == bench.results(entry)
    assert lease.lost


def test_jobs_of_a_fenced_worker_go_to_another_with_the_attempt_counted(bench: Bench) -> None:
    dead, lease = bench.worker()
    bench.submit(Job(image=b"png", id="a"), Job(image=b"png", id="b"))
    dead.claim(lease, 10, 100)
    heir, new = bench.worker()
    bench.keeper.fence(bench.shard, lease.incarnation)

    delivery = heir.reclaim(new, 10)
    bench.commits.complete(new, done(delivery.jobs, b"by the heir"))

    assert [("a", 2, b"png"), ("b", 2, b"png")] == [(job.id, job.attempt, job.image) for job in delivery.jobs]
    assert [b"by the heir"] == bench.results("a")
    assert [] == heir.reclaim(new, 10).jobs
    names = {consumer["name"] for consumer in bench.redis.xinfo_consumers(bench.shard.streams[1], "workers")}
    assert lease.incarnation.encode() not in names


def test_a_lease_that_is_not_renewed_runs_out_and_its_jobs_are_taken_over(bench: Bench) -> None:
    silent, lease = bench.worker()
    (entry,) = bench.submit(Job(image=b"png"))
    jobs = silent.claim(lease, 10, 100).jobs
    heir, new = bench.worker()

    def take_over() -> list[str]:
        heir.renew(new)
        return entries(heir.reclaim(new, 10))

    assert [entry] == wait_until(take_over, timeout_s=5)
    with pytest.raises(LeaseLost):
        bench.commits.complete(lease, done(jobs))
    with pytest.raises(LeaseLost):
        silent.renew(lease)


def test_a_renewed_lease_does_not_run_out(bench: Bench) -> None:
    busy, lease = bench.worker()
    bench.submit(Job(image=b"png"))
    busy.claim(lease, 10, 100)
    heir, new = bench.worker()
    start_ms = int(bench.redis.time()[0])

    def three_seconds_later() -> bool:
        assert [] == bench.keeper.renew(bench.shard, [lease.incarnation, new.incarnation])
        assert [] == heir.reclaim(new, 10).jobs
        return int(bench.redis.time()[0]) - start_ms >= 3

    wait_until(three_seconds_later, timeout_s=10, every_s=0.05)


def test_nobody_is_declared_dead_when_nobody_was_heard_of_for_half_a_lease(bench: Bench) -> None:
    silent, lease = bench.worker()
    bench.submit(Job(image=b"png"))
    silent.claim(lease, 10, 100)
    heir, new = bench.worker()
    wait_until(lambda: bench.redis.zscore(bench.shard.leases, lease.incarnation) < _server_ms(bench), timeout_s=5)

    assert [] == heir.reclaim(new, 10).jobs
    heir.renew(new)
    assert [] == heir.reclaim(new, 10).jobs
    assert [] == bench.keeper.renew(bench.shard, [lease.incarnation])

    def a_lease_later() -> bool:
        assert [] == bench.keeper.renew(bench.shard, [lease.incarnation, new.incarnation])
        assert [] == heir.reclaim(new, 10).jobs
        return _server_ms(bench) > heard + LEASE_MS

    heard = _server_ms(bench)
    wait_until(a_lease_later)


def test_a_service_that_dies_and_starts_over_and_over_does_not_keep_the_dead_alive(bench: Bench) -> None:
    dead, lease = bench.worker()
    (entry,) = bench.submit(Job(image=b"png"))
    dead.claim(lease, 10, 100)

    def restart() -> list[str]:
        """A service that lives for three quarters of a lease, of which half is over before it first asks."""
        heir, new = bench.worker()
        return entries(heir.reclaim(new, 10))

    assert [entry] == wait_until(restart, timeout_s=10, every_s=0.75 * LEASE_MS / 1e3)


def test_leases_of_before_the_clock_went_back_do_not_outlive_it(bench: Bench) -> None:
    silent, lease = bench.worker()
    (entry,) = bench.submit(Job(image=b"png"))
    silent.claim(lease, 10, 100)
    heir, new = bench.worker()
    hour_ms = 3_600_000
    # What an hour back leaves behind: a last heartbeat and leases that lie in the future.
    bench.redis.hset(bench.shard.cfg, "heard_ms", int(_server_ms(bench)) + hour_ms)
    bench.redis.zadd(bench.shard.leases, {lease.incarnation: _server_ms(bench) + hour_ms})

    def taken_over() -> list[str]:
        heir.renew(new)
        return entries(heir.reclaim(new, 10))

    assert [] == heir.reclaim(new, 10).jobs
    assert [entry] == wait_until(taken_over, timeout_s=5)


def _server_ms(bench: Bench) -> float:
    seconds, micros = bench.redis.time()
    return float(seconds * 1000 + micros / 1000)


def test_reclaim_takes_no_more_than_there_is_room_for(bench: Bench) -> None:
    dead, lease = bench.worker()
    bench.submit(*[Job(image=b"png")] * 7)
    dead.claim(lease, 10, 100)
    heir, new = bench.worker()
    bench.keeper.fence(bench.shard, lease.incarnation)

    assert [3, 3, 1, 0] == [len(heir.reclaim(new, 3).jobs) for _ in range(4)]


def test_entries_whose_delivery_was_lost_are_found_again_and_those_in_hand_are_not(bench: Bench) -> None:
    work, lease = bench.worker()
    in_hand, lost = bench.submit(Job(image=b"1"), Job(image=b"2"))
    assert [in_hand] == entries(work.claim(lease, 1, 100))
    # What a reply that never arrived leaves behind: pending under our own name, unknown to us.
    bench.redis.xreadgroup("workers", lease.incarnation, {bench.shard.streams[1]: ">"})

    assert [lost] == entries(work.resume(lease))
    assert [] == entries(work.resume(lease))


def test_a_pending_entry_that_was_deleted_is_forgotten(bench: Bench) -> None:
    work, lease = bench.worker()
    (entry,) = bench.submit(Job(image=b"1"))
    bench.redis.xreadgroup("workers", lease.incarnation, {bench.shard.streams[1]: ">"})
    bench.redis.xdel(bench.shard.streams[1], entry)

    assert [] == work.resume(lease).jobs
    assert 0 == bench.redis.xpending(bench.shard.streams[1], "workers")["pending"]


def test_jobs_pushed_before_the_first_worker_are_delivered(bench: Bench) -> None:
    entry = bench.redis.xadd(bench.shard.streams[1], {"image": b"png"})
    work, lease = bench.worker()

    assert [entry.decode()] == entries(work.claim(lease, 10, 100))


@pytest.mark.parametrize("accident", ["flushall", "destroy the group", "delete the stream"])
def test_the_group_is_made_again_when_it_is_gone(bench: Bench, accident: str) -> None:
    work, lease = bench.worker()
    if accident == "flushall":
        bench.redis.flushall()
    elif accident == "destroy the group":
        bench.redis.xgroup_destroy(bench.shard.streams[1], "workers")
    else:
        bench.redis.delete(bench.shard.streams[1])
    work.claim(lease, 10, 50)
    (entry,) = bench.submit(Job(image=b"png"))

    assert [entry] == entries(work.claim(lease, 10, 100))


def test_in_flight_jobs_of_a_destroyed_group_are_kept_and_delivered_again(bench: Bench) -> None:
    work, lease = bench.worker()
    (entry,) = bench.submit(Job(image=b"png"))
    jobs = work.claim(lease, 10, 100).jobs
    bench.redis.xgroup_destroy(bench.shard.streams[1], "workers")
    work.make_groups()

    assert 0 == bench.commits.complete(lease, done(jobs)).published
    assert [entry] == entries(work.claim(lease, 10, 100))


def test_jobs_of_a_consumer_that_an_operator_deleted_are_taken_up_again(bench: Bench) -> None:
    work, lease = bench.worker()
    ids = bench.submit(*[Job(image=b"png")] * 5)
    held = work.claim(lease, 3, 100).jobs
    bench.redis.xgroup_delconsumer(bench.shard.streams[1], "workers", lease.incarnation)
    heir, new = bench.worker()

    stranded = heir.reclaim(new, 10)

    assert ids[:3] == entries(stranded)
    assert [2, 2, 2] == [job.attempt for job in stranded.jobs]
    assert 3 == bench.commits.complete(new, done(stranded.jobs)).published
    assert 3 == bench.commits.complete(lease, done(held)).lost
    assert [] == entries(heir.reclaim(new, 10))
    assert ids[3:] == entries(heir.claim(new, 10, 100))


def test_a_lane_whose_key_holds_something_else_does_not_stop_the_others(bench: Bench) -> None:
    bench.redis.set(bench.shard.streams[2], "a string")
    work, lease = bench.worker()
    entry = bench.redis.xadd(bench.shard.streams[1], {"image": b"png"}).decode()

    assert [entry] == entries(work.claim(lease, 10, 100))
    assert [bench.shard.streams[2]] == work.strange_keys
    bench.redis.delete(bench.shard.streams[2])
    work.resume(lease)
    (low,) = bench.submit(Job(image=b"png"), priority=Priority.LOW)
    assert [low] == entries(work.claim(lease, 10, 100))


def test_a_lane_that_turns_into_something_else_is_left_out_from_then_on(bench: Bench) -> None:
    work, lease = bench.worker()
    work.claim(lease, 10, 10)
    bench.redis.delete(bench.shard.streams[0])
    bench.redis.set(bench.shard.streams[0], "a string")
    work.claim(lease, 10, 10)
    entry = bench.redis.xadd(bench.shard.streams[1], {"image": b"png"}).decode()

    assert [entry] == entries(work.claim(lease, 10, 100))
    assert [] == work.reclaim(lease, 10).jobs


def test_a_job_that_is_cancelled_after_its_worker_died_is_marked_when_it_is_taken_over(bench: Bench) -> None:
    dead, lease = bench.worker()
    bench.submit(Job(image=b"1", id="withdrawn"))
    dead.claim(lease, 10, 100)
    at_once(bench.producer.cancel(["withdrawn"]))
    heir, new = bench.worker()
    bench.keeper.fence(bench.shard, lease.incarnation)

    assert frozenset({"withdrawn"}) == heir.reclaim(new, 10).cancelled


def test_scripts_that_the_server_forgot_are_sent_again(bench: Bench) -> None:
    work, lease = bench.worker()
    bench.redis.script_flush()
    (entry,) = bench.submit(Job(image=b"png"))
    bench.redis.script_flush()

    assert 1 == bench.commits.complete(lease, done(work.claim(lease, 10, 100).jobs)).published
    assert [b"done"] == bench.results(entry)


def test_high_goes_before_normal_and_low_and_nobody_starves(bench: Bench) -> None:
    work, lease = bench.worker()
    for priority in Priority:
        bench.submit(*[Job(image=b"png")] * 400, priority=priority)
    order: list[int] = []
    while len(order) < 400:
        jobs = work.claim(lease, 16, 100).jobs
        order += [job.lane for job in jobs]
        bench.commits.complete(lease, done(jobs))

    settled = order[48:]  # the first claim cannot know of a backlog and takes from all
    shares = [settled.count(lane) / len(settled) for lane in range(3)]
    assert shares[0] > 0.7
    assert shares[1] > 0.1
    assert shares[2] > 0.1


def test_even_a_room_of_one_serves_every_lane(bench: Bench) -> None:
    work, lease = bench.worker()
    for priority in Priority:
        bench.submit(*[Job(image=b"png")] * 100, priority=priority)

    lanes = [job.lane for _ in range(100) for job in work.claim(lease, 1, 100).jobs]

    assert {0, 1, 2} == set(lanes)
    assert lanes.count(0) > lanes.count(1) > 0


def test_an_inbox_gets_all_results_of_its_client_and_a_time_to_live(bench: Bench) -> None:
    work, lease = bench.worker()
    inbox = bench.shard.inbox("me")
    ids = bench.submit(*[Job(image=b"png", reply_to=inbox)] * 5)
    jobs = work.claim(lease, 10, 100).jobs

    bench.commits.complete(lease, [Completion(job, job.entry.encode()) for job in jobs])

    assert sorted(ids) == sorted(doc.decode() for doc in at_once(bench.producer.collect(inbox, 10, 1.0)))
    bench.commits.complete(lease, [])
    bench.submit(Job(image=b"png", reply_to=inbox))
    bench.commits.complete(lease, done(work.claim(lease, 1, 100).jobs))
    assert 0 < bench.redis.ttl(inbox) <= 3600


def test_an_inbox_of_another_type_leaves_its_job_to_be_answered_elsewhere_and_the_neighbours_alone(
    bench: Bench,
) -> None:
    work, lease = bench.worker()
    bench.redis.set(bench.shard.inbox("text"), "I am no list")
    bench.submit(Job(image=b"1", reply_to=bench.shard.inbox("text")), Job(image=b"2", id="neighbour"))
    jobs = work.claim(lease, 10, 100).jobs

    committed = bench.commits.complete(lease, done(jobs))

    assert ([jobs[0]], 1) == (committed.refused, committed.published)
    assert [b"done"] == bench.results("neighbour")
    assert 1 == bench.redis.xlen(bench.shard.streams[1])


def test_a_result_key_of_another_type_does_not_stop_the_batch(bench: Bench) -> None:
    work, lease = bench.worker()
    bench.redis.set(bench.shard.result("mine"), "squatter")
    bench.submit(Job(image=b"1", id="mine"), Job(image=b"2", id="neighbour"))

    assert 2 == bench.commits.complete(lease, done(work.claim(lease, 10, 100).jobs)).published
    assert ([b"done"], [b"done"]) == (bench.results("mine"), bench.results("neighbour"))


def test_a_result_lives_for_its_time(bench: Bench) -> None:
    work, lease = bench.worker()
    (entry,) = bench.submit(Job(image=b"1"))
    bench.commits.complete(lease, done(work.claim(lease, 10, 100).jobs))

    assert 55 <= bench.redis.ttl(bench.shard.result(entry)) <= 60


def test_an_id_seen_before_is_the_same_job(bench: Bench) -> None:
    first, second = bench.submit(Job(image=b"1", id="x")), bench.submit(Job(image=b"2", id="x"))

    assert first == second
    assert 1 == bench.redis.xlen(bench.shard.streams[1])


def test_two_raw_entries_with_one_id_leave_one_result(bench: Bench) -> None:
    work, lease = bench.worker()
    for _ in range(2):
        bench.redis.xadd(bench.shard.streams[1], {"image": b"png", "id": "x"})

    bench.commits.complete(lease, done(work.claim(lease, 10, 100).jobs))

    assert [b"done"] == bench.results("x")


def test_jobs_of_different_priority_in_one_millisecond_have_different_ids(bench: Bench) -> None:
    jobs = [Submission(Job(image=b"png"), priority) for priority in Priority for _ in range(5)]

    assert 15 == len(set(at_once(bench.producer.submit(jobs))))


def test_a_full_queue_refuses_the_whole_call(bench: Bench) -> None:
    bench.redis.hset(bench.shard.cfg, mapping={"max_jobs": 3, "max_bytes": 1 << 30})
    bench.submit(*[Job(image=b"png")] * 2)

    with pytest.raises(QueueFull, match="2 jobs are in the queue, 3 may be"):
        bench.submit(*[Job(image=b"png")] * 2)

    assert 2 == bench.redis.xlen(bench.shard.streams[1])
    bench.submit(Job(image=b"png"))


def test_what_was_taken_before_the_queue_was_full_is_told(bench: Bench) -> None:
    bench.redis.hset(bench.shard.cfg, mapping={"max_jobs": 1, "max_bytes": 1 << 30})

    with pytest.raises(QueueFull) as full:
        bench.submit(*[Job(image=bytes(3 << 20))] * 3)

    assert [entry.decode() for entry, _ in bench.redis.xrange(bench.shard.streams[1])] == full.value.accepted
    assert 1 == len(full.value.accepted)


def test_a_queue_full_of_bytes_refuses_too(bench: Bench) -> None:
    bench.redis.hset(bench.shard.cfg, mapping={"max_jobs": 100, "max_bytes": 1000})
    bench.submit(Job(image=b"x" * 900))

    with pytest.raises(QueueFull, match="900 bytes"):
        bench.submit(Job(image=b"x" * 200))


def test_what_is_announced_bounds_the_queue_by_what_it_really_holds(bench: Bench) -> None:
    bench.redis.xadd(bench.shard.streams[1], {"image": b"x" * 100_000})

    bench.keeper.announce(bench.shard, {"versions": [1]}, 60_000, 100, 50_000)

    with pytest.raises(QueueFull, match="bytes are in the queue"):
        bench.submit(Job(image=b"png"))
    assert {"lenet": {"versions": [1]}} == at_once(bench.producer.served())


def test_models_that_nobody_serves_are_taken_out_of_the_list(bench: Bench) -> None:
    bench.keeper.announce(bench.shard, {}, 60_000, 100, 50_000)
    bench.keeper.announce(Shard("other"), {}, 60_000, 100, 50_000)
    bench.worker()

    bench.keeper.withdraw(["lenet", "other"])

    assert ["lenet"] == bench.keeper.listed()


def test_a_cancelled_job_is_marked_when_it_is_claimed_and_forgotten_when_it_is_answered(bench: Bench) -> None:
    work, lease = bench.worker()
    bench.submit(Job(image=b"1", id="kept"), Job(image=b"1", id="withdrawn"))
    at_once(bench.producer.cancel(["withdrawn", "never there"]))

    delivery = work.claim(lease, 10, 100)
    bench.commits.complete(
        lease, [Completion(job, b"", cancelled=job.id in delivery.cancelled) for job in delivery.jobs]
    )

    assert frozenset({"withdrawn"}) == delivery.cancelled
    assert {b"never there"} == bench.redis.smembers(bench.shard.cancelled)
    assert 0 < bench.redis.ttl(bench.shard.cancelled) <= 3600


@pytest.mark.parametrize("own_id", [None, "mine"])
def test_status_follows_the_job(bench: Bench, own_id: str | None) -> None:
    work, lease = bench.worker()

    def status(job_id: str) -> JobState:
        return at_once(bench.producer.status(job_id))

    (entry,) = bench.submit(Job(image=b"1", id=own_id))
    job_id = own_id or entry

    assert JobState.WAITING == status(job_id)
    jobs = work.claim(lease, 1, 100).jobs
    assert JobState.RUNNING == status(job_id)
    bench.commits.complete(lease, done(jobs))
    assert JobState.DONE == status(job_id)
    assert JobState.UNKNOWN == status("no such job")


def test_depth_tells_length_pending_lag_and_age(bench: Bench) -> None:
    work, lease = bench.worker()
    bench.submit(*[Job(image=b"1")] * 5)
    work.claim(lease, 2, 100)

    depth = bench.keeper.depth(bench.shard)
    assert depth is not None
    high, normal, _ = depth.lanes

    assert (5, 2, 3) == (normal.length, normal.pending, normal.lag)
    assert 0 <= normal.oldest_age_s < 5
    assert (0, 0, 0) == (high.length, high.pending, high.lag)


def test_release_ends_the_lease_and_the_consumer(bench: Bench) -> None:
    work, lease = bench.worker()
    work.claim(lease, 1, 10)

    assert 0 == work.release(lease)
    assert [] == bench.redis.zrange(bench.shard.leases, 0, -1)
    assert [] == bench.redis.xinfo_consumers(bench.shard.streams[1], "workers")


def test_at_maxmemory_producers_are_refused_and_workers_still_publish(bench: Bench) -> None:
    work, lease = bench.worker()
    (entry,) = bench.submit(Job(image=b"1"))
    jobs = work.claim(lease, 1, 100).jobs
    limit = bench.redis.config_get("maxmemory")["maxmemory"]
    bench.redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(QueueFull, match="maxmemory"):
            bench.submit(Job(image=b"2"))
        assert [] == bench.keeper.renew(bench.shard, [lease.incarnation])
        assert 1 == bench.commits.complete(lease, done(jobs)).published
    finally:
        bench.redis.config_set("maxmemory", limit)
    assert [b"done"] == bench.results(entry)
