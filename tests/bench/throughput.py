"""LeNet end to end against bare onnxruntime, side by side in one run: the share of the bare speed that the service keeps.

    python tests/bench/throughput.py [--pairs 5] [--jobs 60000] [--workers 2]

A: one onnxruntime session of one thread, batches of 64, nothing else on the machine.
B: `convq serve` on an own server with AOF everysec; one process pushes uint8 tensors by plain pipelined XADD, this one
   takes the answers from an inbox and checks that each job has exactly one. Leases, fencing, validation, metrics on.

A and B alternate; the ratio of each pair counts, since the machine's speed drifts between pairs. Prints a table and,
with --json, one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import redis

from convq.embedded import EmbeddedServer
from convq.engine.onnx_session import MODEL, open_session, read_verified
from convq.queue import Shard
from convq.repository.model_folders import ModelRepository, default_root

BARE_BATCH = 64
BARE_S = 1.5
PRODUCER = Path(__file__).with_name("produce.py")


@dataclass(frozen=True)
class Pair:
    """One pair of measurements, in images per second, and their ratio."""

    bare: float
    service: float
    ratio: float


def bare_images_per_s(session: Any) -> float:
    """Images per second of the session alone, one thread, batch 64."""
    batch = np.random.default_rng(0).integers(0, 255, (BARE_BATCH, 1, 32, 32), dtype=np.uint8)
    name = session.get_inputs()[0].name
    deadline = time.perf_counter() + 0.2
    while time.perf_counter() < deadline:
        session.run(None, {name: batch})
    runs, began = 0, time.perf_counter()
    while time.perf_counter() - began < BARE_S:
        session.run(None, {name: batch})
        runs += 1
    return runs * BARE_BATCH / (time.perf_counter() - began)


@contextmanager
def service(url: str, workers: int) -> Iterator[str]:
    """A running `convq serve`; yields the address of its metrics."""
    command = [sys.executable, "-m", "convq", "serve", "--redis", url, "--workers", str(workers)]
    command += ["--http", "127.0.0.1:0", "--only", "lenet", "--log", "json"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    http = ""
    for line in process.stderr:
        said = json.loads(line)
        http = said.get("http", http)
        if said["message"] == "ready":
            break
    try:
        yield http
    finally:
        process.terminate()
        process.communicate(timeout=30)


def service_images_per_s(url: str, jobs: int) -> float:
    """Images per second from the first submit to the last answer."""
    inbox = Shard("lenet").inbox(f"bench-{time.monotonic_ns()}")
    seen: set[bytes] = set()
    entry = re.compile(rb'"entry":"([^"]+)".*"status":"ok"')
    with redis.Redis.from_url(url, socket_timeout=60) as connection:
        producer = subprocess.Popen([sys.executable, str(PRODUCER), url, str(jobs), inbox])
        first = connection.blpop([inbox], timeout=30)
        began = time.perf_counter()
        documents = [first[1]]
        answered = 0
        while True:
            for document in documents:
                found = entry.search(document)
                assert found, document
                seen.add(found[1])
            answered += len(documents)
            if answered >= jobs:
                break
            documents = connection.execute_command("BLMPOP", 30, 1, inbox, "LEFT", "COUNT", 1000)[1]
        elapsed_s = time.perf_counter() - began
        producer.wait(10)
        assert len(seen) == answered == jobs, f"{jobs} jobs, {answered} answers, {len(seen)} different"
        assert connection.llen(inbox) == 0
    return jobs / elapsed_s


def batches(http: str) -> str:
    """How large the batches were, from the service's own metrics."""
    text = urllib.request.urlopen(f"{http}/metrics").read().decode()  # noqa: S310 - our own loopback address
    count, total = (
        float(re.search(rf'convq_batch_size_{part}{{model="lenet"}} (\S+)', text)[1])  # type: ignore[index]
        for part in ("count", "sum")
    )
    return f"{count:.0f} batches, mean {total / max(count, 1):.0f} images"


def measure(pairs: int, jobs: int, workers: int) -> dict[str, object]:
    """Alternate A and B and return the report."""
    folder = ModelRepository.open(default_root(), only=["lenet"])["lenet"]
    file = folder.path / str(folder.newest) / MODEL
    session = open_session(read_verified(file)[0], file, "cpu", 1)
    measured: list[Pair] = []
    with tempfile.TemporaryDirectory() as data, EmbeddedServer.start(Path(data)) as server:
        with service(server.url, workers) as http:
            service_images_per_s(server.url, jobs // 4)
            for number in range(pairs):
                bare = bare_images_per_s(session)
                served = service_images_per_s(server.url, jobs)
                measured.append(Pair(bare, served, served / bare))
                print(
                    f"pair {number + 1}: bare {bare:,.0f}/s  service {served:,.0f}/s  ratio {served / bare:.3f}",
                    file=sys.stderr,
                )
            formed = batches(http)
        version = server.version
    ratios = [pair.ratio for pair in measured]
    return {
        "median_ratio": statistics.median(ratios),
        "lowest_ratio": min(ratios),
        "highest_ratio": max(ratios),
        "pairs": [asdict(pair) for pair in measured],
        "jobs_per_run": jobs,
        "workers": workers,
        "cores": len(os.sched_getaffinity(0)),
        "batches": formed,
        "server": f"{version}, AOF everysec",
        "onnxruntime": __import__("onnxruntime").__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=60_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    report = measure(options.pairs, options.jobs, options.workers)
    if options.json:
        print(json.dumps(report, indent=2))
        return
    print(
        f"LeNet end to end keeps {report['median_ratio']:.2f} of bare onnxruntime "
        f"({report['lowest_ratio']:.2f} to {report['highest_ratio']:.2f} in {options.pairs} pairs); "
        f"{report['batches']}; {report['workers']} workers on {report['cores']} cores; {report['server']}"
    )


if __name__ == "__main__":
    main()
