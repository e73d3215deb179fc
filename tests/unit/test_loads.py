"""Which deaths of workers condemn the version that is being loaded, and which say nothing about it."""

from __future__ import annotations

import signal

import pytest

from convq.ipc.plans import Plan
from convq.ipc.series import LAYOUT
from convq.ipc.shared_memory import Board, StatsRow
from convq.supervisor.loads import BadLoad, Loads
from convq.supervisor.overdue import Overdue
from convq.supervisor.slots import Slot

GROWN = (100 << 20, 500 << 20)
KILL, SEGV = -signal.SIGKILL, -signal.SIGSEGV


class Place:
    """Two workers and two models; version 2 of `a` is new."""

    def __init__(self) -> None:
        board = Board(LAYOUT, 2, 2)
        self.slots = [Slot(0), Slot(1)]
        self.rows: list[list[StatsRow]] = [[board.row(worker, model) for model in range(2)] for worker in range(2)]
        self.proven = {("a", 1), ("b", 1)}
        self.now_s = 1000.0
        self.loads = Loads(board, ["a", "b"], self.slots, lambda *one: one in self.proven, lambda: self.now_s)

    def dies(self, status: int, worker: int = 0, *, loading: int | None = 2, grown: bool = False) -> BadLoad | None:
        """A worker dies that was loading this version of `a`."""
        if loading is not None:
            self.rows[worker][0].loading.set(str(loading).encode())
        self.slots[worker].memory = GROWN if grown else (0, 0)
        found = self.loads.judge(self.slots[worker], status, 60)
        self.rows[worker][0].clear_marks()
        self.now_s += 3
        return found


@pytest.mark.parametrize(("status", "grown", "deaths"), [(KILL, False, 4), (KILL, True, 2), (SEGV, False, 2)])
def test_a_version_that_ends_every_worker_is_condemned_after_a_few(status: int, grown: bool, deaths: int) -> None:
    place = Place()
    for _ in range(deaths - 1):
        assert place.dies(status, grown=grown) is None
    bad = place.dies(status, grown=grown)
    assert bad is not None
    assert ("a", 2) == (bad.model, bad.version)
    assert f"{deaths} times" in bad.reason


def test_what_all_workers_have_had_is_not_accused() -> None:
    place = Place()
    assert [None] * 20 == [place.dies(KILL, loading=1) for _ in range(20)]


def test_a_worker_that_says_why_it_ends_accuses_nothing_that_it_loaded_beside() -> None:
    place = Place()
    place.slots[0].failure = {"model": "b", "version": 1, "message": "labels.txt: cannot be read", "exit_code": 3}
    assert [None] * 20 == [place.dies(3) for _ in range(20)]


def test_a_worker_that_loads_nothing_says_nothing_alone() -> None:
    place = Place()
    assert [None] * 20 == [place.dies(KILL, loading=None) for _ in range(20)]


def test_the_kernel_may_take_another_worker_than_the_one_that_loads() -> None:
    place = Place()
    found = []
    for _ in range(4):
        place.rows[1][0].loading.set(b"2")
        found.append(place.dies(KILL, loading=None))
    assert [None] * 3 == found[:3]
    assert found[3] is not None


def test_deaths_that_lie_far_apart_do_not_add_up() -> None:
    place = Place()
    for _ in range(10):
        assert place.dies(KILL) is None
        place.now_s += 60


def test_an_orderly_end_condemns_nothing() -> None:
    place = Place()
    assert [None] * 20 == [place.dies(status) for status in (0, -signal.SIGTERM) for _ in range(10)]


def test_a_load_over_its_time_condemns_at_once() -> None:
    place = Place()
    place.slots[0].late = Overdue(0, "loading", ())
    bad = place.dies(KILL)
    assert bad is not None
    assert "a/2: it did not load within 60 s" in bad.reason


@pytest.mark.parametrize(
    ("plan", "version", "left"),
    [
        (Plan(serve=2, candidate=3, percent=10), 3, Plan(serve=2)),
        (Plan(serve=2, candidate=3, shadow=True, kept=(1,)), 3, Plan(serve=2, kept=(1,))),
        (Plan(serve=2, kept=(1,)), 2, Plan(serve=1)),
        (Plan(serve=3, kept=(1, 2)), 3, Plan(serve=2, kept=(1,))),
        (Plan(serve=3, kept=(1, 2)), 1, Plan(serve=3, kept=(2,))),
        (Plan(serve=2, kept=(1,), candidate=3, percent=5), 2, Plan(serve=1, candidate=3, percent=5)),
        (Plan(serve=2), 2, None),
        (Plan(serve=2), 7, Plan(serve=2)),
    ],
)
def test_a_plan_without_a_version_is_of_what_is_loaded(plan: Plan, version: int, left: Plan | None) -> None:
    assert left == plan.without(version)
