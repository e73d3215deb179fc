"""A program that is started to end with its parent does so, whatever ends that; and it runs as it would without."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from convq.host.death_signal import ending_with_us
from servers import wait_until

PARENT = """
import subprocess, sys
from convq.host.death_signal import ending_with_us
child = subprocess.Popen(ending_with_us([sys.executable, "-c", sys.argv[1], sys.argv[2]]))
print(child.pid, flush=True)
child.wait()
"""
CHILD = """
import signal, sys, time
from pathlib import Path
def end(number, frame):
    Path(sys.argv[1]).write_text(signal.Signals(number).name)
    sys.exit()
signal.signal(signal.SIGTERM, end)
Path(sys.argv[1]).write_text("runs")
time.sleep(600)
"""


def test_the_program_gets_its_words_and_its_status_is_that_of_the_command() -> None:
    program = "import sys; print(sys.argv[1:]); sys.exit(7)"
    done = subprocess.run(
        ending_with_us([sys.executable, "-c", program, "a b", ""]), capture_output=True, text=True, check=False
    )

    assert (7, "['a b', '']\n", "") == (done.returncode, done.stdout, done.stderr)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children that their parent died")
def test_it_is_told_to_end_when_whoever_started_it_is_killed(tmp_path: Path) -> None:
    word = tmp_path / "word"
    with subprocess.Popen([sys.executable, "-c", PARENT, CHILD, str(word)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        wait_until(lambda: word.exists() and word.read_text() == "runs", 30)
        parent.kill()

    wait_until(lambda: word.read_text() == "SIGTERM", 30)
    wait_until(lambda: not Path(f"/proc/{child}/exe").exists(), 30)
