"""Workers die, stand still, are stopped, come in crowds; each job is answered once."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack

import pytest

from convq.queue import Shard, WorkQueue
from convq.queue.commits import COMPLETE
from faults.proxy import FailPoint
from faults.stage import LEASES, Fault, Staged, is_stopped, passes, pid_of, state_of
from pace import Stopwatch
from servers import PATIENCE, wait_until
from services import JOBS, RunningService

COMMIT = COMPLETE.sha.encode()


@pytest.mark.fault(1, "kill -9 of an idle worker", "SIGKILL while it waits in XREADGROUP")
def test_an_idle_worker_that_is_killed_leaves_neither_lease_nor_consumer(on_stage: Staged, fault: Fault) -> None:
    with on_stage() as stage:
        victim = stage.service.worker_pids()[0]
        os.kill(victim, signal.SIGKILL)
        fault.strike()
        fault.recovered_when(
            lambda: victim not in {pid_of(name) for name in stage.redis.zrange(LEASES, 0, -1)}, within_s=1
        )
        stage.books.submit(100)
        wait_until(stage.service.is_whole, 20)
        stage.check()


@pytest.mark.fault(2, "kill -9 after fetch, before inference", "proxy keeps the XREADGROUP reply, then SIGKILL")
def test_jobs_of_a_worker_that_died_between_fetch_and_inference_run_elsewhere(on_stage: Staged, fault: Fault) -> None:
    with on_stage() as stage:
        point = stage.proxy.stop_at(FailPoint(b"XREADGROUP", "reply"))
        stage.books.submit(200)
        assert point.caught.wait(10 * PATIENCE)
        held = stage.in_flight_of(point.pid)
        assert held, "the server must have handed jobs out"
        os.kill(point.pid, signal.SIGKILL)
        fault.strike()
        point.release.set()
        fault.recovered_when(lambda: stage.books.answered(held), within_s=5)
        stage.check()
        # a batch of a read from before the fail-point may have been answered in between, by a first attempt
        assert 2 in {stage.books.said[job_id]["attempt"] for job_id in held}


@pytest.mark.fault(3, "kill -9 of a worker under load", "SIGSTOP until it holds jobs, then SIGKILL; 3 rounds")
def test_a_worker_that_is_killed_with_jobs_in_hand_is_replaced_and_its_jobs_run(on_stage: Staged, fault: Fault) -> None:
    with on_stage() as stage:
        for _ in range(3):
            wait_until(stage.service.is_whole, 20)
            victim = stage.stop_a_holder()
            held = stage.in_flight_of(victim)
            os.kill(victim, signal.SIGKILL)
            fault.strike()
            fault.recovered_when(lambda: stage.books.answered(held), within_s=5)  # noqa: B023 - called in this turn
        stage.check()


@pytest.mark.fault(4, "kill -9 just before the commit", "proxy keeps the commit's EVALSHA, then SIGKILL")
def test_a_commit_that_never_arrived_is_made_by_another(on_stage: Staged, fault: Fault) -> None:
    with on_stage() as stage:
        point = stage.proxy.stop_at(FailPoint(COMMIT, "request"))
        stage.books.submit(200)
        assert point.caught.wait(10 * PATIENCE)
        held = stage.in_flight_of(point.pid)
        assert held
        os.kill(point.pid, signal.SIGKILL)
        fault.strike()
        fault.recovered_when(lambda: stage.books.answered(held), within_s=5)
        point.release.set()  # the packet was under way all the time and arrives now
        stage.check()


@pytest.mark.fault(4, "kill -9 just after the commit", "proxy keeps the reply to the commit, then SIGKILL")
def test_a_commit_whose_reply_was_lost_with_its_worker_is_not_made_again(on_stage: Staged, fault: Fault) -> None:
    with on_stage() as stage:
        point = stage.proxy.stop_at(FailPoint(COMMIT, "reply"))
        stage.books.submit(200)
        assert point.caught.wait(10 * PATIENCE)
        os.kill(point.pid, signal.SIGKILL)
        fault.strike()
        point.release.set()
        fault.recovered_when(lambda: stage.books.answered(stage.books.accepted), within_s=5)
        stage.check()


@pytest.mark.fault(5, "kill -9 of the supervisor alone", "SIGKILL under load, then a new service")
def test_no_worker_goes_on_without_its_supervisor(on_stage: Staged, fault: Fault) -> None:
    with on_stage(lease=30.0) as stage:  # so long that no lease runs out here
        orphans = stage.service.worker_pids()
        stage.books.submit(5000)
        stage.service.signal(signal.SIGKILL)
        assert -signal.SIGKILL == stage.service.wait()
        fault.strike()
        fault.recovered_when(lambda: not any(state_of(pid) not in {"", "Z"} for pid in orphans), within_s=1)
        stage.service = RunningService(stage.proxy.url, CONVQ_LEASE="30")
        with stage.service:
            fault.recovered_when(lambda: stage.books.answered(stage.books.accepted), within_s=10)
            stage.check()


@pytest.mark.fault(5, "kill -9 of a child alone", "SIGKILL of one worker with jobs in hand")
def test_a_living_supervisor_has_a_dead_childs_jobs_run_within_a_second(on_stage: Staged, fault: Fault) -> None:
    with on_stage(lease=10.0) as stage:  # so long that only the supervisor can be that quick
        victim = stage.stop_a_holder()
        held = stage.in_flight_of(victim)
        os.kill(victim, signal.SIGKILL)
        fault.strike()
        fault.recovered_when(lambda: stage.books.answered(held), within_s=1.5)
        stage.check()


@pytest.mark.fault(5, "kill -9 of each child as soon as it starts", "SIGKILL of 8 workers before they are ready")
def test_workers_that_are_killed_while_they_start_are_not_waited_for_ever_longer(
    on_stage: Staged, fault: Fault
) -> None:
    with on_stage() as stage:
        killed: set[int] = set()

        def kill_the_next() -> bool:
            for pid in set(stage.service.worker_pids()) - killed:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
            return len(killed) >= 10

        stage.books.submit(200)
        wait_until(kill_the_next, 20)
        fault.strike()
        fault.recovered_when(stage.service.is_whole, within_s=5)
        stage.check()


@pytest.mark.fault(6, "zombie: SIGSTOP for ten lease times, then SIGCONT", "SIGSTOP while it holds jobs, lease 0.5 s")
def test_a_worker_that_stood_still_for_ten_leases_publishes_nothing_of_what_it_held(
    on_stage: Staged, fault: Fault
) -> None:
    with on_stage(lease=0.5) as stage:
        zombie = stage.stop_a_holder()
        held = stage.in_flight_of(zombie)
        fault.strike()
        fault.recovered_when(lambda: stage.books.answered(held), within_s=5)
        stage.settle()
        passes(5.0)
        assert is_stopped(zombie)
        os.kill(zombie, signal.SIGCONT)
        stage.books.submit(2000)
        wait_until(lambda: stage.count("convq_lost_commits_total") > 0)
        stage.check()
        assert zombie in stage.service.worker_pids(), "standing still is no crash"
        assert not any(
            stage.books.said[job_id]["worker"].endswith(f"-{zombie}") and stage.books.said[job_id]["attempt"] == 1
            for job_id in held
        ), "published by the zombie"


@pytest.mark.fault(32, "SIGTERM under load", "a second service takes over; nothing is delivered twice")
def test_a_service_that_is_told_to_stop_finishes_what_it_holds_and_leaves_the_rest(
    on_stage: Staged, fault: Fault
) -> None:
    # leases that no standstill of the machine outlasts
    with on_stage(lease=5.0) as stage, RunningService(stage.server.url, CONVQ_LEASE="5") as other:
        with stage.books.load():
            wait_until(lambda: stage.books.read() > 500)
            fault.strike()
            stage.service.stop()
            fault.recovered_when(lambda: stage.service.process.poll() == 0, within_s=5)
            wait_until(stage.books.goes_on)
        stage.service = other
        stage.check()
        assert {1} == {said["attempt"] for said in stage.books.said.values()}


@pytest.mark.fault(32, "SIGTERM twice", "the second 50 ms after the first, under load")
def test_a_second_sigterm_ends_the_service_at_once_and_the_next_one_answers_its_jobs(
    on_stage: Staged, fault: Fault
) -> None:
    with on_stage() as stage:
        for pid in stage.service.worker_pids():
            os.kill(pid, signal.SIGSTOP)
        stage.books.submit(20_000)
        for pid in stage.service.worker_pids():
            os.kill(pid, signal.SIGCONT)
        wait_until(stage.held)
        stage.service.signal(signal.SIGTERM)
        stage.service.wait_for("draining")
        stage.service.signal(signal.SIGTERM)
        fault.strike()
        assert stage.service.wait() in {0, 1}
        stage.service = RunningService(stage.proxy.url, CONVQ_LEASE="1")
        with stage.service:
            fault.recovered_when(lambda: stage.books.answered(stage.books.accepted), within_s=30)
            stage.check()


@pytest.mark.fault(32, "churn of services", "4 times: one more service comes, the older one gets SIGTERM")
def test_services_that_come_and_go_lose_nothing(on_stage: Staged, fault: Fault) -> None:
    with on_stage(workers=1, lease=5.0) as stage, ExitStack() as services:
        with stage.books.load():
            for _ in range(4):
                following = services.enter_context(RunningService(stage.proxy.url, workers=1, CONVQ_LEASE="5"))
                fault.strike()
                stage.service.stop()
                stage.service = following
                fault.recovered_when(stage.books.goes_on, within_s=5)
        stage.check()
        assert {1} == {said["attempt"] for said in stage.books.said.values()}


@pytest.mark.fault(33, "200 workers join at once, and die at once", "200 WorkQueues of the test claim jobs and vanish")
def test_two_hundred_dead_workers_are_reaped_without_stalling_the_server(on_stage: Staged, fault: Fault) -> None:
    with on_stage(lease=1.0) as stage:
        for pid in stage.service.worker_pids():
            os.kill(pid, signal.SIGSTOP)
        shard = Shard("lenet")
        with ExitStack() as crowd:
            queues = []
            for number in range(200):
                work = WorkQueue(stage.server.url, shard, worker=f"crowd-{100_000 + number}", lease_ms=1000)
                crowd.callback(work.close)
                queues.append(work)
            leases = [work.take() for work in queues]
            stage.books.submit(4000)
            for work, lease in zip(queues, leases, strict=True):
                work.claim(lease, 10, 1)
        assert len(stage.held()) >= 200
        held = [job_id for pid in stage.held() for job_id in stage.in_flight_of(pid)]
        for pid in stage.service.worker_pids():
            os.kill(pid, signal.SIGCONT)
        fault.strike()
        slowest_s = 0.0
        with Stopwatch() as watch:
            while not stage.books.answered(held):
                began = time.perf_counter()
                stage.redis.ping()
                slowest_s = max(slowest_s, time.perf_counter() - began)
        fault.recovered_when(lambda: stage.books.answered(held), within_s=20)
        stage.check()
        assert slowest_s < 0.25 * watch.slowdown, "the server stood still while the dead were reaped"
        fault.outcome = f"each job answered once; slowest PING meanwhile {slowest_s * 1e3:.0f} ms"


@pytest.mark.fault(35, "a worker that cannot renew for itself", "proxy keeps all that the workers send for 3 leases")
def test_a_worker_that_is_silent_for_long_keeps_its_lease_while_its_supervisor_sees_it_alive(
    on_stage: Staged, fault: Fault
) -> None:
    with on_stage(workers=1, lease=1.0) as stage:
        point = stage.proxy.stop_at(FailPoint(COMMIT, "request"))
        held = stage.books.submit(50)
        assert point.caught.wait(10 * PATIENCE)
        passes(3.0)
        assert 1 == stage.redis.zcard(LEASES), "its supervisor renews for it"
        assert stage.redis.xlen(JOBS)
        fault.strike()
        point.release.set()
        fault.recovered_when(lambda: stage.books.answered(held), within_s=2)
        stage.check()
        assert {1} == {said["attempt"] for said in stage.books.said.values()}, "no false death"
