"""Pictures of many megabytes, by the dozen: one worker of default settings answers them all within 512 MB of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache

import numpy as np
import pytest
from watcher import Watcher, resident_bytes

from convq.protocol import Result, Status
from servers import OwnServer, wait_until
from services import JOBS, LANES, Fields, Plain, RunningService, digit_labels, digits, image_of, tensor_of

LIMIT_BYTES = 512 * 10**6
WITHIN_S = 300.0
pytestmark = pytest.mark.timeout(400)


@cache
def noise(kind: str) -> bytes:
    """A picture that cannot be made small: 15 MB as PNG, 12 megapixels as JPEG."""
    if kind == "png":
        return image_of(np.random.default_rng(0).integers(0, 256, (2236, 2236, 3), dtype=np.uint8), compress_level=0)
    return image_of(np.random.default_rng(0).integers(0, 256, (3000, 4000, 3), dtype=np.uint8), "JPEG", quality=30)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnServer]:
    """Room for a gigabyte of pictures."""
    with OwnServer(tmp_path_factory.mktemp("large"), appendfsync="no", maxmemory_bytes=3 << 30) as running:
        yield running


@pytest.fixture
def plain(server: OwnServer) -> Iterator[Plain]:
    with Plain(server.url) as client:
        client.redis.flushall()
        yield client


def small(count: int) -> list[Fields]:
    return [{"image": image_of(pixels)} for pixels in digits()[:count]]


def label_of(answer: Result) -> str | None:
    return answer.predictions[0].label if answer.predictions else None


def answers(plain: Plain, ids: list[str]) -> list[Result]:
    """One answer for each, and no second."""
    found = [plain.answer(job_id, WITHIN_S) for job_id in ids]
    wait_until(plain.nothing_left)
    assert 0 == sum(plain.redis.llen(f"convq:{{lenet}}:result:{job_id}") for job_id in ids)
    return found


def in_bursts(plain: Plain, jobs: Sequence[Fields], stream: str = JOBS) -> list[str]:
    """Several in one transaction: workers meet them together."""
    return [entry for at in range(0, len(jobs), 16) for entry in plain.burst(jobs[at : at + 16], stream=stream)]


def in_all_lanes(plain: Plain, jobs: Sequence[Fields]) -> list[str]:
    """A third of them in each stream, under ids of their own: those of plain entries may be the same in two streams."""
    named = [{**job, "id": f"job-{i}"} for i, job in enumerate(jobs)]
    for lane, stream in enumerate(LANES):
        in_bursts(plain, named[lane::3], stream)
    return [str(job["id"]) for job in named]


@pytest.mark.parametrize(
    ("kind", "count", "push"), [("png", 62, in_bursts), ("jpeg", 60, in_bursts), ("png", 15, in_all_lanes)]
)
def test_a_backlog_of_large_pictures_is_answered_within_the_memory_of_one_worker(
    server: OwnServer, plain: Plain, kind: str, count: int, push: Callable[[Plain, Sequence[Fields]], list[str]]
) -> None:
    ids = push(plain, [{"image": noise(kind)}] * count)
    digits_ids = in_bursts(plain, small(20))

    with RunningService(server.url, workers=1) as service, Watcher(service, LIMIT_BYTES) as watcher:
        large, digit = answers(plain, ids), answers(plain, digits_ids)

    assert [] == watcher.killed
    assert {Status.OK} == {answer.status for answer in large + digit}
    assert digit_labels()[:20] == [label_of(answer) for answer in digit]
    assert {1} == {answer.attempt for answer in large + digit}


def test_large_pictures_that_come_at_once_to_a_worker_that_waits_and_after_many_small_ones(
    server: OwnServer, plain: Plain
) -> None:
    with RunningService(server.url, workers=1) as service, Watcher(service, LIMIT_BYTES) as watcher:
        tensor: Fields = {"tensor": tensor_of(digits()[0]), "dtype": "uint8", "shape": "1,32,32"}
        answers(plain, in_bursts(plain, [tensor] * 500))
        found = answers(plain, plain.burst([*small(5), *[{"image": noise("png")}] * 20, *small(5)]))

    assert [] == watcher.killed
    assert {Status.OK} == {answer.status for answer in found}


def test_what_is_larger_than_a_picture_may_be_is_refused_without_being_read(server: OwnServer, plain: Plain) -> None:
    huge = b"\x89PNG\r\n\x1a\n" + bytes(100 << 20)
    with RunningService(server.url, workers=1) as service, Watcher(service, LIMIT_BYTES) as watcher:
        base_bytes = resident_bytes(service.worker_pids()[0])
        ids = [plain.push({"image": huge, "id": f"huge-{i}"}) and f"huge-{i}" for i in range(5)]
        ids.append(plain.push({"tensor": huge, "dtype": "uint8", "shape": "1,32,32"}))
        found = answers(plain, ids)
        (digit,) = answers(plain, in_bursts(plain, small(1)))

    assert [] == watcher.killed
    assert watcher.peak_bytes < base_bytes + len(huge)
    assert ["image_too_large"] * 5 + ["bad_tensor"] == [answer.error.code for answer in found if answer.error]
    assert "7" == label_of(digit)


def test_a_worker_that_held_large_pictures_is_killed_and_the_next_one_takes_them_over_bit_by_bit(
    server: OwnServer, plain: Plain
) -> None:
    dead = "nobody-1-00000000"
    plain.redis.xgroup_create(JOBS, "workers", 0, mkstream=True)
    ids = in_bursts(plain, [{"image": noise("png")}] * 20)
    plain.redis.xreadgroup("workers", dead, {JOBS: ">"}, count=20, noack=False)

    with RunningService(server.url, workers=1) as service, Watcher(service, LIMIT_BYTES) as watcher:
        found = answers(plain, ids)

    assert [] == watcher.killed
    assert {(Status.OK, 2)} == {(answer.status, answer.attempt) for answer in found}


def test_a_picture_that_no_worker_survives_is_condemned_and_its_neighbours_are_answered(
    server: OwnServer, plain: Plain
) -> None:
    with RunningService(server.url, workers=1) as service:
        base_bytes = resident_bytes(service.worker_pids()[0])
        answers(plain, in_bursts(plain, small(3)))
        with Watcher(service, base_bytes + (24 << 20)) as watcher:
            killer, *others = plain.burst([{"image": noise("png")}, *small(10)])
            found, (condemned,) = answers(plain, others), answers(plain, [killer])

    assert Status.POISONED == condemned.status
    assert digit_labels()[:10] == [label_of(answer) for answer in found]
    assert 1 == plain.redis.xlen("convq:{lenet}:dead")
    assert 3 <= len(watcher.killed)
