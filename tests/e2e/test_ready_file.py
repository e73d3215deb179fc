"""`convq serve --ready-file`: there when jobs are answered, gone when the service is."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from convq.client import Client
from servers import OwnServer, wait_until
from services import RunningService, seven


def said(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def test_whoever_waits_for_the_file_finds_a_service_that_answers(fresh_server: OwnServer, tmp_path: Path) -> None:
    file = tmp_path / "ready.json"
    file.write_text('{"redis": "redis://old", "http": "http://old", "pid": 1}')  # of a service that was killed
    with RunningService(fresh_server.url, "--ready-file", str(file), workers=1, wait=False) as service:
        assert not file.exists() or said(file)["pid"] == service.process.pid
        wait_until(file.exists, 30)
        found = said(file)
        with Client(found["redis"], model="lenet") as client:
            assert "7" == client.classify(seven()).label
        assert {
            "redis": fresh_server.url,
            "models": ["lenet"],
            "workers": 1,
            "http": service.http,
            "pid": service.process.pid,
        } == found
    assert not file.exists()
    assert [] == list(tmp_path.iterdir())


def test_one_that_was_killed_leaves_its_file_and_the_next_begins_without(
    fresh_server: OwnServer, tmp_path: Path
) -> None:
    file = tmp_path / "ready.json"
    service = RunningService(fresh_server.url, "--ready-file", str(file), workers=1)
    service.start()
    wait_until(file.exists, 30)
    service.signal(signal.SIGKILL)
    service.wait()
    assert file.exists()

    with RunningService(fresh_server.url, CONVQ_READY_FILE=str(file), workers=1) as following:
        wait_until(lambda: file.exists() and said(file)["pid"] == following.process.pid, 30)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("notes.txt", "is there and is no such file; name another"),
        ("list.json", "is there and is no such file; name another"),
        ("folder", "is there and is no such file; name another"),
        ("nowhere/ready", "cannot be written: No such file or directory"),
        ("notes.txt/ready", "cannot be written: Not a directory"),
    ],
)
def test_another_file_is_left_alone_and_one_that_cannot_be_written_is_known_at_once(
    tmp_path: Path, name: str, reason: str
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "folder").mkdir()

    done = subprocess.run(
        [sys.executable, "-m", "convq", "serve", "--ready-file", str(tmp_path / name)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (2, 1) == (done.returncode, len(done.stderr.splitlines())), done.stderr
    assert reason in done.stderr
    assert ("mine", "[1]") == ((tmp_path / "notes.txt").read_text(), (tmp_path / "list.json").read_text())


def test_it_shows_no_password(fresh_server: OwnServer, tmp_path: Path) -> None:
    file = tmp_path / "ready.json"
    url = fresh_server.url.replace("redis://", "redis://default:no-secret-here@")
    with RunningService(url, "--ready-file", str(file), workers=1):
        wait_until(file.exists, 30)

        assert "no-secret-here" not in file.read_text()
