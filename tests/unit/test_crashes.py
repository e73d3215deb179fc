"""What a death says: of whom, and how much."""

from __future__ import annotations

import signal

import pytest

from convq.ipc.crash_marks import CRASH_POINTS, GREEDY_BYTES, GREEDY_POINTS, KILL_POINTS
from convq.ipc.series import LAYOUT
from convq.ipc.shared_memory import Board, StatsRow
from convq.queue import Accusation, Blame
from convq.supervisor import crashes
from convq.supervisor.crashes import DEATHS, CircuitBreaker, accusations, points_of
from convq.supervisor.overdue import Overdue, overdue
from convq.supervisor.slots import Slot

COMPANY, ALONE, SLOW = Blame.COMPANY, Blame.ALONE, Blame.SLOW


@pytest.fixture
def board() -> Board:
    return Board(LAYOUT, workers=1, models=2)


@pytest.fixture
def row(board: Board) -> StatsRow:
    made = board.row(0, 0)
    made.set("pulse_limit_s", 30)
    made.set("pulse_decode_limit_s", 10)
    return made


def test_all_that_was_in_native_code_is_accused_together_once(row: StatsRow) -> None:
    row.running.set(b"1:1-0 1:2-0")
    row.answering.set(b"1:2-0")
    row.decoding.set(b"0:3-0")
    row.slow.set(b"2:4-0")

    assert [(job, COMPANY, 3) for job in ("1:1-0", "1:2-0", "0:3-0", "2:4-0")] == accusations(row, 0, 3, None)


def test_who_had_the_process_for_itself_is_accused_as_that_and_acquitted_too(row: StatsRow) -> None:
    row.alone.set(b"1:1-0")
    row.running.set(b"1:1-0")

    assert [Accusation("1:1-0", ALONE, 1)] == accusations(row, 0, 1, None)
    assert [Accusation("1:1-0", ALONE, 0)] == accusations(row, 0, 0, None)


def test_an_orderly_end_accuses_nobody(row: StatsRow) -> None:
    row.running.set(b"1:1-0 1:2-0")
    assert [] == accusations(row, 0, 0, None)


def test_what_did_not_come_back_accuses_itself_alone(row: StatsRow) -> None:
    row.running.set(b"1:1-0")
    row.slow.set(b"1:9-0")

    assert [Accusation("1:9-0", SLOW, 3)] == accusations(row, 0, 3, Overdue(0, "decoding", ("1:9-0",)))
    assert [Accusation("1:1-0", COMPANY, 3)] == accusations(row, 0, 3, Overdue(0, "network", ("1:1-0",)))
    assert [] == accusations(row, 0, 3, Overdue(1, "network", ("1:1-0",))), "of another model"


def test_a_suspect_that_decodes_too_slowly_is_slow_and_no_killer(row: StatsRow) -> None:
    row.alone.set(b"1:1-0")
    row.decoding.set(b"1:1-0")

    late = Overdue(0, "decoding", ("1:1-0",))
    assert {("1:1-0", SLOW, 3), ("1:1-0", ALONE, 0)} == set(accusations(row, 0, 3, late))


@pytest.mark.parametrize(
    ("mark", "phase", "limit_s"),
    [("running", "network", 30), ("answering", "answer", 30), ("decoding", "decoding", 10), ("slow", "decoding", 10)],
)
def test_each_phase_has_its_limit(row: StatsRow, mark: str, phase: str, limit_s: float) -> None:
    getattr(row, mark).set(b"1:1-0")
    since_s = getattr(row, mark).since_s

    assert overdue(row, 0, since_s + limit_s - 0.1) is None
    assert Overdue(0, phase, ("1:1-0",)) == overdue(row, 0, since_s + limit_s + 0.1)
    assert overdue(row, 0, since_s + limit_s + 0.1, resumed_s=since_s + 1) is None, "it was stopped for a second"


def test_waiting_for_a_processor_is_not_slow_but_no_excuse_for_ever(row: StatsRow) -> None:
    row.slow.set(b"1:1-0")
    since_s = row.slow.since_s

    def at(spent_s: float, waited_s: float) -> Overdue | None:
        return overdue(row, 0, since_s + spent_s, waited=lambda *_: waited_s)

    late = Overdue(0, "decoding", ("1:1-0",))
    assert [None, late] == [at(25, 16), at(25, 14)]
    assert [None, late] == [at(99, 99), at(101, 101)], "a tenth of its time counts in any case"


def test_a_load_waits_for_a_processor_and_not_for_ever_and_a_stop_does_not_begin_it_anew(row: StatsRow) -> None:
    row.loading.set(b"2")
    since_s = row.loading.since_s

    def late(spent_s: float, waited_s: float = 0.0, resumed_s: float = 0.0, away_s: float = 0.0) -> bool:
        waited, away = (lambda *_: waited_s), (lambda _: away_s)
        return overdue(row, 0, since_s + spent_s, resumed_s, waited, load_s=60.0, away=away) is not None

    assert [False, True] == [late(59), late(61)]
    assert [False, True] == [late(100, waited_s=41), late(100, waited_s=39)]
    assert [False, True] == [late(119, waited_s=119), late(121, waited_s=121)]
    assert late(61, resumed_s=since_s + 60), "the supervisor stood still again and again"
    assert [False, True] == [late(90, away_s=31), late(90, away_s=29)]


def test_how_long_a_thread_has_waited_is_counted_from_when_it_was_first_asked(
    board: Board, row: StatsRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = iter([100.0, 103.0, 50.0])
    monkeypatch.setattr(crashes, "waited_s", lambda _pid, _thread: next(said))
    row.slow.set(b"1:1-0")
    watch = CircuitBreaker(board, ["lenet", "edges"], 1)

    assert [0.0, 3.0] == [watch._waited(Slot(0), row.slow, 7.0) for _ in range(2)]
    assert 0.0 == watch._waited(Slot(0), row.slow, 8.0), "another job, or the worker was stopped meanwhile"


def test_a_kill_counts_twice_where_the_worker_had_grown() -> None:
    assert KILL_POINTS == points_of(-signal.SIGKILL, hung=False, grown_bytes=GREEDY_BYTES - 1)
    assert GREEDY_POINTS == points_of(-signal.SIGKILL, hung=False, grown_bytes=GREEDY_BYTES)
    assert CRASH_POINTS == points_of(-signal.SIGSEGV, hung=False)
    assert CRASH_POINTS == points_of(-signal.SIGKILL, hung=True)
    assert 0 == points_of(-signal.SIGTERM, hung=False)


def test_a_stopped_worker_is_never_late(board: Board, row: StatsRow) -> None:
    row.set("pulse_decode_limit_s", 1e-9)
    row.decoding.set(b"1:1-0")
    watch, slot = CircuitBreaker(board, ["lenet", "edges"], 1), Slot(0)

    assert watch.late(slot) == Overdue(0, "decoding", ("1:1-0",))
    slot.stopped = True
    assert watch.late(slot) is None


@pytest.mark.parametrize(("decodes", "suspended"), [(False, {"lenet"}), (True, set())])
def test_deaths_with_a_picture_in_a_decoder_do_not_suspend_the_model(
    board: Board, row: StatsRow, decodes: bool, suspended: set[str]
) -> None:
    watch = CircuitBreaker(board, ["lenet", "edges"], 1)
    row.running.set(b"1:1-0")
    if decodes:
        row.slow.set(b"1:2-0")
    for _ in range(DEATHS):
        watch.note_death(0)

    assert suspended == watch.suspended()
