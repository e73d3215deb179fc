"""What a hostile entry may cost: every text has a limit, and no layout of fields takes more than linear time."""

from __future__ import annotations

import time

import pytest

from convq.queue import Receiver
from convq.queue.entries import MAX_INBOX_NAME, MAX_TEXT_BYTES, Received

INBOX = "convq:{lenet}:inbox:"
MANY = 100_000
SOON_S = 2.0
"""Processor time: a hundredth of what quadratic time would take here."""


def received(*flat: bytes) -> Received:
    return Receiver(INBOX).receive(b"1-1", flat, lane=1, attempt=1)


def problem(*flat: bytes) -> str:
    found = received(*flat).problem
    assert found is not None
    assert len(str(found)) < 400
    return str(found)


@pytest.mark.parametrize("name", ["outputs", "traceparent"])
def test_a_text_has_a_limit(name: str) -> None:
    longest = b"x" * MAX_TEXT_BYTES

    assert received(b"image", b"", name.encode(), longest).problem is None
    assert f"{name} may be at most {MAX_TEXT_BYTES} bytes; got {MAX_TEXT_BYTES + 1}" == problem(
        b"image", b"", name.encode(), longest + b"x"
    )


def test_an_inbox_has_a_limit() -> None:
    good = INBOX.encode() + b"x" * MAX_INBOX_NAME

    assert received(b"image", b"", b"reply_to", good).reply_to == good.decode()
    assert "reply_to must be an inbox" in problem(b"image", b"", b"reply_to", good + b"x")


@pytest.mark.parametrize("name", [b"image", b"id", b"top_k", b"nobody knows it"])
def test_a_field_given_a_hundred_thousand_times_takes_no_time(name: bytes) -> None:
    began_s = time.thread_time()
    found = received(b"image", b"x", *[name, b"1"] * MANY)

    assert time.thread_time() - began_s < SOON_S
    assert (found.problem is None) == (name == b"nobody knows it")


def test_a_hundred_thousand_layouts_are_not_remembered() -> None:
    receiver = Receiver(INBOX)
    for number in range(1000):
        receiver.receive(b"1-1", (b"image", b"x", b"outputs", b"%d" % number), lane=1, attempt=1)
        receiver.receive(b"1-1", (b"image", b"x", b"field %d" % number, b"y"), lane=1, attempt=1)

    assert len(receiver._layouts) <= Receiver.MAX_REMEMBERED
    assert all(len(layout.headers) <= Receiver.MAX_REMEMBERED for layout in receiver._layouts.values())


def test_unknown_fields_are_named_once_each_a_few_of_them_cut_and_printable() -> None:
    assert () == received(b"image", b"", b"client", b"me", b"top_k", b"1").ignored
    assert ("repply_to", "ttl") == received(b"repply_to", b"x", b"image", b"", b"ttl", b"1", b"ttl", b"2").ignored
    assert ("\\x1b[2J", "\ufffd", "", "x" * 40 + "\u2026") == received(
        b"image", b"", b"\x1b[2J", b"", b"\xff", b"", b"", b"", b"x" * 9000, b""
    ).ignored
    many = received(b"image", b"", *[part for n in range(100) for part in (b"field %d" % n, b"")]).ignored
    assert tuple(f"field {n}" for n in range(10)) == many
