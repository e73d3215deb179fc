"""The same job by convq and by what may be used in its place, side by side in one run on this machine.

    python tests/bench/alternatives/compare.py [--rounds 5] [--kills 3] [--calm S] [--environment DIR]

Classifies the sample digits, as PNG files, with lenet: a plain loop around onnxruntime (single images, and batches of 64),
convq, Celery and mosec, each with two worker processes of one onnxruntime thread. Measures

- jobs a second, as fast as they go, in rounds in which each has its turn: the machine's noise hits all;
- milliseconds from when a job was due to its answer, at 20 jobs a second;
- what became of 2,000 jobs when a worker was killed in their midst, and when one of two services was killed with its worker.

All answers are compared with those of onnxruntime in one run. Makes an environment for the alternatives (requirements.txt) in
a temporary folder, or keeps it in DIR. Prints a table on a terminal and JSON in a pipe: `result.json`, of which the README tells.
With --calm each round waits so many seconds at most for a moment in which little else runs. Needs Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import figures
import noise
from convq.embedded import EmbeddedServer
from figures import Rate
from systems import HERE, Call, Place, Service, cpu_s, wait

SHARED = ("numpy", "onnxruntime", "pillow")
"""Packages of which the alternatives get the version that convq runs with."""
SERVICES = ("convq", "celery", "mosec")
BARE = ("bare_1", "bare_64")
JOBS = {"bare_1": 4000, "bare_64": 6000, "convq": 6000, "celery": 1000, "mosec": 4000}
"""How many make a turn of a few seconds."""
WORKERS = 2
WARM_UP = 300
RATE = 20
PACED_JOBS = 80
KILL_JOBS = 2000
KILL_AFTER = 600
PATIENCE_S = 30.0
"""Without any new answer for so long, a job counts as never answered."""
GRACE_S = 3.0
"""How long second answers are waited for."""


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--calm", type=float, default=0.0, metavar="S", help="wait for quiet before each round")
    parser.add_argument("--environment", type=Path, metavar="DIR", help="default: a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="convq-alternatives-") as temporary, ExitStack() as stack:
        folder = Path(temporary)
        python = environment(options.environment or folder / "environment")
        server = stack.enter_context(EmbeddedServer.start(folder / "server", port=0))
        before = os.getloadavg()
        place = Place(stack, server, python, folder)
        report = {
            **measure(place, options.rounds, options.kills, options.calm),
            "settings": settings(options.rounds, options.kills),
            "versions": versions(python, server.version),
            "machine": machine(before),
        }
    print(figures.table(report) if sys.stdout.isatty() else json.dumps(report, indent=2))


def environment(folder: Path) -> Path:
    """The Python of an environment with the alternatives in `folder`, made if it is not there."""
    python = folder / "bin" / "python"
    if not python.exists():
        progress("making an environment for the alternatives")
        venv.create(folder, with_pip=True)
        pins = [f"{name}=={version(name)}" for name in SHARED]
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "-r", HERE / "requirements.txt", *pins],
            check=True,
            stdout=sys.stderr,
        )
    return python


def measure(place: Place, rounds: int, kills: int, calm_s: float) -> dict[str, Any]:
    """All three parts, with the same services."""
    services = {name: place.start(name, WORKERS) for name in SERVICES}
    calls = {name: place.call(name, services[name].address if name in services else "") for name in (*BARE, *SERVICES)}
    for call in calls.values():
        right(call.order("many", jobs=WARM_UP))
    busy: list[float] = []
    rates: dict[str, list[Rate]] = {name: [] for name in calls}
    spent_ms: dict[str, list[float]] = {name: [] for name in ("bare_1", *SERVICES)}
    for number in range(rounds):
        busy.append(round(noise.calm(calm_s), 2))
        progress(f"round {number + 1} of {rounds}; others take {busy[-1]:.0%} of the machine")
        for name in turns(list(rates), number):
            rates[name].append(rate(place, calls[name], services.get(name), JOBS[name]))
        for name in turns(list(spent_ms), number):
            spent_ms[name] += right(calls[name].order("paced", jobs=PACED_JOBS, rate=RATE))["spent_ms"]
    workers_killed: dict[str, list[dict[str, Any]]] = {name: [] for name in SERVICES}
    for number in range(kills):
        for name, service in services.items():
            progress(f"kill {number + 1} of {kills}: a worker of {name}")
            workers_killed[name].append(survive(calls[name], service, service.kill_worker))
    for service in services.values():
        service.stop()
    return {
        "throughput": figures.throughput(rates),
        "latency": figures.latency(spent_ms),
        "worker_killed": {name: figures.killed(runs) for name, runs in workers_killed.items()},
        "busy_before_rounds": busy,
        "service_killed": {name: figures.killed([one_of_two(place, name)]) for name in ("convq", "celery")},
    }


def turns(names: list[str], number: int) -> list[str]:
    """Each round begins with another one."""
    first = number % len(names)
    return names[first:] + names[:first]


def rate(place: Place, call: Call, service: Service | None, jobs: int) -> Rate:
    """One turn of one system. Processor time is that of its client, its service and, where there is a service, the server."""
    pids = [call.pid] if service is None else [call.pid, *service.pids(), place.server_pid]
    before_s = cpu_s(pids)
    elapsed_s = right(call.order("many", jobs=jobs))["elapsed_s"]
    return Rate(jobs / elapsed_s, (cpu_s(pids) - before_s) * 1e3 / jobs)


def survive(call: Call, service: Service, kill: Callable[[], None]) -> dict[str, Any]:
    """What became of the jobs when `kill` was called in their midst."""
    wait(service.is_whole, f"all workers of {service.name}")
    right(call.order("many", jobs=WARM_UP))
    return call.survive(kill, jobs=KILL_JOBS, kill_after=KILL_AFTER, patience_s=PATIENCE_S, grace_s=GRACE_S)


def one_of_two(place: Place, name: str) -> dict[str, Any]:
    """The same where one of two services of one worker each goes with all its processes."""
    progress(f"kill a whole service of {name}")
    stays, goes = place.start(name, 1), place.start(name, 1)
    found = survive(place.call(name, goes.address), goes, goes.kill)
    stays.stop()
    return found


def right(found: dict[str, Any]) -> dict[str, Any]:
    """The same, where every answer was the known one."""
    assert found["wrong"] == 0, f"{found['wrong']} answers differ from those of onnxruntime"
    return found


def settings(rounds: int, kills: int) -> dict[str, Any]:
    """What was asked of each."""
    return {
        "rounds": rounds,
        "kills": kills,
        "workers": WORKERS,
        "jobs_a_round": JOBS,
        "rate": RATE,
        "paced_jobs_a_round": PACED_JOBS,
        "kill_jobs": KILL_JOBS,
        "patience_s": PATIENCE_S,
    }


def versions(python: Path, server: str) -> dict[str, str]:
    """Of everything that had a part in it."""
    listed = subprocess.run([python, "-m", "pip", "freeze"], stdout=subprocess.PIPE, text=True, check=True).stdout
    pins = dict(line.split("==") for line in listed.splitlines() if "==" in line)
    names = ("celery", "kombu", "redis", "mosec", *SHARED)
    convq = {"convq": version("convq"), "server": f"{server}, AOF everysec", "python": platform.python_version()}
    return convq | {name: pins[name] for name in names}


def machine(before: tuple[float, float, float]) -> dict[str, Any]:
    """What it ran on, and how much else ran there: the load averages of 1, 5 and 15 minutes."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages / 2**30),
        "load_before": [round(load, 1) for load in before],
        "load_after": [round(load, 1) for load in os.getloadavg()],
    }


def progress(text: str) -> None:
    """What is going on, for people who wait."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
