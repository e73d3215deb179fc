"""The demonstration: a server and a service of its own, real digits through both, and what was measured.

Knows nothing of the terminal: it reports through two callbacks and returns an `Outcome`. The latency of a rush is mostly
waiting, so it is measured apart from the latency of single jobs, and both keep their names.
"""

from __future__ import annotations

import http.client
import json
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from convq.client import Client
from convq.embedded import EmbeddedServer
from convq.errors import ServiceFailed
from convq.harness.latency import Latency
from convq.harness.service_process import ChildService
from convq.protocol import Result
from convq.repository.model_folders import ModelRepository, default_root

MODEL = "lenet"
LEAST_ACCURACY = 0.95
ANSWER_WITHIN_S = 30.0
COUNTED_WITHIN_S = 5.0
POLL_S = 0.02
PACED_JOBS = 200


@dataclass(frozen=True, slots=True)
class Started:
    """What runs now, in words for people."""

    server: str
    network: str
    workers: int
    ready_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything that the demonstration found out."""

    started: Started
    count: int
    right: int
    elapsed_s: float
    burst: Latency
    paced: Latency
    paced_count: int
    batches: int
    largest_batch: int
    reasons: dict[str, int]
    metrics_url: str
    results: list[Result]

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.right / self.count

    @property
    def jobs_per_s(self) -> float:
        """From the first submit of the rush to its last answer."""
        return self.count / self.elapsed_s

    def document(self) -> dict[str, Any]:
        """The figures, as JSON takes them."""
        document = asdict(self)
        del document["results"]
        return {**document, "accuracy": self.accuracy, "jobs_per_s": self.jobs_per_s}


def run(
    images: Sequence[bytes],
    labels: Sequence[str],
    *,
    started: Callable[[Started], None],
    advance: Callable[[int], None],
) -> Outcome:
    """Start everything, classify, measure, stop everything. Raises ConvqError.

    Args:
        images: encoded digits.
        labels: what they are.
        started: called once when the service is ready.
        advance: called with the number of answers so far.
    """
    root = default_root()
    with _terminable(), EmbeddedServer.start() as server:
        with _service(server.url, root) as service, Client(server.url, model=MODEL) as client:
            service.wait_ready()
            _wait_announced(client)
            facts = Started(server.version, _network(root), service.workers, service.ready_s)
            started(facts)
            began = time.perf_counter()
            results = _burst(client, images, advance)
            elapsed_s = time.perf_counter() - began
            batches, reasons = _batches(service.metrics_url, len(results))
            paced = [_one_ms(client, image) for image in islice(cycle(images), PACED_JOBS)]
        service.check_end()
    return Outcome(
        started=facts,
        count=len(images),
        right=sum(result.label == label for result, label in zip(results, labels, strict=True)),
        elapsed_s=elapsed_s,
        burst=Latency.of([result.timing_ms.total for result in results]),
        paced=Latency.of(paced),
        paced_count=PACED_JOBS,
        batches=batches,
        largest_batch=max(result.batch or 1 for result in results),
        reasons=reasons,
        metrics_url=service.metrics_url,
        results=results,
    )


def _service(url: str, root: Path) -> ChildService:
    return ChildService("--redis", url, "--models", str(root), "--only", MODEL)


def check(outcome: Outcome) -> None:
    """Raise ServiceFailed where the demonstration did not show what it should."""
    if outcome.accuracy < LEAST_ACCURACY:
        raise ServiceFailed(f"accuracy {outcome.accuracy:.1%} is below {LEAST_ACCURACY:.0%}: the model is wrong")


def _burst(client: Client, images: Sequence[bytes], advance: Callable[[int], None]) -> list[Result]:
    results: list[Result] = []
    for result in client.map(images, timeout=ANSWER_WITHIN_S):
        if not result.ok:
            raise ServiceFailed(f"a digit was not classified: {result.explain()}")
        results.append(result)
        advance(len(results))
    return results


def _one_ms(client: Client, image: bytes) -> float:
    began = time.perf_counter()
    client.classify(image, timeout=ANSWER_WITHIN_S)
    return (time.perf_counter() - began) * 1e3


def _wait_announced(client: Client) -> None:
    """The list of served models follows with the next heartbeat: not needed for jobs, but a sign that all is well."""
    give_up_at = time.monotonic() + ANSWER_WITHIN_S
    while MODEL not in client.served():
        if time.monotonic() > give_up_at:
            raise ServiceFailed(f"the service is ready and does not announce {MODEL}")
        time.sleep(POLL_S)


def _network(root: Path) -> str:
    """Name, version and what the report proves."""
    folder = ModelRepository.open(root, [MODEL])[MODEL]
    report = json.loads((folder.path / str(folder.newest) / "report.json").read_bytes())
    known = []
    if "parameters" in report:
        known.append(f"{report['parameters']:,} parameters")
    accuracy = report.get("accuracy")
    if isinstance(accuracy, dict) and "share" in accuracy:
        known.append(f"{accuracy['share']:.2%} on {str(accuracy.get('dataset', 'mnist')).upper()}")
    return f"{MODEL} v{folder.newest}" + (f" ({', '.join(known)})" if known else "")


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM unwinds like Ctrl-C, so that nothing is left running or lying about."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _batches(url: str, jobs: int) -> tuple[int, dict[str, int]]:
    """How many batches the service ran for these jobs, and why each was closed, from its own metrics.

    Workers count after they have published: the last batch may be missing for a moment.
    """
    give_up_at = time.monotonic() + COUNTED_WITHIN_S
    while True:
        page = _get(url)
        counted = sum(value for _, value in _samples(page, "convq_batch_size_sum"))
        if counted >= jobs or time.monotonic() > give_up_at:
            break
        time.sleep(POLL_S)
    reasons = {labels["reason"]: int(value) for labels, value in _samples(page, "convq_batches_total")}
    if not sum(reasons.values()):
        raise ServiceFailed("the service's metrics do not count its batches")
    return sum(reasons.values()), reasons


def _get(url: str) -> str:
    """The page, asked for directly: a proxy of the environment cannot reach this address."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    try:
        connection.request("GET", parts.path)
        return connection.getresponse().read().decode()
    except OSError as error:
        raise ServiceFailed(f"the metrics cannot be read: {error}") from None
    finally:
        connection.close()


def _samples(page: str, name: str) -> Iterator[tuple[dict[str, str], float]]:
    """Labels and value of every sample of one metric."""
    for labels, value in re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", page, re.MULTILINE):
        yield dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value)
