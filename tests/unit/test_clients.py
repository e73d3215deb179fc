"""Counting jobs by client: exact for those who are busy, bounded whatever names come."""

from __future__ import annotations

import random
import sys
import time
import tracemalloc
from collections import Counter

from convq.ipc.census import LEAST_JOBS, MOST_CANDIDATES, MOST_NAMES, OTHER, UNNAMED, Census

MANY = 100_000


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_a_few_clients_are_counted_exactly_from_the_first_job_on() -> None:
    census = Census()
    census.add({"shop": 3, "": 2})
    census.add({"shop": 4, "camera-7": 1})

    assert {"shop": 7, UNNAMED: 2, "camera-7": 1} == census.totals()
    assert {"shop": 7, UNNAMED: 2, "camera-7": 1} == census.take()
    assert {} == census.take()
    census.add({"shop": 1, OTHER: 5, UNNAMED: 1})
    assert {"shop": 1, OTHER: 5, UNNAMED: 1} == census.take()


def test_a_hundred_thousand_names_cost_neither_memory_nor_series() -> None:
    census, names = Census(), [f"{random.getrandbits(64):016x}" for _ in range(MANY)]
    seen: set[str] = set()
    tracemalloc.start()
    began_s, before = time.process_time(), tracemalloc.get_traced_memory()[0]
    for start in range(0, MANY, 64):
        census.add(dict.fromkeys(names[start : start + 64], 1))
        seen |= census.totals().keys() if start % 6400 == 0 else set()
    spent_s, grown = time.process_time() - began_s, tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()

    assert MANY == sum(census.totals().values())
    assert MOST_NAMES + 1 >= len(seen), "the first ones, and the rest"
    assert grown < 200_000
    assert spent_s < 20, "that is a small part of what answering as many jobs takes"


def test_who_really_sends_much_is_found_among_them() -> None:
    census = Census()
    for number in range(MANY // 20):
        census.add({f"random-{number * 19 + i}": 1 for i in range(19)} | {"flooder": 3})

    totals = census.totals()
    assert "flooder" in totals
    assert MANY // 20 * 3 - 200 < totals["flooder"] <= MANY // 20 * 3


def test_a_name_that_is_new_for_every_batch_takes_no_place() -> None:
    census = Census()
    census.add({f"client-{i}": 1000 for i in range(MOST_NAMES)})
    for number in range(1000):
        census.add({f"{number}": LEAST_JOBS * 2})

    assert {f"client-{i}" for i in range(MOST_NAMES)} | {OTHER} == census.totals().keys()


def test_who_came_first_loses_the_place_to_who_comes_now() -> None:
    clock = Clock()
    census = Census(clock)
    census.add({f"old-{i}": 1000 for i in range(MOST_NAMES)})
    clock.now_s += 3600
    for _ in range(20):
        census.add({"new": 5})

    totals = census.totals()
    assert "new" in totals
    assert MOST_NAMES + 1 == len(totals)
    assert 100 == totals["new"] + totals[OTHER]


def test_what_is_other_never_goes_back() -> None:
    """It is a counter of its own: what a name had when it lost its place is no news."""
    clock, seeded = Clock(), random.Random(1)
    census, other = Census(clock), 0
    for _ in range(3000):
        clock.now_s += 1
        census.add(Counter(f"client-{int(seeded.expovariate(0.02))}" for _ in range(20)))
        now = census.totals().get(OTHER, 0)
        assert 0 <= now - other <= 20
        other = now
    assert len(census._candidates) <= MOST_CANDIDATES
    assert sys.getsizeof(census._counts) < 5000
