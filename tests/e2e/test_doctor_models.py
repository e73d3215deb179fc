"""`convq doctor` and `convq models list` name every folder that is meant as a model and cannot be served."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from e2e.odd_models import endless
from servers import PATIENCE, wait_until
from services import MODELS, children_of

GB = 1 << 30


def large(manifest: Path) -> None:
    manifest.touch()
    os.truncate(manifest, GB)


ODD: dict[str, Callable[[Path], object]] = {
    "large": large,
    "pipe": os.mkfifo,
    "folder": os.mkdir,
    "bytes": lambda manifest: manifest.write_bytes(b"\0" * 100),
    "dangling": lambda manifest: manifest.symlink_to("nowhere.toml"),
    "Bad Name": lambda manifest: manifest.write_text(""),
}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    shutil.copytree(MODELS / "lenet", root / "lenet")
    return root


def convq(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "convq", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def findings(models: Path) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """Exit code, and what doctor found about models, by check. Its server is one that nobody asked for."""
    done = convq("doctor", "--models", models, "--json")
    found: dict[str, list[dict[str, Any]]] = {}
    for line in done.stdout.splitlines():
        found.setdefault(json.loads(line)["check"], []).append(json.loads(line))
    return done.returncode, found


def hangs(models: Path, version: int) -> Path:
    """Lenet gets a version that never ends, with a manifest of its own."""
    hanging = endless().write(models)
    (hanging / "1").rename(models / "lenet" / str(version))
    (hanging / "manifest.toml").rename(models / "lenet" / str(version) / "manifest.toml")
    hanging.rmdir()
    return models


def test_one_that_hangs_is_named_after_redis_and_within_its_time(models: Path) -> None:
    done = convq("doctor", "--models", hangs(models, 2), "--within", "15", "--redis", "redis://127.0.0.1:1", "--json")
    found = [json.loads(line) for line in done.stdout.splitlines()]

    checks = [one["check"] for one in found]
    assert checks.index("redis") < checks.index("model lenet")
    warning, served = (one for one in found if one["check"] == "model lenet")
    assert "version 2 is passed over, version 1 is served" in warning["found"]
    assert (
        "did not end within 15 s: its network hangs, on 1 job in a batch; --within gives it longer" in warning["found"]
    )
    assert "version 1, 10 labels" in served["found"]


def test_all_that_hang_are_given_up_within_five_times_that(models: Path) -> None:
    for name in ("b", "c", "d", "e", "f", "g"):
        endless().write(models).rename(models / name)

    done = convq("doctor", "--models", models, "--within", "1", "--json")
    found = {one["check"]: one for one in map(json.loads, done.stdout.splitlines())}

    last = found["model lenet"]
    assert "warning" == last["level"]
    assert "version 1 was not looked at: all models together took 5 s" in last["found"]
    assert f"convq models check lenet --version 1 --models {models}" == last["remedy"]
    assert "problem" == found["model b"]["level"]


def test_ctrl_c_ends_it_while_a_model_hangs(models: Path) -> None:
    command = [sys.executable, "-m", "convq", "doctor", "--json", "--redis", "redis://127.0.0.1:1", "--within", "600"]
    command += ["--models", str(hangs(models, 2))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as begun:
        assert begun.stdout is not None
        assert any(json.loads(line)["check"] == "redis" for line in begun.stdout)
        wait_until(lambda: bool(children_of(begun.pid)))
        (child,) = children_of(begun.pid)
        begun.send_signal(signal.SIGINT)
        assert 130 == begun.wait(timeout=10 * PATIENCE)
    wait_until(lambda: not Path(f"/proc/{child}").exists())


def test_what_make_models_builds_is_not_to_be_added_or_moved_away(models: Path) -> None:
    (models / "large_one").mkdir()
    (models / "large_one" / "manifest.template.toml").write_text("")
    (models / "notes").mkdir()

    _, found = findings(models)

    assert "make models" == found["large_one"][0]["remedy"]
    assert "is not built yet" in found["large_one"][0]["found"]
    assert "convq models add" in found["notes"][0]["remedy"]


def spoil(models: Path) -> None:
    for name, make in ODD.items():
        shutil.copytree(models / "lenet" / "1", models / name / "1")
        make(models / name / "manifest.toml")


def test_every_model_that_cannot_be_read_is_a_problem_with_its_name(models: Path) -> None:
    spoil(models)
    (models / "gone").symlink_to("nowhere")

    code, found = findings(models)
    listed = json.loads("[" + ",".join(convq("models", "list", "--models", models, "--json").stdout.splitlines()) + "]")

    assert 3 == code
    assert ["ok"] == [one["level"] for one in found["model lenet"]]
    for name in ODD:
        (one,) = found[f"model {name}"]
        assert "problem" == one["level"]
        assert name in one["remedy"]
    assert ["warning"] == [one["level"] for one in found["gone"]]
    assert {*ODD, "lenet"} == {one["name"] for one in listed}
    assert {"lenet"} == {one["name"] for one in listed if one["state"] == "ok"}


def test_they_are_named_where_none_can_be_served(models: Path) -> None:
    spoil(models)
    shutil.rmtree(models / "lenet")

    code, found = findings(models)

    assert 3 == code
    assert {f"model {name}" for name in ODD} <= found.keys()


def test_a_newest_version_that_is_refused_is_a_warning_beside_the_one_that_is_served(models: Path) -> None:
    shutil.copytree(models / "lenet" / "1", models / "lenet" / "2")
    (models / "lenet" / "2" / "model.onnx").write_bytes(b"")

    code, found = findings(models)
    listed = json.loads(convq("models", "list", "--models", models, "--json").stdout)

    assert 0 == code
    warning, served = found["model lenet"]
    assert ("warning", "ok") == (warning["level"], served["level"])
    assert "version 2 is passed over, version 1 is served" in warning["found"]
    assert "version 1," in served["found"]
    assert 1 == listed["newest_whole"]
    assert "model.onnx has the SHA-256" in listed["state"]


def test_a_missing_sample_is_named_by_both(models: Path) -> None:
    (models / "lenet" / "sample" / "seven.png").unlink()

    code, found = findings(models)
    listed = json.loads(convq("models", "list", "--models", models, "--json").stdout)

    assert 3 == code
    assert "seven.png" in found["model lenet"][0]["found"]
    assert "sample/seven.png" in listed["state"]


def test_no_other_version_takes_the_place_of_one_that_is_required(models: Path) -> None:
    with (models / "lenet" / "manifest.toml").open("a") as manifest:
        manifest.write("\n[versions]\nrequire = 2\n")

    code, found = findings(models)

    assert 3 == code
    assert ["problem"] == [one["level"] for one in found["model lenet"]]


def test_a_version_that_cannot_be_gone_back_to_is_a_warning(models: Path) -> None:
    lenet = models / "lenet"
    shutil.copytree(lenet / "1", lenet / "2")
    shutil.copy(lenet / "manifest.toml", lenet / "2")
    text = (lenet / "manifest.toml").read_text()
    (lenet / "manifest.toml").write_text(text.replace("height = 32", "height = 33"))

    code, found = findings(models)

    assert 0 == code
    assert ["ok", "warning"] == [one["level"] for one in found["model lenet"]]
    assert "there is no way back from version 2: version 1 cannot be served" in found["model lenet"][1]["found"]


def test_a_number_that_was_given_to_another_network_is_named(models: Path) -> None:
    lenet = models / "lenet"
    shutil.copytree(lenet / "1", lenet / "2")
    (lenet / "versions.json").write_text(json.dumps({"2": {"sha256": "0" * 64}}))

    code, found = findings(models)
    listed = convq("models", "list", "--models", models, "--json")

    assert 0 == code
    assert any("the number 2 was given to another network" in one["found"] for one in found["model lenet"])
    assert "the number 2 was given to another network" in json.loads(listed.stdout)["versions"][1]["state"]
