"""Inputs that kill, hang or confuse the network, and networks that break: the others are answered."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from faults.crafted import HANG, NAN, REFUSED, SLOW, crafted
from faults.stage import Fault, Stage, Staged, cpu_ticks, state_of
from servers import wait_until

TRAP = Path(__file__).parents[1] / "e2e" / "poison"
CRASH = 0xEE
DEAD = "convq:{lenet}:dead"


def inside_native_code(stage: Stage, job_id: str, dead: Sequence[int] = ()) -> int:
    """Process id of the worker whose network is working on that job, as its processor time tells; 0 once it is answered."""
    before: dict[int, int] = {}

    def busy() -> int | None:
        if stage.books.answered([job_id]):
            return 0
        entry = stage.books.accepted[job_id]
        pid = next((pid for pid, held in stage.held().items() if entry in held and pid not in dead), None)
        if pid is None or not state_of(pid):
            return None
        return pid if cpu_ticks(pid) > before.setdefault(pid, cpu_ticks(pid)) + 15 else None

    found: list[int] = []

    def known() -> bool:
        found.extend(pid for pid in (busy(),) if pid is not None)
        return bool(found)

    wait_until(known, 20)
    return found[0]


def buried(stage: Stage) -> set[str]:
    """Ids of the jobs in the dead letters."""
    return {letter[b"id"].decode() for _, letter in stage.redis.xrange(DEAD)}


@pytest.mark.fault(3, "kill -9 during inference", "a job that keeps onnxruntime busy for seconds; SIGKILL meanwhile")
def test_a_batch_whose_worker_was_killed_in_native_code_is_answered(
    on_stage: Staged, fault: Fault, tmp_path: Path
) -> None:
    with on_stage("--models", str(crafted(tmp_path / "models"))) as stage:
        (slow,) = stage.books.submit(1, pixel=SLOW)
        victim = inside_native_code(stage, slow)
        others = stage.books.submit(100)
        os.kill(victim, signal.SIGKILL)
        fault.strike()
        fault.recovered_when(lambda: stage.books.answered([slow, *others]), within_s=30)
        stage.check()
        assert {"ok": 101} == stage.books.statuses()


@pytest.mark.fault(35, "one native call longer than two leases", "a job that keeps onnxruntime busy; lease 0.5 s")
def test_a_long_native_call_is_no_death(on_stage: Staged, fault: Fault, tmp_path: Path) -> None:
    with on_stage("--models", str(crafted(tmp_path / "models")), lease=0.5) as stage:
        workers = stage.service.worker_pids()
        began = time.monotonic()
        slow = stage.books.submit(2, pixel=SLOW)
        fault.strike()
        fault.recovered_when(lambda: stage.books.answered(slow), within_s=30)
        assert time.monotonic() - began > 1.0, "it must take longer than two leases"
        stage.check()
        assert workers == stage.service.worker_pids()
        assert {1} == {said["attempt"] for said in stage.books.said.values()}, "no false death"


@pytest.mark.fault(29, "poison: SIGSEGV", "1 job in 100 makes the batch's native call read address 0")
def test_one_poison_in_a_hundred_kills_nobody_else(on_stage: Staged, fault: Fault) -> None:
    path = os.pathsep.join([str(TRAP), *filter(None, [os.environ.get("PYTHONPATH")])])
    with on_stage(PYTHONPATH=path) as stage:
        poisons = []
        for _ in range(4):
            stage.books.submit(50)
            poisons += stage.books.submit(1, pixel=CRASH)
            stage.books.submit(49)
        fault.strike()
        fault.recovered_when(lambda: stage.books.answered(stage.books.accepted), within_s=50)
        stage.check()
        assert {"ok": 396, "poisoned": 4} == stage.books.statuses()
        assert set(poisons) == buried(stage)
        deaths = stage.count("convq_worker_restarts_total")
        fault.outcome = f"4 poisoned and buried, 396 answered; {deaths:.0f} workers died of it"


@pytest.mark.fault(29, "poison: native hang", "a job that loops in onnxruntime for ever, in a batch; max_batch_s 1")
def test_an_input_that_hangs_the_network_is_buried_and_its_batch_is_answered(
    on_stage: Staged, fault: Fault, tmp_path: Path
) -> None:
    with on_stage("--models", str(crafted(tmp_path / "models", max_batch_s=1.0)), workers=1) as stage:
        stage.books.submit(30)
        poison = stage.books.submit(1, pixel=HANG)
        stage.books.submit(30)
        fault.strike()
        fault.recovered_when(lambda: stage.books.answered(stage.books.accepted), within_s=30)
        stage.check()
        assert {"ok": 60, "poisoned": 1} == stage.books.statuses()
        assert set(poison) == buried(stage)


@pytest.mark.fault(
    29, "poison: killed for its memory", "SIGKILL to whoever runs the magic job, as the kernel's OOM killer"
)
def test_an_input_whose_worker_is_killed_each_time_is_buried_at_last(
    on_stage: Staged, fault: Fault, tmp_path: Path
) -> None:
    with on_stage("--models", str(crafted(tmp_path / "models"))) as stage:
        (poison,) = stage.books.submit(1, pixel=HANG)
        fault.strike()
        dead: list[int] = []
        while victim := inside_native_code(stage, poison, dead):
            os.kill(victim, signal.SIGKILL)
            dead.append(victim)
        fault.recovered_when(lambda: stage.books.answered([poison]), within_s=50)
        stage.books.submit(100)
        stage.check()
        assert {"ok": 100, "poisoned": 1} == stage.books.statuses()
        fault.outcome = "buried after the sixth kill, the others answered"
        assert 6 == len(dead), "SIGKILL counts a third"


@pytest.mark.fault(30, "onnxruntime refuses an input; NaN", "two jobs of a batch: an index out of bounds, not a number")
def test_an_input_that_the_network_cannot_take_fails_alone(on_stage: Staged, fault: Fault, tmp_path: Path) -> None:
    with on_stage("--models", str(crafted(tmp_path / "models"))) as stage:
        stage.books.submit(40)
        (refused,) = stage.books.submit(1, pixel=REFUSED)
        (nan,) = stage.books.submit(1, pixel=NAN)
        stage.books.submit(40)
        fault.strike()
        fault.recovered_when(lambda: stage.books.answered(stage.books.accepted), within_s=5)
        stage.check()
        assert {"ok": 80, "error": 2} == stage.books.statuses()
        codes = [stage.books.said[job_id]["error"]["code"] for job_id in (refused, nan)]
        assert ["model_error", "non_finite"] == codes
        fault.outcome = "model_error and non_finite, the other 80 answered"


@pytest.mark.fault(
    30, "model file destroyed under a running service", "model.onnx truncated, one worker killed; put back"
)
def test_workers_that_have_their_model_go_on_while_its_file_is_broken(
    on_stage: Staged, fault: Fault, tmp_path: Path
) -> None:
    with on_stage("--models", str(crafted(tmp_path / "models"))) as stage:
        file = tmp_path / "models" / "lenet" / "1" / "model.onnx"
        whole = file.read_bytes()
        file.write_bytes(whole[:1000])
        os.kill(stage.service.worker_pids()[0], signal.SIGKILL)
        wait_until(lambda: any(line["message"] == "a version is passed over" for line in stage.service.log), 20)
        stage.books.submit(100)
        stage.settle(5)
        assert stage.service.process.poll() is None
        file.write_bytes(whole)
        fault.strike()
        fault.recovered_when(stage.service.is_whole, within_s=15)
        stage.check()
