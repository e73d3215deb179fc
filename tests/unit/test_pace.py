"""The stopwatch that tests measure with: what neighbours take is not charged to what is measured."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from pace import Stopwatch

NEIGHBOURS = 3
WORK_S = 0.2


@pytest.fixture
def _crowded() -> Iterator[None]:
    """This process has one processor, and shares it with some that never pause."""
    if sys.platform != "linux":
        pytest.skip("only Linux lets a process choose its processors")
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    neighbours = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(NEIGHBOURS)]
    try:
        yield
    finally:
        for one in neighbours:
            one.kill()
            one.wait()
        os.sched_setaffinity(0, allowed)


@pytest.mark.usefixtures("_crowded")
def test_work_among_busy_neighbours_takes_as_long_as_alone() -> None:
    began_s = time.thread_time()
    with Stopwatch() as watch:
        while time.thread_time() - began_s < WORK_S:
            hashlib.pbkdf2_hmac("sha256", b"any", b"thing", 1000)

    assert watch.took_s > 2 * WORK_S, "no neighbours: nothing was shown"
    assert WORK_S / 2.5 < watch.quiet_s < WORK_S * 2.5, (watch.took_s, watch.slowdown)


def test_it_can_be_read_before_its_block_is_over() -> None:
    with Stopwatch() as watch:
        assert 0 < watch.quiet_s <= watch.took_s
        assert watch.slowdown >= 1
    took_s = watch.took_s

    assert took_s == watch.took_s
