"""A long day in short: memory of the server and of every process of the service is back at its base in the evening."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from faults.random_jobs import random_job, read_all
from faults.stage import SLACK_BYTES, Fault, Staged
from servers import wait_until
from services import LANES, Plain

MORNING = 0.25
"""Share of the time until every pool and cache has its size."""
ROUND_JOBS = 400
GROWTH_BYTES = 4 << 20


def resident_bytes(pid: int) -> int:
    """Memory of one process that lies in RAM."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.timeout(36_000)
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
@pytest.mark.fault(
    31, "a long day", "random jobs, cancelled ones, expired ones, results read or left to their TTL of 1 s"
)
def test_memory_is_back_at_its_base_after_a_long_day(
    on_stage: Staged, fault: Fault, request: pytest.FixtureRequest
) -> None:
    soak_s, chance, jobs = request.config.getoption("--soak", 15.0), random.Random(31), 0
    with on_stage(CONVQ_RESULT_TTL="1") as stage, Plain(stage.server.url) as plain:
        processes = [stage.service.process.pid, *stage.service.worker_pids()]
        began_s, base = time.monotonic(), dict[int, int]()
        while time.monotonic() - began_s < soak_s:
            jobs += a_round(plain, chance, jobs)
            wait_until(stage.nothing_left, 30)
            if not base and time.monotonic() - began_s > MORNING * soak_s:
                base = {pid: resident_bytes(pid) for pid in processes}
        growth = {pid: resident_bytes(pid) - base[pid] for pid in processes}
        read_all(plain)
        wait_until(lambda: int(stage.redis.info("memory")["used_memory"]) < stage.base_bytes + SLACK_BYTES, 20)
        left = int(stage.redis.info("memory")["used_memory"]) - stage.base_bytes
        stage.check()
        assert processes[1:] == stage.service.worker_pids()
        assert max(growth.values()) < GROWTH_BYTES, growth
        fault.outcome = (
            f"{jobs} jobs in {soak_s:g} s; used_memory {left / 1e6:+.1f} MB, each process at most "
            f"{max(growth.values()) / 1e6:+.1f} MB"
        )


def a_round(plain: Plain, chance: random.Random, first: int) -> int:
    """Some hundred jobs, of which every tenth is cancelled and every tenth expires; half of the rounds read results."""
    jobs = [dict(random_job(chance, first + number)) for number in range(ROUND_JOBS)]
    for number, job in enumerate(jobs):
        if number % 10 == 1:
            job["ttl_ms"] = "0"
    entries = plain.burst(jobs, stream=chance.choice(LANES))
    plain.redis.sadd("convq:{lenet}:cancelled", *entries[::10])
    plain.redis.expire("convq:{lenet}:cancelled", 60)
    if chance.random() < 0.5:
        read_all(plain)
    return len(jobs)
