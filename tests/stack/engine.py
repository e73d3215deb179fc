"""What builds images and runs the stack, docker or podman: the words that both have, and where each has its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "deploy" / "compose.yaml"
PROFILES = ("--profile", "alerts", "--profile", "demo")
WITHIN_S = 900.0


def run(*command: str | Path, environment: Mapping[str, str], timeout_s: float = WITHIN_S) -> str:
    """Run a program in the root of the checkout; what it printed. Fails with that where the program does."""
    done = subprocess.run(
        list(map(str, command)),
        env=environment,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert 0 == done.returncode, f"{' '.join(map(str, command))}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


@dataclass(frozen=True)
class Recipe:
    """How an image is made: a target of a Dockerfile, what lies around it, and wheels for pip where it needs some."""

    dockerfile: Path
    context: Path
    target: str
    name: str
    wheels: Path | None = None


class Engine(ABC):
    """An engine with storage of its own below `folder`: nothing of the machine's own containers is seen or touched.

    Its compose was installed below `tools`. `environment` is what its programs run with; whoever starts the stack adds
    what compose.yaml lets one change.
    """

    name: ClassVar[str]
    programs: ClassVar[Mapping[str, str]]
    """What is looked for -> the Debian package that has it."""
    joiner: ClassVar[str]
    """What stands between the parts of a container's name."""

    def __init__(self, folder: Path, tools: Path) -> None:
        self.folder = folder
        self.tools = tools
        self.environment = dict(os.environ)

    def missing(self) -> str | None:
        """Why images can be neither built nor run here; None where they can."""
        if sys.platform != "linux" or os.geteuid() != 0:
            return "containers are built and run as root, on Linux"
        packages = {package for program, package in self.programs.items() if shutil.which(program) is None}
        if packages:
            return f"apt-get install --no-install-recommends {' '.join(sorted(packages))}"
        return None if self.has_compose() else f"make test-compose ENGINE={self.name} installs its compose"

    @abstractmethod
    def has_compose(self) -> bool:
        """Whether its compose is where it is looked for."""

    @abstractmethod
    def running(self) -> AbstractContextManager[None]:
        """Ready to work in there; what was started for that is gone afterwards."""

    @abstractmethod
    def versions(self) -> str:
        """What it is, and its compose, for people."""

    def call(self, *arguments: str, timeout_s: float = WITHIN_S) -> str:
        """One command of the engine's own, which both understand."""
        return run(self.name, *arguments, environment=self.environment, timeout_s=timeout_s)

    @abstractmethod
    def compose(self, *arguments: str, timeout_s: float = WITHIN_S) -> str:
        """One command of compose on the stack."""

    # -- images -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def build(self, recipe: Recipe, base: str | None = None) -> None:
        """Build an image; on that `base`, where the Dockerfile asks for one. No registry is asked."""

    def size_bytes(self, image: str) -> int:
        """Size of an image, unpacked."""
        return int(self.call("image", "inspect", image, "--format", "{{.Size}}"))

    # -- containers -------------------------------------------------------------------------------------------------

    def container(self, service: str, number: int = 1) -> str:
        """The name that compose gives the container of a service, counted from 1."""
        return self.joiner.join(("convq", service, str(number)))

    def containers(self, *, running: bool = True) -> list[str]:
        """Names of the containers of the stack."""
        return self.call("ps", *(() if running else ("--all",)), "--format", "{{.Names}}").split()

    def workers(self, *, running: bool = True) -> list[str]:
        """Those that are workers."""
        first = self.container("worker").removesuffix("1")
        return sorted(name for name in self.containers(running=running) if name.startswith(first))

    @abstractmethod
    def is_healthy(self, container: str) -> bool:
        """What the container's own health check says."""

    @abstractmethod
    def stop_workers(self) -> None:
        """SIGTERM to all of them, and SIGKILL where the grace of compose.yaml is not enough."""

    @abstractmethod
    def down(self) -> None:
        """Away with the containers; the volumes stay."""

    @abstractmethod
    def clear(self) -> None:
        """Away with containers, networks and volumes, whatever there is of them."""
