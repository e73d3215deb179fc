"""What one pipeline counts, once per batch, on its row of the board."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

import numpy as np

from convq.errors import ConvqError, LeaseLost
from convq.ipc.census import Census
from convq.ipc.series import LANE_NAMES
from convq.ipc.shared_memory import StatsRow
from convq.protocol import Status
from convq.queue import Delivery
from convq.worker.loaded_model import Role
from convq.worker.postprocessor import BatchResult
from convq.worker.ticket import Ticket


class Counters:
    """Counts, once per batch."""

    STAGE = "convq_job_stage_duration_seconds"

    def __init__(self, row: StatsRow) -> None:
        self._row = row
        self._reconnects = 0
        self.clients = Census()
        """Who sent the jobs that were answered."""

    def moved(self) -> None:
        """This worker makes progress: see `progress`."""
        self._row.set("pulse_moved_s", time.monotonic())

    def delivered(self, delivery: Delivery) -> None:
        """Jobs have arrived."""
        self._row.observe("convq_image_bytes", [len(job.image or job.tensor or b"") for job in delivery.jobs])

    def expired(self, per_lane: Sequence[int]) -> None:
        """Jobs were answered as expired inside the server."""
        self.moved()
        for lane, count in zip(LANE_NAMES, per_lane, strict=True):
            if count:
                self._row.add("convq_jobs", count, lane, "expired")

    def redelivered(self, delivery: Delivery) -> None:
        """Jobs of a dead worker were taken over; those that a living one gave back are none."""
        for job in delivery.jobs:
            if job.attempt > 1:
                self._row.add("convq_redeliveries", 1, LANE_NAMES[job.lane])

    def answered(self, answers: BatchResult, result_bytes: int, rank_s: float, done_s: float) -> None:
        """A batch is published: `rank_s` went into its documents, of `result_bytes`, `done_s` is the moment when the server had them."""
        row = self._row
        self.moved()
        outcomes: dict[tuple[int, str], int] = {}
        for ticket in answers.tickets:
            key = ticket.job.lane, outcome_of(ticket)
            outcomes[key] = outcomes.get(key, 0) + 1
            if (
                ticket.status is Status.ERROR
                and ticket.job.problem is not None
                and ticket.job.problem.fault == "client"
            ):
                row.add("convq_rejected", 1, ticket.job.problem.code)
        for (lane, outcome), count in outcomes.items():
            row.add("convq_jobs", count, LANE_NAMES[lane], outcome)
        self.clients.add(Counter([ticket.job.client for ticket in answers.tickets]))
        row.add("convq_result_bytes", result_bytes)
        self._timed(answers, rank_s, done_s)
        if answers.role is not None:
            self._version_answered(answers, answers.role)
        if answers.batch is not None:
            row.observe_alike("convq_batch_size", len(answers.tickets), 1)
            row.add("convq_batches", 1, str(answers.batch.reason))

    def _timed(self, answers: BatchResult, rank_s: float, done_s: float) -> None:
        """Where the time went: what the stages of a job add up to is its whole time, from the entry to the publication.

        Whatever a job waits for between its arrival and the network is `batch_wait`, its neighbours' decoding too; what it
        waits for behind the network, mostly for the batch before to be published, is `publish`.
        """
        row, tickets, count = self._row, answers.tickets, len(answers.tickets)
        queue_s = np.array([ticket.queue_s for ticket in tickets])
        arrived_s = np.array([ticket.arrived_s for ticket in tickets])
        fetched_s = np.array([ticket.arrived_s + ticket.fetch_s for ticket in tickets])
        wait_s = answers.ended_s - tickets[0].infer_s - fetched_s
        images = [i for i, ticket in enumerate(tickets) if ticket.decode_s]
        if images:
            decode_s = np.array([tickets[i].decode_s for i in images])
            prepare_s = np.array([tickets[i].prepare_s for i in images])
            wait_s[images] -= decode_s + prepare_s
            row.observe(self.STAGE, decode_s, "decode")
            row.observe(self.STAGE, prepare_s[prepare_s > 0], "preprocess")  # not of those that could not be decoded
        row.observe(self.STAGE, queue_s, "queue")
        for fetch_s, jobs in Counter([ticket.fetch_s for ticket in tickets]).items():  # one for each delivery
            row.observe_alike(self.STAGE, fetch_s, jobs, "fetch")
        row.observe(self.STAGE, wait_s, "batch_wait")
        if answers.batch is not None:
            row.observe_alike(self.STAGE, tickets[0].infer_s, count, "inference")
        row.observe_alike(self.STAGE, rank_s, count, "postprocess")
        row.observe_alike(self.STAGE, done_s - answers.ended_s - rank_s, count, "publish")
        row.observe("convq_job_e2e_duration_seconds", queue_s + done_s - arrived_s)

    def _version_answered(self, answers: BatchResult, role: Role) -> None:
        """What a version has done: bad input is no fault of it and does not come here, or is not counted.

        Nor is what fails because a client asked a candidate for it by name: no other version could have shown the same.
        """
        row, tickets = self._row, answers.tickets
        failed = [ticket for ticket in tickets if ticket.status is Status.ERROR]
        told = [
            one for one in failed if not one.blameless and not (role == "candidate" and one.job.version is not None)
        ]
        row.add("convq_version_jobs", len(told), role, "failed")
        row.add("convq_version_jobs", len(tickets) - len(failed), role, "ok")
        row.observe_alike("convq_version_inference_seconds", tickets[0].infer_s, len(tickets), role)

    def trouble(self, error: ConvqError) -> None:
        """Redis did not carry out a command."""
        kind = "lease_lost" if isinstance(error, LeaseLost) else "unavailable" if error.retry else "refused"
        self._row.add("convq_redis_command_errors", 1, kind)

    def reconnected(self, times: int) -> None:
        """How often this worker has connected again so far."""
        self._row.add("convq_redis_reconnects", times - self._reconnects)
        self._reconnects = times

    def buried(self, ticket: Ticket) -> None:
        """A job became a dead letter."""
        self._row.add("convq_dead_letters", 1, LANE_NAMES[ticket.job.lane], "poisoned")

    def lost(self, count: int) -> None:
        """Results that somebody else has published, or will."""
        if count:
            self._row.add("convq_lost_commits", count)


def outcome_of(ticket: Ticket) -> str:
    """The label `outcome` of convq_jobs_total."""
    if ticket.status is Status.POISONED:
        return "dead_letter"
    if ticket.status is not Status.ERROR:
        return str(ticket.status)
    return "invalid" if ticket.job.problem is not None and ticket.job.problem.fault == "client" else "error"
