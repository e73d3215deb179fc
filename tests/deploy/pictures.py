"""`make pictures`: watches a service through two minutes of good and bad times, and draws what the dashboards would show.

    python tests/deploy/pictures.py [FOLDER]

A server, a service with two workers, redis_exporter, Prometheus and Alertmanager run for real, with the rules and queries of
deploy/. The pictures are drawn here (see drawing.py), for Grafana itself is not needed for it.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deploy.drawing import draw
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
)
from servers import wait_until
from services import LANES, Plain, digits, image_of

PICTURES = {
    "service": ("service", ("Overview", "Queue", "Answers")),
    "workers": ("service", ("Workers", "Redis")),
    "model": ("model", ("Latency", "Batching", "Queue by priority")),
}
"""File -> dashboard, and which of its rows."""
CALM_S = 9.0
CHOICES = {"job": "convq", "instance": ".*", "model": "lenet", "redis": ".*", "namespace": ".*"}


def live_through(stand: Stand, plain: Plain) -> list[tuple[float, str]]:
    """What happens, and when, by the wall clock; some seconds of calm after each."""
    happened = []
    with Load(stand.server.url, jobs=30) as load:
        steps: dict[str, Callable[[], object]] = {
            "30 jobs each 100 ms": lambda: None,
            "1,400 at once": lambda: plain.burst([{"image": image_of(digits()[0])}] * 1400, stream=LANES[2]),
            "bad input": lambda: push_bad_input(plain),
            "kill -9 of a worker": lambda: kill_a_worker(stand),
            "a job that kills": lambda: push_poison(plain),
            "a worker frozen": lambda: freeze_one_in_the_middle(stand, plain),
            "all frozen, queue full": lambda: fill_the_queue(stand, plain, lambda: is_full(stand)),
            "90 jobs each 100 ms": lambda: setattr(load, "jobs", 90),
        }
        for name, step in steps.items():
            wait_until(stand.service.is_whole, 20)
            happened.append((time.time(), name))
            step()
            time.sleep(CALM_S)
    return happened


def is_full(stand: Stand) -> bool:
    """Whether Prometheus has seen more jobs in the queue than may be in it."""
    return bool(stand.value(f"sum(convq_queue_length) > {MAX_JOBS}"))


def rows_of(dashboard: str, wanted: tuple[str, ...]) -> list[dict[str, Any]]:
    """The panels of some rows of a dashboard, with their headings."""
    chosen, inside = [], False
    for panel in json.loads((DEPLOY / "grafana" / f"{dashboard}.json").read_text())["panels"]:
        if panel["type"] == "row":
            inside = panel["title"] in wanted
        if inside:
            chosen.append(panel)
    return chosen


def main(folder: Path) -> None:
    """Live through it, then draw."""
    with tempfile.TemporaryDirectory() as scratch, Stand(Path(scratch), *OPTIONS) as stand:
        wait_until(lambda: not stand.alerts(), 20)  # ConvqAbsent: Prometheus was there before the first scrape
        with Plain(stand.server.url) as plain:
            happened = live_through(stand, plain)
        began_s = happened[0][0]
        until_s = time.time() - began_s
        events = [(when - began_s, what) for when, what in happened]

        def ask(expression: str) -> list[dict[str, Any]]:
            series = stand.history(filled_in(expression, CHOICES), began_s)
            for one in series:
                one["values"] = [(when - began_s, value) for when, value in one["values"]]
            return series

        for name, (dashboard, rows) in PICTURES.items():
            file = folder / f"{name}.png"
            draw(rows_of(dashboard, rows), ask, until_s, events, file)
            print(f"{file}  {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DEPLOY / "grafana")
