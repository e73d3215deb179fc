"""Who is in native code, and who may go in."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convq.ipc.crash_marks import COMPANY_POINTS, POISON_POINTS, CrashMark, Gate, is_condemned, listed, runs_alone
from servers import wait_until


@given(st.lists(st.from_regex(r"[0-2]:[0-9]{1,13}-[0-9]{1,3}", fullmatch=True), max_size=8), st.integers(24, 160))
def test_a_mark_holds_as_many_whole_names_as_there_is_room_for(jobs: list[str], size: int) -> None:
    mark = CrashMark(memoryview(bytearray(size)))
    mark.set(listed(jobs))

    kept = mark.read()
    assert jobs[: len(kept)] == kept
    assert len(kept) == len(jobs) or len(listed(jobs[: len(kept) + 1])) > size - CrashMark.HEAD_BYTES


def test_a_mark_says_since_when_and_nothing_once_it_is_cleared() -> None:
    mark, before_s = CrashMark(memoryview(bytearray(64))), time.monotonic()
    mark.set(b"1:5-0")

    assert before_s <= mark.since_s <= time.monotonic()
    assert threading.get_native_id() == mark.thread
    mark.clear()
    assert ([], 0.0) == (mark.read(), mark.since_s)


def entering(way: AbstractContextManager[None], inside: threading.Event, leave: threading.Event) -> threading.Thread:
    """A thread that goes in and stays until told to leave."""

    def visit() -> None:
        with way:
            inside.set()
            leave.wait(20)

    thread = threading.Thread(target=visit, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("way", [Gate.shared, Gate.slowly, Gate.alone])
def test_nobody_goes_in_while_one_is_alone(way: Callable[[Gate], AbstractContextManager[None]]) -> None:
    gate, inside, leave = Gate(), threading.Event(), threading.Event()
    leave.set()
    with gate.alone():
        thread = entering(way(gate), inside, leave)
        assert not inside.wait(0.05)
    thread.join(10)
    assert inside.is_set()


@pytest.mark.parametrize("way", [Gate.shared, Gate.slowly])
def test_who_wants_to_be_alone_waits_for_all_who_are_inside(
    way: Callable[[Gate], AbstractContextManager[None]],
) -> None:
    gate, leave, alone = Gate(), threading.Event(), threading.Event()
    with way(gate):
        thread = entering(gate.alone(), alone, leave)
        assert not alone.wait(0.05)
    assert alone.wait(10)
    leave.set()
    thread.join(10)


def test_while_somebody_asks_only_what_is_short_goes_in() -> None:
    gate, inside, leave = Gate(), threading.Event(), threading.Event()
    leave.set()
    gate.ask(self := object())
    with gate.shared():
        thread = entering(gate.slowly(), inside, leave)
        assert not inside.wait(0.05)
    gate.withdraw(self)
    thread.join(10)
    assert inside.is_set()


def test_only_one_is_inside_for_long_and_then_the_gate_is_not_calm() -> None:
    gate, inside, leave = Gate(), threading.Event(), threading.Event()
    leave.set()
    assert gate.is_calm
    with gate.slowly():
        assert not gate.is_calm
        thread = entering(gate.slowly(), inside, leave)
        assert not inside.wait(0.05)
        with gate.shared():
            pass
    thread.join(10)
    wait_until(lambda: gate.is_calm)


def test_company_alone_condemns_nobody_and_any_suspicion_isolates() -> None:
    assert COMPANY_POINTS < POISON_POINTS
    assert not is_condemned(COMPANY_POINTS, 1)
    assert not any(is_condemned(0, 0) for _attempt in range(1000))
    assert runs_alone(1, 1)
    assert runs_alone(0, 3)
    assert not runs_alone(0, 2)
