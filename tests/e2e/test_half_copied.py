"""What lies in a folder of models and is not whole: passed over at the start as in service, and said; the rest serves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from e2e.versions import JOB, add, repository, shifted, write
from servers import OwnServer, wait_until
from services import Plain, RunningService, models_served


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A repository with lenet's version 1."""
    return repository(tmp_path / "models")


def half(model: Path, number: int = 2) -> Path:
    """The folder of a version, as `mkdir` leaves it."""
    folder = model / str(number)
    folder.mkdir()
    return folder


def only_report(model: Path) -> None:
    shutil.copy(model / "1" / "report.json", half(model))


def only_graph(model: Path) -> None:
    shutil.copy(model / "1" / "model.onnx", half(model))


def cut_graph(model: Path) -> None:
    shutil.copytree(model / "1", model / "2")
    content = (model / "1" / "model.onnx").read_bytes()
    (model / "2" / "model.onnx").write_bytes(content[: len(content) // 2])


def empty_graph(model: Path) -> None:
    shutil.copytree(model / "1", model / "2")
    (model / "2" / "model.onnx").write_bytes(b"")


def cut_report(model: Path) -> None:
    shutil.copytree(model / "1", model / "2")
    (model / "2" / "report.json").write_text('{"sha256": "')


def graph_is_a_pipe(model: Path) -> None:
    only_report(model)
    os.mkfifo(model / "2" / "model.onnx")


def no_graph_at_all(model: Path) -> None:
    """Whole, its checksum is right, and onnxruntime refuses it."""
    shutil.copytree(model / "1", model / "2")
    write(model / "2", b"")


def another_label(model: Path) -> None:
    """Whole and sound, but it misses what the manifest says of its sample."""

    def turn(onnx: Any, proto: Any) -> None:
        name = proto.graph.output[0].name
        for node in proto.graph.node:
            node.output[:] = ["before" if one == name else one for one in node.output]
        proto.graph.node.append(onnx.helper.make_node("Neg", ["before"], [name]))

    add(model, 2, turn)


HALVES: dict[str, tuple[Callable[[Path], object], str]] = {
    "an empty folder": (half, "is not whole: it has no model.onnx and no report.json"),
    "only the report": (only_report, "is not whole: it has no model.onnx"),
    "only the graph": (only_graph, "is not whole: it has no report.json"),
    "a graph that is cut off": (cut_graph, "its SHA-256 is"),
    "an empty graph": (empty_graph, "its SHA-256 is"),
    "a report that is cut off": (cut_report, "is not a JSON object"),
    "a pipe": (graph_is_a_pipe, "is a pipe"),
    "garbage": (no_graph_at_all, "model.onnx: onnxruntime refuses it"),
    "a sample that comes out wrong": (another_label, "warmup.golden says '7'"),
}


def announced(plain: Plain) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(plain.redis.hget("convq:models", "lenet"))
    return found


def states(service: RunningService) -> dict[str, str]:
    samples = service.metrics()["convq_model_version_state"]
    return {dict(labels)["version"]: dict(labels)["state"] for labels in samples if dict(labels)["model"] == "lenet"}


@pytest.mark.parametrize("kind", HALVES)
def test_a_start_serves_the_newest_good_version_and_says_what_it_passed_over(
    fresh_server: OwnServer, model: Path, kind: str
) -> None:
    make, reason = HALVES[kind]
    make(model)

    with RunningService(fresh_server.url, "--models", str(model.parent)) as service, Plain(fresh_server.url) as plain:
        answer = plain.answer(plain.burst([JOB])[0])

        assert ("ok", 1) == (answer.status, answer.version)
        line = service.wait_for("a version is passed over")
        assert ("lenet", 2) == (line["model"], line["version"])
        assert reason in line["reason"]
        assert {"1": "serving", "2": "refused"} == states(service)
        assert reason in announced(plain)["refused"]["2"]
        assert str(model.parent) not in announced(plain)["refused"]["2"]


def test_a_half_that_becomes_whole_is_served(fresh_server: OwnServer, model: Path) -> None:
    only_report(model)
    with RunningService(fresh_server.url, "--models", str(model.parent)) as service, Plain(fresh_server.url) as plain:
        (model / "2").rename(model.parent.parent / "gone")

        add(model, 2, shifted(1.0))

        wait_until(lambda: announced(plain)["versions"] == [2], 30, every_s=0.1)
        assert {"2": "serving"} == {number: state for number, state in states(service).items() if state == "serving"}
        assert "refused" not in announced(plain)


def test_a_worker_that_starts_again_follows_the_same_plan(fresh_server: OwnServer, model: Path) -> None:
    cut_graph(model)
    with RunningService(fresh_server.url, "--models", str(model.parent)) as service, Plain(fresh_server.url) as plain:
        before = service.worker_pids()
        for pid in before:
            os.kill(pid, 9)
        wait_until(lambda: len(set(service.worker_pids()) - set(before)) == 2 and service.is_ready(), 30, every_s=0.1)

        assert 1 == plain.answer(plain.burst([JOB])[0]).version


def ended(server: OwnServer, model: Path, *options: str) -> tuple[int, str]:
    """How `convq serve` ends that has nothing to serve."""
    command = [sys.executable, "-m", "convq", "serve", "--redis", server.url, "--models", str(model.parent)]
    command += ["--http", "127.0.0.1:0", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("kind", ["an empty folder", "a graph that is cut off", "a sample that comes out wrong"])
def test_a_version_that_is_required_is_served_or_none_is(fresh_server: OwnServer, model: Path, kind: str) -> None:
    make, reason = HALVES[kind]
    make(model)
    with (model / "manifest.toml").open("a") as manifest:
        manifest.write("\n[versions]\nrequire = 2\n")

    code, said = ended(fresh_server, model)

    assert 3 == code
    assert "versions.require asks for version 2" in said
    assert reason in said


def test_a_start_without_any_good_version_names_them_all(fresh_server: OwnServer, model: Path) -> None:
    cut_graph(model)
    (model / "1" / "report.json").unlink()

    code, said = ended(fresh_server, model)

    assert 3 == code
    last = said.strip().splitlines()[-1]
    assert "1: lenet/1: is not whole: it has no report.json" in last
    assert "2: lenet/2/model.onnx: its SHA-256 is" in last


# -- one broken model among others ------------------------------------------------------------------------------------


def another(model: Path, name: str) -> Path:
    """The same network under another name."""
    return Path(shutil.copytree(model, model.parent / name))


def test_a_broken_model_stops_no_other_and_is_served_once_it_is_put_right(fresh_server: OwnServer, model: Path) -> None:
    broken = another(model, "broken")
    whole = (broken / "1" / "model.onnx").read_bytes()
    (broken / "1" / "model.onnx").write_bytes(whole[:1000])
    (model.parent / "unbuilt").mkdir()
    (model.parent / "unbuilt" / "manifest.toml").touch()
    options = ("--models", str(model.parent))
    with RunningService(fresh_server.url, *options, only=None) as service, Plain(fresh_server.url) as plain:
        assert "ok" == plain.answer(plain.burst([JOB])[0]).status
        line = service.wait_for("a model is passed over: none of its versions can be served")
        assert "broken" == line["model"]
        assert {"lenet"} == set(models_served(plain))
        assert "unbuilt" == service.wait_for("passed over in the folder of models")["name"]

        (broken / "1" / "new").write_bytes(whole)
        (broken / "1" / "new").rename(broken / "1" / "model.onnx")

        wait_until(lambda: "broken" in models_served(plain), 30, every_s=0.1)
        assert service.is_ready()
        entry = plain.redis.xadd("convq:{broken}:jobs", JOB)
        found = plain.redis.blpop(f"convq:{{broken}}:result:{entry.decode()}", 20)
        assert "ok" == json.loads(found[1])["status"]


def test_a_broken_model_that_is_named_ends_the_start(fresh_server: OwnServer, model: Path) -> None:
    broken = another(model, "broken")
    (broken / "1" / "model.onnx").write_bytes(b"")

    code, said = ended(fresh_server, model, "--only", "lenet,broken")

    assert 3 == code
    assert f"{broken / '1' / 'model.onnx'}: its SHA-256 is" in said


# -- commands ---------------------------------------------------------------------------------------------------------


def models(*arguments: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "convq", "models", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("kind", ["an empty folder", "only the report", "a graph that is cut off"])
def test_check_takes_the_version_that_would_be_served(model: Path, kind: str) -> None:
    HALVES[kind][0](model)

    done = models("check", "lenet", "--models", model.parent, "--json")
    named = models("check", "lenet", "--models", model.parent, "--version", 2)

    assert 0 == done.returncode, done.stderr
    assert 1 == json.loads(done.stdout)["version"]
    assert "version 2 is passed over: " in done.stderr
    assert 3 == named.returncode


def test_list_says_what_is_passed_over(model: Path) -> None:
    half(model)
    (model.parent / "notes").mkdir()
    shutil.copytree(model / "1", model / "1.bak")

    done = models("list", "--models", model.parent)

    assert 0 == done.returncode
    assert f"passed over: notes: {model.parent / 'notes'}: holds no manifest.toml" in done.stderr
    assert "passed over: lenet/1.bak" in done.stderr
