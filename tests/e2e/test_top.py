"""`convq top` on terminals of several kinds, in a pipe, and on a server that goes away."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from servers import OwnServer, wait_until
from services import LANES, Plain, RunningService, seven

ENTERS, LEAVES = b"\x1b[?1049h", b"\x1b[?1049l"


class Terminal:
    """`convq top` on a pseudo terminal; `shown` is what it has written so far."""

    def __init__(self, url: str, columns: int, rows: int, *options: str, **variables: str) -> None:
        self.shown = b""
        self._pid, self._descriptor = pty.fork()
        if self._pid == 0:
            os.environ.update({"TERM": "xterm", **variables})
            resized(0, columns, rows)
            command = [sys.executable, "-P", "-m", "convq", "top", "--redis", url, *options]
            os.execv(command[0], command)  # noqa: S606 - no shell is wanted
        resized(self._descriptor, columns, rows)

    def read(self) -> bytes:
        while select.select([self._descriptor], [], [], 0)[0]:
            try:
                part = os.read(self._descriptor, 65536)
            except OSError:  # it has ended
                break
            if not part:
                break
            self.shown += part
        return self.shown

    def frames(self) -> list[list[str]]:
        """The lines of each frame that is whole, without control sequences."""
        whole = self.read().split(b"\x1b[H")[1:]
        texts = [part.decode() for part in whole if part.endswith(b"\x1b[J")]
        return [
            [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in text.replace("\r", "").split("\n")]
            for text in texts
        ]

    def sees(self, text: str) -> list[str]:
        """The first frame that holds the text, waiting for it."""
        return wait_until(lambda: next((one for one in self.frames() if any(text in line for line in one)), None)) or []

    def resize(self, columns: int, rows: int) -> None:
        resized(self._descriptor, columns, rows)

    def press(self, keys: bytes) -> None:
        os.write(self._descriptor, keys)

    def modes(self) -> list[object]:
        return termios.tcgetattr(self._descriptor)

    def end(self) -> int:
        """Its exit status, waiting for it."""

        def ended() -> int | None:
            self.read()
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            return 1000 + os.waitstatus_to_exitcode(status) if pid else None

        return (wait_until(ended, 15) or 0) - 1000


def resized(descriptor: int, columns: int, rows: int) -> None:
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


@contextmanager
def on_terminal(url: str, columns: int, rows: int, *options: str, **variables: str) -> Iterator[Terminal]:
    terminal = Terminal(url, columns, rows, *options, **variables)
    try:
        yield terminal
    finally:
        try:
            os.kill(terminal._pid, signal.SIGKILL)
            os.waitpid(terminal._pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        os.close(terminal._descriptor)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnServer]:
    """A service with stopped workers, and jobs of three clients, one without a name and one with a hostile one."""
    with (
        OwnServer(tmp_path_factory.mktemp("top")) as server,
        RunningService(server.url) as service,
        Plain(server.url) as plain,
    ):
        plain.answer(plain.push({"image": b"no image"}))
        pids = service.worker_pids()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        plain.burst([{"image": seven(), "client": "shop"}] * 600, stream=LANES[1])
        plain.burst([{"image": seven(), "client": "camera-7"}] * 300, stream=LANES[2])
        plain.burst([{"image": seven()}] * 90 + [{"image": seven(), "client": "\x1b[2Jevil\nname"}] * 10)
        yield server
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def look_once(url: str, *options: str) -> Any:
    command = [sys.executable, "-P", "-m", "convq", "top", "--once", "--redis", url, *options]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


def test_a_pipe_gets_one_document_a_look(full: OwnServer) -> None:
    (lenet,) = look_once(full.url)["models"]

    assert 1000 == sum(lenet["waiting"].values()) + lenet["held"]
    assert lenet["waiting"]["low"] <= 300
    assert 0 == lenet["out_per_s"] == lenet["in_per_s"] == lenet["failed_per_s"]
    shares = {one["client"]: one["share"] for one in lenet["clients"]}
    assert {"shop", "camera-7", "unnamed", "(malformed)"} == set(shares)
    assert 0.4 < shares["shop"] < 0.8
    assert 0.2 < shares["camera-7"] < 0.4
    assert 1000 == sum(one["jobs"] for one in lenet["clients"])
    assert lenet["sampled"] <= 410


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (40, 12), (20, 4), (200, 60)])
def test_a_picture_fits_its_terminal_and_says_the_most_important(full: OwnServer, columns: int, rows: int) -> None:
    with on_terminal(full.url, columns, rows) as terminal:
        lines = terminal.sees("lenet")
        terminal.press(b"q")
        assert 0 == terminal.end()

    assert len(lines) <= rows
    assert max(map(len, lines)) <= columns
    assert "waiting" in lines[1] + lines[2]
    if rows >= 12:
        assert any(line.startswith("shop ") for line in lines)
    assert terminal.shown.count(ENTERS) == terminal.shown.count(LEAVES) == 1
    assert b"\x1b[2Jevil" not in terminal.shown


def test_a_terminal_that_is_resized_is_drawn_anew(full: OwnServer) -> None:
    with on_terminal(full.url, 80, 24, "--interval", "600") as terminal:
        before = terminal.modes()
        assert "refused/s" in "".join(terminal.sees("lenet"))
        assert before != terminal.modes(), "keys come as they are pressed"
        terminal.resize(40, 12)
        wait_until(lambda: len(terminal.frames()) > 1 and max(map(len, terminal.frames()[-1])) <= 40)
        terminal.press(b"Q")
        assert 0 == terminal.end()


def test_ctrl_c_ends_with_130_and_gives_the_terminal_back(full: OwnServer) -> None:
    with on_terminal(full.url, 80, 24) as terminal:
        terminal.sees("lenet")
        terminal.press(b"\x03")
        assert 130 == terminal.end()
    assert terminal.shown.rstrip(b"\r\n").endswith(LEAVES)


@pytest.mark.parametrize(("variable", "value"), [("TERM", "dumb"), ("NO_COLOR", "1")])
def test_terminals_without_colours_get_none(full: OwnServer, variable: str, value: str) -> None:
    with on_terminal(full.url, 80, 24, **{variable: value}) as terminal:
        wait_until(lambda: terminal.read().count(b"shop ") > 1)
        terminal.press(b"q")
        assert 0 == terminal.end()

    assert not re.search(rb"\x1b\[[0-9;]*m", terminal.shown)
    assert (value == "dumb") == (b"\x1b" not in terminal.shown)


def test_a_server_that_goes_away_is_waited_for(fresh_server: OwnServer) -> None:
    with RunningService(fresh_server.url) as service, on_terminal(fresh_server.url, 80, 24) as terminal:
        terminal.sees("lenet")
        fresh_server.kill()
        terminal.sees("no answer since ")
        frames = len(terminal.frames())
        fresh_server.start()
        wait_until(lambda: any("no answer" not in "".join(one) for one in terminal.frames()[frames + 1 :]), 20)
        terminal.press(b"q")
        assert 0 == terminal.end()
        wait_until(service.is_ready, 30)


def test_where_there_is_no_server_it_ends() -> None:
    command = [sys.executable, "-P", "-m", "convq", "top", "--redis", "redis://127.0.0.1:1/0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert 4 == done.returncode
    assert "tried redis://127.0.0.1:1/0" in done.stderr
