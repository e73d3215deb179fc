"""The images of the stack on a machine that reaches no registry of images: ours from its Dockerfile, stand-ins for others.

All of it lies in one folder, podman's storage included: nothing of the machine's own containers is seen or touched.
Debian's packages and wheels are fetched once and kept there.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
STAND_INS = Path(__file__).parent / "stand_ins"
PACKAGES = {  # Debian package -> what is looked for
    "buildah": "buildah",
    "podman": "podman",
    "runc": "runc",
    "mmdebstrap": "mmdebstrap",
    "iptables": "iptables",
    "catatonit": "catatonit",
    "netavark": "/usr/lib/podman/netavark",
    "aardvark-dns": "/usr/lib/podman/aardvark-dns",
}
RELEASE, PYTHON = "trixie", "3.13"
"""Those of the base image that the Dockerfile names."""
PROGRAMS = ("valkey-server", "valkey-tools", "prometheus", "prometheus-alertmanager", "prometheus-redis-exporter")
BUILD_WITHIN_S = 900


def missing(folder: Path) -> str | None:
    """Why images can be neither built nor run here; None where they can. `folder` may hold bin/podman-compose."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "containers are built and run as root, on Linux"
    packages = [package for package, path in PACKAGES.items() if shutil.which(path) is None]
    if packages:
        return f"apt-get install {' '.join(packages)}"
    compose = shutil.which("podman-compose") or shutil.which(folder / "bin" / "podman-compose")
    return None if compose else "make test-compose installs podman-compose"


@dataclass(frozen=True)
class Workshop:
    """Builds images in `folder`, by themselves apart from what the machine has."""

    folder: Path

    @cached_property
    def environment(self) -> dict[str, str]:
        """What buildah, podman and podman-compose run with."""
        self.folder.mkdir(parents=True, exist_ok=True)
        storage, containers = self.folder / "storage.conf", self.folder / "containers.conf"
        storage.write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{self.folder}/storage"\nrunroot = "{self.folder}/run"\n'
        )
        # crun refuses mixed cgroups; a default limit cannot be raised without CAP_SYS_RESOURCE.
        containers.write_text(
            f'[containers]\ndefault_ulimits = []\ninit_path = "{shutil.which("catatonit")}"\n'
            f'[engine]\nruntime = "{shutil.which("runc")}"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
            f'[network]\nnetwork_backend = "netavark"\nnetwork_config_dir = "{self.folder}/networks"\n'
        )
        return {
            **os.environ,
            "CONTAINERS_STORAGE_CONF": str(storage),
            "CONTAINERS_CONF": str(containers),
            "BUILDAH_ISOLATION": "chroot",
        }

    def run(self, *command: str | Path, timeout_s: float = BUILD_WITHIN_S) -> str:
        """Run a program; what it printed. Fails with that where the program does."""
        done = subprocess.run(
            list(map(str, command)),
            env=self.environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert 0 == done.returncode, f"{' '.join(map(str, command))}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

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
            self._build(STAND_INS / "Dockerfile", context, target, name)
        return built

    def ours(self) -> tuple[str, int]:
        """Build our image for CPUs; its name, and the bytes that it adds to its base."""
        base = self._base()
        name = next(image for image in self._wanted() if image.startswith("convq:") and "cuda" not in image)
        options = ["--volume", f"{self.folder}/wheels:/wheels:ro", "--build-arg", f"BASE=localhost/{base}"]
        options += ["--build-arg", "PIP_NO_INDEX=1", "--build-arg", "PIP_FIND_LINKS=/wheels"]
        self._build(ROOT / "Dockerfile", ROOT, "cpu", name, *options)
        sizes = [int(self.run("podman", "image", "inspect", one, "--format", "{{.Size}}")) for one in (name, base)]
        return name, sizes[0] - sizes[1]

    def _build(self, dockerfile: Path, context: Path, target: str, name: str, *options: str) -> None:
        command = ["buildah", "bud", "--layers", "--format", "docker", "--file", str(dockerfile), "--target", target]
        self.run(*command, *options, "--tag", f"localhost/{name}", context)

    @staticmethod
    def _base() -> str:
        base = re.search(r"^ARG BASE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
        assert base is not None
        assert f"python:{PYTHON}-slim-{RELEASE}" == base[1]
        return base[1]

    def _wanted(self) -> dict[str, str]:
        """Every image that the stack names, and our base -> the last part of its name."""
        services = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]
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
        mirrors = self.run("apt-get", "indextargets", "--format", "$(REPO_URI)").splitlines()
        part = archive.with_suffix(".part.tar")
        self.run("mmdebstrap", "--variant=minbase", f"--include={','.join(packages)}", RELEASE, part, *mirrors[:1])
        part.rename(archive)

    def _wheels(self) -> None:
        """Everything that pip will install inside the build, fetched outside, where it reaches its index."""
        wheels, wanted = self.folder / "wheels", self.folder / "requirements.txt"
        asked = self.run(sys.executable, "deploy/image/dependencies.py", "cpu", "otel")
        wanted.write_text(f"{asked}hatchling\npip\n")
        tags = [f"manylinux_2_{minor}_{platform.machine()}" for minor in (28, 27, 17)]
        tags.append(f"manylinux2014_{platform.machine()}")
        options = ["--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp"]
        options += [word for tag in tags for word in ("--platform", tag)]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(wheels), *options]
        self.run(*command, "--constraint", "constraints.txt", "--requirement", wanted)
