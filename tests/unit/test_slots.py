"""What a place for a worker remembers of the processes that had it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from convq.host.procfs import open_files_of, usage_of
from convq.ipc.messages import PlanUpdate
from convq.ipc.plans import Plan
from convq.supervisor.slots import BACK_OFF_S, Slot
from servers import skip_or_fail, wait_until

BUSY = "while True: pass"
NULL = Path(os.devnull)


@pytest.fixture(autouse=True)
def _on_linux() -> None:
    if usage_of(os.getpid()) is None:
        skip_or_fail("the kernel says nothing of processes here")


def started(slot: Slot) -> subprocess.Popen[bytes]:
    """A process that does nothing but use the processor, in that place."""
    slot.process = subprocess.Popen([sys.executable, "-c", BUSY])
    slot.forget()
    return slot.process


def test_the_processor_time_of_a_worker_goes_on_where_the_killed_one_left_it() -> None:
    slot = Slot(0)
    seen = [slot.cpu_s()]
    for _ in range(2):
        process, before_s = started(slot), slot.cpu_s()
        wait_until(lambda: slot.cpu_s() > before_s + 0.1)  # noqa: B023 - called in this turn
        seen.append(slot.cpu_s())
        process.kill()
        seen.append(slot.cpu_s())
        wait_until(lambda: slot.poll() is not None)
        assert -signal.SIGKILL == slot.poll()
        slot.process = None
        seen.append(slot.cpu_s())

    assert sorted(seen) == seen
    assert seen[-1] > 0.2


def test_waiting_for_the_end_of_a_worker_takes_down_what_it_has_used() -> None:
    slot = Slot(0)
    process = started(slot)
    wait_until(lambda: slot.cpu_s() > 0.1)
    assert slot.poll() is None
    process.kill()

    assert -signal.SIGKILL == slot.poll(wait=True)
    assert slot.cpu_s() > 0.1
    assert usage_of(process.pid) is None


def test_a_process_is_told_by_its_memory_threads_files_and_age() -> None:
    usage, files = usage_of(os.getpid()), open_files_of(os.getpid())
    assert usage is not None
    assert files is not None
    with NULL.open("rb"), NULL.open("rb"):
        assert files + 2 == open_files_of(os.getpid())
    assert usage.resident_bytes > 1 << 20
    assert usage.threads >= 1
    assert open_files_of(2**22 + 1) is None  # past the largest process id
    before_s = time.time()
    child = started(slot := Slot(0))
    assert before_s - 1 < (usage_of(child.pid) or usage).started_s < time.time() + 1
    child.kill()
    assert slot.poll(wait=True)


def test_a_worker_that_never_gets_ready_is_waited_for_longer_each_time_and_for_ever_if_need_be() -> None:
    slot = Slot(0)

    delays = [slot.delay_next(None, accused=False, killed=False) for _ in range(2000)]

    assert [0.1, 0.2, 0.4] == delays[:3]
    assert {BACK_OFF_S[1]} == set(delays[10:])
    assert 0.0 == slot.delay_next(0.0, accused=True, killed=False)
    assert 2001 == slot.restarts


def test_a_worker_that_ends_before_it_reads_its_orders_ends_nobody_else() -> None:
    slot = Slot(0)
    slot.process = process = subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE)
    process.wait()

    slot.tell(PlanUpdate(model="lenet", place=0, plan=Plan(serve=1), checked={}))

    assert process is slot.take_out()
    assert slot.process is None
    assert process.stdin is not None
    assert process.stdin.closed
