"""A model that breaks while the service runs: the next worker that starts does without it, and the others are served."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from e2e.versions import JOB, add, repository, shifted
from servers import OwnServer, wait_until
from services import Plain, RunningService, models_served

BREAKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a version is removed": (lambda model: shutil.rmtree(model / "1"), "a/1"),
    "a graph is cut off": (lambda model: os.truncate(model / "1" / "model.onnx", 1000), "a/1/model.onnx"),
    "its labels are removed": (lambda model: (model / "labels.txt").unlink(), "a/labels.txt"),
    "its sample is removed": (lambda model: (model / "sample" / "seven.png").unlink(), "a/sample/seven.png"),
    "its manifest is removed": (lambda model: (model / "manifest.toml").unlink(), "a/manifest.toml"),
    "its manifest is garbage": (lambda model: (model / "manifest.toml").write_bytes(b"\0"), "a/manifest.toml"),
}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A repository with two copies of lenet: a and b."""
    lenet = repository(tmp_path / "models")
    shutil.copytree(lenet, lenet.parent / "a")
    return lenet.rename(lenet.parent / "b").parent


def answered(plain: Plain, model: str) -> int:
    """The version that answers a job of a model."""
    entry = plain.redis.xadd(f"convq:{{{model}}}:jobs", JOB)
    found = plain.redis.blpop(f"convq:{{{model}}}:result:{entry.decode()}", 120)
    assert found is not None, f"{model} is not answered"
    said = json.loads(found[1])
    assert "ok" == said["status"]
    return int(said["version"])


def lose_workers(service: RunningService) -> None:
    for pid in service.worker_pids():
        os.kill(pid, 9)


@pytest.mark.parametrize("kind", BREAKS)
def test_a_model_that_breaks_takes_no_other_down_and_comes_back(
    fresh_server: OwnServer, models: Path, tmp_path: Path, kind: str
) -> None:
    destroy, place = BREAKS[kind]
    kept = Path(shutil.copytree(models / "a", tmp_path / "kept"))
    options = ("--models", str(models))
    with RunningService(fresh_server.url, *options, only=None, workers=1) as service, Plain(fresh_server.url) as plain:
        assert 1 == answered(plain, "a")
        destroy(models / "a")
        lose_workers(service)

        assert 1 == answered(plain, "b")
        line = service.wait_for("a model is passed over: none of its versions can be served")
        assert "a" == line["model"], line
        assert place in line["reason"]
        assert any(place in one.get("reason", "") for one in service.log if one["message"] == "a worker died")
        wait_until(lambda: {"b"} == set(models_served(plain)), 120, every_s=0.1)
        wait_until(service.is_ready, 120, every_s=0.1)
        assert "1 workers serve b; not a: a" in service.get("/readyz")[1]

        shutil.rmtree(models / "a", ignore_errors=True)
        kept.rename(models / "a")  # the very files, with their times

        assert 1 == answered(plain, "a")
        wait_until(lambda: {"a", "b"} == set(models_served(plain)), 120, every_s=0.1)
        wait_until(lambda: "not a" not in service.get("/readyz")[1], 120, every_s=0.1)


def test_where_nothing_is_left_the_service_waits_for_it(fresh_server: OwnServer, models: Path) -> None:
    options = ("--models", str(models), "--only", "a,b")
    with RunningService(fresh_server.url, *options, only=None, workers=2) as service, Plain(fresh_server.url) as plain:
        models.rename(models.parent / "aside")
        lose_workers(service)

        wait_until(lambda: "no model can be served" in service.get("/readyz")[1], 120, every_s=0.1)
        status, said = service.get("/readyz")
        assert 503 == status
        assert "not a: a" in said
        assert "not b: b" in said

        (models.parent / "aside").rename(models)

        assert (1, 1) == (answered(plain, "a"), answered(plain, "b"))
        wait_until(service.is_ready, 120, every_s=0.1)


def test_an_older_version_answers_where_the_newest_broke(fresh_server: OwnServer, models: Path) -> None:
    add(models / "a", 2, shifted(1.0))
    options = ("--models", str(models))
    with RunningService(fresh_server.url, *options, only=None, workers=1) as service, Plain(fresh_server.url) as plain:
        assert 2 == answered(plain, "a")
        (models / "a" / "2" / "model.onnx").write_bytes(b"")
        lose_workers(service)

        assert 1 == answered(plain, "a")
        wait_until(lambda: "2" in models_served(plain).get("a", {}).get("refused", {}), 120, every_s=0.1)
        assert "a/2/model.onnx" in models_served(plain)["a"]["refused"]["2"]
