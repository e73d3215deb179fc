"""The images of the stack on a machine that reaches no registry of images: ours from its Dockerfile, stand-ins for others.

Debian's packages and wheels are fetched once and kept in one folder, where the engine keeps its images, too.
"""

from __future__ import annotations

import platform
import re
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import yaml

from stack.engine import COMPOSE, ROOT, Engine, Recipe, run

STAND_INS = Path(__file__).parent / "stand_ins"
RELEASE, PYTHON = "trixie", "3.13"
"""Those of the base image that the Dockerfile names."""
PROGRAMS = ("valkey-server", "valkey-tools", "prometheus", "prometheus-alertmanager", "prometheus-redis-exporter")


@dataclass(frozen=True)
class Workshop:
    """Builds images with an engine that is running, from what lies in `folder`."""

    folder: Path
    engine: Engine

    def _run(self, *command: str | Path) -> str:
        return run(*command, environment=self.engine.environment)

    # -- what is built ----------------------------------------------------------------------------------------------

    def stand_ins(self) -> dict[str, str]:
        """Build the stand-ins; image name -> target, as compose.yaml and the Dockerfile name what they stand for."""
        context = self.folder / "context"
        context.mkdir(parents=True, exist_ok=True)
        self._rootfs(context / "python.tar", "python3", "ca-certificates")
        self._rootfs(context / "debian.tar", *PROGRAMS)
        self._wheels()
        if not (context / "pip").exists():
            (wheel,) = (self.folder / "wheels").glob("pip-*.whl")
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(context / "pip")
        built = {name: target for name, target in self._wanted().items() if target in self._targets()}
        for name, target in built.items():
            self.engine.build(Recipe(STAND_INS / "Dockerfile", context, target, name))
        return built

    def ours(self) -> tuple[str, int]:
        """Build our image for CPUs; its name, and the bytes that it adds to its base."""
        base = self._base()
        name = next(image for image in self._wanted() if image.startswith("convq:") and "cuda" not in image)
        self.engine.build(Recipe(ROOT / "Dockerfile", ROOT, "cpu", name, self.folder / "wheels"), base)
        return name, self.engine.size_bytes(name) - self.engine.size_bytes(base)

    @staticmethod
    def _base() -> str:
        base = re.search(r"^ARG BASE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
        assert base is not None
        assert f"python:{PYTHON}-slim-{RELEASE}" == base[1]
        return base[1]

    def _wanted(self) -> dict[str, str]:
        """Every image that the stack names, and our base -> the last part of its name."""
        services = yaml.safe_load(COMPOSE.read_text())["services"]
        images = [re.sub(r"\$\{[A-Z_]+:-(.*)\}", r"\1", one["image"]) for one in services.values()]
        return {image: image.partition(":")[0].rpartition("/")[2] for image in [*images, self._base()]}

    @staticmethod
    def _targets() -> set[str]:
        return set(re.findall(r"^FROM \S+ AS (\S+)$", (STAND_INS / "Dockerfile").read_text(), re.MULTILINE))

    # -- what it is built from --------------------------------------------------------------------------------------

    def _rootfs(self, archive: Path, *packages: str) -> None:
        """A minimal Debian with these packages, from where this machine gets its own."""
        if archive.exists():
            return
        mirrors = self._run("apt-get", "indextargets", "--format", "$(REPO_URI)").splitlines()
        part = archive.with_suffix(".part.tar")
        self._run("mmdebstrap", "--variant=minbase", f"--include={','.join(packages)}", RELEASE, part, *mirrors[:1])
        part.rename(archive)

    def _wheels(self) -> None:
        """Everything that pip will install inside the build, fetched outside, where it reaches its index."""
        wheels, wanted = self.folder / "wheels", self.folder / "requirements.txt"
        asked = self._run(sys.executable, "deploy/image/dependencies.py", "cpu", "otel")
        wanted.write_text(f"{asked}hatchling\npip\n")
        tags = [f"manylinux_2_{minor}_{platform.machine()}" for minor in (28, 27, 17)]
        tags.append(f"manylinux2014_{platform.machine()}")
        options = ["--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp"]
        options += [word for tag in tags for word in ("--platform", tag)]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(wheels), *options]
        self._run(*command, "--constraint", "constraints.txt", "--requirement", wanted)
