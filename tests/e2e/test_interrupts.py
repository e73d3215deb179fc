"""Ctrl-C at any moment of a command's start: it ends the command, and never with 0."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import convq

SEVEN = Path(__file__).resolve().parents[2] / "models" / "lenet" / "sample" / "seven.png"
MOMENTS = 30
CONVQ = str(Path(convq.__file__).parent)
SCRIPT = Path(sys.executable).with_name("convq")


@contextmanager
def silent_server() -> Iterator[socket.socket]:
    """Takes connections and never says a word: a command that has come so far waits."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(60)
        yield listening


def start(server: socket.socket, *command: str) -> subprocess.Popen[bytes]:
    url = f"redis://127.0.0.1:{server.getsockname()[1]}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CONVQ_")}
    return subprocess.Popen(
        [*command, "submit", "--redis", url, str(SEVEN)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )


def interrupted(begun: subprocess.Popen[bytes]) -> tuple[int, str]:
    """How it ends, and what it says."""
    begun.send_signal(signal.SIGINT)
    said = begun.communicate(timeout=250)[1].decode()
    return begun.returncode, said


@pytest.mark.parametrize("command", [(sys.executable, "-m", "convq"), (str(SCRIPT),)], ids=["module", "script"])
def test_ctrl_c_at_any_moment_of_the_start_ends_the_command(command: tuple[str, ...]) -> None:
    with silent_server() as server:
        began_s = time.monotonic()
        whole = start(server, *command)
        with server.accept()[0]:
            start_s = time.monotonic() - began_s
            code, said = interrupted(whole)
        assert 130 == code, said

        for moment in range(MOMENTS):
            begun = start(server, *command)
            time.sleep(start_s * moment / MOMENTS)
            code, said = interrupted(begun)

            # Before it has come to convq, Python itself says how it was interrupted: by its signal, or with 1 and a traceback.
            assert code in (130, -signal.SIGINT) or (code == 1 and CONVQ not in said), (moment, code, said)
            assert "Exception ignored" not in said


LATE = """
import signal
from convq.interrupts import between_imports
signal.signal(signal.SIGINT, between_imports(signal.default_int_handler))
try:
    import slow
    import os, time
    while True:
        time.sleep(60)
except KeyboardInterrupt:
    print("whole:", slow.whole)
"""


def test_an_interrupt_within_an_import_comes_when_that_is_done(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nwhole = True\n")
    done = subprocess.run(
        [sys.executable, "-c", LATE],
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        timeout=60,
        check=False,
    )

    assert (0, b"whole: True\n") == (done.returncode, done.stdout), done.stderr


def test_a_program_that_imports_convq_keeps_its_own_interrupt() -> None:
    asked = "import signal; before = signal.getsignal(signal.SIGINT); import convq; import sys; "
    asked += "sys.exit(before is not signal.getsignal(signal.SIGINT))"

    assert 0 == subprocess.run([sys.executable, "-c", asked, "-m", "convq"], timeout=60, check=False).returncode


def test_who_is_told_to_ignore_ctrl_c_ignores_it() -> None:
    with silent_server() as server:
        ignoring = (
            "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
        )
        begun = start(server, sys.executable, "-c", ignoring, sys.executable, "-m", "convq")
        with server.accept()[0]:
            begun.send_signal(signal.SIGINT)
            with pytest.raises(subprocess.TimeoutExpired):
                begun.wait(0.3)
            begun.kill()
            begun.communicate()
