"""Which loads are named, and which end because no plan holds their version any more."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from convq.ipc.series import LAYOUT
from convq.ipc.shared_memory import Board, StatsRow
from convq.supervisor.long_loads import UNWANTED_S, LongLoads
from convq.supervisor.slots import Slot


class Place:
    """One worker that loads version 2 of a model; a load may take 60 s."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        board = Board(LAYOUT, 1, 1)
        self.row: StatsRow = board.row(0, 0)
        self.slot = Slot(0, process=process)
        self.wanted = True
        self.row.loading.set(b"2")
        self.now_s = self.began_s = self.row.loading.since_s
        self.loads = LongLoads(board, ["a"], [self.slot], 60.0, lambda *_: self.wanted, lambda: self.now_s)

    def at(self, after_s: float) -> str:
        """What worker's load is unwanted so many seconds after it began."""
        self.now_s = self.began_s + after_s
        self.loads.look()
        return self.slot.unwanted


@pytest.fixture
def place() -> Iterator[Place]:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        yield Place(process)


def test_a_load_is_named_after_a_quarter_of_its_time_and_until_it_is_over(place: Place) -> None:
    place.at(14)
    assert [] == place.loads.named()
    place.at(16)
    assert ["worker 0 has been loading a/2 for 16 s"] == place.loads.named()
    place.row.loading.clear()
    place.at(17)
    assert [] == place.loads.named()


def test_a_worker_that_starts_is_ended_soon_after_nobody_wants_what_it_loads(place: Place) -> None:
    assert "" == place.at(30)
    place.wanted = False
    assert "" == place.at(31)
    assert "" == place.at(31 + UNWANTED_S)
    assert "a/2" == place.at(31.1 + UNWANTED_S)


def test_a_worker_that_serves_meanwhile_is_ended_only_for_a_long_load(place: Place) -> None:
    place.slot.ready_since_s, place.wanted = 1.0, False
    assert ["", "", "a/2"] == [place.at(1), place.at(14), place.at(16)]


def test_what_is_wanted_again_and_a_stopped_worker_go_on(place: Place) -> None:
    place.wanted = False
    place.at(1)
    place.wanted = True
    place.at(2)
    place.wanted = False
    assert "" == place.at(2 + UNWANTED_S)
    place.slot.stopped = True
    assert "" == place.at(50)
