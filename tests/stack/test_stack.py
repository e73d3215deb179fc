"""deploy/compose.yaml for real: our image, real servers in containers, jobs through the published port, and kill -9.

The tests are one story and run in the order in which they stand. Other images than ours are stand-ins from Debian's
packages, and so other versions than compose.yaml pins; Grafana is left out.
"""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from convq import Client
from servers import wait_until
from services import JOBS as STREAM
from services import Ledger, Plain, digit_labels, digits, image_of
from stack.engine import ROOT, Engine
from stack.outside import REACH, host_outside
from stack.stack import SERVED, Stack

LOCKED = ("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none")
ONCE = ("--rm", "--no-healthcheck")
SCRAPED_WITHIN_S = 60
JOBS = 6000
PRIVATE = ("slowlog|get", "latency|histogram")
"""What redis_exporter asks for and may not have: it goes on without."""


def test_the_image_holds_no_installer_no_compiler_and_no_torch(
    engine: Engine, image: str, facts: dict[str, str]
) -> None:
    files = engine.call("run", *ONCE, "--user=0", "--entrypoint", "find", image, "/", "-xdev").splitlines()

    foreign = re.compile(
        r"/(site|dist)-packages/(pip|torch|setuptools|hatchling|onnx)(/|$)|/site-packages/.*/tests$|/ensurepip$"
        r"|/bin/(pip[\d.]*|gcc|g\+\+|cc|ld|make|curl)$"
    )
    assert [] == [one for one in files if foreign.search(one)]
    assert {"/models/lenet/1/model.onnx", "/opt/convq/bin/convq", "/usr/local/bin/probe"} <= set(files)
    facts["files"] = f"{len(files):,}, no pip, no compiler, no torch"


def test_the_image_works_without_any_right_on_a_root_that_is_read_only(engine: Engine, image: str) -> None:
    listed = engine.call("run", *ONCE, *LOCKED, image, "models", "list")
    who = engine.call("run", *ONCE, *LOCKED, "--entrypoint", "id", image)

    assert {"digits_detector", "edges", "gaussian_blur", "lenet"} <= set(re.findall(r'"(\w+)"', listed))
    assert who.startswith("uid=10001(convq) gid=10001(convq)")


def test_a_folder_that_is_mounted_on_models_wins_over_those_of_the_image(
    engine: Engine, image: str, tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "models" / "edges", tmp_path / "mine")
    tmp_path.chmod(0o755)

    listed = engine.call("run", *ONCE, *LOCKED, f"--volume={tmp_path}:/models:ro", image, "models", "list")

    assert "mine" in listed
    assert "lenet" not in listed


def test_the_limits_of_a_container_are_seen_inside(engine: Engine, image: str) -> None:
    limited = ("--cpus=1.5", "--memory=700m", "--entrypoint=python")
    ask = "from convq.host.cgroups import *; print(cpu_limit(), memory_limit_bytes())"

    assert f"1.5 {700 << 20}" == engine.call("run", *ONCE, *LOCKED, *limited, image, "-c", ask).strip()


def test_the_stack_is_up_and_every_health_check_says_so(stack: Stack, facts: dict[str, str]) -> None:
    facts["start to ready"] = (
        f"{stack.ready_s(stack.container('worker')):.2f} s: one worker with three models, in its container"
    )
    for service in ("redis", "worker", "prometheus", "alertmanager"):
        stack.wait_until_healthy(stack.container(service))

    assert {stack.container(service) for service in SERVED} <= set(stack.engine.containers())
    assert 0 == stack.inspect(stack.container("secrets"))["State"]["ExitCode"]
    assert 43 == len(stack.password("producer"))


def test_a_worker_has_no_rights(stack: Stack) -> None:
    status = stack.call("exec", stack.container("worker"), "cat", "/proc/self/status")
    known = stack.inspect(stack.container("worker"))

    secrets = stack.call("exec", stack.container("worker"), "ls", "/run/secrets")
    assert ["password"] == secrets.split()
    assert re.search(r"^CapBnd:\s+0+$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
    assert known["HostConfig"]["ReadonlyRootfs"] is True
    assert 4 << 30 == known["HostConfig"]["Memory"]


def test_a_worker_has_no_way_out_of_its_network(stack: Stack, image: str) -> None:
    with host_outside():
        stack.call("run", *ONCE, "--network=convq_outside", "--entrypoint=python", image, "-c", REACH)
        with pytest.raises(AssertionError, match=r"timed out|Network is unreachable"):
            stack.call("exec", stack.container("worker"), "python", "-c", REACH)


def test_digits_pushed_through_the_published_port_are_read(stack: Stack, facts: dict[str, str]) -> None:
    pictures = [image_of(pixels) for pixels in digits()[:500]]
    with Client(stack.redis_url("producer"), model="lenet") as client:
        results = list(client.map(pictures, timeout=30))

    right = sum(result.ok and result.label == label for result, label in zip(results, digit_labels(), strict=False))
    assert 490 <= right
    facts["digits"] = f"{right} of {len(pictures)} read right, through the published port"


def test_prometheus_scrapes_every_worker_there_is(stack: Stack, facts: dict[str, str]) -> None:
    stack.up(workers=3)

    began_s = time.monotonic()
    wait_until(lambda: 3 == len(up(stack, "convq")), SCRAPED_WITHIN_S, every_s=0.5)
    facts["scaled to 3"] = f"Prometheus scrapes all three {time.monotonic() - began_s:.0f} s after they were ready"
    wait_until(lambda: 1 == len(up(stack, "convq-redis")), SCRAPED_WITHIN_S, every_s=0.5)
    wait_until(lambda: stack.prometheus('sum(convq_workers{model="lenet"}) == 3'), SCRAPED_WITHIN_S, every_s=0.5)
    (streams,) = stack.prometheus('count(redis_stream_length{stream=~".*:jobs(:high|:low)?"})')
    assert 9 == float(streams["value"][1])
    assert "people" in stack.alertmanager_status()["config"]["original"]


def up(stack: Stack, job: str) -> list[str]:
    """The targets of a job that Prometheus scrapes."""
    return [one["metric"]["instance"] for one in stack.prometheus(f'up{{job="{job}"}} == 1')]


def test_kill_9_of_a_worker_s_container_loses_nothing_and_answers_nothing_twice(
    stack: Stack, facts: dict[str, str]
) -> None:
    with Plain(stack.redis_url("admin")) as plain, submitting(ledger := Ledger(plain, "killed")) as submitted:
        wait_until(lambda: len(ledger.submitted) > JOBS // 4, 30)
        stack.call("kill", "--signal", "KILL", stack.container("worker", 2))
        submitted.wait(60)
        ledger.settle(60)

    facts["kill -9"] = f"{JOBS:,} jobs while one of three workers was killed: 0 lost, 0 answered twice"


@contextmanager
def submitting(ledger: Ledger) -> Iterator[threading.Event]:
    """Submit JOBS jobs in a steady stream meanwhile; the event says that all are in."""
    done = threading.Event()

    def submit() -> None:
        for _ in range(JOBS // 100):
            ledger.submit(100)
            done.wait(0.02)  # some 3,000 jobs a second, so that the kill meets work in progress
        done.set()

    thread = threading.Thread(target=submit)
    thread.start()
    try:
        yield done
    finally:
        thread.join()


def test_the_demo_sends_digits_and_they_are_counted(stack: Stack, facts: dict[str, str]) -> None:
    stack.up(workers=3, services=("demo",))

    wait_until(lambda: stack.log(stack.container("demo")), 60, every_s=0.5)
    report = stack.log(stack.container("demo"))[0]
    assert 500 == report["accepted"] == report["ok"]
    facts["demo"] = (
        f"500 digits at 50 a second: p50 {report['latency']['p50_ms']:.1f} ms, p99 {report['latency']['p99_ms']:.1f} ms"
    )
    wait_until(
        lambda: any(
            float(one["value"][1]) > 0 for one in stack.prometheus('sum(rate(convq_jobs_total{outcome="ok"}[1m]))')
        ),
        SCRAPED_WITHIN_S,
        every_s=0.5,
    )
    stack.call("stop", stack.container("demo"))
    assert 0 == stack.inspect(stack.container("demo"))["State"]["ExitCode"]


def test_workers_drain_when_they_are_stopped(stack: Stack, facts: dict[str, str]) -> None:
    stack.up(workers=3)
    with Plain(stack.redis_url("admin")) as plain, submitting(ledger := Ledger(plain, "drained")) as submitted:
        wait_until(lambda: len(ledger.submitted) > JOBS // 4, 30)
        began_s = time.monotonic()
        stack.engine.stop_workers()
        took_s = time.monotonic() - began_s
        submitted.wait(60)

        assert [0, 0, 0] == [stack.inspect(name)["State"]["ExitCode"] for name in stack.engine.workers(running=False)]
        assert 0 == plain.pending()
        while ledger.read(0.1):
            pass
        waiting = plain.redis.xlen(STREAM)
        assert 0 < waiting
        assert JOBS == len(ledger.answers) + waiting
        assert {1} == set(ledger.answers.values())
        facts["drain"] = f"three workers stopped in {took_s:.1f} s under load: all exit 0, no job held, none lost"


def test_what_waits_is_kept_over_down_and_up_and_then_answered(stack: Stack, facts: dict[str, str]) -> None:
    with Plain(stack.redis_url("admin")) as plain:
        ledger = Ledger(plain, "kept")
        ledger.submit(500)
        before = set(ledger.submitted)
    password = stack.password("admin")

    stack.engine.down()
    assert [] == stack.engine.containers(running=False)
    stack.up()

    assert password == stack.password("admin")
    with Plain(stack.redis_url("admin")) as plain:
        ledger.plain = plain
        ledger.settle(60)
    assert before == set(ledger.answers)
    facts["down and up"] = f"{len(before)} jobs were kept and answered"


def test_nobody_was_refused_a_command(stack: Stack) -> None:
    with Plain(stack.redis_url("admin")) as plain:
        log = [[entry[name] for name in ("username", "object", "context")] for entry in plain.redis.acl_log()]
    refused = [entry for entry in log if entry[1] not in PRIVATE]

    assert [] == refused
