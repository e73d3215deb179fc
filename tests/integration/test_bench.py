"""The load generator against a real server and a service of one thread, which does as the test says: it answers, stalls,
fails or is silent. What it measures must be what was done."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from convq.errors import ServiceFailed
from convq.harness.bench import Load, Report, run
from convq.harness.latency import Latency
from pace import Stopwatch
from services import JOBS, seven

OK = {"status": "ok", "predictions": [{"label": "7", "index": 7, "score": 1.0}]}
FAILED = {"status": "error", "error": {"code": "bad_image", "message": "no image"}}


@contextmanager
def answering(
    url: str, *, stall_s: float = 0.0, answer: dict[str, Any] = OK, silent_after: int = 10**9
) -> Iterator[None]:
    """Answers jobs of lenet one by one as soon as they come, but the first only after `stall_s`."""
    done = threading.Event()

    def serve() -> None:
        last, answered = b"0", 0
        with redis.Redis.from_url(url) as connection:
            while not done.is_set():
                found: Any = connection.xread({JOBS: last}, block=20)
                for entry, fields in found[0][1] if found else ():
                    last = entry
                    if answered == 0:
                        time.sleep(stall_s)  # the stall that is to be measured
                    with connection.pipeline() as step:
                        step.xdel(JOBS, entry)
                        if answered < silent_after:
                            said = {"id": entry.decode(), "entry": entry.decode(), "model": "lenet", **answer}
                            step.rpush(fields[b"reply_to"], json.dumps(said))
                        step.execute()
                    answered += 1

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def measured(url: str, **load: Any) -> Report:
    return run(url, "lenet", Load([seven()], **load))


def test_the_open_loop_sends_at_its_rate_and_charges_a_stall_to_every_job_that_was_due_in_it(redis_url: str) -> None:
    with answering(redis_url, stall_s=0.5), Stopwatch() as watch:
        report = measured(redis_url, seconds=1.0, rate=100)

    assert 100 == report.accepted == report.ok
    assert 500 <= report.latency.max_ms < 900 * watch.slowdown
    # jobs were due every 10 ms meanwhile: half of the run waited, evenly from the whole stall down to nothing
    assert 400 <= report.latency.p90_ms <= report.latency.max_ms
    assert 0.98 <= report.elapsed_s < 1.5 * watch.slowdown


def test_the_closed_loop_never_has_more_jobs_on_their_way_than_it_was_told(redis_url: str) -> None:
    longest = 0
    with answering(redis_url), redis.Redis.from_url(redis_url) as connection:
        finished = threading.Event()
        reports: list[Report] = []

        def go() -> None:
            reports.append(measured(redis_url, seconds=0.5, in_flight=7))
            finished.set()

        runner = threading.Thread(target=go)
        runner.start()
        while not finished.is_set():
            longest = max(longest, connection.xlen(JOBS))
        runner.join()

    (report,) = reports
    assert 0 < longest <= 7
    assert 3 * 7 < report.accepted == report.ok
    assert report.jobs_per_s == pytest.approx(report.ok / report.elapsed_s)


def test_answers_that_are_not_ok_are_counted_by_code_and_fail_the_run(redis_url: str) -> None:
    with answering(redis_url, answer=FAILED):
        report = measured(redis_url, seconds=0.2, rate=50)

    assert {"bad_image": 10} == report.failed
    assert 0 == report.ok
    with pytest.raises(ServiceFailed, match="of 10 jobs 10 ended as bad_image"):
        report.check()


@pytest.mark.parametrize("loop", [{"rate": 100.0}, {"in_flight": 4}], ids=["open", "closed"])
def test_jobs_without_an_answer_are_counted_after_the_timeout(redis_url: str, loop: dict[str, Any]) -> None:
    with answering(redis_url, silent_after=3):
        report = measured(redis_url, seconds=0.3, timeout_s=0.3, **loop)

    assert 3 == report.ok
    assert report.accepted - 3 == report.unanswered > 0
    with pytest.raises(ServiceFailed, match="were not answered"):
        report.check()


def test_what_a_full_queue_refuses_is_counted_and_is_no_failure(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as connection:
        connection.hset("convq:{lenet}:cfg", "max_jobs", 5)

    with answering(redis_url, stall_s=0.5):
        report = measured(redis_url, seconds=0.5, rate=100)

    assert 5 <= report.accepted == report.ok
    assert 50 == report.accepted + report.refused
    report.check()


def test_the_figures_are_those_of_real_jobs() -> None:
    latency = Latency.of([float(ms) for ms in range(1000, 0, -1)])

    assert Latency(500, 900, 950, 990, 999, 1000) == latency
    assert Latency(0, 0, 0, 0, 0, 0) == Latency.of([])
