"""What `.ci/run` does with a test that fails: once more, and never in silence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
CI_RUN = TESTS.parent / ".ci" / "run"
ONCE = """
import pytest
from pathlib import Path

TRIES = Path(__file__).with_suffix(".tries")


def passes_at(number):
    with TRIES.open("a") as file:
        file.write("x")
    assert len(TRIES.read_text()) >= number, "by chance"
"""


def ran(folder: Path, tests: str, *options: str, flaky: Path | None = None) -> tuple[int, str]:
    """Exit status and output of pytest on a file with these tests."""
    file = folder / "test_generated.py"
    file.write_text(ONCE + tests)
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    command = [sys.executable, "-m", "pytest", "-p", "second_try", "-p", "no:cacheprovider", *options]
    if flaky is not None:
        command.append(f"--second-try={flaky}")
    done = subprocess.run(
        [*command, f"--rootdir={folder}", "-c", os.devnull, file],
        capture_output=True,
        text=True,
        env=environment | {"PYTHONPATH": str(TESTS), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        cwd=folder,
        timeout=200,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_what_passes_at_its_second_try_is_called_flaky_and_the_run_is_green(tmp_path: Path) -> None:
    status, out = ran(tmp_path, "def test_it(): passes_at(2)\ndef test_other(): pass", flaky=tmp_path / "flaky")

    assert (0, "FLAKY test_generated.py::test_it (call)\n") == (status, (tmp_path / "flaky").read_text()), out
    assert "FLAKY test_generated.py::test_it (call)" in out.splitlines()
    assert "by chance" in out, "how it failed"
    assert "2 passed, 1 flaky" in out


def test_a_run_without_failures_is_as_it_was(tmp_path: Path) -> None:
    status, out = ran(tmp_path, "def test_it(): passes_at(1)", flaky=tmp_path / "flaky")

    assert (0, False) == (status, (tmp_path / "flaky").exists()), out
    assert "1 passed in" in out


def test_what_fails_twice_has_failed(tmp_path: Path) -> None:
    status, out = ran(tmp_path, "def test_it(): passes_at(3)", flaky=tmp_path / "flaky")

    assert (1, False) == (status, (tmp_path / "flaky").exists()), out
    assert 2 == len((tmp_path / "test_generated.tries").read_text())
    assert "FLAKY" not in out


def test_a_flaky_one_hides_no_other_that_failed(tmp_path: Path) -> None:
    tests = "def test_it(): passes_at(2)\ndef test_other(): assert False"
    status, out = ran(tmp_path, tests, flaky=tmp_path / "flaky")

    assert (1, "FLAKY test_generated.py::test_it (call)\n") == (status, (tmp_path / "flaky").read_text()), out
    assert "FAILED test_generated.py::test_other" in out
    assert "FAILED test_generated.py::test_it" not in out


@pytest.mark.parametrize("scope", ["function", "module", "session"])
@pytest.mark.parametrize("when", ["setup", "teardown"])
def test_a_fixture_that_failed_is_made_again(tmp_path: Path, scope: str, when: str) -> None:
    body = ("passes_at(2)", "yield") if when == "setup" else ("yield", "passes_at(2)")
    fixture = f"@pytest.fixture(scope={scope!r})\ndef thing():\n    {body[0]}\n    {body[1]}\n"
    status, out = ran(tmp_path, f"{fixture}\ndef test_it(thing): pass", flaky=tmp_path / "flaky")

    assert (0, f"FLAKY test_generated.py::test_it ({when})\n") == (status, (tmp_path / "flaky").read_text()), out


def test_nothing_is_tried_again_unless_it_is_asked_for(tmp_path: Path) -> None:
    status, out = ran(tmp_path, "def test_it(): passes_at(2)")

    assert (1, 1) == (status, len((tmp_path / "test_generated.tries").read_text())), out


def test_where_very_many_fail_none_is_tried_again(tmp_path: Path) -> None:
    tests = "@pytest.mark.parametrize('n', range(31))\ndef test_it(n): passes_at(1000)"
    status, out = ran(tmp_path, tests, flaky=tmp_path / "flaky")

    assert (1, 31) == (status, len((tmp_path / "test_generated.tries").read_text())), out


def test_the_table_of_faults_has_one_row_for_a_test_that_was_tried_twice_and_says_so(tmp_path: Path) -> None:
    mark = "@pytest.mark.fault(1, 'a fault', 'somehow')\n"
    tests = f"{mark}def test_it(fault): passes_at(2)\n{mark}def test_other(fault): pass"
    report = tmp_path / "report"
    options = ("-p", "faults.conftest", f"--fault-report={report}")
    status, out = ran(tmp_path, tests, *options, flaky=tmp_path / "flaky")

    assert 0 == status, out
    once, twice = "each job answered once", "each job answered once (at the second try)"
    assert [once, twice] == [row["outcome"] for row in json.loads(report.read_text())["faults"]]
    assert "1 of the 36 faults of the design survived" in out


def test_ci_asks_for_it_and_prints_what_was_flaky_last(tmp_path: Path) -> None:
    """Its own end, with a `make` that is this test's: every program that it would install is there already."""
    script = CI_RUN.read_text()
    make = tmp_path / "make"
    make.write_text('#!/bin/sh\necho FLAKY a >>"${PYTEST_ADDOPTS#--second-try=}"\necho made\nexit 3\n')
    make.chmod(0o755)
    body = script[script.index("# A test that fails") :]
    done = subprocess.run(
        ["bash", "-c", f"set -euo pipefail\n{body}"],
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        check=False,
    )

    assert (3, ["made", "FLAKY a"]) == (done.returncode, done.stdout.splitlines()), done.stderr
