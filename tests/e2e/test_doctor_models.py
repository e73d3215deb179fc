"""`convq doctor` and `convq models list` name every folder that is meant as a model and cannot be served."""

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

from services import MODELS

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
