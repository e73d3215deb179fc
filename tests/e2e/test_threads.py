"""No thread ends unnoticed: whichever falls, the service goes on, or ends and says why. It is never green and dead."""

from __future__ import annotations

import os
import re
import signal
import urllib.error
from pathlib import Path
from typing import Any

import pytest

from servers import OwnServer, wait_until
from services import Ledger, Plain, RunningService

FALLING = Path(__file__).parent / "falling"
OF_A_WORKER = ["lenet-fetch", "lenet-run", "lenet-publish", "follow", "orders", "tracing"]
OF_THE_SUPERVISOR = ["heartbeat", "versions", "probes", "worker-0"]
NO_COLLECTOR = ("--otlp", "http://127.0.0.1:9")


def falling_service(server: OwnServer, words: Path, *options: str) -> RunningService:
    """A service whose threads fall when a file of their name appears in that folder."""
    path = os.pathsep.join(filter(None, [str(FALLING), os.environ.get("PYTHONPATH")]))
    return RunningService(server.url, *options, PYTHONPATH=path, TEST_FALLS=str(words))


def died(service: RunningService) -> list[dict[str, Any]]:
    return [line for line in service.log if line["message"] == "a worker died"]


def test_a_worker_whose_thread_has_fallen_is_replaced_and_each_job_answered_once(
    fresh_server: OwnServer, tmp_path: Path
) -> None:
    with falling_service(fresh_server, tmp_path, *NO_COLLECTOR) as service, Plain(fresh_server.url) as plain:
        ledger, seen = Ledger(plain, "threads"), 0
        for count, name in enumerate(OF_A_WORKER, start=1):
            (tmp_path / name).touch()

            def replaced(wanted: int = count) -> bool:
                ledger.submit(20)
                ledger.read(0.01)
                return len(died(service)) >= wanted

            wait_until(replaced, 60, every_s=0.05)
            wait_until(service.is_ready, 60)
            assert ["exit status 70"] * count == [line["status"] for line in died(service)]
            # Others may fall after it: the error strikes at any moment, also between two steps that belong together.
            said = [line["thread"] for line in service.log if line["message"] == "a thread ended by a defect"]
            assert name == said[seen]
            seen = len(said)
        ledger.settle(60)


@pytest.mark.parametrize("name", OF_THE_SUPERVISOR)
def test_a_service_that_lacks_a_thread_ends_with_the_reason(fresh_server: OwnServer, tmp_path: Path, name: str) -> None:
    with falling_service(fresh_server, tmp_path) as service:
        assert 200 == service.get("/livez")[0]
        (tmp_path / name).touch()
        if name == "worker-0":  # it sleeps until its worker says something, or ends
            wait_until(lambda: not (tmp_path / name).exists())
            for pid in service.worker_pids():
                os.kill(pid, signal.SIGKILL)
        assert 1 == service.wait(60)
    assert any(
        re.search(f"the service gives up: the thread '{name}' ended by a defect, Fall", line["message"])
        for line in service.log
    ), service.log[-5:]
    with pytest.raises(urllib.error.URLError):
        service.get("/livez")
