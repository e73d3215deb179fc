"""/metrics of a real service under load: it adds up, it never goes back, it holds nothing that a client wrote."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from itertools import pairwise

import pytest
from prometheus_client.parser import text_string_to_metric_families

from convq.supervisor.exposition.metrics import QUEUE_FAMILIES, documented_labels
from pace import Stopwatch
from servers import OwnServer, skip_or_fail, wait_until
from services import JOBS, LANES, Fields, Ledger, Plain, RunningService, seven

Labels = tuple[tuple[str, str], ...]
Samples = dict[str, dict[Labels, float]]
LENET = (("model", "lenet"),)
STAGE = "convq_job_stage_duration_seconds"
E2E = "convq_job_e2e_duration_seconds"


def answered(samples: Samples) -> float:
    """Jobs that workers have counted as answered."""
    return sum(samples["convq_jobs_total"].values())


def settled(service: RunningService, jobs: float) -> Samples:
    """What /metrics says once that many jobs are counted: published first, counted a moment later."""
    wait_until(lambda: answered(service.metrics()) >= jobs)
    return service.metrics()


def per_stage(samples: Samples, part: str) -> dict[str, float]:
    return {dict(labels)["stage"]: value for labels, value in samples[f"{STAGE}_{part}"].items()}


def fallen(before: Samples, after: Samples) -> list[str]:
    """Counters of workers, histograms included, that are smaller than before or gone."""
    return [
        f"{name}{dict(labels)}: {value} -> {after.get(name, {}).get(labels)}"
        for name, values in before.items()
        if name.endswith(("_total", "_count", "_sum", "_bucket")) and name not in QUEUE_FAMILIES
        for labels, value in values.items()
        if after.get(name, {}).get(labels, -1.0) < value
    ]


def labels_of(worker: int) -> Labels:
    return ("model", "lenet"), ("worker", str(worker))


def start_of(samples: Samples) -> float:
    """When worker 0 started; 0 where it does not run."""
    return samples.get("convq_worker_start_time_seconds", {}).get((("worker", "0"),), 0.0)


# -- the time budget ----------------------------------------------------------------------------------------------------


def test_the_stages_of_jobs_add_up_to_their_whole_time(service: RunningService, plain: Plain) -> None:
    before = service.metrics()
    ledger = Ledger(plain, "budget")
    for _ in range(4):
        ledger.submit(1500)
        broken = plain.burst([{"image": seven()}] * 100 + [{"image": b"no picture"}] * 20)
    ledger.settle()
    plain.document(broken[-1])
    after = settled(service, answered(before) + 4 * 1620)

    spent = {stage: value - per_stage(before, "sum")[stage] for stage, value in per_stage(after, "sum").items()}
    jobs = {stage: value - per_stage(before, "count")[stage] for stage, value in per_stage(after, "count").items()}
    whole_s = after[f"{E2E}_sum"][LENET] - before[f"{E2E}_sum"][LENET]
    assert {"queue", "fetch", "batch_wait", "postprocess", "publish"} == {s for s, n in jobs.items() if n == 6480}
    assert (6400, 480, 400) == (jobs["inference"], jobs["decode"], jobs["preprocess"])
    # what waits in the queue is most of it, and would hide what is missing behind it
    behind_s = sum(spent.values()) - spent["queue"]
    assert pytest.approx(whole_s - spent["queue"], rel=0.01) == behind_s
    assert all(seconds > 0 for seconds in spent.values()), spent


def test_the_whole_time_is_what_a_client_waits_for(service: RunningService, plain: Plain) -> None:
    before = service.metrics()
    began = time.perf_counter()
    for _ in range(100):
        plain.answer(plain.push({"image": seven()}))
    waited_s = time.perf_counter() - began
    after = settled(service, answered(before) + 100)

    whole_s = after[f"{E2E}_sum"][LENET] - before[f"{E2E}_sum"][LENET]
    # entries are stamped in whole milliseconds, cut off; and the client's own way to the server and back is not in it
    assert waited_s / 3 <= whole_s <= waited_s + 100 * 1e-3


# -- workers that die ---------------------------------------------------------------------------------------------------


def test_no_counter_goes_back_while_workers_are_killed_under_load(service: RunningService, plain: Plain) -> None:
    ledger = Ledger(plain, "monotonic")
    scrapes = [service.metrics()]

    def whole(without: int = 0) -> bool:
        scrapes.append(service.metrics())
        return service.is_whole(without)

    for turn in range(3):
        wait_until(whole, 20)
        victim = service.worker_pids()[turn % 2]
        ledger.submit(6000)
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: whole(without=victim), 20)  # noqa: B023 - called in this turn
    ledger.settle()
    wait_until(whole)

    assert [] == [fell for before, after in pairwise(scrapes) for fell in fallen(before, after)]
    restarts = [sum(scrapes[i]["convq_worker_restarts_total"].values()) for i in (0, -1)]
    assert 3 == restarts[1] - restarts[0]
    wait_until(lambda: 0 == sum(service.metrics()["convq_worker_in_flight"].values()))


def test_the_gauges_of_a_dead_worker_end_with_it(fresh_server: OwnServer, fresh: Plain) -> None:
    with RunningService(fresh_server.url, workers=1, CONVQ_LEASE="30") as service:
        (victim,) = service.worker_pids()
        ledger = Ledger(fresh, "dead")
        before = service.metrics()

        def holds_jobs() -> bool:
            ledger.submit(2000)
            os.kill(victim, signal.SIGSTOP)
            if fresh.pending() and service.metrics()["convq_worker_in_flight"][labels_of(0)]:
                return True
            os.kill(victim, signal.SIGCONT)
            return False

        wait_until(holds_jobs, every_s=0.05)
        struck_s = time.time()
        os.kill(victim, signal.SIGKILL)
        was = start_of(before)
        # taken after the supervisor has noticed, and long before its successor has loaded anything
        wait_until(lambda: start_of(service.metrics()) != was, every_s=0.001)
        dead = service.metrics()

        assert 0 == dead["convq_worker_in_flight"][labels_of(0)]
        assert 0 == sum(value for labels, value in dead["convq_worker_state"].items() if ("state", "ready") in labels)
        assert {} == dead.get("convq_worker_last_progress_timestamp_seconds", {})
        assert {} == dead.get("convq_model_info", {})
        assert [] == fallen(before, dead)
        ledger.settle()
        now = service.metrics()
        assert struck_s < now["convq_worker_last_progress_timestamp_seconds"][labels_of(0)] < time.time() + 1
        assert start_of(now) > was


# -- several services ---------------------------------------------------------------------------------------------------


def exports(service: RunningService) -> bool:
    """Whether this service exports lenet's queue, by what it says and by what it does, which must be the same."""
    samples = service.metrics()
    says = bool(samples["convq_exporter"][LENET])
    assert says == bool(set(QUEUE_FAMILIES) & set(samples))
    return says


def test_one_of_several_services_exports_the_queue_and_another_when_it_is_killed(
    fresh_server: OwnServer, fresh: Plain
) -> None:
    with RunningService(fresh_server.url, workers=1) as one, RunningService(fresh_server.url, workers=1) as other:
        services = [one, other]
        wait_until(lambda: any(map(exports, services)))
        for _ in range(20):
            assert 1 == sum(map(exports, services)), "sums over services must be right at any moment"
        (killed,), (left,) = [[one for one in services if exports(one) is which] for which in (True, False)]
        fresh.redis.xadd(LANES[2], {"image": seven()})
        killed.signal(signal.SIGKILL)
        assert -signal.SIGKILL == killed.wait()
        with Stopwatch() as watch:
            wait_until(lambda: exports(left), 10)

        assert watch.quiet_s < 4 + 1 + 3, "a term, a beat, and what slow cores take"
        assert 1 == left.metrics()["convq_queue_added_total"][("model", "lenet"), ("stream", "low")]


def test_a_service_that_stops_hands_the_export_over_at_once(fresh_server: OwnServer) -> None:
    with RunningService(fresh_server.url, workers=1) as one, RunningService(fresh_server.url, workers=1) as other:
        wait_until(lambda: exports(one) or exports(other))
        first, second = (one, other) if exports(one) else (other, one)
        with Stopwatch() as watch:
            first.signal(signal.SIGTERM)
            wait_until(lambda: exports(second))

        assert watch.quiet_s < 3, "sooner than its term of 4 s runs out"
        assert 0 == first.wait()


def complete(service: RunningService) -> bool:
    """Whether nothing is left out: workers are ready, the queue is exported, how fast it drains and who serves what is known."""
    return service.is_ready() and {*QUEUE_FAMILIES, "convq_unserved_streams"} <= set(service.metrics())


# -- processes ----------------------------------------------------------------------------------------------------------


def test_what_the_kernel_says_of_each_process_is_told(service: RunningService) -> None:
    wait_until(service.is_ready)
    samples = service.metrics()

    for worker in ("0", "1"):
        label = (("worker", worker),)
        assert 3 + 1 < samples["convq_worker_threads"][label] < 1000, "three threads a model, and its own"
        assert 3 < samples["convq_worker_open_files"][label] < 1000
        assert 10e6 < samples["convq_worker_resident_memory_bytes"][label] < 4e9
        assert 0 < time.time() - samples["convq_worker_start_time_seconds"][label] < 3600
        assert samples["convq_worker_cpu_seconds_total"][label] > 0
    assert 10e6 < samples["convq_supervisor_resident_memory_bytes"][()] < 1e9
    assert samples["convq_supervisor_cpu_seconds_total"][()] > 0


# -- what may stand in it ------------------------------------------------------------------------------------------------


def test_nothing_that_a_client_writes_comes_into_a_label(service: RunningService, plain: Plain) -> None:
    mark = "evil-label"
    wait_until(lambda: service.is_ready() and exports(service))
    before = service.metrics()
    jobs: list[Fields] = [
        {"image": seven(), "id": mark, mark: mark, "traceparent": mark},
        {"image": seven(), "id": f"{mark}\n", "outputs": mark},
        {"image": seven(), "outputs": f"{mark},conv1"},
        {"image": seven(), "version": mark},
        {"image": seven(), "version": "666"},
        {"image": seven(), "reply_to": f"convq:{{lenet}}:inbox:{mark}"},
        {"image": seven(), "reply_to": mark, "top_k": mark, "ttl_ms": mark},
        {"tensor": mark, "dtype": mark, "shape": mark},
        {"image": mark, "status": mark, "model": mark, "worker": mark, "stream": mark},
        {mark: mark},
    ]
    for stream in LANES:
        plain.burst(jobs, stream=stream)
    plain.redis.xadd(f"convq:{{{mark}}}:jobs", {"image": seven()})
    plain.redis.hset("convq:models", mark, "{}")
    with suppress(Exception):
        plain.redis.fcall("convq_submit", 1, JOBS, "image", mark, "id", mark)
    after = settled(service, answered(before) + len(jobs) * 3)
    plain.redis.delete(f"convq:{{{mark}}}:jobs")

    def series(samples: Samples) -> set[tuple[str, Labels]]:
        unsteady = "convq_queue_drain_seconds"  # absent where jobs wait before there is a rate
        return {(name, labels) for name, values in samples.items() if name != unsteady for labels in values}

    assert series(before) == series(after)
    text = service.get("/metrics")[1]
    assert mark not in text
    assert "666" not in {value for _, labels in series(after) for _, value in labels}


def test_the_labels_are_the_documented_ones(service: RunningService, plain: Plain) -> None:
    plain.answer(plain.push({"image": seven()}))
    wait_until(lambda: complete(service) and service.metrics().get("convq_client_jobs_total"))
    found = {}
    for family in text_string_to_metric_families(service.get("/metrics")[1]):
        name = family.name + ("_total" if family.type == "counter" else "")
        found[name] = {frozenset(sample.labels) - {"le"} for sample in family.samples}

    assert {name: {frozenset(labels)} for name, labels in documented_labels().items()} == found


def test_promtool_finds_nothing_to_complain_about(service: RunningService) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        skip_or_fail("no promtool (Debian: apt-get install prometheus)")
    wait_until(lambda: complete(service))
    page = service.get("/metrics")[1]

    checked = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, text=True, check=False)

    assert (0, "", "") == (checked.returncode, checked.stdout, checked.stderr)
