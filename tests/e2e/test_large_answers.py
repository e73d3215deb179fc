"""Answers of many megabytes: they cost neither workers nor other models anything, and a full server says so to their jobs alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from watcher import Watcher

from convq.ipc.allowance import DEFAULT_BYTES
from convq.protocol import Result, Status, decode_result
from onnx_models import FLOAT, graph, model_folder
from servers import OwnServer, wait_until
from services import MODELS, Fields, Plain, RunningService, seven

MIB = 1 << 20
PLANES = 64
FREE, FIXED = "wide", "wide-fixed"
SIDE = 149
"""Of one plane: then the outputs of one job take 5.7 MB."""
TENSOR = '[input]\ncolor = "none"\n'
pytestmark = pytest.mark.timeout(400)


def planes(side: int | None) -> bytes:
    """One plane in, the same 64 times out."""
    sides = ["h", "w"] if side is None else [side, side]
    ends = [("x", FLOAT, ["n", 1, *sides])], [("y", FLOAT, ["n", PLANES, *sides])]
    return graph([("Mul", ["x", "ones"], ["y"])], *ends, {"ones": np.ones((1, PLANES, 1, 1), dtype=np.float32)})


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wide")
    model_folder(folder / FREE, TENSOR, planes(None))
    model_folder(folder / FIXED, TENSOR, planes(SIDE))
    (folder / "lenet").symlink_to(MODELS / "lenet")
    return folder


def stream(model: str) -> str:
    return f"convq:{{{model}}}:jobs"


def job(value: float, model: str, side: int = SIDE) -> Fields:
    plane = np.full((1, side, side), value, dtype="<f4")
    return {
        "tensor": plane.tobytes(),
        "dtype": "float32",
        "shape": f"1,{side},{side}",
        "reply_to": f"convq:{{{model}}}:inbox:all",
    }


def answers(plain: Plain, model: str, count: int) -> Iterator[Result]:
    """As they come; and no more come."""
    inbox = f"convq:{{{model}}}:inbox:all"
    for _ in range(count):
        popped = plain.redis.blpop([inbox], timeout=300)
        assert popped is not None, "fewer answers than jobs"
        yield decode_result(popped[1])
    wait_until(lambda: not plain.redis.xlen(stream(model)) and not plain.pending(stream(model)), 30.0)
    assert not plain.redis.llen(inbox)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnServer]:
    with OwnServer(tmp_path_factory.mktemp("server"), appendfsync="no", maxmemory_bytes=1 << 30) as running:
        yield running


@pytest.fixture(scope="module")
def serving(server: OwnServer, repository: Path) -> Iterator[RunningService]:
    """One worker for all three models."""
    with RunningService(server.url, "--models", str(repository), workers=1, only=None) as service:
        yield service


@pytest.fixture
def plain(server: OwnServer, serving: RunningService) -> Iterator[Plain]:
    """A client; in the end the worker is the one that there was."""
    workers = serving.worker_pids()
    with Plain(server.url) as client:
        yield client
    assert workers == serving.worker_pids()


@pytest.mark.parametrize("model", [FREE, FIXED])
def test_a_rush_of_large_answers_stays_within_the_memory_of_a_worker_and_holds_nobody_up(
    plain: Plain, serving: RunningService, model: str
) -> None:
    count = 30
    with Watcher(serving, None) as watcher:
        plain.burst([job(i, model) for i in range(count)], stream=stream(model))
        digit = plain.answer(plain.push({"image": seven()}))
        unanswered = count - plain.redis.llen(f"convq:{{{model}}}:inbox:all")
        values, shared = [], []
        for answer in answers(plain, model, count):
            assert (Status.OK, 1) == (answer.status, answer.attempt), answer.explain()
            output = answer.output("y").array()
            assert (PLANES, SIDE, SIDE) == output.shape
            assert output.min() == output.max()
            values.append(float(output.min()))
            shared.append(answer.batch or 0)

    assert list(range(count)) == sorted(values)
    assert "7" == digit.label
    assert unanswered > 0
    assert max(shared) <= 4
    assert watcher.peak_bytes < 480 * MIB
    said = [line for line in serving.log if "batch" in line["message"] and line.get("model") == model]
    assert 1 == len(said), said


def test_an_answer_larger_than_a_result_may_be_is_refused_and_its_neighbours_are_answered(
    plain: Plain, serving: RunningService
) -> None:
    too_large, largest = (job(3, FREE, side) for side in (385, 384))
    with Watcher(serving, None) as watcher:
        plain.burst([too_large, job(1, FREE), too_large, largest], stream=stream(FREE))
        found = list(answers(plain, FREE, 4))

    assert Counter({"ok": 2, "model_error": 2}) == Counter(map(end, found))
    message = next(answer.error.message for answer in found if answer.error)
    assert "have 37,945,600 bytes; a result holds at most 37,748,736: ask for fewer outputs" in message
    assert watcher.peak_bytes < DEFAULT_BYTES + 160 * MIB, "what it plans with, and Python with its libraries"


def test_a_server_without_room_answers_large_jobs_in_few_words_and_goes_on_with_small_ones(
    plain: Plain, serving: RunningService
) -> None:
    count = 16
    plain.redis.config_set("maxmemory", 64 * MIB)
    plain.burst([job(i, FREE) for i in range(count)], stream=stream(FREE))
    wait_until(lambda: count == plain.redis.llen(f"convq:{{{FREE}}}:inbox:all"), 60.0)

    memory = plain.redis.info("memory")
    digit = plain.answer(plain.push({"image": seven()}))
    ready = serving.is_ready()
    found = list(answers(plain, FREE, count))
    plain.burst([job(1, FREE)], stream=stream(FREE))
    (later,) = answers(plain, FREE, 1)

    assert memory["used_memory"] < memory["maxmemory"]
    assert "7" == digit.label
    assert ready
    ends = Counter(map(end, found))
    assert {"ok", "no_room"} == set(ends)
    assert ends["ok"] >= 4
    assert count == len({answer.entry for answer in found})
    assert Status.OK == later.status


def end(answer: Result) -> str:
    return answer.error.code if answer.error else str(answer.status)
