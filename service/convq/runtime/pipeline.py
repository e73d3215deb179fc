"""The life of a job in one worker, for one model: claim, decode, collect, run, rank, publish.

Three threads, so that fetching the next batch, running this one and publishing the last overlap (onnxruntime and sockets
let go of the interpreter lock). Between fetching and running stands the batcher, between running and publishing a
hand-over of one batch; nothing else queues, so a worker that dies takes about three batches with it, and others redo them.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time

from convq.errors import ConvqError, ModelFault, RedisUnavailable, StrangeKey
from convq.inference.session import Prepared
from convq.protocol import Status
from convq.queue import Commits, Delivery, Lease, WorkQueue
from convq.runtime.batcher import Batch
from convq.runtime.board import Row
from convq.runtime.caution import Caution
from convq.runtime.job_log import JobLog
from convq.runtime.logs import event
from convq.runtime.memory import Memory
from convq.runtime.metrics import wall_clock_s
from convq.runtime.native import Gate
from convq.runtime.publisher import BACK_OFF_S, Publisher
from convq.runtime.serving import Role, Serving
from convq.runtime.shadow import Shadow, in_network
from convq.runtime.tally import Tally
from convq.runtime.threads import Watch
from convq.runtime.tickets import Admission, Answerer, Answers, Ticket, batcher_for
from convq.runtime.tracing import Tracing

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
EXPIRED_BACKLOG = 4
"""So many expired jobs in one claim, and more of them than others: there is a backlog whose time is over."""


class Pipeline:
    """One model in one worker. `start`, then `drain` and `join`; what ends it otherwise, `watch` knows."""

    def __init__(
        self,
        serving: Serving,
        work: WorkQueue,
        commits: Commits,
        row: Row,
        worker: str,
        gate: Gate,
        watch: Watch,
        memory: Memory,
        job_log: JobLog | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.model = serving.engine.name
        self._work = work
        self._commits = commits
        self._row = row
        self._gate = gate
        self._memory = memory
        self._admission = Admission(serving, row.decoding, memory)
        self._shadow = Shadow(row)
        self._tally = Tally(row)
        self._job_log = job_log
        witnesses = [one for one in (job_log, tracing) if one is not None]
        self._publisher = Publisher(self.model, Answerer(self.model, worker), commits, self._tally, witnesses)
        self._batcher = batcher_for(serving, memory)
        self._input_bytes = memory.waiting_bytes  # of one prepared input, as far as is known
        self._more, self._turn = False, 0
        self._caution = Caution(work, row, self.model)
        self._handover: queue.Queue[Answers | None] = queue.Queue(maxsize=1)
        self._lease: Lease | None = None
        self._resume = False
        self._mostly_expired = False
        self._strange: list[str] = []
        self._block_s = min(BLOCK_MS / 1e3, work.lease_s / ROUNDS_PER_LEASE)
        self._reclaim_every_s = min(RECLAIM_EVERY_S, work.lease_s / ROUNDS_PER_LEASE)
        self._next_resume_s = time.monotonic() + RESUME_EVERY_S[0]
        self._next_reclaim_s = 0.0
        self._seen_reclaim = row.get("pulse_reclaim")
        self._draining = threading.Event()
        self._ready = threading.Event()
        self._fetch_over = threading.Event()
        self._threads = [
            watch.thread(f"{self.model}-{name}", work)
            for name, work in (("fetch", self._fetch), ("run", self._run), ("publish", self._publish))
        ]

    # -- life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the three threads."""
        self.adopt(self.serving)
        for thread in self._threads:
            thread.start()

    @property
    def serving(self) -> Serving:
        """What jobs that are admitted now are admitted for."""
        return self._admission.serving

    def adopt(self, serving: Serving) -> None:
        """Follow another plan from the next job on; what is admitted already ends with the version that it was given."""
        self._row.set("pulse_limit_s", max(serving.max_batch_s, self.serving.max_batch_s))
        self._row.set("convq_model_load_duration_seconds", serving.engine.load_s)
        self._batcher.resize(serving.max_batch)
        self._work.holdings.bounds = self._memory.bounds(serving)
        self._admission.serving = serving

    def wait_ready(self, timeout_s: float) -> bool:
        """Whether the worker has its lease and asks for jobs, waiting up to `timeout_s`."""
        return self._ready.wait(timeout_s)

    def drain(self) -> None:
        """Claim nothing more; what is held is finished and published, then the threads end."""
        self._draining.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the end; whether it came."""
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    # -- fetch ----------------------------------------------------------------------------------------------------

    def _fetch(self) -> None:
        back_off_s = BACK_OFF_S[0]
        while not self._draining.is_set():
            try:
                self._fetch_once()
                back_off_s = BACK_OFF_S[0]
            except ConvqError as error:
                self._note_trouble(error, "fetch")
                self._resume = True
                if isinstance(error, StrangeKey):
                    self._ready.set()  # as ready as it may be; other models of this worker have their own keys
                if isinstance(error, RedisUnavailable):
                    self._commits.doubt()
                self._draining.wait(back_off_s * random.uniform(0.5, 1.5))  # noqa: S311 - spreads reconnects
                back_off_s = min(back_off_s * 2, BACK_OFF_S[1])
        self._batcher.close()
        self._fetch_over.set()

    def _fetch_once(self) -> None:
        """One round: keep the lease, take over from the dead, claim what there is room for."""
        lease = self._held_lease()
        self._row.set("convq_worker_last_progress_timestamp_seconds", wall_clock_s())
        if self._resume or time.monotonic() >= self._next_resume_s:
            self._work.renew(lease)
            delivery = self._work.resume(lease, self.serving.max_batch)
            self._resume, self._more = False, delivery.more
            self._accept(lease, delivery)
            self._next_resume_s = time.monotonic() + RESUME_EVERY_S[bool(self._work.strange_keys)]
        if self._row.get("pulse_suspended_until_s") > time.monotonic():
            self._ready.set()  # as ready as it may be; other models of this worker are not suspended
            self._draining.wait(self._block_s)
            return
        room = self._batcher.room(self._block_s)
        if self._more or self._reclaim_is_due():
            self._turn = 1 - self._turn if self._more else 1
            delivery = self._work.reclaim(lease, (room + self._turn) // 2 if self._more else room)
            self._more = delivery.more
            self._tally.redelivered(delivery)
            orphans = [job.id for job in delivery.jobs if job.attempt > 1]
            if orphans:
                facts = {"model": self.model, "jobs": len(orphans), "ids": orphans[:IDS_SHOWN]}
                event(log, logging.WARNING, "took over jobs of a dead worker", **facts)
            self._accept(lease, delivery)
            room -= len(delivery.jobs)
        if room > 0 and not self._draining.is_set():
            if self._mostly_expired:
                self._expire(lease, room)
            else:
                delivery = self._work.claim(lease, room, 1 if self._more else max(1, round(self._block_s * 1e3)))
                self._more |= delivery.more
                self._accept(lease, delivery)
        self._note_strange_keys()
        self._ready.set()

    def _note_strange_keys(self) -> None:
        strange = self._work.strange_keys
        if strange != self._strange:
            self._strange = strange
            self._next_resume_s = min(self._next_resume_s, time.monotonic() + RESUME_EVERY_S[bool(strange)])
            what = (
                "a key that should be a job stream holds something else" if strange else "every job stream is one again"
            )
            event(log, logging.ERROR if strange else logging.WARNING, what, model=self.model, keys=strange)

    def _expire(self, lease: Lease, room: int) -> None:
        """While what comes is mostly expired, it is answered where it lies: nobody waits for these images to be moved."""
        expired, delivery = self._work.expire(lease, room, self._commits.result_ttl_ms)
        self._tally.expired(expired)
        if self._job_log is not None and any(expired):
            self._job_log.expired_unread(self.model, sum(expired))
        self._accept(lease, delivery)
        self._mostly_expired = sum(expired) > len(delivery.jobs)

    def _held_lease(self) -> Lease:
        """The lease, made anew where it was lost; the supervisor learns of it through the board and renews it."""
        lease = self._lease
        if lease is not None and self._row.get("pulse_fenced") == self._row.get("pulse_incarnation") != 0:
            lease.lost = True
        if lease is None or lease.lost:
            if lease is not None:
                facts = {"model": self.model, "was": lease.incarnation}
                event(log, logging.WARNING, "lost its lease; others answer its jobs", **facts)
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
        """Decode what was delivered; what cannot run is answered at once, beside the batch and not in it."""
        self._row.set("convq_worker_in_flight", len(lease.held))
        self._tally.reconnected(self._work.reconnects + self._commits.reconnects)
        if not delivery.jobs:
            return
        self._tally.delivered(delivery)
        self._caution.note(delivery)
        jobs, ended, ran = delivery.jobs, [], 0
        while jobs:
            at_once = max(1, int(self._memory.waiting_bytes // max(1, self._input_bytes)))
            delivery.jobs, jobs = jobs[:at_once], jobs[at_once:]
            self._batcher.wait_for_bytes()
            with self._gate.shared():
                runnable, others = self._admission.admit(lease, delivery)
            self._input_bytes = max((ticket.input_bytes for ticket in runnable), default=self._input_bytes)
            self._batcher.put(runnable)
            ran += len(runnable)
            ended += others
        if ended:
            self._handover.put(Answers(ended))
            expired = sum(ticket.status is Status.EXPIRED for ticket in ended)
            self._mostly_expired = expired >= EXPIRED_BACKLOG and expired > ran

    # -- run ------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (batch := self._batcher.collect()) is not None:
            for answers in self._infer(batch):
                inputs, answers.inputs = answers.inputs, None
                self._handover.put(answers)
                if inputs is not None:  # nobody waits for what a shadow says
                    self._compare(answers, inputs)
        self._fetch_over.wait()
        self._handover.put(None)

    def _infer(self, batch: Batch[Ticket]) -> list[Answers]:
        """Run one batch. Where onnxruntime refuses it, each job runs alone, so that one cannot fail its neighbours."""
        now_s = time.perf_counter()
        late = [ticket for ticket in batch.items if ticket.expires_s <= now_s]
        for ticket in late:
            ticket.status = Status.EXPIRED
        answers = [Answers(late)] if late else []
        tickets = [ticket for ticket in batch.items if ticket.status is Status.OK]
        if not tickets:
            return answers
        most = tickets[0].engine.max_batch if tickets[0].engine else 1
        if len(tickets) > most:  # formed for another version, which takes more at once
            parts = (Batch(tickets[i : i + most], batch.reason) for i in range(0, len(tickets), most))
            return answers + [one for part in parts for one in self._infer(part)]
        try:
            run = self._run_alone if tickets[0].alone else self._run_together
            return [*answers, run(tickets, batch)]
        except ModelFault as error:
            if len(tickets) > 1:
                return answers + [one for ticket in tickets for one in self._infer(Batch([ticket], batch.reason))]
            tickets[0].refuse(error)
            return [*answers, Answers(tickets, engine=tickets[0].engine, role=self._role(tickets[0]))]

    def _run_together(self, tickets: list[Ticket], batch: Batch[Ticket]) -> Answers:
        with self._gate.shared():
            return self._run_network(tickets, batch)

    def _run_alone(self, tickets: list[Ticket], batch: Batch[Ticket]) -> Answers:
        """A suspect, which is a batch of its own: from decoding on, nobody else of this process is in native code."""
        with self._gate.alone():
            self._row.running.set([tickets[0].name])
            self._admission.prepare(tickets[0])
            if tickets[0].status is not Status.OK:
                self._row.running.clear()
                return Answers(tickets)
            return self._run_network(tickets, batch)

    def _run_network(self, tickets: list[Ticket], batch: Batch[Ticket]) -> Answers:
        engine, inputs = tickets[0].engine, [ticket.prepared for ticket in tickets if ticket.prepared is not None]
        assert engine is not None  # noqa: S101 - `prepare` gives a ticket both, or refuses it
        wanted = {name for ticket in tickets for name in ticket.job.outputs}
        began = time.perf_counter()
        with in_network(self._row, engine, [ticket.name for ticket in tickets]):
            outputs = engine.run(inputs, wanted)
        ended_s = time.perf_counter()
        for ticket in tickets:
            ticket.wait_s = max(0.0, began - ticket.arrived_s - ticket.decode_s - ticket.prepare_s)
            ticket.infer_s = ended_s - began
            ticket.prepared = None
        role = self._role(tickets[0])
        shadowed = role == "serving" and self.serving.shadow is not None and not tickets[0].alone
        return Answers(tickets, outputs, batch, engine, role, inputs if shadowed else None, ended_s)

    def _role(self, ticket: Ticket) -> Role | None:
        return None if ticket.engine is None else self.serving.role_of(ticket.engine)

    def _compare(self, answers: Answers, inputs: list[Prepared]) -> None:
        shadow = self.serving.shadow
        if shadow is not None:
            with self._gate.shared():
                self._shadow.compare(answers, inputs, shadow)

    # -- publish --------------------------------------------------------------------------------------------------

    def _publish(self) -> None:
        while (answers := self._handover.get()) is not None:
            self._publisher.publish(answers)
        self._end_lease()

    def _end_lease(self) -> None:
        """Give the lease back after a drain; what a broken connection leaves behind runs out by itself."""
        self._row.set("pulse_incarnation", 0)
        try:
            if self._lease is not None:
                self._work.release(self._lease)
        except ConvqError as error:
            self._note_trouble(error, "release")
        self._work.close()
        self._commits.close()

    def _note_trouble(self, error: ConvqError, where: str) -> None:
        self._tally.trouble(error)
        event(log, logging.WARNING, str(error), model=self.model, during=where)
