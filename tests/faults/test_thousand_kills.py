"""Many kill -9s at random moments, and many random jobs: `--kills 1000 --jobs 100000` is the whole of it."""

from __future__ import annotations

import itertools
import os
import random
import signal
from collections import Counter

import pytest

from faults.random_jobs import random_job, read_all
from faults.stage import Fault, Stage, Staged, passes, state_of
from servers import wait_until
from services import LANES, Plain

MOST_HITS = 3
DOCUMENTED = {"bad_field", "bad_image", "image_too_large", "bad_tensor", "unknown_version", "unknown_output"}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.fault(3, "random kill -9s during batches", "SIGKILL of a random worker at a random moment, under load")
def test_a_thousand_random_kills_lose_nothing_and_double_nothing(
    on_stage: Staged, fault: Fault, request: pytest.FixtureRequest
) -> None:
    kills = request.config.getoption("--kills", 20)
    chance = random.Random(3)
    hits: Counter[str] = Counter()
    with on_stage() as stage:
        with stage.books.load(jobs=20):
            for _ in range(kills):
                passes(chance.uniform(0, 0.15))
                wait_until(lambda: killed(stage, chance, hits))
                fault.strike()
                fault.recovered_when(stage.books.goes_on, within_s=10)
                # six such ends make a job a suspect that is buried: on a slow machine innocent ones would come to that
                wait_until(lambda: stage.books.answered(job for job, times in hits.items() if times >= MOST_HITS))
        stage.check()
        assert [] == [said for said in stage.books.said.values() if said["status"] != "ok"]
        fault.outcome = f"{kills} kills, {len(stage.books.accepted)} jobs, each answered once"


def killed(stage: Stage, chance: random.Random, hits: Counter[str]) -> bool:
    """Whether a worker was there to be killed; counts the jobs that it held at that moment."""
    victim = chance.choice(wait_until(stage.service.worker_pids, 20))
    try:
        os.kill(victim, signal.SIGSTOP)
        wait_until(lambda: state_of(victim) in {"T", "Z", ""})
        hits.update(stage.in_flight_of(victim))
        os.kill(victim, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.fault(28, "bad inputs", "random good, damaged and senseless jobs, from a seed")
def test_random_jobs_get_exactly_one_documented_answer_each(
    on_stage: Staged, fault: Fault, request: pytest.FixtureRequest
) -> None:
    jobs = request.config.getoption("--jobs", 3000)
    chance = random.Random(28)
    codes: Counter[str] = Counter()
    with on_stage() as stage, Plain(stage.server.url) as plain:
        workers = stage.service.worker_pids()
        serials = iter(range(jobs))
        fault.strike()
        while batch := list(itertools.islice(serials, 500)):
            lane = chance.choice(LANES)
            entries = plain.burst([random_job(chance, serial) for serial in batch], stream=lane)
            wait_until(stage.nothing_left, 30)
            answers = read_all(plain)
            assert sorted(entries) == sorted(answer["entry"] for answer in answers), "one answer each"
            codes.update(answer.get("error", {}).get("code", answer["status"]) for answer in answers)
            fault.recovered_when(lambda: True, within_s=3600)
        stage.check()
        assert workers == stage.service.worker_pids(), "a bad job killed a worker"
        assert jobs == codes.total()
        assert set(codes) <= DOCUMENTED | {"ok", "expired"}
        assert stage.count("convq_worker_resident_memory_bytes") < 1.2e9
        fault.recovery_s = None
        fault.outcome = f"{jobs} jobs, one documented answer each: {dict(codes.most_common())}"
