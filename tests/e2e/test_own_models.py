"""`convq models add` and `check`: from an ONNX file to a served model, and in plain words why not."""

from __future__ import annotations

import ctypes
import json
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from convq.importer.dry_run import dry_run
from e2e.versions import add, not_fast, not_small, repository, write
from servers import OwnServer
from services import MODELS, SAMPLE, Plain, RunningService, digits, image_of

PR_CAPBSET_DROP, CAP_SYS_RESOURCE = 24, 24
LENET = MODELS / "lenet" / "1" / "model.onnx"


def convq(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, standard output and error of one command."""
    done = subprocess.run(
        [sys.executable, "-m", "convq", *map(str, arguments)], capture_output=True, text=True, timeout=250, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_an_onnx_file_becomes_a_model_that_is_served(tmp_path: Path, fresh_server: OwnServer) -> None:
    root = tmp_path / "models"
    root.mkdir()
    labels = MODELS / "lenet" / "labels.txt"

    code, out, err = convq("models", "add", LENET, "--name", "mine", "--models", root, "--labels", labels, "--json")

    assert 0 == code, err
    (document,) = json.loads(f"[{out.strip()}]") if out.lstrip().startswith("{") else json.loads(out)
    assert ("mine", 1) == (document["name"], document["version"])
    assert {"manifest.toml", "labels.txt", "versions.json", "1"} == {path.name for path in (root / "mine").iterdir()}
    assert "assumed" in (root / "mine" / "manifest.toml").read_text(), "what nobody could know is marked"
    with RunningService(fresh_server.url, "--models", str(root), "--only", "mine"), Plain(fresh_server.url) as plain:
        entry = plain.push({"image": image_of(digits()[0])}, stream="convq:{mine}:jobs")
        popped = plain.redis.blpop([f"convq:{{mine}}:result:{entry}"], timeout=15)
        assert "7" == json.loads(popped[1])["predictions"][0]["label"]


def test_a_second_file_becomes_the_next_version_and_nothing_is_overwritten(tmp_path: Path) -> None:
    root = tmp_path / "models"
    file = repository(root) / "manifest.toml"
    plain = file.read_text()
    file.write_text(f'{plain}\n[feature_maps]\nconv1 = "conv1"\n')
    code, _, err = convq("models", "add", LENET, "--name", "lenet", "--models", root)
    assert (3, True) == (code, "conv1" in err), "the manifest names a map that this file has not"
    file.write_text(plain)
    manifest = file.read_bytes()

    assert 0 == convq("models", "add", LENET, "--name", "lenet", "--models", root)[0]
    assert {"1", "2"} <= {path.name for path in (root / "lenet").iterdir()}
    code, _, err = convq("models", "add", LENET, "--name", "lenet", "--models", root, "--version", "2")

    assert 2 == code
    assert "has a version 2 already" in err
    assert manifest == file.read_bytes()


@pytest.mark.parametrize("content", [b"", b"no graph at all", LENET.read_bytes()[:100_000]])
def test_what_is_no_model_leaves_nothing_behind(tmp_path: Path, content: bytes) -> None:
    root, file = tmp_path / "models", tmp_path / "broken.onnx"
    root.mkdir()
    file.write_bytes(content)

    code, _, err = convq("models", "add", file, "--name", "broken", "--models", root)

    assert 3 == code, err
    assert 1 == len(err.strip().splitlines())
    assert "Traceback" not in err
    assert [] == list(root.iterdir())


def test_check_says_what_a_model_answers_and_how_fast() -> None:
    code, out, err = convq("models", "check", "lenet", "--image", SAMPLE / "seven.png", "--json")

    assert 0 == code, err
    document: dict[str, Any] = json.loads(out.splitlines()[0])
    assert document["ok"]
    assert "7" == document["sample"]["predictions"][0]["label"]
    assert {"1", "128"} <= set(document["ms_per_image"])


def test_a_graph_that_does_not_end_is_refused_in_time(tmp_path: Path) -> None:
    model = repository(tmp_path / "models")
    shutil.rmtree(add(model, 2, not_fast))
    add(model, 3, not_fast)

    found = dry_run(model, 3, within_s=4.0)

    assert not found.ok
    assert "did not end within 4 s" in found.reason


def test_a_graph_that_wants_all_memory_is_refused(tmp_path: Path) -> None:
    model = repository(tmp_path / "models")
    add(model, 2, not_small)

    found = dry_run(model, 2, memory_limit_bytes=1 << 30)

    assert not found.ok
    assert "it needs more than the 1.0 GiB of memory that it may take" in found.reason


def test_a_machine_without_memory_for_any_trial_says_so(tmp_path: Path) -> None:
    model = repository(tmp_path / "models")

    found = dry_run(model, 1, memory_limit_bytes=1 << 20)

    assert not found.ok
    assert "it needs more than the 0.00 GiB of memory that it may take" in found.reason


def _without_the_right_to_raise(kind: int, most: int) -> None:
    """In a child: a limit that, unlike root, it cannot raise."""
    resource.setrlimit(kind, (most, most))
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_SYS_RESOURCE)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux alone")
@pytest.mark.parametrize(
    ("kind", "most", "code", "expected"),
    [
        ("RLIMIT_DATA", 1 << 30, 0, ""),
        ("RLIMIT_DATA", 3 << 25, 3, "of memory that it may take|it could not start a thread: ulimit"),
        ("RLIMIT_AS", 1 << 28, 3, "needs more than the 0.25 GiB of memory|it could not start a thread: ulimit"),
        ("RLIMIT_NOFILE", 32, 0, ""),
        ("RLIMIT_NOFILE", 9, 3, "no process could be started for it: Too many open files"),
        ("RLIMIT_FSIZE", 0, 0, ""),
        ("RLIMIT_STACK", 1 << 20, 0, ""),
    ],
)
def test_who_runs_under_a_limit_keeps_it_in_a_trial(kind: str, most: int, code: int, expected: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "convq", "models", "check", "lenet", "--models", MODELS],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
        preexec_fn=lambda: _without_the_right_to_raise(getattr(resource, kind), most),
    )

    assert code == done.returncode, done.stderr
    assert re.search(expected, done.stderr), done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux alone")
def test_a_small_model_is_tried_in_little_memory(tmp_path: Path) -> None:
    model = repository(tmp_path / "models")

    found = dry_run(model, 1, memory_limit_bytes=1 << 29)

    assert found.ok, found.reason


def test_a_trial_that_is_killed_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = repository(tmp_path / "models")
    trap = tmp_path / "trap"
    trap.mkdir()
    (trap / "sitecustomize.py").write_text(
        "import os, signal, sys\nif sys.orig_argv[-1].endswith('dry_run_child'): os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{trap}:{Path(__file__).parents[2] / 'service'}")

    found = dry_run(model, 1)

    assert not found.ok
    assert signal.SIGSEGV.name in found.reason


def test_a_version_whose_checksum_does_not_fit_is_named(tmp_path: Path) -> None:
    model = repository(tmp_path / "models")
    write(model / "1", (model / "1" / "model.onnx").read_bytes())
    (model / "1" / "model.onnx").write_bytes(b"other")

    code, _, err = convq("models", "check", "lenet", "--models", model.parent)

    assert 3 == code
    assert "SHA-256" in err
