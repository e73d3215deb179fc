"""What a worker reads at a time is bounded by bytes: whatever lies in the streams, it is delivered once, a bit at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from shards import Bench, done, entries

from convq.errors import BadField, BadTensor, ImageTooLarge
from convq.protocol import Job, Priority
from convq.queue import Bounds, Delivery, Lease, Received, WorkQueue
from servers import wait_until

KIB, MIB = 1 << 10, 1 << 20
BOUNDS = Bounds(claim_bytes=2 * MIB, guess_bytes=512 * KIB, image_bytes=3 * MIB, tensor_bytes=3 * MIB)
SMALL, LARGE = b"s" * KIB, b"L" * (700 * KIB)
FIT = 2
"""So many large ones fit into one read."""


def worker(bench: Bench, bounds: Bounds = BOUNDS) -> tuple[WorkQueue, Lease]:
    work, lease = bench.worker()
    work.holdings.bounds = bounds
    return work, lease


def push(bench: Bench, image: bytes, count: int = 1, lane: int = 1) -> list[str]:
    """Entries that come together, as by one FCALL."""
    pipeline = bench.redis.pipeline(transaction=True)
    for _ in range(count):
        pipeline.xadd(bench.shard.streams[lane], {"image": image})
    return [entry.decode() for entry in pipeline.execute()]


def size_of(delivery: Delivery) -> int:
    return sum(len(job.image or job.tensor or b"") for job in delivery.jobs)


def drain(bench: Bench, work: WorkQueue, lease: Lease, count: int) -> list[Received]:
    """Take over and claim until so many have come; each delivery is answered before the next, and none is too large."""
    came: list[Received] = []

    def all_came() -> bool:
        for delivery in (work.reclaim(lease, 64), work.claim(lease, 64, 1)):
            assert size_of(delivery) <= BOUNDS.claim_bytes
            assert len(delivery.jobs) == bench.commits.complete(lease, done(delivery.jobs)).published
            came.extend(delivery.jobs)
        return len(came) >= count

    wait_until(all_came, 30)
    return came


def test_a_backlog_of_large_jobs_comes_in_reads_that_fit_each_job_once(bench: Bench) -> None:
    work, lease = worker(bench)
    ids = push(bench, LARGE, 20)

    came = drain(bench, work, lease, 20)

    assert sorted(ids) == sorted(job.entry for job in came)
    assert {1} == {job.attempt for job in came}
    assert all(job.image == LARGE for job in came)


def test_nobody_asks_for_many_before_it_is_known_how_large_they_are(bench: Bench) -> None:
    work, lease = worker(bench)
    push(bench, SMALL, 300)

    first, second = (len(work.claim(lease, 64, 1).jobs) for _ in range(2))

    assert 4 == first
    assert 56 < second <= 64


def test_large_jobs_after_a_thousand_small_ones_are_read_as_far_as_they_fit_and_the_rest_is_free_at_once(
    bench: Bench,
) -> None:
    work, lease = worker(bench)
    push(bench, SMALL, 300)
    drain(bench, work, lease, 300)
    ids = push(bench, LARGE, 12)

    delivery = work.claim(lease, 64, 100)

    assert ids[:FIT] == entries(delivery)
    assert delivery.more
    assert {(1, entry) for entry in ids[:FIT]} == lease.held
    other, its = worker(bench)
    taken = other.reclaim(its, 64)
    assert (ids[FIT : 2 * FIT], True) == (entries(taken), taken.more)
    assert {1} == {job.attempt for job in taken.jobs}


def test_large_jobs_in_all_lanes_come_in_reads_that_fit(bench: Bench) -> None:
    work, lease = worker(bench)
    ids = [entry for lane in range(3) for entry in push(bench, LARGE, 5, lane)]

    came = drain(bench, work, lease, 15)

    assert sorted(ids) == sorted(job.entry for job in came)


def test_a_burst_that_meets_a_worker_that_waits_is_read_as_far_as_it_fits(bench: Bench) -> None:
    work, lease = worker(bench)
    push(bench, SMALL, 64)
    drain(bench, work, lease, 64)
    deliveries: list[Delivery] = []
    waiting = threading.Thread(target=lambda: deliveries.append(work.claim(lease, 64, 20_000)))
    waiting.start()
    wait_until(lambda: bench.redis.info("clients")["blocked_clients"])
    ids = push(bench, LARGE, 10)
    waiting.join()

    assert ids[:FIT] == entries(deliveries[0])
    assert sorted(ids[FIT:]) == sorted(job.entry for job in drain(bench, work, lease, 8))


def test_small_jobs_are_claimed_by_the_batch_again_soon_after_large_ones(bench: Bench) -> None:
    work, lease = worker(bench)
    push(bench, LARGE, 4)
    drain(bench, work, lease, 4)
    push(bench, SMALL, 300)

    sizes = [len(work.claim(lease, 64, 1).jobs) for _ in range(12)]

    assert 56 < max(sizes) <= 64
    assert 0 < sizes[0] < 64


def test_room_for_few_bytes_brings_few_jobs_but_one(bench: Bench) -> None:
    work, lease = worker(bench)
    push(bench, LARGE, 4)

    assert 1 == len(work.claim(lease, 1, 1, 1).jobs)
    assert 1 == len(work.claim(lease, 64, 1, 1).jobs)
    assert 1 == len(work.claim(lease, 64, 1, 800 * KIB).jobs)


def test_jobs_of_the_dead_are_taken_over_in_reads_that_fit(bench: Bench) -> None:
    dead, lease = bench.worker()
    ids = push(bench, LARGE, 7)
    dead.claim(lease, 64, 1)
    bench.keeper.fence(bench.shard, lease.incarnation)
    heir, new = worker(bench)

    taken = [heir.reclaim(new, 64) for _ in range(5)]

    assert [2, 2, 2, 1, 0] == [len(one.jobs) for one in taken]
    assert [True, True, True, False, False] == [one.more for one in taken]
    assert sorted(ids) == sorted(entry for one in taken for entry in entries(one))
    assert {2} == {job.attempt for one in taken for job in one.jobs}


def test_a_reply_that_was_lost_on_the_way_is_read_again_as_far_as_it_fits(bench: Bench) -> None:
    work, lease = worker(bench)
    ids = push(bench, LARGE, 5)
    bench.redis.xreadgroup("workers", lease.incarnation, {bench.shard.streams[1]: ">"})

    found = work.resume(lease, 64)

    assert (ids[:FIT], True) == (entries(found), found.more)
    assert ids[FIT:] == sorted(job.entry for job in drain(bench, work, lease, 3))
    assert [] == work.resume(lease).jobs


LONG = b"x" * (9 * MIB)


@pytest.mark.parametrize("way", ["claimed", "taken over", "lost on the way"])
@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"image": LONG}, ImageTooLarge, "the image has 9437184 bytes; at most 3145728 are accepted"),
        (
            {"tensor": LONG, "dtype": "uint8", "shape": "1"},
            BadTensor,
            "the tensor has 9437184 bytes; at most 3145728 are accepted",
        ),
        ({"image": b"png", "holiday": LONG}, BadField, "beside image or tensor; at most 2097152 are accepted"),
        ({"image": b"png", LONG: "holiday"}, BadField, "beside image or tensor; at most 2097152 are accepted"),
        ({"image": LONG, "tensor": b"1"}, BadField, "exactly one of image and tensor must be there; both are"),
    ],
)
def test_what_is_larger_than_a_job_may_be_is_refused_unread_under_its_own_name(
    bench: Bench, fields: dict[str | bytes, bytes], error: type[Exception], says: str, way: str
) -> None:
    inbox = bench.shard.inbox("me")
    work, lease = worker(bench)
    entry = bench.redis.xadd(bench.shard.streams[2], {"id": "mine", "reply_to": inbox, "top_k": 3, **fields}).decode()
    small = push(bench, SMALL)[0]

    read = _reading(bench, work, lease, way)
    jobs = {job.entry: job for job in read().jobs}

    job = jobs[entry]
    assert isinstance(job.problem, error)
    assert says in str(job.problem)
    assert ("mine", inbox, 3, 2) == (job.id, job.reply_to, job.top_k, job.lane)
    assert (None, None, SMALL) == (job.image, job.tensor, jobs[small].image)
    assert 2 == bench.commits.complete(lease, done(list(jobs.values()))).published
    assert 0 == bench.redis.xlen(bench.shard.streams[2])


def _reading(bench: Bench, work: WorkQueue, lease: Lease, way: str) -> Callable[[], Delivery]:
    if way == "claimed":
        return lambda: work.claim(lease, 8, 100)
    if way == "lost on the way":
        bench.redis.xreadgroup("workers", lease.incarnation, dict.fromkeys(bench.shard.streams, ">"))
        return lambda: Delivery(
            [job for take in (work.resume, lambda own: work.reclaim(own, 8)) for job in take(lease).jobs], 0, 0
        )
    dead, its = bench.worker()
    dead.claim(its, 8, 100)
    bench.keeper.fence(bench.shard, its.incarnation)
    return lambda: Delivery([job for _ in range(3) for job in work.reclaim(lease, 8).jobs], 0, 0)


def test_one_job_may_be_larger_than_a_read(bench: Bench) -> None:
    work, lease = worker(bench, Bounds(claim_bytes=2 * MIB, image_bytes=12 * MIB))
    ids = push(bench, LONG, 2)

    came = drain_any(work, lease, 2)

    assert (ids, [LONG, LONG]) == ([job.entry for job in came], [job.image for job in came])


def drain_any(work: WorkQueue, lease: Lease, count: int) -> list[Received]:
    came: list[Received] = []

    def all_came() -> bool:
        came.extend([*work.reclaim(lease, 8).jobs, *work.claim(lease, 8, 1).jobs])
        return len(came) >= count

    wait_until(all_came)
    return came


def test_who_comes_after_a_death_while_reading_reads_only_what_was_weighed(bench: Bench) -> None:
    work, lease = worker(bench)
    names: list[list[str]] = []
    work.holdings.reading_alone = lambda one: names.append(list(one))
    work.holdings.cut = 2
    small, large, last = push(bench, SMALL, 1, 0)[0], *push(bench, LARGE, 2)
    largest: list[bool] = []
    work.meter.on_large = largest.append

    came = drain_any(work, lease, 3)

    assert [small, large, last] == [job.entry for job in came]
    assert {1} == {job.attempt for job in came}
    assert [[f"0:{small}"], [f"1:{large}"], [f"1:{last}"]] == [one for one in names if one]
    assert [] == names[-1]
    assert [] == largest


def test_a_careful_claim_waits_for_jobs_and_needs_a_lease(bench: Bench) -> None:
    work, lease = worker(bench)
    work.holdings.cut = 1
    assert [] == work.claim(lease, 8, 1).jobs
    later = threading.Timer(0.1, lambda: push(bench, SMALL))
    later.start()

    assert 1 == len(work.claim(lease, 8, 20_000).jobs)
    later.join()


@pytest.mark.parametrize("fields", [{"image": SMALL}, {"tensor": SMALL, "dtype": "uint8", "shape": "1024"}])
def test_the_payload_of_a_suspect_is_read_when_it_is_its_turn(bench: Bench, fields: dict[str, bytes | str]) -> None:
    dead, its = bench.worker()
    before, after = push(bench, SMALL, 2)
    suspect = bench.redis.xadd(bench.shard.streams[1], {"id": "s", "top_k": 2, **fields}).decode()
    dead.claim(its, 8, 100)
    bench.keeper.fence(bench.shard, its.incarnation, [f"1:{suspect}"], 3)
    heir, lease = worker(bench)
    heir.holdings.stays_unread = lambda row: row.suspicion > 0

    first, second, job = heir.reclaim(lease, 8).jobs

    assert ([before, after], [SMALL, SMALL]) == ([first.entry, second.entry], [first.image, second.image])
    assert (3, "s", 2, True) == (job.suspicion, job.id, job.top_k, job.unread)
    assert (None, None, None) == (job.image, job.tensor, job.problem)
    assert heir.holdings.read_payload(job)
    assert (SMALL, False) == (job.image or job.tensor, job.unread)
    assert (1, suspect) in lease.held


def test_a_suspect_that_was_deleted_before_its_turn_has_nothing_to_read(bench: Bench) -> None:
    dead, its = bench.worker()
    (entry,) = push(bench, SMALL)
    dead.claim(its, 8, 100)
    bench.keeper.fence(bench.shard, its.incarnation, [f"1:{entry}"], 3)
    heir, lease = worker(bench)
    heir.holdings.stays_unread = lambda row: row.suspicion > 0
    (job,) = heir.reclaim(lease, 8).jobs
    bench.redis.xdel(bench.shard.streams[1], entry)

    assert not heir.holdings.read_payload(job)


def test_what_was_deleted_under_the_dead_is_forgotten(bench: Bench) -> None:
    dead, its = bench.worker()
    ids = push(bench, SMALL, 3)
    dead.claim(its, 8, 100)
    bench.redis.xdel(bench.shard.streams[1], ids[1])
    bench.keeper.fence(bench.shard, its.incarnation)
    heir, lease = worker(bench)

    assert [ids[0], ids[2]] == entries(heir.reclaim(lease, 8))
    assert 2 == bench.redis.xpending(bench.shard.streams[1], "workers")["pending"]


def test_a_large_backlog_whose_time_is_over_is_answered_without_being_read(bench: Bench) -> None:
    work, lease = worker(bench)
    push(bench, LARGE)
    drain(bench, work, lease, 1)
    for _ in range(6):
        bench.redis.xadd(bench.shard.streams[1], {"image": LARGE, "ttl_ms": 0})
    fresh = push(bench, LARGE, 4)
    expired, read, came = 0, work.meter, []

    def all_came() -> bool:
        nonlocal expired
        counts, delivery = work.expire(lease, 64, 60_000)
        expired += sum(counts)
        assert read.read_bytes <= BOUNDS.claim_bytes + MIB
        came.extend([*delivery.jobs, *work.reclaim(lease, 64).jobs])
        return expired == 6 and len(came) == len(fresh)

    wait_until(all_came)
    assert fresh == sorted(job.entry for job in came)


def test_priorities_hold_for_large_jobs(bench: Bench) -> None:
    work, lease = worker(bench)
    for priority in Priority:
        bench.submit(*[Job(image=LARGE)] * 8, priority=priority)
    order: list[int] = []

    def all_came() -> bool:
        jobs = [*work.reclaim(lease, 8).jobs, *work.claim(lease, 8, 1).jobs]
        bench.commits.complete(lease, done(jobs))
        order.extend(job.lane for job in jobs)
        return len(order) == 24

    wait_until(all_came, 30)
    mean = [sum(at for at, lane in enumerate(order) if lane == one) / 8 for one in range(3)]
    assert mean[0] < mean[1] < mean[2]


@pytest.mark.parametrize("fill", [0, 300])
def test_an_id_given_twice_is_one_even_where_only_the_header_is_read(bench: Bench, fill: int) -> None:
    work, lease = worker(bench)
    inbox = bench.shard.inbox("me")
    fields = [*["dtype", "uint8"] * fill, "id", "a", "id", "b", "reply_to", inbox, "image", b"L" * (4 * MIB)]
    entry = bench.redis.execute_command("XADD", bench.shard.streams[1], "*", *fields).decode()

    (job,) = work.claim(lease, 64, 1).jobs

    assert (entry, inbox) == (job.id, job.reply_to)
    assert isinstance(job.problem, BadField)


def test_an_id_behind_many_other_fields_is_found_where_only_the_header_is_read(bench: Bench) -> None:
    work, lease = worker(bench)
    fields = [*["dtype", "uint8"] * 300, "id", "mine", "image", b"L" * (4 * MIB)]
    bench.redis.execute_command("XADD", bench.shard.streams[1], "*", *fields)

    (job,) = work.claim(lease, 64, 1).jobs

    assert ("mine", "dtype must be given once; it is there more than once") == (job.id, str(job.problem))
