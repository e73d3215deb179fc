"""A failed test is tried once more, where `--second-try` asks for it: `.ci/run` does, nobody at a desk.

It is tried when all others are done and every fixture is gone, so that it finds nothing that its first try left. If it
passes then, the run may be green, and says FLAKY with the test's name; what fails twice has failed.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

MOST = 30
"""More failures than this are no accident: they stand as they are, and the run ends soon."""


def pytest_addoption(parser: pytest.Parser) -> None:
    about = "try a failed test once more at the end, and append a FLAKY line to FILE where it passes"
    parser.addoption("--second-try", metavar="FILE", type=Path, help=about)


def pytest_configure(config: pytest.Config) -> None:
    if file := config.getoption("--second-try"):
        config.pluginmanager.register(SecondTry(file), "second try")


class SecondTry:
    """Collects what failed, runs it again, and settles the count of failures."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._failed: dict[str, list[pytest.TestReport]] = {}
        self._flaky: list[pytest.TestReport] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed.setdefault(report.nodeid, []).append(report)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        ended = yield
        again = [item for item in session.items if item.nodeid in self._failed]
        if len(again) > MOST:
            return ended
        first, self._failed = self._failed, {}
        for number, item in enumerate(again, 1):
            following = again[number] if number < len(again) else None
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if item.nodeid not in self._failed:
                self._flaky += first[item.nodeid]
                session.testsfailed -= len(first[item.nodeid])
        return ended

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """How it failed is printed by now; here it leaves the failures that are counted and listed."""
        if not self._flaky:
            return
        for kind in ("failed", "error"):
            reports = terminalreporter.stats.get(kind, [])
            reports[:] = [report for report in reports if report not in self._flaky]
        terminalreporter.stats["flaky"] = list(self._flaky)
        lines = [f"FLAKY {report.nodeid} ({report.when})" for report in self._flaky]
        with self._file.open("a") as file:
            file.writelines(f"{line}\n" for line in lines)
        for line in lines:
            terminalreporter.line(line)
