"""Which jobs get a line, and what becomes of the others."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from convq.errors import BadImage, JobError, ModelFault
from convq.protocol import Status
from convq.queue import Lease, Received
from convq.worker.job_log import LINES_PER_S, JobLog
from convq.worker.postprocessor import BatchResult
from convq.worker.ticket import Ticket

TRACE = "0af7651916cd43dd8448eb211c80319c"


class Lines(logging.Handler):
    """What was logged, as level, message and facts."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[tuple[int, str, dict[str, Any]]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.all.append((record.levelno, record.getMessage(), record.__dict__["facts"]))

    def messages(self) -> list[str]:
        return [message for _, message, _ in self.all]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """The log of the jobs while a test runs."""
    logger, handler = logging.getLogger("convq.jobs"), Lines()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(before)


def ticket(status: Status = Status.OK, problem: JobError | None = None, **job: Any) -> Ticket:
    received = Received("7-0", 1, job.pop("attempt", 1), "j1", problem=problem, image=b"secret", **job)
    return Ticket(received, Lease("w"), arrived_s=0.0, queue_s=0.0, status=status, total_s=0.0125)


def published(log: JobLog, *tickets: Ticket) -> None:
    log.published("lenet", BatchResult(list(tickets)), 0.0, 0.0)


def test_a_failed_job_is_said_with_what_one_looks_for(lines: Lines) -> None:
    problem = BadImage("no image", quote="; it begins with secret")
    published(JobLog("failed"), ticket(Status.ERROR, problem, traceparent=f"00-{TRACE}-b7ad6b7169203331-01", attempt=2))

    facts = {"model": "lenet", "job": "j1", "trace_id": TRACE, "stream": "normal", "total_ms": 12.5}
    told = {"code": "bad_image", "reason": "no image", "attempt": 2}
    assert [(logging.WARNING, "a job ended as error", facts | told)] == lines.all


def test_the_level_says_whose_fault_it_is(lines: Lines) -> None:
    published(
        JobLog("failed"),
        ticket(Status.ERROR, ModelFault("no")),
        ticket(Status.ERROR, BadImage("no")),
        ticket(Status.EXPIRED),
        ticket(Status.CANCELLED),
    )

    assert [logging.ERROR, logging.WARNING, logging.INFO, logging.INFO] == [level for level, _, _ in lines.all]


def test_jobs_that_end_well_are_said_only_where_all_are(lines: Lines) -> None:
    published(JobLog("failed"), ticket())
    assert [] == lines.all

    published(JobLog("all"), ticket())
    assert ["a job ended as ok"] == lines.messages()


def test_a_poisoned_job_has_its_line_elsewhere(lines: Lines) -> None:
    published(JobLog("all"), ticket(Status.POISONED))

    assert [] == lines.all


def test_what_is_more_than_a_second_takes_is_counted_in_one_line(lines: Lines) -> None:
    log = JobLog("failed")
    for _ in range(44):
        published(log, *[ticket(Status.ERROR, BadImage("no"))] * 100)
    published(log, ticket(Status.EXPIRED))
    log.expired_unread("lenet", 600)
    log.summarise()
    log.summarise()

    *single, summary = lines.all
    assert ["a job ended as error"] * LINES_PER_S == [message for _, message, _ in single]
    ends = {"bad_image": 4400 - LINES_PER_S, "expired": 601}
    assert (logging.WARNING, "and 4,981 more jobs like these", {"model": "lenet", "ended_as": ends}) == summary


def test_many_good_jobs_do_not_hide_the_failed_ones(lines: Lines) -> None:
    log = JobLog("all")
    published(log, *[ticket()] * 1000, ticket(Status.ERROR, BadImage("no")))

    assert LINES_PER_S == lines.messages().count("a job ended as ok")
    assert 1 == lines.messages().count("a job ended as error")


def test_a_summary_comes_at_most_once_a_second_or_when_all_is_over(lines: Lines) -> None:
    log = JobLog("failed")
    for _ in range(3):
        log.expired_unread("lenet", 5)
        log.summarise()
    assert ["and 5 more jobs like these"] == lines.messages()

    log.summarise(at_once=True)
    assert "and 10 more jobs like these" == lines.messages()[-1]
