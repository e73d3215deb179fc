"""convq as it is watched: a server, a service, redis_exporter, Prometheus and Alertmanager with the files of deploy/.

The configurations and rules are those of deploy/, read and changed in what a test cannot wait for or look up: names of
containers become addresses, 15 seconds between scrapes become one, and every minute in a rule becomes a second (`scaled`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from servers import OwnServer, skip_or_fail, wait_until
from services import LANES, RunningService

DEPLOY = Path(__file__).parents[2] / "deploy"
TRAP = Path(__file__).parents[1] / "e2e" / "poison"
PROGRAMS = ("prometheus", "prometheus-alertmanager", "prometheus-redis-exporter")
RATE_INTERVAL = "5s"
"""What Grafana would put for $__rate_interval: four scrapes and one for good measure."""
LISTENS = "0A"


def scaled(rules: str) -> str:
    """The same rules with seconds for minutes, in `for:` and in ranges: [5m] is 5 scrapes here and 20 in real life."""
    return re.sub(r"(\[|for: )(\d+)m\b", r"\1\2s", rules)


def filled_in(expression: str, choices: Mapping[str, str]) -> str:
    """A dashboard's query with its variables replaced, as Grafana sends it."""
    text = expression.replace("$__rate_interval", RATE_INTERVAL)
    for name, value in choices.items():
        text = text.replace(f"${name}", value)
    return text


class Program:
    """A server program that picks a free port of loopback itself, from `with` to SIGTERM."""

    def __init__(self, log: Path, command: Sequence[str], **settings: str) -> None:
        self._log = log
        self._command = command
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            environment = os.environ | self._settings
            self._process = subprocess.Popen(self._command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)

    @property
    def address(self) -> str:
        """HOST:PORT where it listens, waiting for that; fails with its log when it ends instead."""
        return f"127.0.0.1:{wait_until(self._port, 20)}"

    def _port(self) -> int | None:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text(errors="replace")[-2000:]
        return listening_port(self._process.pid)


def listening_port(pid: int) -> int | None:
    """The TCP port that a process listens on, from /proc; None where it does not yet."""
    sockets = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            sockets.add(descriptor.readlink().name)
        except OSError:  # closed while we looked
            continue
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == LISTENS and f"socket:[{inode}]" in sockets:
                return int(local.rpartition(":")[2], 16)
    return None


class Stand:
    """All of it. `service` may be stopped and `serve` called again: Prometheus finds the new one."""

    def __init__(self, folder: Path, *options: str) -> None:
        if sys.platform != "linux":
            skip_or_fail("ports are looked up in /proc, which Linux has")
        for program in PROGRAMS:
            if shutil.which(program) is None:
                skip_or_fail(f"{program} is not installed")
        self._folder = folder
        self._options = options
        self._stack = ExitStack()
        self.began_s = time.time()
        self.server = OwnServer(folder / "data")
        self.service = self._new_service()
        self.prometheus = self.alertmanager = self.exporter = ""

    def _new_service(self) -> RunningService:
        """Two workers whose network crashes on a magic pixel; see tests/e2e/poison."""
        path = os.pathsep.join([str(TRAP), *filter(None, [os.environ.get("PYTHONPATH")])])
        return RunningService(self.server.url, *self._options, PYTHONPATH=path)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.server)
            stack.callback(self._stop_service)
            self.service.start()
            self.exporter = stack.enter_context(self._redis_exporter()).address
            self._point_at("convq-redis", self.exporter)
            self._point_at("convq", self.service.http.removeprefix("http://"))
            self.alertmanager = stack.enter_context(self._alertmanager()).address
            self.prometheus = stack.enter_context(self._prometheus()).address
            wait_until(lambda: answers(f"http://{self.prometheus}/-/ready"), 30)
            wait_until(lambda: self.value('sum(up{job=~".*convq.*"})') == 2, 30)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def serve(self) -> None:
        """Start a service again, after `service.stop`."""
        self.service = self._new_service()
        self.service.start()
        self._point_at("convq", self.service.http.removeprefix("http://"))

    def _stop_service(self) -> None:
        if self.service.process.poll() is None:
            self.service.stop()

    # -- the programs ---------------------------------------------------------------------------------------------

    def _redis_exporter(self) -> Program:
        streams = ",".join(f"db0={stream}" for stream in LANES)
        command = [PROGRAMS[2], "-web.listen-address", "127.0.0.1:0", "-redis.addr", self.server.url]
        return Program(self._folder / "exporter.log", [*command, "-check-single-streams", streams])

    def _alertmanager(self) -> Program:
        config = yaml.safe_load((DEPLOY / "alertmanager" / "alertmanager.yml").read_text())
        config["route"] |= {"group_wait": "1s", "group_interval": "1s"}
        file = self._folder / "alertmanager.yml"
        file.write_text(yaml.safe_dump(config))
        command = [PROGRAMS[1], f"--config.file={file}", f"--storage.path={self._folder / 'alerts'}"]
        command += ["--web.listen-address=127.0.0.1:0", "--cluster.listen-address="]
        return Program(self._folder / "alertmanager.log", command)

    def _prometheus(self) -> Program:
        rules = self._folder / "rules"
        rules.mkdir()
        for file in (DEPLOY / "prometheus" / "rules").glob("*.yml"):
            (rules / file.name).write_text(scaled(file.read_text()))
        config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
        config["global"] |= {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [self.alertmanager]}]}]
        config["scrape_configs"] = [
            {"job_name": job, "file_sd_configs": [{"files": [str(self._targets(job))], "refresh_interval": "1s"}]}
            for job in (one["job_name"] for one in config["scrape_configs"])
            if job != "prometheus"
        ]
        (self._folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        command = [PROGRAMS[0], f"--config.file={self._folder / 'prometheus.yml'}", "--web.listen-address=127.0.0.1:0"]
        command += [f"--storage.tsdb.path={self._folder / 'series'}", "--rules.alert.resend-delay=1s"]
        return Program(self._folder / "prometheus.log", command)

    def _targets(self, job: str) -> Path:
        return self._folder / f"{job}.json"

    def _point_at(self, job: str, address: str) -> None:
        self._targets(job).write_text(json.dumps([{"targets": [address]}]))

    # -- what they say --------------------------------------------------------------------------------------------

    def instant(self, expression: str) -> list[dict[str, Any]]:
        """The samples of a query, as of now."""
        return self._ask("query", query=expression)

    def value(self, expression: str) -> float | None:
        """The one value of a query; None where there is none."""
        found = self.instant(expression)
        return float(found[0]["value"][1]) if found else None

    def history(self, expression: str, since_s: float | None = None) -> list[dict[str, Any]]:
        """The series of a query, second by second until now, since then (wall clock) or since the stand began."""
        now_s = time.time()
        past_s = int(now_s - (self.began_s if since_s is None else since_s))
        return self._ask("query_range", query=expression, start=now_s - past_s, end=now_s, step=1)

    def _ask(self, what: str, **parameters: object) -> list[dict[str, Any]]:
        reply = fetched(f"http://{self.prometheus}/api/v1/{what}?{urllib.parse.urlencode(parameters)}")
        series: list[dict[str, Any]] = reply["data"]["result"]
        return series

    def alerts(self) -> dict[str, dict[str, Any]]:
        """The alerts that Alertmanager holds as firing, by name."""
        held = fetched(f"http://{self.alertmanager}/api/v2/alerts?active=true")
        return {alert["labels"]["alertname"]: alert for alert in held}

    def tell_alertmanager(self, alerts: Sequence[Mapping[str, str]]) -> None:
        """Report alerts with these labels, as Prometheus would."""
        body = json.dumps([{"labels": labels} for labels in alerts]).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://{self.alertmanager}/api/v2/alerts", body, headers)
        urllib.request.urlopen(request, timeout=10).close()  # noqa: S310 - our own loopback address


def fetched(url: str) -> Any:
    """A page of JSON."""
    with urllib.request.urlopen(url, timeout=20) as reply:  # noqa: S310 - our own loopback address
        return json.load(reply)


def answers(url: str) -> bool:
    """Whether a page is there, and not an error."""
    try:
        urllib.request.urlopen(url, timeout=20).close()  # noqa: S310 - our own loopback address
    except urllib.error.URLError:
        return False
    return True
