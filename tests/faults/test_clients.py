"""Clients that ask twice, never read, are refused: nobody else notices."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from convq import Client
from convq.errors import Answered
from faults.stage import Fault, Staged, passes
from servers import wait_until
from services import JOBS, Fields, Plain, seven


@pytest.mark.fault(27, "the same id submitted 100 times in parallel", "8 clients; again after the result was read")
def test_a_job_that_is_submitted_a_hundred_times_runs_once(on_stage: Staged, fault: Fault) -> None:
    with on_stage() as stage, Plain(stage.server.url) as plain:

        def submit(_: int) -> str:
            with Client(stage.server.url) as client:
                return str(client.submit(seven(), model="lenet", id="once"))

        fault.strike()
        with ThreadPoolExecutor(8) as pool:
            ids = set(pool.map(submit, range(100)))
        assert 1 == len(ids)
        answer = plain.answer("once")
        fault.recovered_when(lambda: answer.ok, within_s=5)
        with pytest.raises(Answered):
            submit(0)
        wait_until(stage.nothing_left)
        assert not plain.redis.exists("convq:{lenet}:result:once"), "answered again"
        assert 1 == stage.count("convq_jobs_total")
        stage.check()
        fault.outcome = "100 submits, one execution, one result; the 101st is told that it was read"


@pytest.mark.fault(27, "raw XADD of one id, 100 times", "XADD without the door: 100 entries with one id")
def test_raw_duplicates_leave_one_result(on_stage: Staged, fault: Fault) -> None:
    with on_stage() as stage, Plain(stage.server.url) as plain:
        fault.strike()
        plain.burst([{"image": seven(), "id": "raw"}] * 100)
        wait_until(stage.nothing_left)
        assert 1 == plain.redis.llen("convq:{lenet}:result:raw")
        assert plain.answer("raw").ok
        stage.check()
        fault.outcome = "100 entries, one published result"


@pytest.mark.fault(31, "results that nobody reads", "20,000 unread results, result TTL 2 s; 1,000 in an inbox")
def test_unread_results_go_by_themselves_and_slow_nobody(on_stage: Staged, fault: Fault) -> None:
    with on_stage(CONVQ_RESULT_TTL="2") as stage, Plain(stage.server.url) as plain:
        fields: Fields = {"tensor": bytes(1024), "dtype": "uint8", "shape": "1,32,32"}
        for _ in range(20):
            plain.burst([fields] * 1000)
        stage.books.submit(1000)
        fault.strike()
        wait_until(stage.nothing_left, 30)
        inbox = next(iter(stage.books._read))
        assert 0 < plain.redis.pttl(inbox) <= 3_600_000
        fault.recovered_when(lambda: plain.redis.dbsize() < 20, within_s=30)
        wait_until(stage.books.goes_on)
        stage.check()


@pytest.mark.fault(31, "an abandoned backlog", "30,000 jobs wait, workers' memory is watched while they drain it")
def test_a_backlog_never_grows_the_memory_of_workers(on_stage: Staged, fault: Fault) -> None:
    with on_stage() as stage:
        stage.books.submit(2000)
        stage.settle()
        base = stage.count("convq_worker_resident_memory_bytes")
        stage.books.submit(30_000)
        fault.strike()
        most = 0.0
        while not stage.nothing_left():
            most = max(most, stage.count("convq_worker_resident_memory_bytes"))
            passes(0.05)
        fault.recovered_when(lambda: stage.books.answered(stage.books.accepted), within_s=40)
        assert most < base + 64e6, "both workers together"
        stage.check()
        fault.outcome = f"each job answered once; both workers grew by {(most - base) / 1e6:.1f} MB at most"


@pytest.mark.fault(36, "password rotated", "ACL SETUSER of a live user: new password, connections killed, old one back")
def test_a_service_whose_password_is_wrong_for_a_while_says_so_and_recovers(on_stage: Staged, fault: Fault) -> None:
    with on_stage() as stage:
        workers = stage.service.worker_pids()
        stage.books.submit(100)
        stage.settle()
        stage.redis.execute_command("ACL", "SETUSER", "tester", "on", "nopass", "~*", "&*", "+@all")
        admin = f"redis://tester:any@127.0.0.1:{stage.server.port}/0"
        with Plain(admin) as other:
            other.redis.execute_command("ACL", "SETUSER", "default", "resetpass", ">rotated")
            other.redis.execute_command("CLIENT", "KILL", "USER", "default")
            wait_until(lambda: any("NOAUTH" in str(line) or "uthentication" in str(line) for line in stage.service.log))
            passes(2.0)
            lines = len(stage.service.log)
            passes(1.0)
            assert len(stage.service.log) - lines < 30, "a busy loop"
            other.redis.execute_command("ACL", "SETUSER", "default", "nopass")
            fault.strike()
            fault.recovered_when(stage.books.goes_on, within_s=6)
        stage.check()
        assert workers == stage.service.worker_pids(), "a crash loop"


@pytest.mark.fault(36, "one command denied", "ACL SETUSER default -xreadgroup under load; given back after 2 s")
def test_a_service_that_may_not_fetch_says_so_and_recovers(on_stage: Staged, fault: Fault) -> None:
    with on_stage() as stage:
        workers = stage.service.worker_pids()
        stage.redis.execute_command("ACL", "SETUSER", "default", "-xreadgroup")
        stage.books.submit(100)
        wait_until(lambda: any("NOPERM" in str(line) or "ermission" in str(line) for line in stage.service.log))
        passes(2.0)
        assert 100 == stage.redis.xlen(JOBS)
        stage.redis.execute_command("ACL", "SETUSER", "default", "+xreadgroup")
        fault.strike()
        fault.recovered_when(lambda: stage.books.answered(stage.books.accepted), within_s=6)
        stage.check()
        assert workers == stage.service.worker_pids(), "a crash loop"


@pytest.mark.fault(36, "the commit denied", "ACL SETUSER default -xack with results in hand; given back after 2 s")
def test_a_service_that_may_not_publish_keeps_its_results_until_it_may(on_stage: Staged, fault: Fault) -> None:
    with on_stage() as stage:
        workers = stage.service.worker_pids()
        stage.redis.execute_command("ACL", "SETUSER", "default", "-xack")
        stage.books.submit(100)
        wait_until(lambda: any("permission" in str(line).lower() for line in stage.service.log))
        passes(2.0)
        stage.redis.execute_command("ACL", "SETUSER", "default", "+xack")
        fault.strike()
        fault.recovered_when(lambda: stage.books.answered(stage.books.accepted), within_s=6)
        stage.check()
        assert workers == stage.service.worker_pids(), "a crash loop"
