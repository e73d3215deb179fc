"""Runs a command that runs pytest, and once more what failed in it: `.ci/run` does so, nobody at a desk.

    python tests/second_try.py FILE make test

The second run is a new one of only those tests, one after the other, so that it finds nothing that the first has left. If all
of them pass, the command may count as green; FILE gets a FLAKY line for each that needed it. What fails twice has failed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

MOST = 30
"""More failures than this are no accident: they stand as they are, and the run ends soon."""
AGAIN = "--last-failed --last-failed-no-failures=none"


def failed_in(cache: Path) -> list[str]:
    """The tests that pytest last noted as failed in this folder of its own, sorted; none where it noted nothing."""
    noted = cache / "v" / "cache" / "lastfailed"
    return sorted(json.loads(noted.read_text())) if noted.exists() else []


def run(command: Sequence[str], cache: Path, options: str = "", **variables: str) -> int:
    """Exit status of the command, whose pytest takes these options and keeps its notes in `cache`."""
    options = " ".join((os.environ.get("PYTEST_ADDOPTS", ""), f"-o cache_dir={cache}", options))
    return subprocess.run(command, env=os.environ | {"PYTEST_ADDOPTS": options, **variables}, check=False).returncode


def twice(flaky: Path, command: Sequence[str]) -> int:
    """Exit status of the command, or of its second run where there was one."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        status = run(command, cache)
        failed = failed_in(cache)
        if status == 0 or not 0 < len(failed) <= MOST:
            return status
        print(f"{len(failed)} failed, and once more:", flush=True)
        status = run(command, cache, AGAIN, PARALLEL="0")
        lines = [f"FLAKY {name}\n" for name in failed if name not in failed_in(cache)]
    with flaky.open("a") as file:
        file.writelines(lines)
    return status


if __name__ == "__main__":
    sys.exit(twice(Path(sys.argv[1]), sys.argv[2:]))
