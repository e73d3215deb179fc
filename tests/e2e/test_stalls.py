"""Jobs that wait while no worker makes progress: /readyz, the log, the metric and `convq doctor` say so, and when it is over."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from convq.cli import main
from convq.queue import Address
from convq.queue.diagnosis.standstill import look_for_standstills
from servers import OwnServer, wait_until
from services import JOBS, Plain, RunningService, models_served, seven

BEGINS, ENDS = "jobs wait, and no worker makes progress", "workers make progress again"
STALLED = (("model", "lenet"),)
LEASE = ("--lease", "0.5")


@contextmanager
def stopped(service: RunningService) -> Iterator[None]:
    """All its workers stand still meanwhile."""
    pids = service.worker_pids()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def lines(service: RunningService) -> list[str]:
    return [line["message"] for line in service.log if line["message"] in (BEGINS, ENDS)]


def doctor(url: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[dict[str, str]]]:
    """Its exit code, and what it says of queues."""
    capsys.readouterr()
    code = main(["doctor", "--json", "--redis", url])
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return code, [one for one in found if one["check"].startswith("queue")]


def test_stopped_workers_are_named_everywhere_until_they_go_on(
    fresh_server: OwnServer, fresh: Plain, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunningService(fresh_server.url, *LEASE, "--max-jobs", "50") as service:
        with stopped(service):
            jobs = fresh.burst([{"image": seven()}] * 50)
            wait_until(lambda: not service.is_ready())
            status, body = service.get("/readyz")
            assert (503, True) == (status, body.startswith("no jobs are answered; lenet is stalled: 50 jobs wait"))
            assert "(2 stopped)" in body
            assert 1 == service.metrics()["convq_model_stalled"][STALLED]
            code, found = doctor(fresh_server.url, capsys)
            assert 1 == code
            assert ["problem", "warning"] == [one["level"] for one in found]
            assert found[0]["found"].startswith("50 jobs are in it, the oldest for")
            assert "no worker is alive" in found[0]["found"]
            assert found[1]["found"].startswith("it is full: 50 of 50 jobs")
            assert service.get("/livez")[0] == 200
            service.wait_for("the queue is full: submit is refused")
        assert ["7"] * 50 == [fresh.answer(job).label for job in jobs]
        wait_until(service.is_ready)
        wait_until(lambda: lines(service) == [BEGINS, ENDS])
        assert 0 == service.metrics()["convq_model_stalled"][STALLED]
        assert [] == list(look_for_standstills(Address(fresh_server.url), models_served(fresh)))


def test_frozen_workers_of_an_empty_queue_are_ready(fresh_server: OwnServer, fresh: Plain) -> None:
    with RunningService(fresh_server.url, *LEASE) as service, stopped(service):
        wait_until(lambda: not fresh.redis.zcount("convq:{lenet}:leases", fresh.redis.time()[0] * 1000, "+inf"))
        assert service.is_ready()
        assert [] == lines(service)


def test_a_service_that_stands_still_while_another_works(fresh_server: OwnServer, fresh: Plain) -> None:
    """What the other answers is no progress of ours, and its jobs are answered all the same."""
    with RunningService(fresh_server.url, *LEASE) as frozen, RunningService(fresh_server.url, workers=1) as working:
        with stopped(frozen):

            def named() -> bool:
                fresh.burst([{"image": seven(), "reply_to": "convq:{lenet}:inbox:any"}] * 500)
                return not frozen.is_ready()

            wait_until(named, every_s=0.1)
            assert working.is_ready()
        wait_until(frozen.is_ready)
        wait_until(fresh.nothing_left, 30)
        assert [] == lines(working)


def test_a_batch_that_takes_long_is_progress(fresh_server: OwnServer, fresh: Plain) -> None:
    """A network that runs for long, within `max_batch_s`, with the queue full behind it: ready all the time."""
    trap = str(Path(__file__).parent / "poison")
    with RunningService(fresh_server.url, *LEASE, "--max-jobs", "5", workers=1, PYTHONPATH=trap) as service:
        fresh.push({"tensor": bytes([0xDD] * 1024), "dtype": "uint8", "shape": "1,32,32"})
        wait_until(lambda: fresh.pending(JOBS) == 1)
        fresh.burst([{"image": seven()}] * 9)
        seconds = fresh.redis.time()[0]
        wait_until(lambda: fresh.redis.time()[0] > seconds + 8 or not service.is_ready(), every_s=0.1)
        assert service.is_ready(), service.get("/readyz")
        assert [] == lines(service)
        moves, full = look_for_standstills(Address(fresh_server.url), models_served(fresh))
        assert "problem" != moves.level
        assert full.found.startswith("it is full: 10 of 5 jobs")
        service.signal(signal.SIGKILL)
        service.wait()
