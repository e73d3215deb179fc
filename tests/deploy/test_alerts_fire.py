"""Alerts on their whole way: a real failure, a real Prometheus with the rules of deploy/, a real Alertmanager.

The rules run with seconds for minutes (`stand.scaled`); thresholds are not touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from deploy.stand import Stand
from deploy.story import push_poison, stopped_workers
from servers import wait_until
from services import LANES, Plain, seven

LOW = LANES[2]
GRAFANA = "http://127.0.0.1:3000"


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with Stand(tmp_path_factory.mktemp("stand"), "--lease", "1") as running:
        yield running


@pytest.fixture
def plain(stand: Stand) -> Iterator[Plain]:
    with Plain(stand.server.url) as client:
        yield client


def fires(stand: Stand, name: str, timeout_s: float = 30) -> dict[str, Any]:
    """Wait until Alertmanager holds that alert; the alert."""
    return wait_until(lambda: stand.alerts().get(name), timeout_s, every_s=0.2) or {}


def resolves(stand: Stand, name: str, timeout_s: float = 40) -> None:
    """Wait until Alertmanager holds it no longer."""
    wait_until(lambda: name not in stand.alerts(), timeout_s, every_s=0.2)


def test_jobs_that_nobody_answers_any_more(stand: Stand, plain: Plain) -> None:
    """The oldest waits for five minutes by its own time stamp: nobody sits through them."""
    seconds, _ = plain.redis.time()
    with stopped_workers(stand):
        job = plain.push({"image": seven()}, stream=LOW, entry=f"{(seconds - 300) * 1000}-0")
        alert = fires(stand, "ConvqBacklogNotDraining")

    assert "critical" == alert["labels"]["severity"]
    assert alert["annotations"]["summary"].startswith("lenet: jobs wait 5m ")
    assert alert["annotations"]["summary"].endswith("none is answered")
    assert f"{GRAFANA}/d/convq-model?var-model=lenet" == alert["annotations"]["dashboard_url"]
    assert "deploy/README.md#convqbacklognotdraining" == alert["annotations"]["runbook_url"]
    assert {"convq_grafana", "convq_runbooks"}.isdisjoint(alert["labels"])
    assert "7" == plain.answer(job).label
    resolves(stand, "ConvqBacklogNotDraining")


def test_a_job_that_kills_its_workers_becomes_a_dead_letter(stand: Stand, plain: Plain) -> None:
    assert "poisoned" == plain.answer(push_poison(plain)).status

    alert = fires(stand, "ConvqDeadLetters")

    assert ("lenet", "warning") == (alert["labels"]["model"], alert["labels"]["severity"])
    wait_until(stand.service.is_whole, 20)
    resolves(stand, "ConvqDeadLetters")


def test_workers_that_are_gone_while_jobs_wait(stand: Stand, plain: Plain) -> None:
    stand.service.stop()
    jobs = plain.burst([{"image": seven()}] * 3)

    alert = fires(stand, "ConvqNoConsumers")
    absent = fires(stand, "ConvqAbsent")

    assert "lenet: no worker is alive, 3 jobs wait" == alert["annotations"]["summary"]
    assert "critical" == absent["labels"]["severity"]
    stand.serve()
    assert ["7"] * 3 == [plain.answer(job).label for job in jobs]
    resolves(stand, "ConvqNoConsumers")
    resolves(stand, "ConvqAbsent")


def test_a_server_that_is_nearly_full(stand: Stand, plain: Plain) -> None:
    used_bytes = plain.redis.info("memory")["used_memory"]
    plain.redis.config_set("maxmemory", int(used_bytes * 1.05))

    alert = fires(stand, "ConvqRedisMemoryHigh")

    assert alert["annotations"]["summary"].startswith("Redis has filled ")
    plain.redis.config_set("maxmemory", stand.server.maxmemory_bytes)
    resolves(stand, "ConvqRedisMemoryHigh")


def test_a_server_that_is_gone_and_what_follows_from_it_is_said_once(stand: Stand) -> None:
    stand.server.kill()
    alert = fires(stand, "ConvqRedisDown")
    consequence = {"alertname": "ConvqBacklogNotDraining", "job": "convq", "model": "lenet", "severity": "critical"}
    stand.tell_alertmanager([consequence, {"alertname": "ConvqDeadLetters", "job": "convq", "model": "lenet"}])

    def settled() -> bool:
        held = stand.alerts()
        return {"ConvqBacklogNotDraining", "ConvqDeadLetters"} <= set(held)

    wait_until(settled, 10)
    wait_until(lambda: stand.alerts()["ConvqBacklogNotDraining"]["status"]["state"] == "suppressed", 10)
    held = stand.alerts()
    assert [alert["fingerprint"]] == held["ConvqBacklogNotDraining"]["status"]["inhibitedBy"]
    assert [] == held["ConvqDeadLetters"]["status"]["inhibitedBy"]
    stand.server.start()
    resolves(stand, "ConvqRedisDown")
    wait_until(stand.service.is_whole, 20)
