"""The stack of deploy/compose.yaml, brought up by an engine's compose as it is written, on free ports."""

from __future__ import annotations

import json
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from urllib.parse import quote

from servers import wait_until
from stack.engine import Engine, run

SERVED = ("redis", "worker", "redis-exporter", "prometheus", "alertmanager")
"""All but Grafana, of which no package can be had."""
UP_WITHIN_S = 120.0
PORTS = ("REDIS_PORT", "PROMETHEUS_PORT", "ALERTMANAGER_PORT")


class Stack:
    """A running stack."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._ports = _free_ports()
        engine.environment |= {name: str(port) for name, port in self._ports.items()} | {"DEMO_RATE": "50"}

    # -- the engine -------------------------------------------------------------------------------------------------

    def call(self, *arguments: str) -> str:
        """One command of the engine."""
        return self.engine.call(*arguments, timeout_s=UP_WITHIN_S)

    def up(self, workers: int = 1, services: tuple[str, ...] = SERVED) -> None:
        """Start services and wait until the workers are ready: podman 4 does not wait for that itself."""
        scale = ["--scale", f"worker={workers}"]
        self.engine.compose("up", "--detach", *scale, *services, timeout_s=UP_WITHIN_S)
        for container in self.engine.workers():
            self.wait_until_healthy(container)

    def wait_until_healthy(self, container: str) -> None:
        """Wait for a container's own health check."""
        wait_until(lambda: self.engine.is_healthy(container), UP_WITHIN_S, every_s=0.2)

    def container(self, service: str, number: int = 1) -> str:
        """The name of the container of a service, counted from 1."""
        return self.engine.container(service, number)

    def inspect(self, container: str) -> dict[str, Any]:
        """What the engine knows of a container."""
        known: list[dict[str, Any]] = json.loads(self.call("inspect", container))
        return known[0]

    def log(self, container: str) -> list[dict[str, Any]]:
        """The lines that a container of ours wrote."""
        command = ["sh", "-c", f"{self.engine.name} logs {container} 2>&1"]
        lines = run(*command, environment=self.engine.environment).splitlines()
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
        return self.engine.compose("run", "--rm", "--no-deps", "secrets", f"cat /secrets/{user}").strip()

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
def running(engine: Engine) -> Iterator[Stack]:
    """The stack with one worker, from nothing; nothing of it is left afterwards."""
    stack = Stack(engine)
    engine.clear()
    try:
        stack.up()
        yield stack
    finally:
        engine.clear()
