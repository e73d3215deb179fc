"""Who runs alone, and when."""

from __future__ import annotations

import time

import pytest

from convq.queue import Lease, Received
from convq.worker.admission import suspects
from convq.worker.admission.suspects import Suspects
from convq.worker.ticket import Ticket
from servers import wait_until


def suspect(entry: str, points: int) -> Ticket:
    return Ticket(Received(entry, 1, 2, entry, suspicion=points), Lease("w"), time.perf_counter(), 0.0, alone=True)


def test_the_least_suspected_goes_first_and_of_equals_the_oldest() -> None:
    waiting = Suspects()
    waiting.add([suspect("1-0", 4), suspect("2-0", 1)])
    waiting.add([suspect("3-0", 1), suspect("4-0", 0)])

    assert ["4-0", "2-0", "3-0", "1-0"] == [waiting.pop().job.entry for _ in range(4)]


def test_suspects_are_due_when_nothing_else_waits_or_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspects, "PATIENCE_S", 0.02)
    waiting = Suspects()
    assert not waiting.are_due(idle=True)

    waiting.add([suspect("1-0", 1)])
    assert waiting.are_due(idle=True)
    wait_until(lambda: waiting.are_due(idle=False))
    waiting.rest()
    monkeypatch.setattr(suspects, "PATIENCE_S", 60.0)
    assert not waiting.are_due(idle=False)
    assert ["1-0"] == [one.job.entry for one in waiting.withdraw()]
    assert not waiting.are_due(idle=True)
