"""Models as people bring them, served together: jobs of all of them at once, each answer equal to onnxruntime's own."""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from convq.protocol import Result, Status
from e2e.odd_models import BUILDERS, Desk, Fields, Odd, Task, mixing, numbers, turned
from pace import Stopwatch
from servers import OwnServer, wait_until
from services import RunningService

WITHIN = 1e-4
BURST = 40
CLIENTS = 4
SLOW_LATENCY_S = 2.0
"""How long a job of a quick model may take while a slow model has more to do than this machine can."""

Answered = Mapping[str, Sequence[tuple[Task, Result]]]


@pytest.fixture(scope="module")
def odd() -> dict[str, Odd]:
    return {name: build() for name, build in BUILDERS.items()}


@pytest.fixture(scope="module")
def desk(odd: dict[str, Odd], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A client of one service that serves all odd models."""
    repository = tmp_path_factory.mktemp("odd")
    for model in odd.values():
        model.write(repository)
    with OwnServer(tmp_path_factory.mktemp("server")) as server:
        with RunningService(server.url, "--models", str(repository), "--only", ",".join(odd)):
            with Desk(server.url) as client:
                yield client


@pytest.fixture(scope="module")
def answered(desk: Desk, odd: dict[str, Odd]) -> Answered:
    """All jobs of all models, shuffled, pushed in bursts by several clients at the same time."""
    jobs = [(model, task) for model in odd.values() if model.name != "slow" for task in model.tasks]
    random.Random(7).shuffle(jobs)
    bursts = [jobs[start : start + BURST] for start in range(0, len(jobs), BURST)]

    def push(burst: Sequence[tuple[Odd, Task]]) -> list[str]:
        return desk.push([(model.name, task.fields) for model, task in burst])

    with ThreadPoolExecutor(CLIENTS) as clients:
        entries = [entry for burst in clients.map(push, bursts) for entry in burst]
    results: dict[str, list[tuple[Task, Result]]] = {name: [] for name in odd}
    for (model, task), entry in zip(jobs, entries, strict=True):
        results[model.name].append((task, desk.answer(model.name, entry)))
    return results


def check(model: Odd, task: Task, result: Result) -> None:
    """The answer holds what onnxruntime says, by itself, about this job."""
    assert Status.OK == result.status, result.explain()
    expected = model.directly(task)
    outputs = result.outputs or ()
    assert set(expected) == {output.name for output in outputs}
    for output in outputs:
        array = output.array()
        assert expected[output.name].dtype == array.dtype
        np.testing.assert_allclose(array, expected[output.name], rtol=WITHIN, atol=WITHIN)


@pytest.mark.parametrize("name", [name for name in BUILDERS if name != "slow"])
def test_every_job_gets_what_onnxruntime_gives_when_it_is_called_directly(
    answered: Answered, odd: dict[str, Odd], name: str
) -> None:
    assert len(odd[name].tasks) == len(answered[name]) > 0

    for task, result in answered[name]:
        check(odd[name], task, result)


@pytest.mark.parametrize("name", [name for name in BUILDERS if name not in ("slow", "large_output", "contradiction")])
def test_jobs_share_a_batch_only_where_the_graph_allows_it(desk: Desk, odd: dict[str, Odd], name: str) -> None:
    tasks = [odd[name].tasks[0]] * 64

    sizes = {result.batch or 0 for result in desk.ask([(name, task.fields) for task in tasks])}

    if odd[name].batched is False:
        assert {1} == sizes
    elif odd[name].batched:
        assert max(sizes) > 1


def test_jobs_of_different_sizes_never_share_a_batch(desk: Desk, odd: dict[str, Odd]) -> None:
    model = odd["free_sides"]
    tasks = [numbers(seed, 3, 4 * (1 + seed), 4) for seed in range(20)]

    results = list(desk.ask([(model.name, task.fields) for task in tasks]))

    assert {1} == {result.batch for result in results}
    for task, result in zip(tasks, results, strict=True):
        check(model, task, result)


def test_three_megabytes_come_back_whole(answered: Answered) -> None:
    sizes = [len(result.output("y").bytes()) for _, result in answered["large_output"]]

    assert [3 * 512 * 512 * 4] * 5 == sizes


def test_a_classifier_of_odd_input_ranks_its_two_classes(answered: Answered, odd: dict[str, Odd]) -> None:
    for task, result in answered["gray_28"]:
        raw = odd["gray_28"].directly(task)["y"]
        assert ("even", "odd")[int(raw.argmax())] == result.label
        assert result.predictions is not None
        assert sum(one.score for one in result.predictions) == pytest.approx(1.0, abs=1e-5)


def test_a_size_that_the_graph_contradicts_is_a_model_error_and_its_neighbours_are_answered(
    desk: Desk, odd: dict[str, Odd]
) -> None:
    model = odd["contradiction"]
    good, bad = numbers(1, 3, 2, 224), numbers(2, 3, 2, 100)
    fast = odd["tensors_only"]
    tasks = [good, bad, good, bad, bad, good]
    jobs: list[tuple[str, Fields]] = [(model.name, task.fields) for task in tasks]
    jobs += [(fast.name, task.fields) for task in fast.tasks]

    results = list(desk.ask(jobs))

    for task, result in zip(tasks, results[: len(tasks)], strict=True):
        if task is good:
            check(model, task, result)
            continue
        assert (Status.ERROR, "model_error") == (result.status, result.error and result.error.code)
        assert result.error is not None
        assert "Mul" in result.error.message
        assert "/" not in result.error.message
    for task, result in zip(fast.tasks, results[len(tasks) :], strict=True):
        check(fast, task, result)


def test_a_slow_model_does_not_starve_a_quick_one(desk: Desk, odd: dict[str, Odd]) -> None:
    slow, quick = odd["slow"], odd["tensors_only"]
    waiting = desk.push([(slow.name, task.fields) for task in slow.tasks])
    wait_until(lambda: desk.redis.xpending(f"convq:{{{slow.name}}}:jobs", "workers")["pending"] > 0)
    latencies_s = []
    for task in quick.tasks:
        with Stopwatch() as watch:
            (result,) = desk.ask([(quick.name, task.fields)])
        latencies_s.append(watch.quiet_s)
        check(quick, task, result)
    left = desk.redis.xlen(f"convq:{{{slow.name}}}:jobs")

    assert left > 0, "the slow model was done before the quick one: nothing was shown"
    assert max(latencies_s) < SLOW_LATENCY_S, statistics.quantiles(latencies_s)
    results = [desk.answer(slow.name, entry) for entry in waiting]
    assert {1} == {result.batch for result in results}
    assert 1 == len({result.output("y").data for result in results})
    check(slow, slow.tasks[0], results[0])


def refusal(model: Odd, repository: Path, redis_url: str) -> str:
    """What `convq serve` says when it refuses to serve this model; fails where it serves it."""
    model.write(repository)
    command = [sys.executable, "-m", "convq", "serve", "--redis", redis_url, "--models", str(repository)]
    done = subprocess.run(
        [*command, "--workers", "1", "--http", "127.0.0.1:0"], capture_output=True, text=True, timeout=250, check=False
    )
    assert 3 == done.returncode, done.stderr
    return done.stderr


@pytest.mark.parametrize("first", [1, 3])
def test_an_output_whose_first_axis_is_not_the_batch_is_refused_when_it_is_loaded(
    tmp_path: Path, redis_url: str, first: int
) -> None:
    assert "output y has shape [" in refusal(turned(first), tmp_path, redis_url)


def test_a_graph_that_mixes_its_jobs_is_refused_when_it_is_loaded(tmp_path: Path, redis_url: str) -> None:
    assert "depends on the other jobs of its batch" in refusal(mixing(), tmp_path, redis_url)
