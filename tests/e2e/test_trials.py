"""What goes wrong with one model's version, at its trial, its load or on jobs, is no matter of the other model's."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from e2e.versions import JOB, add, not_fast, repository, shifted
from pace import Stopwatch
from servers import OwnServer, wait_until
from services import Plain, RunningService, models_served


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A repository with two copies of lenet: a and b."""
    lenet = repository(tmp_path / "models")
    shutil.copytree(lenet, lenet.parent / "a")
    return lenet.rename(lenet.parent / "b").parent


class Asking:
    """One job of a model after the other, from a thread, from `with` to its end: all must be answered well."""

    def __init__(self, url: str, model: str) -> None:
        self.versions: list[int] = []
        self.longest_s = 0.0
        self.problems: list[Any] = []
        self._url, self._model = url, model
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def _ask(self) -> None:
        with Plain(self._url) as plain:
            while not self._over.is_set():
                began_s = time.monotonic()
                entry = plain.redis.xadd(f"convq:{{{self._model}}}:jobs", JOB)
                found = plain.redis.blpop(f"convq:{{{self._model}}}:result:{entry.decode()}", 60)
                said = {} if found is None else json.loads(found[1])
                self.longest_s = max(self.longest_s, time.monotonic() - began_s)
                if said.get("status") == "ok":
                    self.versions.append(said["version"])
                else:
                    self.problems.append(said)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        if kind is None:
            assert [] == self.problems
            assert self.versions


def refused(plain: Plain, model: str) -> dict[str, str]:
    return dict(models_served(plain)[model].get("refused", {}))


def rollout(model: Path, **values: object) -> None:
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
    manifest = model / "manifest.toml"
    new = model.parent.parent / "manifest.new"
    new.write_text(manifest.read_text() + "\n[rollout]\n" + lines)
    new.replace(manifest)


def hanging_on_light(onnx: Any, proto: Any) -> None:
    """Hangs where the corner pixel is 77: its trial passes, and so does every other job."""
    helper, graph, kind = onnx.helper, proto.graph, onnx.TensorProto
    not_fast(onnx, proto)
    loop = graph.node[-1]
    given = graph.input[0].name
    for name, values in (("at", [0, 0, 0, 0]), ("to", [9999, 1, 1, 1]), ("every", [0, 1, 2, 3])):
        graph.initializer.append(helper.make_tensor(name, kind.INT64, [4], values))
    graph.initializer.append(helper.make_tensor("mark", kind.FLOAT, [], [77.0]))
    graph.initializer.append(helper.make_tensor("few", kind.INT64, [], [0]))
    made = [
        helper.make_node("Slice", [given, "at", "to", "every"], ["corner"]),
        helper.make_node("Cast", ["corner"], ["level"], to=kind.FLOAT),
        helper.make_node("Equal", ["level", "mark"], ["marked"]),
        helper.make_node("Cast", ["marked"], ["counted"], to=kind.FLOAT),
        helper.make_node("ReduceMax", ["counted"], ["any"], keepdims=0),
        helper.make_node("Cast", ["any"], ["is_any"], to=kind.BOOL),
        helper.make_node("Where", ["is_any", "turns", "few"], ["so_often"]),
    ]
    loop.input[0] = "so_often"
    nodes = [*graph.node[:-1], *made, loop]
    del graph.node[:]
    graph.node.extend(nodes)


def test_a_candidate_that_hangs_answers_nothing_any_more_and_its_job_is_answered(
    fresh_server: OwnServer, models: Path
) -> None:
    manifest = (models / "a" / "manifest.toml").read_text()
    (models / "a" / "manifest.toml").write_text(manifest.replace("[limits]\n", "[limits]\nmax_batch_s = 2\n"))
    add(models / "a", 2, hanging_on_light)
    rollout(models / "a", version=2, percent=100.0, max_failure_ratio=1.0)
    killer = {**JOB, "tensor": bytes([77]) + bytes(JOB["tensor"])[1:]}  # type: ignore[arg-type]
    options = ("--models", str(models))
    with (
        RunningService(fresh_server.url, *options, only=None, workers=2) as service,
        Plain(fresh_server.url) as plain,
        Asking(fresh_server.url, "b") as other,
    ):
        entries = [plain.redis.xadd("convq:{a}:jobs", killer).decode() for _ in range(6)]
        for entry in entries:
            found = plain.redis.blpop(f"convq:{{a}}:result:{entry}", 60)
            assert found is not None
            said = json.loads(found[1])
            assert ("ok", 1) == (said["status"], said.get("version")), said
        wait_until(lambda: "taken back" in refused(plain, "a").get("2", ""), 30, every_s=0.1)
        wait_until(service.is_whole, 30, every_s=0.1)
    assert {1} == set(other.versions)
    with RunningService(fresh_server.url, *options, only=None, workers=1) as service, Plain(fresh_server.url) as plain:
        assert "taken back" in refused(plain, "a").get("2", ""), "and not tried on jobs again after a restart"


def test_a_slow_trial_holds_up_no_other_model(fresh_server: OwnServer, models: Path) -> None:
    options = ("--models", str(models), "--load-within", "600")
    with (
        RunningService(fresh_server.url, *options, only=None, workers=1) as service,
        Plain(fresh_server.url) as plain,
        Asking(fresh_server.url, "a") as other,
    ):
        add(models / "a", 2, not_fast)
        wait_until(lambda: any("dry_run" in one for one in commands_of(service)), 30, every_s=0.1)

        add(models / "b", 3, shifted(1.0))
        wait_until(lambda: 3 == models_served(plain)["b"]["serving"], 60, every_s=0.1)

        assert any("dry_run" in one for one in commands_of(service)), "the other trial was to go on meanwhile"
    assert {1} == set(other.versions)


def commands_of(service: RunningService) -> list[str]:
    """The command lines of its children."""
    found = []
    for pid in service.worker_pids():
        try:
            found.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


@pytest.fixture(params=["endless", "a pipe", "a folder", "a socket", "a device", "a link in a circle"])
def unloadable(request: pytest.FixtureRequest, models: Path) -> Iterator[Path]:
    """Model a cannot be loaded; each kind of what stands in the place of its graph."""
    graph = models / "a" / "1" / "model.onnx"
    if request.param == "endless":
        shutil.rmtree(models / "a" / "1")
        shutil.copytree(models / "b" / "1", models / "a" / "1")
        made = add(models / "a", 2, not_fast)
        shutil.rmtree(models / "a" / "1")
        made.rename(models / "a" / "1")
        yield models
        return
    graph.unlink()
    if request.param == "a pipe":
        os.mkfifo(graph)
    elif request.param == "a folder":
        graph.mkdir()
    elif request.param == "a socket":
        import socket  # noqa: PLC0415

        with socket.socket(socket.AF_UNIX) as made_socket:
            here = Path.cwd()
            os.chdir(graph.parent)  # the name of a socket may not be long
            try:
                made_socket.bind("model.onnx")
            finally:
                os.chdir(here)
            yield models
        return
    elif request.param == "a device":
        graph.symlink_to("/dev/zero")
    else:
        graph.symlink_to("model.onnx")
    yield models


def test_what_cannot_be_loaded_at_the_start_is_named_and_the_other_model_serves(
    fresh_server: OwnServer, unloadable: Path
) -> None:
    options = ("--models", str(unloadable), "--load-within", "6")
    with (
        RunningService(fresh_server.url, *options, only=None, workers=1, wait=False) as service,
        Plain(fresh_server.url) as plain,
    ):
        entry = plain.redis.xadd("convq:{b}:jobs", JOB).decode()
        assert plain.redis.blpop(f"convq:{{b}}:result:{entry}", 60) is not None
        line = service.wait_for("a model is passed over: none of its versions can be served", 60)
        assert "a" == line["model"]
        assert "a/1" in line["reason"]
        wait_until(service.is_ready, 60, every_s=0.1)
        assert "not a: a" in service.get("/readyz")[1]


def test_a_start_that_does_not_end_is_ended_by_sigterm_at_once(fresh_server: OwnServer, models: Path) -> None:
    made = add(models / "a", 2, not_fast)
    shutil.rmtree(models / "a" / "1")
    made.rename(models / "a" / "1")
    options = ("--models", str(models), "--load-within", "600")
    with RunningService(fresh_server.url, *options, only=None, workers=1, wait=False) as service:
        with Plain(fresh_server.url) as plain:
            entry = plain.redis.xadd("convq:{b}:jobs", JOB).decode()
            assert plain.redis.blpop(f"convq:{{b}}:result:{entry}", 60) is not None  # beside the one that does not end
        with Stopwatch() as watch:
            service.stop()
    assert watch.quiet_s < 10
