"""Versions come, are tried, answer, are taken back and go, while a service runs: nothing is lost and nothing mislabelled."""

from __future__ import annotations

import gc
import json
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from convq.protocol import Result
from e2e.versions import JOB, TENSOR, add, fashion, logits_of, repository, shifted, turned, write
from pace import Stopwatch
from servers import PATIENCE, OwnServer, wait_until
from services import Plain, RunningService

GAP_S = 0.1
"""The longest time without an answer that a swap may cost at 1,000 jobs a second."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return repository(tmp_path / "models")


@pytest.fixture
def served(fresh_server: OwnServer, model: Path) -> Iterator[tuple[RunningService, Plain]]:
    options = ("--models", str(model.parent))
    with RunningService(fresh_server.url, *options) as service, Plain(fresh_server.url) as plain:
        yield service, plain


def ask(plain: Plain, count: int, **fields: Any) -> list[Result]:
    """Answers to some jobs at once."""
    return [plain.answer(entry) for entry in plain.burst([JOB | fields] * count)]


def announced(plain: Plain) -> dict[str, Any]:
    """What `convq:models` says of lenet."""
    found: dict[str, Any] = json.loads(plain.redis.hget("convq:models", "lenet"))
    return found


def serves(plain: Plain, *versions: int) -> bool:
    return bool(list(versions) == announced(plain)["versions"])


def states(service: RunningService) -> dict[int, str]:
    """Version -> state, from the metrics."""
    samples = service.metrics()["convq_model_version_state"]
    return {int(dict(labels)["version"]): dict(labels)["state"] for labels in samples}


def said(service: RunningService, message: str) -> list[dict[str, Any]]:
    return [line for line in service.log if line["message"] == message]


def set_table(model: Path, table: str) -> None:
    """Append a table to the manifest, as an editor does: a new file in the place of the old one."""
    text = (model / "manifest.toml").read_text().split("\n# rollout\n")[0]
    (model / "manifest.new").write_text(f"{text}\n# rollout\n{table}\n")
    (model / "manifest.new").replace(model / "manifest.toml")


# -- swap -----------------------------------------------------------------------------------------------------------------


class Stream:
    """Jobs at an even pace from a thread, and all their answers, with the moments at which they came."""

    def __init__(self, url: str, per_s: float) -> None:
        self._url, self._every_s = url, 20 / per_s
        self.entries: list[str] = []
        self.answers: dict[str, dict[str, Any]] = {}
        self.moments: list[float] = []
        self.watch = Stopwatch()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=one) for one in (self._submit, self._read)]

    def _submit(self) -> None:
        next_s = time.monotonic()
        with Plain(self._url) as plain:
            while not self._over.is_set():
                self.entries += plain.burst([JOB | {"reply_to": "convq:{lenet}:inbox:stream"}] * 20)
                next_s += self._every_s
                self._over.wait(max(0.0, next_s - time.monotonic()))

    def _read(self) -> None:
        give_up_s = float("inf")
        with Plain(self._url) as plain:
            while time.monotonic() < give_up_s and not (self._over.is_set() and len(self.answers) >= len(self.entries)):
                if self._over.is_set() and give_up_s == float("inf"):
                    give_up_s = time.monotonic() + 15 * PATIENCE
                popped = plain.redis.blmpop(0.5, 1, "convq:{lenet}:inbox:stream", direction="LEFT", count=500)
                for document in popped[1] if popped else ():
                    found = json.loads(document)
                    assert found["entry"] not in self.answers, "answered twice"
                    self.answers[found["entry"]] = found
                if popped:  # when nothing is under way any more, nothing is missing
                    self.moments.append(time.monotonic())

    def __enter__(self) -> Self:
        gc.disable()  # a collection of all that the tests hold takes 0.1 s, and would count as a gap
        self.watch.__enter__()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *nothing: object) -> None:
        self.watch.__exit__(*nothing)
        self._over.set()
        for thread in self._threads:
            thread.join()
        gc.enable()

    def longest_gap_s(self) -> float:
        """The longest time between two takings of answers."""
        return max(after - before for before, after in zip(self.moments, self.moments[1:], strict=False))


def test_a_new_version_takes_over_under_load_without_a_lost_or_mislabelled_job(
    fresh_server: OwnServer, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = fashion(model)
    options = ("--models", str(model.parent))
    with RunningService(fresh_server.url, *options) as service, Plain(fresh_server.url) as plain:
        with Stream(fresh_server.url, per_s=1000) as stream:
            wait_until(lambda: len(stream.answers) > 500, every_s=0.1)
            made.rename(model / "2")
            wait_until(lambda: serves(plain, 2), 30, every_s=0.1)
            before = len(stream.answers)
            wait_until(lambda: len(stream.answers) > before + 500, every_s=0.1)

        expected = {1: logits_of(model / "1"), 2: logits_of(model / "2")}
        assert set(stream.entries) == set(stream.answers)
        assert {"ok"} == {answer["status"] for answer in stream.answers.values()}
        for answer in stream.answers.values():
            (output,) = Result.model_validate(answer).outputs or ()
            assert np.allclose(expected[answer["version"]], output.array(), atol=1e-3)
        assert {1, 2} == {answer["version"] for answer in stream.answers.values()}
        assert [] == said(service, "a worker died")
    with capsys.disabled():
        print(f"\n{len(stream.answers)} jobs across a swap; longest gap {stream.longest_gap_s() * 1e3:.0f} ms")
    assert stream.longest_gap_s() < GAP_S * stream.watch.slowdown


def test_the_old_version_answers_jobs_that_pin_it_until_it_is_released(
    served: tuple[RunningService, Plain], model: Path
) -> None:
    _, plain = served
    assert "unknown_version" == ask(plain, 1, version=2)[0].error.code  # type: ignore[union-attr]

    add(model, 2, shifted(100.0))
    wait_until(lambda: serves(plain, 1, 2), 30)
    wait_until(lambda: 2 == announced(plain)["serving"], 30)
    assert {1} == {result.version for result in ask(plain, 20, version=1)}
    assert {2} == {result.version for result in ask(plain, 20)}

    wait_until(lambda: serves(plain, 2), 30)
    refused = ask(plain, 1, version=1)[0]
    assert refused.error is not None
    assert ("unknown_version", "version 1 of lenet is not served; version 2 is") == (
        refused.error.code,
        refused.error.message,
    )


def test_as_many_versions_stay_loaded_as_the_manifest_keeps(fresh_server: OwnServer, model: Path) -> None:
    add(model, 2, shifted(100.0))
    add(model, 3, shifted(200.0))
    set_table(model, "[versions]\nkeep = 2")
    with RunningService(fresh_server.url, "--models", str(model.parent)) as service, Plain(fresh_server.url) as plain:
        assert {2: "kept", 3: "serving"} == states(service)
        answers = [ask(plain, 1, **({"version": version} if version else {}))[0] for version in (0, 2, 3, 1)]
        assert [3, 2, 3, None] == [answer.version for answer in answers]


def test_deleting_the_newest_version_goes_back_to_the_one_before(fresh_server: OwnServer, model: Path) -> None:
    add(model, 2, shifted(100.0))
    with RunningService(fresh_server.url, "--models", str(model.parent)), Plain(fresh_server.url) as plain:
        assert serves(plain, 2)
        shutil.rmtree(model / "2")
        wait_until(lambda: serves(plain, 1), 30)
        assert {1} == {result.version for result in ask(plain, 20)}


def test_a_worker_that_is_replaced_loads_what_the_others_have(
    served: tuple[RunningService, Plain], model: Path
) -> None:
    service, plain = served
    add(model, 2, shifted(100.0))
    wait_until(lambda: serves(plain, 2), 30)
    (model / "3").mkdir()  # still being copied
    for pid in service.worker_pids():
        os.kill(pid, 9)
    wait_until(lambda: 2 == len(service.worker_pids()) and service.is_ready(), 30)

    assert {2} == {result.version for result in ask(plain, 40)}


# -- refused --------------------------------------------------------------------------------------------------------------


def cut_off(version: Path) -> None:
    write(version, (version / "model.onnx").read_bytes()[:200_000])


def not_its_checksum(version: Path) -> None:
    (version / "model.onnx").write_bytes((version / "model.onnx").read_bytes() + b"\0")


def no_json(version: Path) -> None:
    (version / "report.json").write_text("none")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (cut_off, "is cut off"),
        (not_its_checksum, "SHA-256"),
        (no_json, "is not a JSON object"),
        (None, "warmup.golden says '7'"),
    ],
)
def test_a_bad_version_is_refused_and_the_old_one_goes_on(
    served: tuple[RunningService, Plain], model: Path, spoil: Any, reason: str, tmp_path: Path
) -> None:
    service, plain = served
    workers = service.worker_pids()
    shutil.copytree(model / "1", model.parent / "spoilt" / "2")
    if spoil is None:
        add(model, 9, turned())
    else:
        spoil(model.parent / "spoilt" / "2")
        (model.parent / "spoilt" / "2").rename(model / "9")
    wait_until(lambda: "refused" == states(service).get(9), 30)

    assert reason in said(service, "a version is refused; what was served goes on")[0]["reason"]
    assert reason in announced(plain)["refused"]["9"]
    assert str(tmp_path) not in json.dumps(announced(plain)), "no path for clients"
    assert serves(plain, 1)
    assert {1} == {result.version for result in ask(plain, 20)}
    assert workers == service.worker_pids()

    shutil.rmtree(model / "9")
    add(model, 9, shifted(1.0))
    wait_until(lambda: serves(plain, 9), 30)  # put right, it is tried again


def exchange(one: Path, other: Path) -> None:
    """Each file stands in the other's place; for a moment one of them in neither."""
    aside = one.with_suffix(".aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def test_graphs_that_change_places_while_they_are_loaded_never_answer_under_a_wrong_number(
    fresh_server: OwnServer, served: tuple[RunningService, Plain], model: Path
) -> None:
    service, plain = served
    over = threading.Event()
    with Stream(fresh_server.url, per_s=200) as stream:
        for version in (2, 3):
            add(model, version, shifted(100.0 * version))
        graphs = [model / str(version) / "model.onnx" for version in (2, 3)]

        def confuse() -> None:
            while not over.wait(0.01):
                exchange(*graphs)
                exchange(*graphs)

        confusion = threading.Thread(target=confuse)
        confusion.start()
        wait_until(lambda: {2, 3} & set(states(service)), 30, every_s=0.1)
        before = len(stream.answers)
        wait_until(lambda: len(stream.answers) > before + 500, 30, every_s=0.1)
        over.set()
        confusion.join()
        add(model, 4, shifted(400.0))
        wait_until(lambda: 4 == announced(plain)["serving"], 30, every_s=0.1)

    logits = logits_of(model / "1")
    assert set(stream.entries) == set(stream.answers)
    for answer in stream.answers.values():
        (output,) = Result.model_validate(answer).outputs or ()
        by = 0.0 if answer["version"] == 1 else 100.0 * answer["version"]
        assert np.allclose(logits + by, output.array(), atol=1e-3), answer["version"]
    assert [] == said(service, "a worker died")


def test_a_version_that_is_still_being_copied_is_left_alone(served: tuple[RunningService, Plain], model: Path) -> None:
    service, plain = served
    graph = (model / "1" / "model.onnx").read_bytes()
    (model / "2").mkdir()
    shutil.copy(model / "1" / "report.json", model / "2")
    with (model / "2" / "model.onnx").open("wb", buffering=0) as file:
        for first in range(0, len(graph), len(graph) // 8):
            file.write(graph[first : first + len(graph) // 8])
            ask(plain, 50)
            assert {1: "serving"} == states(service)
            threading.Event().wait(0.4)
    wait_until(lambda: serves(plain, 2), 30)
    assert [] == said(service, "a version is refused; what was served goes on")


def test_a_manifest_that_is_broken_while_it_is_served_changes_nothing(
    served: tuple[RunningService, Plain], model: Path
) -> None:
    service, plain = served
    set_table(model, "[rollout]\nversion = 'two'")
    wait_until(lambda: any("manifest has changed and is refused" in line["message"] for line in service.log))

    assert {1} == {result.version for result in ask(plain, 20)}


# -- rollout --------------------------------------------------------------------------------------------------------------


def test_a_candidate_gets_its_share_and_always_the_same_jobs(served: tuple[RunningService, Plain], model: Path) -> None:
    service, plain = served
    set_table(model, "[rollout]\nversion = 2\npercent = 30")
    add(model, 2, shifted(100.0))
    wait_until(lambda: 2 == announced(plain).get("candidate", {}).get("version"), 30)

    jobs = [JOB | {"id": f"sticky-{number}", "reply_to": "convq:{lenet}:inbox:a"} for number in range(400)]
    rounds = []
    for _ in range(2):
        plain.burst(jobs)
        wait_until(lambda: 400 == plain.redis.llen("convq:{lenet}:inbox:a"))
        documents = [json.loads(one) for one in plain.redis.lpop("convq:{lenet}:inbox:a", 400)]
        rounds.append({one["id"]: one["version"] for one in documents})

    assert rounds[0] == rounds[1]
    assert 80 < Counter(rounds[0].values())[2] < 160
    assert {1: "serving", 2: "candidate"} == states(service)
    assert {1} == {result.version for result in ask(plain, 20, version=1)}

    set_table(model, "")
    wait_until(lambda: serves(plain, 2), 30)  # promoted: it is the newest


def test_a_shadow_is_compared_and_never_published(served: tuple[RunningService, Plain], model: Path) -> None:
    service, plain = served
    set_table(model, "[rollout]\nversion = 2\nshadow = true")
    add(model, 2, shifted(100.0))
    wait_until(lambda: announced(plain).get("candidate"), 30)
    assert {1: "serving", 2: "shadow"} == states(service)

    assert {1} == {result.version for result in ask(plain, 300)}

    def alike() -> float:
        return service.metrics()["convq_version_jobs_total"][
            (("model", "lenet"), ("outcome", "ok"), ("role", "shadow"))
        ]

    wait_until(lambda: 300 == alike())
    seconds = service.metrics()["convq_version_inference_seconds_count"]
    assert 300 == seconds[(("model", "lenet"), ("role", "shadow"))]


def failing_on_sevens(onnx: Any, proto: Any) -> None:
    """NaN wherever the corner pixel is not black: passes its trial, fails on the jobs of this test."""
    helper, graph = onnx.helper, proto.graph
    name, image = graph.output[0].name, graph.input[0].name
    for node in graph.node:
        for position, output in enumerate(node.output):
            if output == name:
                node.output[position] = "before"
    for made, kind, shape, values in (
        ("start", onnx.TensorProto.INT64, [4], [0, 0, 0, 0]),
        ("end", onnx.TensorProto.INT64, [4], [1 << 40, 1, 1, 1]),
        ("column", onnx.TensorProto.INT64, [2], [-1, 1]),
        ("zero", onnx.TensorProto.FLOAT, [], [0.0]),
        ("nan", onnx.TensorProto.FLOAT, [], [float("nan")]),
    ):
        graph.initializer.append(helper.make_tensor(made, kind, shape, values))
    graph.node.extend(
        [
            helper.make_node("Slice", [image, "start", "end"], ["corner"]),
            helper.make_node("Cast", ["corner"], ["level"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Reshape", ["level", "column"], ["pixel"]),
            helper.make_node("Greater", ["pixel", "zero"], ["marked"]),
            helper.make_node("Where", ["marked", "nan", "zero"], ["poison"]),
            helper.make_node("Add", ["before", "poison"], [name]),
        ]
    )


@pytest.mark.parametrize("mode", ["percent = 50", "shadow = true"])
def test_a_candidate_that_fails_is_taken_back_by_itself(
    served: tuple[RunningService, Plain], model: Path, mode: str
) -> None:
    service, plain = served
    set_table(model, f"[rollout]\nversion = 2\n{mode}\nmax_failure_ratio = 0.2\nmin_jobs = 30")
    add(model, 2, failing_on_sevens)
    wait_until(lambda: 2 in announced(plain)["versions"] and "candidate" in announced(plain), 30)
    assert {"ok"} == {str(result.status) for result in ask(plain, 200)}, "what it can do it does"
    assert 2 in announced(plain)["versions"]

    marked = JOB | {"tensor": b"\x01" + TENSOR[1:]}

    def taken_back() -> bool:
        plain.burst([marked] * 20)
        return states(service).get(2) == "refused"

    wait_until(taken_back, 30)
    assert "jobs failed" in said(service, "a version is refused; what was served goes on")[0]["reason"]
    wait_until(lambda: serves(plain, 1), 30)
    answers = [plain.answer(entry) for entry in plain.burst([marked] * 50)]
    assert {("ok", 1)} == {(str(answer.status), answer.version) for answer in answers}
