"""What a process knows of its threads: nothing while they do well, and the first that fell."""

from __future__ import annotations

import logging

import pytest

from convq.threads import Watch

LOG = logging.getLogger("convq.test")


def raising(error: BaseException) -> None:
    raise error


def test_a_thread_that_ends_in_good_order_is_no_news() -> None:
    watch = Watch(LOG)
    seen: list[int] = []

    watch.start("good", seen.append, 1).join(5)

    assert [1] == seen
    assert watch.fallen is None


@pytest.mark.parametrize("error", [ValueError("why"), SystemExit(0), KeyboardInterrupt(), MemoryError()], ids=repr)
def test_whatever_a_thread_ends_by_is_known_by_its_name(error: BaseException) -> None:
    watch = Watch(LOG)

    watch.start("bad", raising, error).join(5)

    assert watch.fallen is not None
    assert ("bad", error) == (watch.fallen.name, watch.fallen.error)
    assert str(watch.fallen).startswith(f"the thread 'bad' ended by a defect, {type(error).__name__}: ")


def test_the_first_that_fell_is_kept() -> None:
    watch = Watch(LOG)

    watch.start("first", raising, ValueError("1")).join(5)
    watch.start("second", raising, ValueError("2")).join(5)

    assert "the thread 'first' ended by a defect, ValueError: 1" == str(watch.fallen)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_fall_is_known_even_where_it_cannot_be_logged() -> None:
    class Full(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError(f"no room for {record}")

    log = logging.getLogger("convq.test.full")
    log.handlers = [Full()]
    watch = Watch(log)

    watch.start("bad", raising, ValueError("why")).join(5)

    assert watch.fallen is not None
