"""Every outcome that a metric names is one that a job can have, and every one that a job can have is named."""

from __future__ import annotations

import pytest

from convq.errors import BadImage, JobError, ModelFault
from convq.ipc.series import OUTCOMES
from convq.protocol import Status
from convq.queue.deliveries import Lease
from convq.queue.entries import Received
from convq.worker.counters import outcome_of
from convq.worker.ticket import Ticket


def ticket(status: Status, problem: JobError | None = None) -> Ticket:
    """A job that ended so."""
    job = Received("5-0", 1, 1, "5-0", problem=problem)
    return Ticket(job, Lease("w"), arrived_s=0.0, queue_s=0.0, status=status)


@pytest.mark.parametrize("problem", [None, BadImage("torn"), ModelFault("no number")])
@pytest.mark.parametrize("status", Status)
def test_each_end_of_a_job_has_its_outcome(status: Status, problem: JobError | None) -> None:
    assert outcome_of(ticket(status, problem)) in OUTCOMES


def test_no_outcome_is_named_that_no_job_has() -> None:
    ends = [ticket(status, problem) for status in Status for problem in (None, BadImage("torn"))]

    assert set(OUTCOMES) == {outcome_of(end) for end in ends}
