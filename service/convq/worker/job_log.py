"""A line for each job that deserves one: few lines a second, and one more that counts the rest."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from typing import Any, Literal

from convq.ipc.series import LANE_NAMES
from convq.logs import Limit, event
from convq.protocol import Status
from convq.worker.postprocessor import BatchResult
from convq.worker.ticket import Ticket

log = logging.getLogger("convq.jobs")

LINES_PER_S = 20
"""For jobs that failed, and as many again for those that did not."""
SUMMARY_EVERY_S = 1.0


class JobLog:
    """The log of one worker's jobs; the publishing threads of all its models share it.

    `failed` speaks of jobs that did not end as ok, `all` of every job. Poisoned ones have their own line where they are
    buried.
    """

    def __init__(self, which: Literal["failed", "all"]) -> None:
        self._all = which == "all"
        self._limits = {True: Limit(LINES_PER_S), False: Limit(LINES_PER_S)}
        self._more: Counter[tuple[str, str]] = Counter()
        self._next_summary_s = 0.0
        self._lock = threading.Lock()

    def published(self, model: str, answers: BatchResult, began_s: float, done_s: float) -> None:  # noqa: ARG002 - see Observer
        """These jobs were answered."""
        ok = Status.OK  # looked up once: this is the only line that good jobs pay for
        tickets = answers.tickets if self._all else [one for one in answers.tickets if one.status is not ok]
        if not tickets:
            return
        with self._lock:
            said = [one for one in tickets if one.status is not Status.POISONED and self._may_say(model, one)]
        for ticket in said:
            event(
                log, _level(ticket), f"a job ended as {ticket.status}", model=model, **ticket.names(), **_facts(ticket)
            )

    def expired_unread(self, model: str, count: int) -> None:
        """So many jobs expired where they lay: nobody knows more of them."""
        with self._lock:
            self._more[model, str(Status.EXPIRED)] += count

    def summarise(self, *, at_once: bool = False) -> None:
        """One line for all that had none, when a second has passed since the last one, or `at_once`. Call it often."""
        now_s = time.monotonic()
        with self._lock:
            if not self._more or (now_s < self._next_summary_s and not at_once):
                return
            more, self._more = self._more, Counter()
            self._next_summary_s = now_s + SUMMARY_EVERY_S
        for model in sorted({model for model, _ in more}):
            ends = {end: count for (one, end), count in more.items() if one == model}
            level = logging.INFO if set(ends) == {str(Status.OK)} else logging.WARNING
            event(log, level, f"and {sum(ends.values()):,} more jobs like these", model=model, ended_as=ends)

    def _may_say(self, model: str, ticket: Ticket) -> bool:
        """Whether this job gets a line of its own; otherwise it is counted."""
        if self._limits[ticket.status is Status.OK].take():
            return True
        self._more[model, _end(ticket)] += 1
        return False


def _end(ticket: Ticket) -> str:
    """How a job ended: its status, or the code of its error."""
    problem = ticket.job.problem
    return problem.code if ticket.status is Status.ERROR and problem is not None else str(ticket.status)


def _level(ticket: Ticket) -> int:
    if ticket.status is not Status.ERROR:
        return logging.INFO
    problem = ticket.job.problem
    return logging.WARNING if problem is not None and problem.fault == "client" else logging.ERROR


def _facts(ticket: Ticket) -> dict[str, Any]:
    job = ticket.job
    facts: dict[str, Any] = {"stream": LANE_NAMES[job.lane], "total_ms": round(ticket.total_s * 1e3, 3)}
    if ticket.status is Status.ERROR and job.problem is not None:
        facts |= {"code": job.problem.code, "reason": job.problem.public}
    if job.attempt > 1:
        facts["attempt"] = job.attempt
    return facts
