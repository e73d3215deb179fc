"""Whoever puts a line never waits, whatever becomes of it; what is dropped is counted where it is missing."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import pytest

from convq.outlet import Outlet
from servers import wait_until

LINE = b"x" * 99 + b"\n"


def missing(lines: int) -> bytes:
    return b"%d missing\n" % lines


@contextmanager
def pipe(*, full: bool = False) -> Iterator[tuple[BinaryIO, int]]:
    """Something to read from, and the descriptor to write to, which takes nothing more where it is `full`."""
    ours, theirs = os.pipe()
    with open(ours, "rb") as reading:  # noqa: PTH123 - a descriptor
        if full:
            fill(theirs)
        yield reading, theirs
    os.close(theirs)


def fill(descriptor: int) -> None:
    os.set_blocking(descriptor, False)
    for size in (4096, 1):
        try:
            while True:
                os.write(descriptor, b"-" * size)
        except BlockingIOError:
            pass
    os.set_blocking(descriptor, True)


def read_until(reading: BinaryIO, end: bytes) -> list[bytes]:
    lines: list[bytes] = []
    while not lines or lines[-1] != end:
        lines.append(reading.readline().lstrip(b"-"))
    return lines


def test_lines_come_out_in_their_order() -> None:
    with pipe() as (reading, descriptor):
        outlet = Outlet(descriptor, missing)
        for number in range(500):
            outlet.put(b"%d\n" % number)
        assert outlet.flush(30)

        assert [b"%d\n" % number for number in range(500)] == [reading.readline() for _ in range(500)]
        assert 0 == outlet.dropped


@pytest.mark.parametrize("blocking", [True, False])
def test_what_nobody_reads_is_dropped_counted_and_said_when_it_flows_again(*, blocking: bool) -> None:
    with pipe(full=True) as (reading, descriptor):
        os.set_blocking(descriptor, blocking)
        outlet = Outlet(descriptor, missing, most_bytes=1000)
        outlet.put(b"%99d\n" % 0)
        wait_until(lambda: outlet._writing)  # a thread that comes late makes room for a line behind the gap
        for number in range(1, 1000):
            outlet.put(b"%99d\n" % number)
        assert not outlet.flush(0.05)
        dropped = outlet.dropped
        assert 980 < dropped < 1000

        first = read_until(reading, missing(dropped))
        assert [b"%99d\n" % number for number in range(1000 - dropped)] == first[:-1]
        outlet.put(b"on\n")
        assert b"on\n" == reading.readline()


def test_the_gap_is_said_where_it_is() -> None:
    with pipe(full=True) as (reading, descriptor):
        outlet = Outlet(descriptor, missing, most_bytes=len(LINE))
        outlet.put(b"first\n")
        wait_until(lambda: outlet._writing)
        outlet.put(LINE)
        outlet.put(b"lost\n")
        before = threading.Thread(target=lambda: read_until(reading, LINE))
        before.start()
        before.join(30)
        wait_until(lambda: not outlet._lines)
        outlet.put(b"next\n")

        assert [missing(1), b"next\n"] == read_until(reading, b"next\n")


def test_a_reader_that_is_gone_costs_lines_and_nothing_else() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    outlet = Outlet(theirs, missing)
    for _ in range(100):
        outlet.put(LINE)

    assert outlet.flush(30)
    assert 100 == outlet.dropped
    os.close(theirs)


def test_a_closed_descriptor_costs_lines_and_nothing_else() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    os.close(theirs)
    outlet = Outlet(theirs, missing)
    outlet.put(LINE)

    assert outlet.flush(30)
    assert 1 == outlet.dropped


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no such device here")  # noqa: PTH110
def test_a_full_disk_costs_lines_and_nothing_else() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    outlet = Outlet(descriptor, missing)
    for _ in range(100):
        outlet.put(LINE)

    assert outlet.flush(30)
    assert 100 == outlet.dropped
    os.close(descriptor)


def test_after_a_full_disk_the_gap_is_said_before_the_next_line(tmp_path: object) -> None:
    """The limit of a file's size stands in for the disk's: the same refusal in the middle of a line."""
    program = f"""
import os, resource, sys
from convq.outlet import Outlet
descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
outlet = Outlet(descriptor, lambda lines: b"%d missing\\n" % lines)
resource.setrlimit(resource.RLIMIT_FSIZE, (250, resource.RLIM_INFINITY))
for _ in range(5):
    outlet.put({LINE!r})
assert outlet.flush(30)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
outlet.put(b"next\\n")
assert outlet.flush(30)
"""
    file = f"{tmp_path}/log"
    subprocess.run([sys.executable, "-c", program, file], check=True, timeout=250)

    with open(file, "rb") as written:  # noqa: PTH123
        assert [LINE, LINE, b"x" * 50 + b"\n", b"3 missing\n", b"next\n"] == written.readlines()


def test_what_was_said_just_before_a_crash_is_out_where_the_descriptor_does_not_block() -> None:
    program = """
import os
from convq.outlet import Outlet
os.set_blocking(2, False)
Outlet(2, lambda _: b"").put(b"last words\\n")
os.kill(os.getpid(), 9)
"""
    ended = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, check=False, timeout=250)

    assert b"last words\n" == ended.stderr


def test_a_process_ends_although_nobody_reads_its_last_lines() -> None:
    program = """
import logging, sys
from convq.logs import set_up
set_up("json")
for _ in range(10_000):
    logging.getLogger("convq").warning("x" * 500)
sys.exit(7)
"""
    with pipe(full=True) as (_, descriptor):
        ended = subprocess.run([sys.executable, "-c", program], stderr=descriptor, check=False, timeout=250)

    assert 7 == ended.returncode
