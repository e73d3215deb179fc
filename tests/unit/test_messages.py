"""Names of workers say who is certainly dead, and nothing about anybody else."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from convq.ipc import messages
from convq.ipc.messages import is_gone, process_space, worker_name


def incarnation(pid: int) -> str:
    return f"{worker_name(pid)}-0123abcd"


@pytest.fixture
def dead() -> int:
    """The process id of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody can tell")
def test_of_this_process_space_it_is_known_who_is_gone(dead: int) -> None:
    assert is_gone(incarnation(dead))
    assert not is_gone(incarnation(os.getpid()))


@pytest.mark.parametrize(
    "name",
    [
        "host-{pid}-0123abcd",  # no process space: another system, or an older convq
        "host.{other}-{pid}-0123abcd",  # another container, another boot
        "host.{space}-{pid}",
        "host.{space}-x-0123abcd",
        "",
    ],
)
def test_of_anybody_else_it_is_not(dead: int, name: str) -> None:
    other = f"{int(process_space() or '0', 16) ^ 1:08x}"

    assert not is_gone(name.format(pid=dead, other=other, space=process_space()))


def test_without_a_process_space_nobody_is_gone(dead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "process_space", lambda: "")

    assert not is_gone(incarnation(dead))
    assert f"-{dead}-" in incarnation(dead)
