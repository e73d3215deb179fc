"""The stack's own: images built once a session, the stack that they make, and what was measured, printed at the end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from servers import skip_or_fail
from stack.docker import Docker
from stack.engine import ROOT, Engine
from stack.images import Workshop
from stack.podman import Podman
from stack.stack import Stack, running

FACTS = pytest.StashKey[dict[str, str]]()
FOLDER = ROOT / ".venv-stack"
"""Where `make test-compose` puts the engine's compose; the images go there too."""
ENGINES: dict[str, type[Engine]] = {engine.name: engine for engine in (Docker, Podman)}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Which engine it is."""
    parser.addoption("--engine", choices=sorted(ENGINES), default="docker", help="what builds and runs the containers")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FACTS] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(1200))  # the first run fetches a Debian and 60 MB of wheels


@pytest.fixture(scope="session")
def facts(request: pytest.FixtureRequest) -> dict[str, str]:
    """What is printed at the end: name -> what was measured."""
    return request.config.stash[FACTS]


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest, facts: dict[str, str]) -> Iterator[Engine]:
    """The engine, running; the test is skipped where it cannot be."""
    chosen = ENGINES[request.config.getoption("--engine")](FOLDER / "images", FOLDER)
    if (reason := chosen.missing()) is not None:
        skip_or_fail(f"no containers here: {reason}")
    with chosen.running():
        facts["engine"] = chosen.versions()
        yield chosen


@pytest.fixture(scope="session")
def workshop(engine: Engine) -> Workshop:
    """Builds images."""
    return Workshop(FOLDER / "images", engine)


@pytest.fixture(scope="session")
def image(workshop: Workshop, facts: dict[str, str]) -> str:
    """Name of our image, built with everything that the stack needs besides."""
    stand_ins = workshop.stand_ins()
    name, own_bytes = workshop.ours()
    facts["stand-ins"] = ", ".join(sorted(stand_ins))
    facts["own layers"] = f"{own_bytes / 1e6:.1f} MB above the base, unpacked"
    assert own_bytes <= 200e6
    return name


@pytest.fixture(scope="session")
def stack(engine: Engine, image: str) -> Iterator[Stack]:
    """The running stack. Tests go on where the one before left it."""
    assert image
    with running(engine) as started:
        yield started


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what was measured."""
    if facts := config.stash[FACTS]:
        terminalreporter.section("the stack, as it ran")
        width = max(map(len, facts))
        for name, said in facts.items():
            terminalreporter.line(f"{name:<{width}}  {said}")
