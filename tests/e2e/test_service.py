"""`convq serve` as its operators meet it: it starts, says how it is, loses workers and servers, and ends in good order."""

from __future__ import annotations

import os
import signal

import pytest
from prometheus_client.parser import text_string_to_metric_families

from convq.supervisor.exposition.metrics import documented_metrics
from pace import Stopwatch
from servers import OwnServer, wait_until
from services import JOBS, LANES, READY_WITHIN_S, Ledger, Plain, RunningService, digits, models_served, seven, tensor_of

LEASES = "convq:{lenet}:leases"


def consumers(plain: Plain) -> dict[str, int]:
    """Consumer -> jobs that it holds, over all streams that have the group."""
    held: dict[str, int] = {}
    for lane in LANES:
        if plain.redis.exists(lane) and plain.redis.xinfo_groups(lane):
            for row in plain.redis.xinfo_consumers(lane, "workers"):
                name = row["name"].decode()
                held[name] = held.get(name, 0) + int(row["pending"])
    return held


def stop_with_jobs(pid: int, ledger: Ledger) -> None:
    """SIGSTOP a worker at a moment when it holds jobs, with more that wait; submits what that needs."""

    def stopped() -> bool:
        ledger.submit(3_000)
        os.kill(pid, signal.SIGSTOP)
        if any(held for name, held in consumers(ledger.plain).items() if f"-{pid}-" in name):
            return True
        os.kill(pid, signal.SIGCONT)
        return False

    wait_until(stopped)


# -- start and stop ---------------------------------------------------------------------------------------------------


def test_it_is_ready_only_after_warm_up_and_takes_everything_back_when_it_stops(
    fresh_server: OwnServer, fresh: Plain
) -> None:
    with Stopwatch() as watch, RunningService(fresh_server.url, wait=False) as service:
        status, why = service.get("/readyz")
        assert (503, "0 of 2 workers are ready") == (status, why.strip())
        assert {} == models_served(fresh)
        wait_until(service.is_ready)
        # two seconds on two quiet cores; the rest is for cores that are slow
        assert watch.quiet_s <= 10
        wait_until(lambda: models_served(fresh))
        lenet = models_served(fresh)["lenet"]
        assert ([1], 1, 10) == (lenet["versions"], lenet["shards"], lenet["labels"])
        assert [1, 32, 32] == lenet["inputs"][0]["shape"]
        assert 2 == fresh.redis.zcard(LEASES)
        assert "7" == fresh.answer(fresh.push({"image": seven()})).label
        service.stop()

    assert {} == models_served(fresh)
    assert 0 == fresh.redis.zcard(LEASES)
    assert {} == consumers(fresh)
    assert fresh.nothing_left()


def test_it_lives_is_ready_and_keeps_one_lease_per_worker(service: RunningService, plain: Plain) -> None:
    wait_until(service.is_ready)

    assert 200 == service.get("/livez")[0]
    assert (200, "2 workers serve lenet") == (service.get("/readyz")[0], service.get("/readyz")[1].strip())
    assert 404 == service.get("/no-such-page")[0]
    wait_until(lambda: 2 == plain.redis.zcard(LEASES))
    assert ["lenet"] == sorted(models_served(plain))


def test_ctrl_c_ends_it_with_130(fresh_server: OwnServer) -> None:
    with RunningService(fresh_server.url) as service:
        workers = service.worker_pids()
        service.signal(signal.SIGINT)

        assert 130 == service.wait()
    assert [] == [pid for pid in workers if exists(pid)]


def test_a_second_sigterm_ends_it_at_once_even_while_the_server_hangs(fresh_server: OwnServer) -> None:
    with RunningService(fresh_server.url) as service:
        with Plain(fresh_server.url) as plain:
            Ledger(plain, "hung").submit(2000)
        os.kill(fresh_server.pid, signal.SIGSTOP)
        try:
            service.signal(signal.SIGTERM)
            service.wait_for("draining")
            assert (503, "draining") == (service.get("/readyz")[0], service.get("/readyz")[1].strip())
            assert 200 == service.get("/livez")[0]
            with Stopwatch() as watch:
                service.signal(signal.SIGTERM)
                assert 1 == service.wait()
            assert watch.quiet_s < 4
        finally:
            os.kill(fresh_server.pid, signal.SIGCONT)


def test_sigterm_under_load_answers_what_was_claimed_and_leaves_the_rest_to_the_next_service(
    fresh_server: OwnServer, fresh: Plain
) -> None:
    ledger = Ledger(fresh, "drained")
    ledger.submit(30_000)
    with RunningService(fresh_server.url, wait=False) as service:
        wait_until(lambda: fresh.redis.llen(ledger.inbox), READY_WITHIN_S)
        service.stop()

    assert 0 == fresh.pending(), "claimed, and neither answered nor handed back"
    left = fresh.redis.xlen(JOBS)
    assert 0 < left < 30_000, "the service must be stopped in the middle of its work"
    assert 30_000 == left + fresh.redis.llen(ledger.inbox)
    with RunningService(fresh_server.url):
        ledger.settle()


def test_jobs_that_waited_for_a_service_expire_or_are_cancelled_and_their_neighbour_is_answered(
    fresh_server: OwnServer, fresh: Plain
) -> None:
    fresh.redis.sadd("convq:{lenet}:cancelled", "not-wanted")
    late = fresh.push({"image": seven(), "ttl_ms": 1})
    fresh.push({"image": seven(), "id": "not-wanted"})
    fine = fresh.push({"image": seven(), "ttl_ms": 60_000})
    with RunningService(fresh_server.url, workers=1):
        answers = [fresh.answer(job_id) for job_id in (late, "not-wanted", fine)]

    assert ["expired", "cancelled", "ok"] == [str(answer.status) for answer in answers]
    assert [None, None] == [answer.predictions for answer in answers[:2]]
    assert "7" == answers[2].label
    assert 0 == fresh.redis.scard("convq:{lenet}:cancelled")


# -- metrics ----------------------------------------------------------------------------------------------------------


def test_metrics_hold_every_documented_name_and_count_each_job(service: RunningService, plain: Plain) -> None:
    wait_until(lambda: "convq_queue_drain_seconds" in service.metrics())  # absent while its rate is not known
    families = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in text_string_to_metric_families(service.get("/metrics")[1])
    }
    assert [] == sorted(set(documented_metrics()) - families)

    def answered(outcome: str, stream: str) -> float:
        labels = (("model", "lenet"), ("outcome", outcome), ("stream", stream))
        return service.metrics()["convq_jobs_total"][labels]

    ok, invalid, high = answered("ok", "normal"), answered("invalid", "normal"), answered("ok", "high")
    for entry in plain.burst([{"image": seven()}] * 5 + [{"image": b"no picture"}] * 2):
        plain.answer(entry)
    plain.answer(plain.push({"image": seven()}, stream=LANES[0]))

    # published first, counted a moment later
    wait_until(lambda: answered("ok", "normal") == ok + 5)
    wait_until(lambda: answered("invalid", "normal") == invalid + 2)
    wait_until(lambda: answered("ok", "high") == high + 1)
    metrics = service.metrics()
    assert (("model", "lenet"),) in metrics["convq_batch_size_count"]
    assert 2.0 == metrics["convq_workers"][("model", "lenet"),]


# -- faults -----------------------------------------------------------------------------------------------------------


def test_killed_workers_lose_nothing_double_nothing_and_are_replaced(service: RunningService, plain: Plain) -> None:
    wait_until(service.is_whole)
    before = {name: values for name, values in service.metrics().items() if name.endswith(("_total", "_count", "_sum"))}
    ledger = Ledger(plain, "killed")
    for turn in range(3):
        victim = service.worker_pids()[turn % 2]
        stop_with_jobs(victim, ledger)
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: service.is_whole(without=victim), 15)  # noqa: B023 - called in this turn
    ledger.settle()

    after = service.metrics()
    fell = [
        (name, labels)
        for name, values in before.items()
        for labels, value in values.items()
        if after[name].get(labels, 0.0) < value and not name.startswith("convq_worker_cpu")
    ]
    assert [] == fell, "counters never go back"
    deaths = [sum(metrics["convq_worker_restarts_total"].values()) for metrics in (before, after)]
    assert 3 == deaths[1] - deaths[0]
    wait_until(lambda: 2 == plain.redis.zcard(LEASES))


def test_no_worker_outlives_a_killed_supervisor_and_the_next_service_answers_its_jobs(
    fresh_server: OwnServer, fresh: Plain
) -> None:
    ledger = Ledger(fresh, "orphaned")
    service = RunningService(fresh_server.url, CONVQ_LEASE="1")
    service.start()
    workers = service.worker_pids()
    assert 2 == len(workers)
    ledger.submit(10_000)
    service.signal(signal.SIGKILL)
    assert -signal.SIGKILL == service.wait()

    wait_until(lambda: not any(exists(pid) for pid in workers), 5)
    with RunningService(fresh_server.url, CONVQ_LEASE="1"):
        ledger.settle()


def test_a_worker_that_stood_still_longer_than_its_lease_answers_nothing_twice(
    fresh_server: OwnServer, fresh: Plain
) -> None:
    with RunningService(fresh_server.url, CONVQ_LEASE="1") as service:
        ledger = Ledger(fresh, "stopped")
        stopped = service.worker_pids()[0]
        stop_with_jobs(stopped, ledger)
        ledger.settle()
        assert 1 == fresh.redis.zcount(LEASES, "-inf", "+inf"), "its lease must have run out"
        os.kill(stopped, signal.SIGCONT)
        ledger.submit(3_000)
        ledger.settle()
        wait_until(lambda: 2 == fresh.redis.zcard(LEASES))
        assert stopped in service.worker_pids(), "standing still is no crash"


def test_a_server_that_is_killed_and_comes_back_finds_the_service_waiting(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with (
        OwnServer(tmp_path_factory.mktemp("always"), appendfsync="always") as server,
        RunningService(server.url) as service,
    ):
        workers = service.worker_pids()
        with Plain(server.url) as plain:
            ledger = Ledger(plain, "restarted")
            for worker in workers:
                os.kill(worker, signal.SIGSTOP)  # so that there is a backlog, however slowly it is pushed
            ledger.submit(10_000)
            for worker in workers:
                os.kill(worker, signal.SIGCONT)
            wait_until(lambda: plain.redis.llen(ledger.inbox))
            assert plain.redis.xlen(JOBS) > 0
        server.kill()
        wait_until(lambda: not service.is_ready())
        assert 200 == service.get("/livez")[0], "an outage of the server is no reason to restart workers"
        server.start()
        with Plain(server.url) as plain:
            ledger.plain = plain
            ledger.settle()
            ledger.submit(1_000)
            ledger.settle()
        assert workers == service.worker_pids()
        wait_until(service.is_ready)


def test_a_service_that_starts_at_maxmemory_drains_what_fills_it(fresh_server: OwnServer, fresh: Plain) -> None:
    ledger = Ledger(fresh, "full")
    ledger.submit(3_000)
    fresh.redis.config_set("maxmemory", 1)
    with RunningService(fresh_server.url) as service:
        ledger.settle()
        assert service.is_ready()
        assert ["lenet"] == sorted(models_served(fresh))


def test_after_flushall_it_goes_on_with_the_next_job(service: RunningService, plain: Plain) -> None:
    wait_until(plain.nothing_left)
    workers = service.worker_pids()

    plain.redis.flushall()
    with Stopwatch() as watch:
        entries = [
            plain.push({"tensor": tensor_of(digit), "dtype": "uint8", "shape": "1,32,32"}) for digit in digits()[:20]
        ]

        assert ["ok"] * 20 == [str(plain.answer(entry).status) for entry in entries]
    assert watch.quiet_s < 10
    wait_until(lambda: 2 == plain.redis.zcard(LEASES))
    wait_until(lambda: "lenet" in models_served(plain))
    assert workers == service.worker_pids()


def exists(pid: int) -> bool:
    """Whether a process of that id runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
