"""Answers of many megabytes: they cost neither workers nor other models anything, and a full server says so to their jobs alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from watcher import Watcher

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


def serving(server: OwnServer, repository: Path) -> RunningService:
    return RunningService(server.url, "--models", str(repository), workers=1, only=None)


@pytest.mark.parametrize("model", [FREE, FIXED])
def test_a_rush_of_large_answers_stays_within_the_memory_of_a_worker_and_holds_nobody_up(
    tmp_path: Path, repository: Path, model: str
) -> None:
    count = 40
    with OwnServer(tmp_path, appendfsync="no", maxmemory_bytes=1 << 30) as server, Plain(server.url) as plain:
        with serving(server, repository) as service, Watcher(service, None) as watcher:
            worker = service.worker_pids()
            plain.burst([job(i, model) for i in range(count)], stream=stream(model))
            digit = plain.answer(plain.push({"image": seven()}))
            unanswered = count - plain.redis.llen(f"convq:{{{model}}}:inbox:all")
            shared: list[int] = []
            values = []
            for answer in answers(plain, model, count):
                assert Status.OK == answer.status, answer.explain()
                assert answer.outputs is not None
                output = answer.outputs[0].array()
                assert (PLANES, SIDE, SIDE) == output.shape
                values.append(float(output.min()))
                assert output.min() == output.max()
                assert 1 == answer.attempt
                shared.append(answer.batch or 0)
            assert worker == service.worker_pids()

    assert list(range(count)) == sorted(values)
    assert digit.predictions is not None
    assert "7" == digit.predictions[0].label
    assert unanswered > 0
    assert max(shared) <= 4
    assert watcher.peak_bytes < 480 * MIB
    said = [line for line in service.log if "batch" in line["message"]]
    assert 1 == len([line for line in said if line.get("model") == model]), said


def test_a_server_without_room_answers_large_jobs_in_few_words_and_goes_on_with_small_ones(
    tmp_path: Path, repository: Path
) -> None:
    count = 16
    with OwnServer(tmp_path, appendfsync="no", maxmemory_bytes=64 * MIB) as server, Plain(server.url) as plain:
        with serving(server, repository) as service:
            plain.burst([job(i, FREE) for i in range(count)], stream=stream(FREE))
            wait_until(lambda: count == plain.redis.llen(f"convq:{{{FREE}}}:inbox:all"), 60.0)

            memory = plain.redis.info("memory")
            digit = plain.answer(plain.push({"image": seven()}))
            ready = service.is_ready()
            found = list(answers(plain, FREE, count))

            plain.burst([job(1, FREE)], stream=stream(FREE))
            (later,) = answers(plain, FREE, 1)

    assert memory["used_memory"] < memory["maxmemory"]
    assert digit.predictions is not None
    assert ready
    ends = Counter(answer.error.code if answer.error else str(answer.status) for answer in found)
    assert {"ok", "no_room"} == set(ends)
    assert ends["ok"] >= 4
    assert count == len({answer.entry for answer in found})
    assert Status.OK == later.status


def test_an_answer_larger_than_a_result_may_be_is_refused_and_its_neighbours_are_answered(
    tmp_path: Path, repository: Path
) -> None:
    too_large, largest = (job(3, FREE, side) for side in (385, 384))
    with OwnServer(tmp_path, appendfsync="no") as server, Plain(server.url) as plain:
        with serving(server, repository) as service, Watcher(service, None) as watcher:
            plain.burst([too_large, job(1, FREE), too_large, largest], stream=stream(FREE))
            found = list(answers(plain, FREE, 4))

    assert Counter({"ok": 2, "model_error": 2}) == Counter(
        answer.error.code if answer.error else str(answer.status) for answer in found
    )
    message = next(answer.error.message for answer in found if answer.error)
    assert "have 37,945,600 bytes; a result holds at most 37,748,736: ask for fewer outputs" in message
    assert watcher.peak_bytes < 480 * MIB
