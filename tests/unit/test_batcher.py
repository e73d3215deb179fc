"""When a batch is closed, and what goes into it. Time is turned by hand where it matters."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from convq.ipc.series import CloseReason
from convq.worker.admission.batcher import Batcher
from servers import wait_until


class HandClock:
    """Time that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def batcher(max_batch: int = 4, max_wait_s: float = 0.0, clock: HandClock | None = None) -> Batcher[str]:
    return Batcher(max_batch, max_wait_s, key=lambda item: item[0], clock=clock or HandClock())


def test_what_is_there_runs_at_once() -> None:
    jobs = batcher()
    jobs.put(["a1", "a2"])

    batch = jobs.collect()

    assert batch is not None
    assert (["a1", "a2"], CloseReason.IDLE) == (batch.items, batch.reason)


def test_a_full_batch_goes_first_and_no_batch_is_larger() -> None:
    jobs = batcher(max_batch=2)
    jobs.put(["a1", "b1", "b2", "b3"])

    batches = [jobs.collect() for _ in range(3)]

    assert [(["b1", "b2"], "full"), (["a1"], "idle"), (["b3"], "idle")] == [(b.items, b.reason) for b in batches if b]


def test_items_of_different_keys_never_share_a_batch() -> None:
    jobs = batcher(max_batch=8)
    jobs.put(["a1", "b1", "a2"])

    first, second = jobs.collect(), jobs.collect()

    assert first is not None
    assert second is not None
    assert (["a1", "a2"], ["b1"]) == (first.items, second.items)


def test_a_model_that_asks_for_a_wait_gets_it_counted_from_the_oldest_item() -> None:
    clock = HandClock()
    jobs = batcher(max_wait_s=0.5, clock=clock)
    jobs.put(["a1"])
    clock.now_s += 0.375
    jobs.put(["a2"])

    assert jobs._ready() is None
    clock.now_s += 0.125
    batch = jobs.collect()

    assert batch is not None
    assert (["a1", "a2"], CloseReason.TIMEOUT) == (batch.items, batch.reason)


def test_a_full_batch_does_not_wait() -> None:
    jobs = batcher(max_batch=2, max_wait_s=60.0)
    jobs.put(["a1", "a2"])

    batch = jobs.collect()

    assert batch is not None
    assert CloseReason.FULL == batch.reason


def test_room_is_what_still_fits_beside_what_waits() -> None:
    jobs = batcher(max_batch=4)

    assert 4 == jobs.room(0)
    jobs.put(["a1", "a2", "a3"])
    assert 1 == jobs.room(0)
    jobs.put(["a4"])
    assert 0 == jobs.room(0.001)
    jobs.collect()
    assert 4 == jobs.room(0)


def test_after_close_what_waits_is_handed_out_and_then_nothing() -> None:
    jobs = batcher(max_wait_s=60.0)
    jobs.put(["a1", "b1"])
    jobs.close()

    drained = [jobs.collect(), jobs.collect()]

    assert [["a1"], ["b1"]] == [batch.items for batch in drained if batch]
    assert all(batch.reason == CloseReason.DRAIN for batch in drained if batch)
    assert jobs.collect() is None
    assert 0 == jobs.room(0)


def test_a_waiting_collector_wakes_when_something_comes() -> None:
    jobs = batcher()
    got: list[list[str]] = []

    def collect() -> None:
        batch = jobs.collect()
        got.append(batch.items if batch else [])

    thread = threading.Thread(target=collect)
    thread.start()
    jobs.put(["a1"])

    wait_until(lambda: got == [["a1"]])
    thread.join()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=60), st.integers(1, 7))
def test_nothing_is_lost_or_doubled_and_order_holds_within_a_key(items: list[tuple[str, int]], max_batch: int) -> None:
    jobs: Batcher[tuple[str, int, int]] = Batcher(max_batch, 0.0, key=lambda item: item[0])
    numbered = [(key, value, i) for i, (key, value) in enumerate(items)]
    jobs.put(numbered)
    jobs.close()

    out = []
    while (batch := jobs.collect()) is not None:
        assert len(batch.items) <= max_batch
        assert 1 == len({item[0] for item in batch.items})
        out += batch.items

    assert sorted(numbered) == sorted(out)
    for key in "abc":
        assert [item for item in numbered if item[0] == key] == [item for item in out if item[0] == key]


def weighed(max_bytes: float, max_batch: int = 8) -> Batcher[str]:
    """Items are as heavy as they are long."""
    return Batcher(max_batch, 0.0, key=lambda item: (item[0], len(item)), weight=len, max_bytes=max_bytes)


def test_there_is_room_while_fewer_bytes_wait_than_may() -> None:
    jobs = weighed(100)
    jobs.put(["a" * 60])

    assert (7, 40.0) == (jobs.room(0), jobs.room_bytes())
    jobs.put(["a" * 60])
    assert (0, 0.0) == (jobs.room(0.001), jobs.room_bytes())
    jobs.collect()
    assert (8, 100.0) == (jobs.room(0), jobs.room_bytes())


def test_one_item_that_is_heavier_than_all_may_be_comes_alone() -> None:
    jobs = weighed(100)

    assert 8 == jobs.room(0)
    jobs.put(["a" * 500])
    assert 0 == jobs.room(0.001)


def test_who_waits_for_bytes_goes_on_when_a_batch_was_taken_or_no_more_can_be() -> None:
    jobs = weighed(100)
    jobs.put(["a" * 500])
    waiting = threading.Thread(target=jobs.wait_for_bytes)
    waiting.start()
    wait_until(lambda: jobs._changed._waiters)  # type: ignore[attr-defined]
    jobs.collect()
    waiting.join(10)
    assert not waiting.is_alive()
    jobs.put(["a" * 500])
    jobs.close()
    jobs.wait_for_bytes()


@given(st.lists(st.text("ab", min_size=1, max_size=9), max_size=40), st.integers(1, 5))
def test_bytes_are_counted_to_nothing(items: list[str], max_batch: int) -> None:
    jobs = weighed(1000, max_batch)
    for item in items:
        jobs.put([item])
    assert 1000 - sum(map(len, items)) == jobs.room_bytes()
    jobs.close()
    while jobs.collect() is not None:
        pass

    assert 1000 == jobs.room_bytes()
