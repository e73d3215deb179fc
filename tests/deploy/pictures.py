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
from pathlib import Path
from typing import Any

from deploy.drawing import draw
from deploy.stand import DEPLOY, Stand, filled_in
from deploy.story import (
    OPTIONS,
    Load,
    fill_the_queue,
    freeze_one_in_the_middle,
    kill_a_worker,
    push_bad_input,
    push_poison,
    whole,
)
from servers import wait_until
from services import LANES, Plain, digits, image_of

PICTURES = {
    "service": ("service", ("Overview", "Queue", "Answers")),
    "workers": ("service", ("Workers", "Redis")),
    "model": ("model", ("Latency", "Batching", "Queue by priority")),
}
"""File -> dashboard, and which of its rows."""
CHOICES = {"job": "convq", "instance": ".*", "model": "lenet", "redis": ".*", "namespace": ".*"}


def live_through(stand: Stand, plain: Plain) -> None:
    """Calm, a burst, bad input, a killed worker, poison, a frozen worker, a full queue; calm between them."""
    with Load(stand.server.url, jobs=30) as load:
        for step in (
            lambda: None,
            lambda: plain.burst([{"image": image_of(digits()[0])}] * 1400, stream=LANES[2]),
            lambda: push_bad_input(plain),
            lambda: kill_a_worker(stand),
            lambda: push_poison(plain),
            lambda: freeze_one_in_the_middle(stand, plain),
            lambda: fill_the_queue(stand, plain, lambda: bool(stand.value("sum(convq_queue_length) > 1500"))),
        ):
            wait_until(lambda: whole(stand), 20)
            step()
            pause(9)
        load.jobs = 90
        pause(12)


def pause(seconds: float) -> None:
    """Let time pass on the graphs."""
    time.sleep(seconds)


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
        began_s = time.time()
        with Plain(stand.server.url) as plain:
            live_through(stand, plain)
        until_s = time.time() - began_s

        def ask(expression: str) -> list[dict[str, Any]]:
            series = stand.history(filled_in(expression, CHOICES), began_s)
            for one in series:
                one["values"] = [(when - began_s, value) for when, value in one["values"]]
            return series

        for name, (dashboard, rows) in PICTURES.items():
            file = folder / f"{name}.png"
            draw(rows_of(dashboard, rows), ask, until_s, file)
            print(f"{file}  {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DEPLOY / "grafana")
