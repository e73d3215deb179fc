"""Every query of both dashboards, asked of a real Prometheus that watched a real service in good and bad times."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest

from deploy.stand import DEPLOY, Stand, filled_in
from deploy.story import (
    MAX_JOBS,
    OPTIONS,
    Load,
    fill_the_queue,
    freeze_one_in_the_middle,
    kill_a_worker,
    push_bad_input,
    push_poison,
    run_down,
)
from servers import wait_until
from services import Plain

CHOICES = {"job": "convq", "instance": ".*", "model": "lenet", "redis": ".*", "namespace": ".*"}
NOT_HERE = {
    "Replicas": "kube-state-metrics: there is no cluster",
    "Errors of KEDA": "there is no cluster",
}
STILL = {
    ("Strange keys", "{{model}}"): "nobody else writes on this server; tests/faults/test_strange_keys.py has them",
    ("Entry ids ahead", "{{model}} {{stream}}"): "entry ids are the server's own",
    ("Log lines dropped", "{{instance}}"): "the log is read; tests/unit/test_outlet.py has one that is not",
    ("Keys dropped", "evicted"): "a server that evicts is refused by the service",
    ("Up and replicas", "replicas"): "a single server",
    ("Suspended", "{{instance}}"): "takes six deaths within a minute; tests/e2e/test_poison.py has them",
}
"""Queries whose series is there and stays zero, and why. All others must have moved."""

QUERIES = [
    (name, panel["title"], target)
    for name in ("service", "model")
    for row in json.loads((DEPLOY / "grafana" / f"{name}.json").read_text())["panels"]
    for panel in (row, *row.get("panels", []))
    for target in panel.get("targets", [])
]
SHOWN = [(title, target["legendFormat"]) for _, title, target in QUERIES]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """Half a minute of load with everything in it that a panel is there to show."""
    with Stand(tmp_path_factory.mktemp("stand"), *OPTIONS) as stand, Plain(stand.server.url) as plain:
        with Load(stand.server.url, jobs=40):
            push_bad_input(plain)
            wait_until(lambda: stand.value("sum(rate(convq_jobs_total[5s]))"), 10)
            push_poison(plain)
            wait_until(lambda: stand.value("sum(increase(convq_dead_letters_total[5s]))"), 20)
            wait_until(stand.service.is_whole, 20)
            kill_a_worker(stand)
            freeze_one_in_the_middle(stand, plain)
            fill_the_queue(stand, plain, lambda: full_and_not_drained(stand))
            reconnect(stand, plain)
        run_down(plain)
        yield stand


def full_and_not_drained(stand: Stand) -> bool:
    """Whether Prometheus has seen the full queue, how long it would take to drain, and that nobody works on it."""
    return bool(
        stand.value(f"sum(convq_queue_length) > {MAX_JOBS}")
        and stand.value("max(convq_queue_drain_seconds) > 0")
        and stand.value("max(convq_model_stalled) > 0")
    )


def reconnect(stand: Stand, plain: Plain) -> None:
    """All connections are cut; workers come back by themselves."""
    plain.redis.client_kill_filter(_type="normal", skipme=True)
    wait_until(lambda: stand.value("sum(increase(convq_redis_reconnects_total[5s]))"), 20)


def moved(series: list[dict[str, Any]]) -> tuple[int, bool]:
    """How many finite samples there are, and whether one is not zero; infinite is where nothing drains."""
    samples = [float(value) for one in series for _, value in one["values"]]
    numbers = [sample for sample in samples if not math.isnan(sample)]
    return sum(map(math.isfinite, numbers)), any(numbers)


@pytest.mark.parametrize(
    ("title", "target"),
    [pytest.param(title, target, id=f"{name}: {title}: {target['refId']}") for name, title, target in QUERIES],
)
def test_every_query_of_the_dashboards_has_something_to_show(
    watched: Stand, title: str, target: dict[str, Any]
) -> None:
    if title in NOT_HERE:
        assert "kube_" in target["expr"] or "keda_" in target["expr"]
        return
    expression = filled_in(target["expr"], CHOICES)

    samples, any_moved = moved(watched.history(expression))

    assert samples, expression
    if (title, target["legendFormat"]) not in STILL:
        assert any_moved, expression


def test_what_is_exempted_is_in_the_dashboards() -> None:
    assert set(STILL) <= set(SHOWN)
    assert set(NOT_HERE) <= {title for title, _ in SHOWN}
