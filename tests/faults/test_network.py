"""The network is cut, half-open, slow, loses replies, resets; nothing is stuck, nothing is answered twice."""

from __future__ import annotations

import time

import pytest

from convq.queue.commits import COMPLETE
from faults.proxy import FailPoint
from faults.stage import LEASES, Fault, Staged, passes
from servers import PATIENCE, wait_until
from services import RunningService

COMMIT = COMPLETE.sha.encode()


@pytest.mark.fault(18, "partition shorter than the lease", "proxy keeps everything for 1.5 s, lease 4 s")
def test_a_short_partition_is_nothing_but_a_pause(on_stage: Staged, fault: Fault) -> None:
    with on_stage(lease=4.0) as stage:
        with stage.books.load():
            wait_until(lambda: stage.books.read() > 200)
            stage.proxy.freeze()
            passes(1.5)
            stage.proxy.thaw()
            fault.strike()
            fault.recovered_when(stage.books.goes_on, within_s=3)
        stage.check()
        assert 0 == stage.count("convq_lost_commits_total")
        assert {1} == {said["attempt"] for said in stage.books.said.values()}


@pytest.mark.fault(18, "partition longer than the lease", "proxy keeps everything for 8 s, lease 1 s; a second service")
def test_a_service_that_was_cut_off_is_fenced_when_it_returns(on_stage: Staged, fault: Fault) -> None:
    with on_stage(lease=1.0) as stage, RunningService(stage.server.url, workers=1, CONVQ_LEASE="1") as other:
        cut_off = set(stage.service.worker_pids())
        with stage.books.load():
            wait_until(lambda: cut_off & set(stage.held()))
            stage.proxy.freeze()
            fault.strike()
            held = [job_id for pid in cut_off for job_id in stage.in_flight_of(pid)]
            fault.recovered_when(lambda: stage.books.answered(held), within_s=5)
            passes(5.0)
            stage.proxy.thaw()
            wait_until(stage.books.goes_on)
        stage.settle()
        wait_until(lambda: 3 == stage.redis.zcard(LEASES), 15)
        assert stage.count("convq_redis_command_errors_total") > 0
        other.stop()
        stage.check()


@pytest.mark.fault(19, "half-open connections", "proxy silently drops all that the existing connections carry")
def test_connections_that_died_in_silence_are_noticed(on_stage: Staged, fault: Fault) -> None:
    with on_stage(lease=2.0) as stage:
        with stage.books.load():
            wait_until(lambda: stage.books.read() > 200)
            assert stage.proxy.strand() >= 3
            fault.strike()
            fault.recovered_when(stage.books.goes_on, within_s=7)  # one socket timeout
        stage.check()


@pytest.mark.fault(20, "slow link", "proxy delays every packet by 100 ms, both ways, for 5 s under load")
def test_a_slow_link_costs_time_alone(on_stage: Staged, fault: Fault) -> None:
    with on_stage(lease=2.0) as stage:
        workers = stage.service.worker_pids()
        stage.proxy.delay_s = 0.1
        with stage.books.load(jobs=5):
            passes(5.0)
        stage.proxy.delay_s = 0.0
        fault.strike()
        fault.recovered_when(stage.books.goes_on, within_s=5)
        stage.check()
        assert workers == stage.service.worker_pids()
        assert {1} == {said["attempt"] for said in stage.books.said.values()}, "no false death"


@pytest.mark.fault(20, "one byte at a time", "proxy passes on every byte in a packet of its own, under load")
def test_bytes_that_arrive_one_by_one_cost_time_alone(on_stage: Staged, fault: Fault) -> None:
    with on_stage(lease=2.0) as stage:
        stage.proxy.trickling = True
        with stage.books.load(jobs=2):
            passes(3.0)
        stage.proxy.trickling = False
        fault.strike()
        fault.recovered_when(stage.books.goes_on, within_s=10)
        stage.check()


@pytest.mark.fault(21, "reply lost after XREADGROUP", "proxy swallows one reply with jobs in it and resets; 5 times")
def test_jobs_of_a_lost_reply_are_found_again(on_stage: Staged, fault: Fault) -> None:
    with on_stage(lease=4.0) as stage:
        for _ in range(5):
            point = stage.proxy.stop_at(FailPoint(b"XREADGROUP", "reply", "reset"))
            ids = stage.books.submit(200)
            assert point.caught.wait(10 * PATIENCE)
            fault.strike()
            fault.recovered_when(lambda: stage.books.answered(ids), within_s=3)  # noqa: B023 - called in this turn
        stage.check()


@pytest.mark.fault(21, "reply lost after a commit", "proxy swallows the commit's reply and resets; 5 times")
def test_a_commit_that_is_sent_again_publishes_nothing_twice(on_stage: Staged, fault: Fault) -> None:
    with on_stage(lease=4.0) as stage:
        for _ in range(5):
            point = stage.proxy.stop_at(FailPoint(COMMIT, "reply", "reset"))
            ids = stage.books.submit(200)
            assert point.caught.wait(10 * PATIENCE)
            fault.strike()
            fault.recovered_when(lambda: stage.books.answered(ids), within_s=3)  # noqa: B023 - called in this turn
        stage.check()


@pytest.mark.fault(21, "XREADGROUP that arrives after its sender gave up", "proxy keeps the request for 7 s")
def test_jobs_that_a_late_request_took_are_found_by_the_worker_in_whose_name_it_was(
    on_stage: Staged, fault: Fault
) -> None:
    with on_stage(workers=1, lease=4.0) as stage:
        point = stage.proxy.stop_at(FailPoint(b"XREADGROUP", "request"))
        assert point.caught.wait(10 * PATIENCE)
        gave_up = stage.proxy.accepted
        wait_until(lambda: stage.proxy.accepted > gave_up, 10)
        wait_until(stage.books.goes_on)
        assert stage.service.worker_pids() == [point.pid]
        # The worker asks again and again; only while it waits for this reply can the late request be the first.
        second = stage.proxy.stop_at(FailPoint(b"XREADGROUP", "request"))
        assert second.caught.wait(10 * PATIENCE)
        ids = stage.books.submit(20)
        point.release.set()
        wait_until(lambda: stage.held().get(point.pid))
        second.release.set()
        fault.strike()
        fault.recovered_when(lambda: stage.books.answered(ids), within_s=8)
        stage.check()


@pytest.mark.fault(22, "connections killed by the server", "CLIENT KILL TYPE normal, 20 times in 2 s, under load")
def test_killed_connections_are_made_again(on_stage: Staged, fault: Fault) -> None:
    with on_stage(lease=2.0) as stage:
        with stage.books.load():
            for _ in range(20):
                passes(0.1)
                stage.redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            fault.strike()
            fault.recovered_when(stage.books.goes_on, within_s=5)
        stage.check()


@pytest.mark.fault(22, "idle connections closed by the server", "CONFIG SET timeout 1, two idle seconds, then jobs")
def test_a_server_that_closes_idle_connections_is_asked_again(on_stage: Staged, fault: Fault) -> None:
    with on_stage() as stage:
        stage.redis.config_set("timeout", 1)
        passes(3.0)
        fault.strike()
        ids = stage.books.submit(200)
        stage.books.submit(200)  # the client's own idle connection is gone too: what it lost it must not count
        stage.redis.config_set("timeout", 0)
        fault.recovered_when(lambda: stage.books.answered(set(ids) & set(stage.books.accepted)), within_s=3)
        stage.check()


@pytest.mark.fault(22, "maxclients reached", "service reset while CONFIG SET maxclients leaves no room, for 3 s")
def test_a_server_that_takes_no_more_connections_is_asked_again_without_a_herd(on_stage: Staged, fault: Fault) -> None:
    with on_stage(lease=2.0) as stage:
        stage.books.submit(100)
        stage.settle()
        stage.redis.config_set("maxclients", 1)
        before = stage.proxy.accepted
        stage.proxy.reset()
        passes(3.0)
        tries = stage.proxy.accepted - before
        stage.redis.config_set("maxclients", 1000)
        fault.strike()
        fault.recovered_when(stage.books.goes_on, within_s=5)
        assert tries < 100, "a herd"
        stage.check()
        fault.outcome = f"each job answered once; {tries} tries to connect in 3 s"


@pytest.mark.fault(22, "connections reset by the network", "proxy resets every connection, 20 times in 2 s, under load")
def test_reset_connections_are_made_again(on_stage: Staged, fault: Fault) -> None:
    with on_stage(lease=2.0) as stage:
        began = time.monotonic()
        with stage.books.load():
            for turn in range(20):
                wait_until(lambda: time.monotonic() > began + 0.1 * turn)  # noqa: B023 - called in this turn
                stage.proxy.reset()
            fault.strike()
            fault.recovered_when(stage.books.goes_on, within_s=5)
        stage.check()
