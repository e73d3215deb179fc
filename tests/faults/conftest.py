"""The fault suite's own: its options, the stage of each test, and the table of faults that it prints at the end."""

from __future__ import annotations

import json
import platform
from collections.abc import Generator
from functools import partial
from pathlib import Path

import pytest

from convq.embedded import find_binaries
from faults.stage import Fault, Staged, staged

FAULT = "fault"
MARKS = (
    "fault(number, name, injected): one row of the table of faults; numbers are those of the design",
    "slow: takes minutes at its full size",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption("--fault-report", metavar="FILE", help="write the table of faults as JSON")
    group.addoption("--kills", type=int, default=20, help="how many kill -9s test_thousand_kills does")
    group.addoption("--soak", type=float, default=15.0, help="how many seconds test_soak lasts")
    group.addoption("--lives", type=int, default=40, help="how many lives of jobs test_same_id_again goes through")
    group.addoption("--states", type=int, default=30, help="how many random states test_strange_keys goes through")
    group.addoption("--jobs", type=int, default=3000, help="how many random jobs test_thousand_kills submits")


def pytest_configure(config: pytest.Config) -> None:
    for mark in MARKS:
        config.addinivalue_line("markers", mark)


@pytest.fixture
def fault(request: pytest.FixtureRequest) -> Fault:
    """The row of this test in the table of faults."""
    mark = request.node.get_closest_marker("fault")
    assert mark is not None, "a test of this folder says which fault it is"
    return Fault(*mark.args)


@pytest.fixture
def on_stage(tmp_path: Path) -> Staged:
    """Sets a stage in a folder of this test's own: see `faults.stage.staged`."""
    return partial(staged, tmp_path / "server")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Write the row: of the call, or of a set-up that did not come that far."""
    report = yield
    mark = item.get_closest_marker("fault")
    if mark is None or report.when == "teardown" or (report.when == "setup" and report.passed):
        return report
    row: Fault = getattr(item, "funcargs", {}).get("fault") or Fault(*mark.args)
    if hasattr(report, "wasxfail"):
        row.outcome = f"OPEN: {report.wasxfail}" if report.skipped else f"FAILED: passes now, {report.wasxfail}"
    elif report.skipped:
        row.outcome = f"not tested here: {report.longrepr[2] if isinstance(report.longrepr, tuple) else ''}"
    elif report.failed:
        row.outcome = f"FAILED: {str(call.excinfo.value).splitlines()[0] if call.excinfo else ''}"
    kept = {
        "number": row.number,
        "fault": row.name,
        "injected": row.injected,
        "outcome": row.outcome,
        "recovery_s": None if row.recovery_s is None else round(row.recovery_s, 3),
        "test": item.nodeid,
    }
    report.user_properties.append((FAULT, kept))  # a report comes from whatever process ran the test
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table: this is the proof."""
    reports = [
        report for kept in terminalreporter.stats.values() for report in kept if hasattr(report, "user_properties")
    ]
    kept = [row for report in reports for name, row in report.user_properties if name == FAULT]
    rows = sorted(kept, key=lambda row: int(row["number"]))
    if not rows:
        return
    terminalreporter.section("faults survived")
    lines = [("#", "fault", "injected how", "outcome", "recovery")]
    for row in rows:
        took = "" if row["recovery_s"] is None else f"{row['recovery_s']:.2f} s"
        lines.append((str(row["number"]), str(row["fault"]), str(row["injected"]), str(row["outcome"]), took))
    for number, line in enumerate(lines):
        terminalreporter.line("| " + " | ".join(line) + " |")
        if number == 0:
            terminalreporter.line("|---|---|---|---|---:|")
    open_ones = {row["number"] for row in rows if str(row["outcome"]).startswith(("FAILED", "OPEN", "not tested"))}
    numbers = {row["number"] for row in rows} - open_ones
    terminalreporter.line(f"{len(numbers)} of the 36 faults of the design survived")
    if path := config.getoption("--fault-report", None):
        servers = [str(binary) for binary in find_binaries()]
        machine = {"machine": platform.machine(), "python": platform.python_version(), "servers": servers}
        Path(path).write_text(json.dumps({**machine, "faults": rows}, indent=1) + "\n")
