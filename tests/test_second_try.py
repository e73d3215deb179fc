"""What `.ci/run` does with a test that fails: once more, and never in silence."""

from __future__ import annotations

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


def ran(folder: Path, tests: str, *options: str) -> tuple[int, str, list[str]]:
    """Exit status and output of two tries of pytest on a file with these tests, and the lines of those that needed both."""
    file, flaky = folder / "test_generated.py", folder / "flaky"
    file.write_text(ONCE + tests)
    command = [sys.executable, str(TESTS / "second_try.py"), str(flaky), sys.executable, "-m", "pytest", *options]
    done = subprocess.run(
        [*command, f"--rootdir={folder}", "-c", os.devnull, file],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTEST_ADDOPTS": ""},
        cwd=folder,
        timeout=200,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr, flaky.read_text().splitlines() if flaky.exists() else []


def tries(folder: Path) -> int:
    """How often `passes_at` was called."""
    return len((folder / "test_generated.tries").read_text())


@pytest.mark.parametrize("options", [(), ("-n2", "--dist=worksteal")], ids=["one process", "two processes"])
def test_what_passes_at_its_second_try_is_called_flaky_and_the_run_is_green(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    status, out, flaky = ran(tmp_path, "def test_it(): passes_at(2)\ndef test_other(): pass", *options)

    assert (0, ["FLAKY test_generated.py::test_it"]) == (status, flaky), out
    assert "by chance" in out, "how it failed"
    assert 2 == tries(tmp_path)


def test_a_run_without_failures_is_as_it_was(tmp_path: Path) -> None:
    status, out, flaky = ran(tmp_path, "def test_it(): passes_at(1)")

    assert (0, [], 1) == (status, flaky, tries(tmp_path)), out


def test_what_fails_twice_has_failed(tmp_path: Path) -> None:
    status, out, flaky = ran(tmp_path, "def test_it(): passes_at(3)")

    assert (1, [], 2) == (status, flaky, tries(tmp_path)), out


def test_a_flaky_one_hides_no_other_that_failed(tmp_path: Path) -> None:
    status, out, flaky = ran(tmp_path, "def test_it(): passes_at(2)\ndef test_other(): assert False")

    assert (1, ["FLAKY test_generated.py::test_it"]) == (status, flaky), out
    assert out.count("FAILED test_generated.py::test_other") == 2


@pytest.mark.parametrize("scope", ["function", "module", "session"])
@pytest.mark.parametrize("when", ["setup", "teardown"])
def test_a_fixture_that_failed_is_made_again(tmp_path: Path, scope: str, when: str) -> None:
    body = ("passes_at(2)", "yield") if when == "setup" else ("yield", "passes_at(2)")
    fixture = f"@pytest.fixture(scope={scope!r})\ndef thing():\n    {body[0]}\n    {body[1]}\n"
    status, out, flaky = ran(tmp_path, f"{fixture}\ndef test_it(thing): pass")

    assert (0, ["FLAKY test_generated.py::test_it"]) == (status, flaky), out


def test_what_is_wrong_with_the_run_itself_is_not_tried_again(tmp_path: Path) -> None:
    status, out, flaky = ran(tmp_path, "def test_it(): passes_at(1)", "--no-such-option")

    assert (4, []) == (status, flaky), out
    assert 1 == out.count("no-such-option")


def test_where_very_many_fail_none_is_tried_again(tmp_path: Path) -> None:
    status, out, flaky = ran(tmp_path, "@pytest.mark.parametrize('n', range(31))\ndef test_it(n): passes_at(1000)")

    assert (1, [], 31) == (status, flaky, tries(tmp_path)), out


def test_ci_asks_for_it_and_prints_what_was_flaky_last(tmp_path: Path) -> None:
    """Its own end, with a `make` that is this test's: every program that it would install is there already."""
    script = CI_RUN.read_text()
    make, python = tmp_path / "make", tmp_path / ".venv" / "bin" / "python"
    make.write_text("#!/bin/sh\necho made $*\n")
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho tried $*\n[ "$4" != test ] || echo FLAKY a >>"$2"\n[ "$4" = test ] || exit 3\n')
    for program in (make, python):
        program.chmod(0o755)
    body = script[script.index("# models and photographs") :]
    done = subprocess.run(
        ["bash", "-c", f"set -euo pipefail\n{body}"],
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        cwd=tmp_path,
        check=False,
    )
    lines = [" ".join(word for word in line.split() if "/" not in word) for line in done.stdout.splitlines()]

    assert (3, ["made models photographs check sbom", "tried make test", "tried make test-faults", "FLAKY a"]) == (
        done.returncode,
        lines,
    ), done.stderr
