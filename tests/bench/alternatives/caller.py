"""A program that has images to classify: one process for each system, in that system's environment.

    python caller.py convq|celery|mosec|bare_1|bare_64 ADDRESS

Reads orders from standard input, one JSON document a line, and answers each with one: how fast many jobs go through, how
long single ones take at a low rate, what became of each job when a worker was killed.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from typing import Any, Protocol

import digits

Event = tuple[str, bool]
"""An answer: the job's name, and whether it is a class and no failure."""


class System(Protocol):
    """What is compared, as its client sees it."""

    def ask(self, image: bytes) -> int:
        """The class of one PNG."""

    def many(self, images: Sequence[bytes]) -> list[int]:
        """The classes of these, in order, as fast as they go through."""

    def watch(self, images: Sequence[bytes]) -> Iterator[list[Event]]:
        """Send these, and yield the answers as they come, without end; an empty list at least every 0.2 s."""


class Caller:
    """Carries out orders with one system."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._images = digits.pictures()
        self._expected = digits.Network().classify(self._images)

    def many(self, jobs: int) -> dict[str, Any]:
        """How long `jobs` jobs took, all sent as fast as they go."""
        images = list(islice(cycle(self._images), jobs))
        began_s = time.perf_counter()
        said = self._system.many(images)
        elapsed_s = time.perf_counter() - began_s
        return {"elapsed_s": elapsed_s, "wrong": self._wrong(said)}

    def paced(self, jobs: int, rate: float) -> dict[str, Any]:
        """Milliseconds of each of `jobs` jobs from when it was due to its answer; one is due every 1 / rate seconds."""
        spent_ms, said = [], []
        began_s = time.perf_counter()
        for number, image in enumerate(islice(cycle(self._images), jobs)):
            due_s = began_s + number / rate
            time.sleep(max(0.0, due_s - time.perf_counter()))
            said.append(self._system.ask(image))
            spent_ms.append((time.perf_counter() - due_s) * 1e3)
        return {"spent_ms": spent_ms, "wrong": self._wrong(said)}

    def survive(self, jobs: int, kill_after: int, patience_s: float, grace_s: float) -> dict[str, Any]:
        """Send `jobs` jobs, say `kill` after so many answers, and count how often each job was answered in the end.

        Waits `patience_s` for an answer that does not come, and `grace_s` for second ones where all have come.
        """
        answers: Counter[str] = Counter()
        failed: set[str] = set()
        killed_s = 0.0
        last_s = time.perf_counter()
        for events in self._system.watch(list(islice(cycle(self._images), jobs))):
            now_s = time.perf_counter()
            for name, good in events:
                last_s = last_s if name in answers or name in failed else now_s
                answers.update([name] if good else [])
                failed.update([] if good else [name])
            if not killed_s and len(answers) >= kill_after:
                say({"kill": len(answers)})
                killed_s = now_s
            quiet_s = now_s - last_s
            if quiet_s > patience_s or (len(answers.keys() | failed) >= jobs and quiet_s > grace_s):
                break
        failed -= answers.keys()
        return {
            "once": sum(count == 1 for count in answers.values()),
            "twice": sum(count > 1 for count in answers.values()),
            "failed": len(failed),
            "never": jobs - len(answers) - len(failed),
            "last_answer_s": last_s - killed_s,
        }

    def _wrong(self, said: Sequence[int]) -> int:
        """How many differ from what onnxruntime says in one run of all."""
        return sum(one != expected for one, expected in zip(said, cycle(self._expected), strict=False))


def say(document: dict[str, Any]) -> None:
    """One line, at once."""
    print(json.dumps(document), flush=True)


def main(name: str, address: str) -> None:
    """Connect, then one answer for each order."""
    system: System = importlib.import_module(f"asks_{name.partition('_')[0]}").connect(name, address)
    caller = Caller(system)
    orders: dict[str, Callable[..., dict[str, Any]]] = {
        "many": caller.many,
        "paced": caller.paced,
        "survive": caller.survive,
    }
    say({"ready": True})
    for line in sys.stdin:
        order = json.loads(line)
        say(orders[order.pop("do")](**order))


if __name__ == "__main__":
    main(*sys.argv[1:])
