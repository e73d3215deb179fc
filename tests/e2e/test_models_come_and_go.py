"""Models come, go and change places while a service runs; versions are gone back to; numbers are given once."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convq.protocol import Result, decode_result
from convq.repository.keeping import keep_with
from e2e.versions import FASHION, JOB, add, logits_of, repository, shifted, write
from servers import OwnServer, wait_until
from services import Plain, RunningService, models_served

MAPPED = '[feature_maps]\nconv1 = "before"\n'
"""The output that a graph of `add` has inside, and that version 1 has not."""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A repository with lenet alone."""
    return repository(tmp_path / "models").parent


@pytest.fixture
def served(fresh_server: OwnServer, models: Path) -> Iterator[tuple[RunningService, Plain]]:
    options = ("--models", str(models))
    with RunningService(fresh_server.url, *options, only=None) as service, Plain(fresh_server.url) as plain:
        yield service, plain


def push(plain: Plain, model: str, count: int = 1, **fields: Any) -> list[str]:
    return plain.burst([JOB | fields] * count, stream=f"convq:{{{model}}}:jobs")


def answer(plain: Plain, model: str, entry: str, timeout_s: float = 120) -> Result:
    found = plain.redis.blpop(f"convq:{{{model}}}:result:{entry}", timeout_s)
    assert found is not None, f"no answer of {model}"
    return decode_result(found[1])


def ask(plain: Plain, model: str, **fields: Any) -> Result:
    return answer(plain, model, push(plain, model, **fields)[0])


def logits(result: Result) -> np.ndarray:
    (output,) = result.outputs or ()
    return output.array()


def labelled(service: RunningService, model: str) -> set[str]:
    """The metrics that have a sample of a model."""
    return {name for name, rows in service.metrics().items() for labels in rows if ("model", model) in labels}


def serving(plain: Plain, model: str) -> int:
    return int(models_served(plain).get(model, {}).get("serving", 0))


# -- models -----------------------------------------------------------------------------------------------------------


def test_a_model_that_comes_is_served_and_one_that_goes_finishes_what_it_has(
    served: tuple[RunningService, Plain], models: Path, tmp_path: Path
) -> None:
    service, plain = served
    workers = service.worker_pids()
    made = Path(shutil.copytree(models / "lenet", tmp_path / "made"))
    (models / "a").mkdir()
    for part in ("manifest.toml", "labels.txt", "sample", "1"):  # as a slow copy
        assert "a" not in models_served(plain)
        (made / part).rename(models / "a" / part)
        assert "ok" == ask(plain, "lenet").status
    first = answer(plain, "a", push(plain, "a")[0])
    assert ("ok", 1) == (first.status, first.version)
    wait_until(lambda: {"a", "lenet"} == set(models_served(plain)), 30, every_s=0.1)
    assert "convq_jobs_total" in labelled(service, "a")

    entries = push(plain, "a", 400)
    (models / "a").rename(tmp_path / "aside")
    service.wait_for("a model was removed: workers finish what they have of it; jobs that wait in its queue stay there")
    service.wait_for("a model is not served any more", 60)
    later = push(plain, "a", 3)  # nobody claims them
    wait_until(lambda: {"lenet"} == set(models_served(plain)), 30, every_s=0.1)
    assert 0 == plain.pending("convq:{a}:jobs") or plain.redis.xlen("convq:{a}:jobs") >= 3
    assert "workers serve lenet" in service.get("/readyz")[1]
    assert "; not a" not in service.get("/readyz")[1]
    assert set() == labelled(service, "a")
    assert "ok" == ask(plain, "lenet").status
    assert 3 <= plain.redis.xlen("convq:{a}:jobs"), "they wait"

    (tmp_path / "aside").rename(models / "a")
    assert {"ok"} == {str(answer(plain, "a", entry).status) for entry in entries + later}
    assert 0 == plain.redis.xlen("convq:{a}:jobs")
    assert set(workers) <= set(service.worker_pids()), "none was started anew for it"


def test_a_model_that_is_replaced_between_two_looks_is_the_new_one(
    served: tuple[RunningService, Plain], models: Path, tmp_path: Path
) -> None:
    service, plain = served
    made = Path(shutil.copytree(models / "lenet", tmp_path / "apart" / "lenet"))
    shutil.copytree(made, models / "a")
    wait_until(lambda: serving(plain, "a") == 1, 60, every_s=0.1)
    add(made, 2, shifted(100.0))
    shutil.rmtree(made / "1")
    (made / "2").rename(made / "1")

    shutil.rmtree(models / "a")
    shutil.copytree(made, models / "a")

    expected = logits_of(models / "a" / "1")
    wait_until(lambda: np.allclose(expected, logits(ask(plain, "a")), atol=1e-3), 90, every_s=0.2)
    wait_until(lambda: serving(plain, "a") == 1, 30, every_s=0.1)
    assert np.allclose(logits_of(models / "lenet" / "1"), logits(ask(plain, "lenet")), atol=1e-3)
    assert [] == [line for line in service.log if line["message"] == "a worker died"]


def test_a_model_that_comes_broken_is_named_and_served_once_it_is_put_right(
    served: tuple[RunningService, Plain], models: Path
) -> None:
    service, plain = served
    shutil.copytree(models / "lenet", models / "a")
    text = (models / "a" / "manifest.toml").read_text()
    (models / "a" / "manifest.toml").write_text("[input")
    line = service.wait_for("a folder with a manifest is passed over", 60)
    assert "a/manifest.toml: is not TOML" in line["reason"]
    assert "; not a: a/manifest.toml: is not TOML" in service.get("/readyz")[1]
    assert service.is_ready()
    assert 1 == service.metrics()["convq_model_unserved"][(("model", "a"),)]
    assert "ok" == ask(plain, "lenet").status

    (models / "a" / "manifest.toml").write_text(text)

    assert "ok" == ask(plain, "a").status
    wait_until(lambda: "not a" not in service.get("/readyz")[1], 30, every_s=0.1)
    assert 0 == service.metrics()["convq_model_unserved"][(("model", "a"),)]


# -- going back -------------------------------------------------------------------------------------------------------


def mapped(models: Path) -> None:
    """A manifest that version 1 does not fit, and a version 2 that it is for."""
    manifest = models / "lenet" / "manifest.toml"
    manifest.write_text(manifest.read_text() + "\n" + MAPPED)

    def shown(onnx: Any, proto: Any) -> None:
        shifted(100.0)(onnx, proto)
        shape = ["n", 10]
        proto.graph.output.append(onnx.helper.make_tensor_value_info("before", onnx.TensorProto.FLOAT, shape))

    add(models / "lenet", 2, shown)


def test_a_version_that_keeps_its_manifest_can_be_gone_back_to(fresh_server: OwnServer, models: Path) -> None:
    keep_with(models / "lenet", 1)
    mapped(models)
    options = ("--models", str(models))
    with RunningService(fresh_server.url, *options) as service, Plain(fresh_server.url) as plain:
        assert 2 == ask(plain, "lenet").version
        shutil.rmtree(models / "lenet" / "2")
        wait_until(lambda: serving(plain, "lenet") == 1, 60, every_s=0.1)
        assert 1 == ask(plain, "lenet").version
        assert [] == [line for line in service.log if line["level"] == "error"]
    with RunningService(fresh_server.url, *options), Plain(fresh_server.url) as plain:
        assert 1 == ask(plain, "lenet").version


def test_a_manifest_that_is_changed_by_hand_breaks_a_version_aloud_and_no_other_model(
    fresh_server: OwnServer, models: Path
) -> None:
    shutil.copytree(models / "lenet", models / "other")
    options = ("--models", str(models))
    with RunningService(fresh_server.url, *options, only=None) as service, Plain(fresh_server.url) as plain:
        mapped(models)
        wait_until(lambda: models_served(plain)["lenet"]["versions"] == [2], 60, every_s=0.1)  # 1 is let go
        shutil.rmtree(models / "lenet" / "2")
        wait_until(lambda: "1" in models_served(plain)["lenet"].get("refused", {}), 60, every_s=0.1)
        assert "before" in models_served(plain)["lenet"]["refused"]["1"]
        assert {2, 1} == {ask(plain, "lenet").version, ask(plain, "other").version}, "what runs goes on"
    with RunningService(fresh_server.url, *options, only=None) as service, Plain(fresh_server.url) as plain:
        assert "ok" == ask(plain, "other").status
        assert "; not lenet: lenet/1/model.onnx" in service.get("/readyz")[1]


def test_a_served_version_that_the_manifest_does_not_fit_any_more_is_named(
    served: tuple[RunningService, Plain], models: Path
) -> None:
    service, plain = served
    manifest = models / "lenet" / "manifest.toml"
    before = manifest.read_text()
    manifest.write_text(before + "\n" + MAPPED)

    line = service.wait_for(
        "a version that is served could not be loaded again with the manifest as it is now; what is loaded goes on", 60
    )

    assert ("lenet", 1) == (line["model"], line["version"])
    assert "; though lenet 1 could not be loaded again: lenet/1/model.onnx" in service.get("/readyz")[1]
    assert 1 == service.metrics()["convq_model_version_unfit"][(("model", "lenet"), ("version", "1"))]
    assert "ok" == ask(plain, "lenet").status
    manifest.write_text(before)
    wait_until(lambda: "though" not in service.get("/readyz")[1], 30, every_s=0.1)


# -- numbers ----------------------------------------------------------------------------------------------------------


def test_a_number_that_was_served_is_given_to_no_other_network_and_the_same_one_comes_back(
    served: tuple[RunningService, Plain], models: Path, tmp_path: Path
) -> None:
    service, plain = served
    lenet = models / "lenet"
    add(lenet, 2, shifted(100.0))
    wait_until(lambda: serving(plain, "lenet") == 2, 60, every_s=0.1)
    (lenet / "2").rename(tmp_path / "kept")
    wait_until(lambda: serving(plain, "lenet") == 1, 60, every_s=0.1)

    add(lenet, 2, shifted(200.0))
    wait_until(lambda: "2" in models_served(plain)["lenet"].get("refused", {}), 60, every_s=0.1)
    assert "the number 2 was given to another network" in models_served(plain)["lenet"]["refused"]["2"]
    assert 1 == ask(plain, "lenet").version

    shutil.rmtree(lenet / "2")
    shutil.copytree(tmp_path / "kept", lenet / "2", copy_function=shutil.copyfile)  # other times
    wait_until(lambda: serving(plain, "lenet") == 2, 60, every_s=0.1)
    assert np.allclose(logits_of(lenet / "2"), logits(ask(plain, "lenet")), atol=1e-3)
    assert service.is_ready()


def test_classes_change_with_a_version_and_both_are_served_meanwhile(fresh_server: OwnServer, models: Path) -> None:
    """The roll-out of models/README.md: keep 2, clients pin what they know, then the old one goes."""
    lenet = models / "lenet"
    (lenet / "manifest.toml").write_text((lenet / "manifest.toml").read_text() + "\n[versions]\nkeep = 2\n")
    keep_with(lenet, 1)
    options = ("--models", str(models))
    with RunningService(fresh_server.url, *options), Plain(fresh_server.url) as plain:
        made = Path(shutil.copytree(FASHION, models.parent / "made", ignore=shutil.ignore_patterns("*.md")))
        text = (lenet / "1" / "manifest.toml").read_text()
        (made / "manifest.toml").write_text(text.replace('golden = "7"\n', ""))
        (made / "labels.txt").write_text("".join(f"{name}\n" for name in "abcdefghij"))
        made.rename(lenet / "2")
        wait_until(lambda: models_served(plain)["lenet"]["versions"] == [1, 2], 60, every_s=0.1)
        wait_until(lambda: serving(plain, "lenet") == 2, 60, every_s=0.1)

        old, new, plainly = (ask(plain, "lenet", **pin) for pin in ({"version": 1}, {"version": 2}, {}))

        assert (1, "7") == (old.version, (old.predictions or [])[0].label)
        assert {2} == {new.version, plainly.version}
        assert {(one.predictions or [])[0].label for one in (new, plainly)} <= set("abcdefghij")
        shutil.rmtree(lenet / "1")
        wait_until(lambda: models_served(plain)["lenet"]["versions"] == [2], 60, every_s=0.1)
        assert "unknown_version" == ask(plain, "lenet", version=1).error.code  # type: ignore[union-attr]


# -- strict -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["a model", "a version"])
def test_a_strict_start_wants_everything_whole(fresh_server: OwnServer, models: Path, what: str) -> None:
    if what == "a model":
        shutil.copytree(models / "lenet", models / "a")
        (models / "a" / "manifest.toml").write_text("[input")
    else:
        shutil.copytree(models / "lenet" / "1", models / "lenet" / "2")
        write(models / "lenet" / "2", b"none")
    command = [sys.executable, "-m", "convq", "serve", "--redis", fresh_server.url, "--models", str(models)]

    done = subprocess.run([*command, "--strict", "--http", "127.0.0.1:0"], capture_output=True, text=True, check=False)

    assert 3 == done.returncode
    expected = "a/manifest.toml: is not TOML" if what == "a model" else "lenet/2/model.onnx: is no ONNX file"
    assert expected in done.stderr.strip().splitlines()[-1]
