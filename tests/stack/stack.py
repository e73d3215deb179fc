"""The stack of deploy/compose.yaml, brought up by podman-compose as it is written, on free ports."""

from __future__ import annotations

import json
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from servers import wait_until
from stack.images import ROOT, Workshop

COMPOSE = ROOT / "deploy" / "compose.yaml"
SERVED = ("redis", "worker", "redis-exporter", "prometheus", "alertmanager")
"""All but Grafana, of which no package can be had."""
UP_WITHIN_S = 120.0
PORTS = ("REDIS_PORT", "PROMETHEUS_PORT", "ALERTMANAGER_PORT")


class Stack:
    """A running stack. podman-compose is looked for in `folder`/bin, and on PATH."""

    def __init__(self, workshop: Workshop, folder: Path) -> None:
        self._workshop = workshop
        self._ports = _free_ports()
        own = folder / "bin" / "podman-compose"
        self._compose = str(own) if own.exists() else "podman-compose"
        workshop.environment.update({name: str(port) for name, port in self._ports.items()}, DEMO_RATE="50")

    # -- the engine -------------------------------------------------------------------------------------------------

    def compose(self, *arguments: str) -> str:
        """One podman-compose command on the stack."""
        profiles = [word for name in ("alerts", "demo") for word in ("--profile", name)]
        return self._workshop.run(self._compose, *profiles, "-f", COMPOSE, *arguments, timeout_s=UP_WITHIN_S)

    def podman(self, *arguments: str) -> str:
        """One podman command."""
        return self._workshop.run("podman", *arguments, timeout_s=UP_WITHIN_S)

    def up(self, workers: int = 1, services: tuple[str, ...] = SERVED) -> None:
        """Start services and wait until the workers are ready: podman 4 does not wait for that itself."""
        self.compose("up", "--detach", "--scale", f"worker={workers}", *services)
        for container in self.workers():
            wait_until(lambda name=container: self.is_healthy(name), UP_WITHIN_S, every_s=0.2)  # type: ignore[misc]

    def stop(self, *containers: str) -> None:
        """SIGTERM, and SIGKILL where the grace of compose.yaml is not enough."""
        self.podman("stop", "--time", "35", *containers)

    def down(self) -> None:
        """Away with the containers; the volumes stay. podman-compose overlooks all but the first of a service."""
        extra = [name for name in self.containers(running=False) if not name.endswith("_1") or "_demo_" in name]
        if extra:
            self.stop(*extra)
            self.podman("rm", "--depend", "--ignore", *extra)  # the demo depends on the workers, whichever comes first
        self.compose("down")

    def is_healthy(self, container: str) -> bool:
        """What the container's own health check says."""
        try:
            self.podman("healthcheck", "run", container)
        except AssertionError:
            return False
        return True

    def containers(self, *, running: bool = True) -> list[str]:
        """Names of the containers of the stack."""
        return self.podman("ps", *(() if running else ("--all",)), "--format", "{{.Names}}").split()

    def workers(self, *, running: bool = True) -> list[str]:
        """Those that are workers."""
        return sorted(name for name in self.containers(running=running) if "_worker_" in name)

    def inspect(self, container: str) -> dict[str, Any]:
        """What podman knows of a container."""
        known: list[dict[str, Any]] = json.loads(self.podman("inspect", container))
        return known[0]

    def log(self, container: str) -> list[dict[str, Any]]:
        """The lines that a container of ours wrote."""
        command = ["sh", "-c", f"podman logs {container} 2>&1"]
        lines = self._workshop.run(*command).splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    # -- what is measured -------------------------------------------------------------------------------------------

    def ready_s(self, container: str) -> float:
        """Seconds from the start of a worker's container to its line that it is ready."""
        began = datetime.fromisoformat(self.inspect(container)["State"]["StartedAt"][:26] + "+00:00")
        (line,) = (line for line in self.log(container) if line["message"] == "ready")
        return (datetime.fromisoformat(line["time"]) - began).total_seconds()

    # -- what is published ------------------------------------------------------------------------------------------

    def password(self, user: str) -> str:
        """The one that the first start made for that user."""
        return self.compose("run", "--rm", "--no-deps", "secrets", f"cat /secrets/{user}").strip()

    def redis_url(self, user: str) -> str:
        """The server's published port, for that user, password included."""
        return f"redis://{user}:{self.password(user)}@127.0.0.1:{self._ports['REDIS_PORT']}/0"

    def prometheus(self, query: str) -> list[dict[str, Any]]:
        """The samples that Prometheus has for a query now."""
        answer = self._get(f"http://127.0.0.1:{self._ports['PROMETHEUS_PORT']}/api/v1/query?query={quote(query)}")
        samples: list[dict[str, Any]] = answer["data"]["result"]
        return samples

    def alertmanager_status(self) -> dict[str, Any]:
        """What Alertmanager says of itself."""
        return self._get(f"http://127.0.0.1:{self._ports['ALERTMANAGER_PORT']}/api/v2/status")

    @staticmethod
    def _get(url: str) -> dict[str, Any]:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=10) as reply:
            answer: dict[str, Any] = json.load(reply)
        return answer


def _free_ports() -> dict[str, int]:
    """Ports that the kernel says are free, all different."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in PORTS]
    ports = {name: probe.getsockname()[1] for name, probe in zip(PORTS, probes, strict=True)}
    for probe in probes:
        probe.close()
    return ports


@contextmanager
def running(workshop: Workshop, folder: Path) -> Iterator[Stack]:
    """The stack with one worker, from nothing; nothing of it is left afterwards."""
    stack = Stack(workshop, folder)
    _clear(stack)
    try:
        stack.up()
        yield stack
    finally:
        _clear(stack)


def _clear(stack: Stack) -> None:
    stack.podman("pod", "rm", "--force", "--all")  # podman-compose puts its containers into one
    stack.podman("network", "prune", "--force")
    stack.podman("volume", "prune", "--force")
