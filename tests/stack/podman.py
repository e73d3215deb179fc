"""The stack on podman: buildah builds, podman-compose reads compose.yaml."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from stack.engine import COMPOSE, PROFILES, WITHIN_S, Engine, Recipe, run


class Podman(Engine):
    """No daemon: podman's storage, networks and settings lie in the folder."""

    name = "podman"
    joiner = "_"
    programs: ClassVar = {
        "buildah": "buildah",
        "podman": "podman",
        "runc": "runc",
        "mmdebstrap": "mmdebstrap",
        "ip": "iproute2",
        "iptables": "iptables",
        "catatonit": "catatonit",
        "/usr/lib/podman/netavark": "netavark",
        "/usr/lib/podman/aardvark-dns": "aardvark-dns",
    }

    def _program(self) -> str | None:
        return shutil.which(self.tools / "bin" / "podman-compose") or shutil.which("podman-compose")

    def has_compose(self) -> bool:
        return self._program() is not None

    @contextmanager
    def running(self) -> Iterator[None]:
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
        self.environment |= {
            "CONTAINERS_STORAGE_CONF": str(storage),
            "CONTAINERS_CONF": str(containers),
            "BUILDAH_ISOLATION": "chroot",
        }
        yield

    def versions(self) -> str:
        return ", ".join(self.compose("version").splitlines())

    def compose(self, *arguments: str, timeout_s: float = WITHIN_S) -> str:
        program = self._program()
        assert program is not None
        return run(program, *PROFILES, "-f", COMPOSE, *arguments, environment=self.environment, timeout_s=timeout_s)

    def build(self, recipe: Recipe, base: str | None = None) -> None:
        options = ["--layers", "--format", "docker", "--file", str(recipe.dockerfile), "--target", recipe.target]
        if base is not None:
            options += ["--build-arg", f"BASE=localhost/{base}"]
        if recipe.wheels is not None:
            options += ["--volume", f"{recipe.wheels}:/wheels:ro"]
            options += ["--build-arg", "PIP_NO_INDEX=1", "--build-arg", "PIP_FIND_LINKS=/wheels"]
        tag = f"localhost/{recipe.name}"
        run("buildah", "bud", *options, "--tag", tag, recipe.context, environment=self.environment)

    def is_healthy(self, container: str) -> bool:
        try:
            self.call("healthcheck", "run", container)  # podman 4 asks by itself only under systemd
        except AssertionError:
            return False
        return True

    def stop_workers(self) -> None:
        self._stop(self.workers())

    def _stop(self, containers: list[str]) -> None:
        self.call("stop", "--time", "35", *containers)

    def down(self) -> None:
        # podman-compose overlooks all but the first of a service; the demo depends on the workers, whichever comes first
        extra = [name for name in self.containers(running=False) if not name.endswith("_1") or "_demo_" in name]
        if extra:
            self._stop(extra)
            self.call("rm", "--depend", "--ignore", *extra)
        self.compose("down")

    def clear(self) -> None:
        self.call("pod", "rm", "--force", "--all")  # podman-compose puts its containers into one
        self.call("network", "prune", "--force")
        self.call("volume", "prune", "--force")
