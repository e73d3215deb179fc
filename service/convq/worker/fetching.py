"""What comes into one pipeline: a lease, claims under it, jobs of the dead, jobs that have expired, keys that are no streams."""

from __future__ import annotations

import logging
import random
import threading
import time

from convq.errors import ConvqError, RedisUnavailable, StrangeKey
from convq.ipc.caution import Caution
from convq.ipc.shared_memory import StatsRow
from convq.logs import event
from convq.queue import Commits, Delivery, Lease, WorkQueue
from convq.worker.admission.intake import LOOK_S, Intake
from convq.worker.admission.preprocessor import Preprocessor
from convq.worker.counters import Counters
from convq.worker.job_log import JobLog
from convq.worker.publisher import BACK_OFF_S

log = logging.getLogger("convq.worker")

BLOCK_MS = 250
"""A fetch waits this long for jobs: also how soon the worker notices that it must stop, or that it lost its lease."""
RECLAIM_EVERY_S = 0.5
ROUNDS_PER_LEASE = 8
"""With a short lease both are shorter: whoever reclaims less than twice per lease takes it that the server was away."""
RESUME_EVERY_S = (5.0, 1.0)
"""A reply that was lost on the way leaves jobs pending under our name: looked for after trouble, and this often anyway.
The second while a job stream is no stream: somebody may have put that right."""
IDS_SHOWN = 10
"""So many jobs are named in the line that tells of their take-over."""


class FetchLoop:
    """The lease of one pipeline, and what is claimed under it. `run` is a thread of its own, the rest is for others."""

    def __init__(
        self,
        model: str,
        work: WorkQueue,
        commits: Commits,
        admission: Preprocessor,
        intake: Intake,
        row: StatsRow,
        tally: Counters,
        job_log: JobLog | None,
    ) -> None:
        """Fetches for `admission.serving`; what comes goes to `intake`."""
        self._model = model
        self._work = work
        self._commits = commits
        self._admission = admission
        self._intake = intake
        self._row = row
        self._tally = tally
        self._job_log = job_log
        self._caution = Caution(work, row, model)
        self._lease: Lease | None = None
        self._resume = self._more = False
        self._turn = 0
        self._strange: list[str] = []
        self._block_s = min(BLOCK_MS / 1e3, work.lease_s / ROUNDS_PER_LEASE)
        self._reclaim_every_s = min(RECLAIM_EVERY_S, work.lease_s / ROUNDS_PER_LEASE)
        self._next_resume_s = time.monotonic() + RESUME_EVERY_S[0]
        self._next_reclaim_s = 0.0
        self._seen_reclaim = row.get("pulse_reclaim")
        self._draining = threading.Event()
        self.ready = threading.Event()
        """It has its lease and asks for jobs."""
        self.over = threading.Event()
        """After `drain`: nothing more comes."""

    def drain(self) -> None:
        """Claim nothing more; what is not begun goes to others."""
        self._draining.set()

    @property
    def holds_nothing(self) -> bool:
        """Whether no job is in hand."""
        return self._lease is None or not self._lease.held

    def release(self) -> None:
        """Give the lease back once all is published; what a broken connection leaves behind runs out by itself."""
        self._row.set("pulse_incarnation", 0)
        try:
            if self._lease is not None:
                self._work.release(self._lease)
        except ConvqError as error:
            self._note_trouble(error, "release")
        self._work.close()

    def run(self) -> None:
        """Fetch until told to drain, whatever the server does meanwhile."""
        back_off_s = BACK_OFF_S[0]
        while not self._draining.is_set():
            try:
                self._fetch_once()
                back_off_s = BACK_OFF_S[0]
            except ConvqError as error:
                self._note_trouble(error, "fetch")
                self._resume = True
                if isinstance(error, StrangeKey):
                    self.ready.set()  # as ready as it may be; other models of this worker have their own keys
                if isinstance(error, RedisUnavailable):
                    self._commits.doubt()
                self._draining.wait(back_off_s * random.uniform(0.5, 1.5))  # noqa: S311 - spreads reconnects
                back_off_s = min(back_off_s * 2, BACK_OFF_S[1])
        self._leave()

    def _leave(self) -> None:
        """After the last claim: what is not begun goes to others, what is begun is finished."""
        try:
            self._intake.give_back()
        except ConvqError as error:
            self._note_trouble(error, "giving jobs back")
        self._intake.close()
        self.over.set()

    def _fetch_once(self) -> None:
        """One round: keep the lease, let suspects run, take over from the dead, claim what there is room for."""
        lease = self._held_lease()
        self._row.set("convq_worker_last_progress_timestamp_seconds", time.time())
        if self._resume or time.monotonic() >= self._next_resume_s:
            self._work.renew(lease)
            delivery = self._work.resume(lease, self._admission.serving.max_batch)
            self._resume, self._more = False, delivery.more
            self._accept(lease, delivery)
            self._next_resume_s = time.monotonic() + RESUME_EVERY_S[bool(self._work.strange_keys)]
        if self._row.get("pulse_suspended_until_s") > time.monotonic():
            self.ready.set()  # as ready as it may be; other models of this worker are not suspended
            self._intake.pause()
            self._draining.wait(self._block_s)
            return
        if self._intake.relieve():
            self._draining.wait(LOOK_S)  # what comes next may be of that kind too
        if self._intake.attend_to_suspects(lease, self._draining):
            return
        room = self._intake.room(self._block_s)
        if self._more or self._reclaim_is_due():
            room -= self._reclaim(lease, room)
        room_bytes = self._intake.room_bytes()
        if room > 0 and room_bytes > 0 and not self._draining.is_set():
            if self._intake.mostly_expired:
                self._expire(lease, room)
            else:
                hurried = self._more or self._intake.has_suspects
                block_ms = 1 if hurried else max(1, round(self._block_s * 1e3))
                was_free = not lease.held
                delivery = self._work.claim(lease, room, block_ms, room_bytes)
                self._more |= delivery.more
                if was_free or delivery.jobs:
                    self._tally.moved()
                self._intake.idle = not delivery.jobs
                self._accept(lease, delivery)
        self._note_strange_keys()
        self.ready.set()

    def _reclaim(self, lease: Lease, room: int) -> int:
        """Take over from the dead, and what others gave back; how many came. While there is more, half of the room is for it."""
        self._turn = 1 - self._turn
        share, room_bytes = (room + self._turn) // 2 if self._more else room, self._intake.room_bytes()
        delivery = self._work.reclaim(
            lease, max(0, share) if room_bytes > 0 else 0, room_bytes, returned=not self._intake.is_stuck
        )
        self._more = delivery.more and share > 0
        self._tally.redelivered(delivery)
        if orphans := [job.id for job in delivery.jobs if job.attempt > 1]:
            facts = {"model": self._model, "jobs": len(orphans), "ids": orphans[:IDS_SHOWN]}
            event(log, logging.WARNING, "took over jobs of a dead worker", **facts)
        self._accept(lease, delivery)
        return len(delivery.jobs)

    def _note_strange_keys(self) -> None:
        strange = self._work.strange_keys
        if strange != self._strange:
            self._strange = strange
            self._next_resume_s = min(self._next_resume_s, time.monotonic() + RESUME_EVERY_S[bool(strange)])
            what = (
                "a key that should be a job stream holds something else" if strange else "every job stream is one again"
            )
            event(log, logging.ERROR if strange else logging.WARNING, what, model=self._model, keys=strange)

    def _expire(self, lease: Lease, room: int) -> None:
        """While what comes is mostly expired, it is answered where it lies: nobody waits for these images to be moved."""
        expired, delivery = self._work.expire(lease, room, self._commits.result_ttl_ms)
        self._tally.expired(expired)
        if self._job_log is not None and any(expired):
            self._job_log.expired_unread(self._model, sum(expired))
        self._accept(lease, delivery)
        self._intake.mostly_expired = sum(expired) > len(delivery.jobs)

    def _held_lease(self) -> Lease:
        """The lease, made anew where it was lost; the supervisor learns of it through the board and renews it."""
        lease = self._lease
        if lease is not None and self._row.get("pulse_fenced") == self._row.get("pulse_incarnation") != 0:
            lease.lost = True
        if lease is None or lease.lost:
            if lease is not None:
                facts = {"model": self._model, "was": lease.incarnation}
                event(log, logging.WARNING, "lost its lease; others answer its jobs", **facts)
                self._intake.forget()
                self._work.suspicions.absolve(lease)
            self._lease = lease = self._work.take()
            self._row.set("pulse_incarnation", int(lease.incarnation.rpartition("-")[2], 16))
        return lease

    def _reclaim_is_due(self) -> bool:
        asked = self._row.get("pulse_reclaim")
        if time.monotonic() < self._next_reclaim_s and asked == self._seen_reclaim:
            return False
        self._seen_reclaim = asked
        self._next_reclaim_s = time.monotonic() + self._reclaim_every_s * random.uniform(0.8, 1.2)  # noqa: S311
        return True

    def _accept(self, lease: Lease, delivery: Delivery) -> None:
        """Take in what was delivered."""
        self._row.set("convq_worker_in_flight", len(lease.held))
        self._tally.reconnected(self._work.reconnects + self._commits.reconnects)
        if not delivery.jobs:
            return
        self._tally.delivered(delivery)
        self._caution.note(delivery)
        self._intake.accept(lease, delivery)

    def _note_trouble(self, error: ConvqError, where: str) -> None:
        self._tally.trouble(error)
        event(log, logging.WARNING, str(error), model=self._model, during=where)
