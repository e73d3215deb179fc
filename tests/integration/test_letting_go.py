"""What large jobs took goes back to the system when there is nothing to do."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
from watcher import resident_bytes

from convq.engine.engine import Engine, Prepared
from convq.host import allocator
from services import MODELS

MIB = 1 << 20
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


def test_a_network_lets_go_of_what_its_largest_input_took() -> None:
    engine = Engine.load(MODELS / "gaussian_blur", 1, device="cpu")
    engine.warm_up()
    allocator.give_back()
    before = resident_bytes(os.getpid())
    shape = (3, 1500, 2000)
    large = Prepared(np.zeros(shape, dtype=np.uint8), shape)
    engine.run([large])
    grown = resident_bytes(os.getpid()) - before

    engine.let_go()
    allocator.give_back()

    assert 64 * MIB < grown
    assert resident_bytes(os.getpid()) - before < grown / 2


class Hand:
    """A clock that is turned by hand."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_memory_is_given_back_once_after_growth_and_only_with_nothing_in_hand() -> None:
    held: list[bytearray] = []
    clock = Hand()
    idle = allocator.Idle(held.clear, clock)

    def look(*, nothing_in_hand: bool = True) -> bool:
        clock.now_s += allocator.LOOK_EVERY_S
        return idle.look(nothing_in_hand=nothing_in_hand)

    assert not look()
    held.append(bytearray(b"x") * (64 * MIB))
    grown = resident_bytes(os.getpid())
    assert not look(nothing_in_hand=False)
    assert not idle.look(nothing_in_hand=True)  # too soon to look again
    assert look()
    assert [] == held
    assert resident_bytes(os.getpid()) < grown - 32 * MIB
    assert not look()
