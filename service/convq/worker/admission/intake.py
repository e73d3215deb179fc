"""What becomes of delivered jobs in one worker: into the next batch, into the slow lane, alone, or answered at once.

Belongs to the fetching thread of its pipeline, as the `WorkQueue` does. It decodes what is quick itself and runs suspects
itself, so that nothing is claimed while one of them has the process for itself; expensive pictures have a thread of their own.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence

from convq.errors import ConvqError
from convq.ipc.crash_marks import Gate, stays_unread
from convq.ipc.shared_memory import StatsRow
from convq.protocol import Status
from convq.queue import Delivery, Lease, WorkQueue
from convq.worker.admission.batcher import Batcher
from convq.worker.admission.memory import Memory
from convq.worker.admission.preprocessor import PIXELS_ALIKE, Preprocessor
from convq.worker.admission.slow_lane import SlowLane
from convq.worker.admission.suspects import TURN_S, Suspects
from convq.worker.postprocessor import BatchResult
from convq.worker.runner import Runner
from convq.worker.ticket import Ticket

EXPIRED_BACKLOG = 4
"""So many expired jobs in one claim, and more of them than others: there is a backlog whose time is over."""
ASIDE = 16
"""So many suspects and expensive pictures a worker holds beside its batches; what is more takes the room of others."""
LOOK_S = 0.05
"""How soon is looked again whether there is room, or nothing else in hand."""
PUT_EVERY_S = 0.02
"""What is decoded waits no longer than this for larger pictures of its delivery."""


class Intake:
    """One pipeline's; `published` is set by its publishing thread whenever jobs are answered."""

    def __init__(
        self,
        work: WorkQueue,
        admission: Preprocessor,
        runner: Runner,
        batcher: Batcher[Ticket],
        handover: queue.Queue[BatchResult | None],
        row: StatsRow,
        gate: Gate,
        memory: Memory,
        thread: Callable[[Callable[[], None]], threading.Thread],
    ) -> None:
        self._work = work
        self._admission = admission
        self._runner = runner
        self._batcher = batcher
        self._handover = handover
        self._row = row
        self._gate = gate
        self._suspects = Suspects()
        work.holdings.stays_unread = lambda row: stays_unread(row.suspicion, row.slow, row.attempt)
        self._memory = memory
        self._slow = SlowLane(
            gate,
            batcher.wait_for_bytes,
            lambda ticket: admission.prepare(ticket, row.slow),
            self._take_decoded,
            thread,
        )
        self._input_bytes = memory.waiting_bytes  # of one prepared input, as far as is known
        self.published = threading.Event()
        self.idle = False
        """Whether the last claim brought nothing."""
        self.mostly_expired = False

    @property
    def is_stuck(self) -> bool:
        """Whether a picture takes so long that those behind it are for others."""
        return self._slow.is_stuck

    @property
    def has_suspects(self) -> bool:
        """Whether somebody waits to run alone: a claim should not wait long then."""
        return bool(self._suspects)

    def room(self, timeout_s: float) -> int:
        """How many jobs may come, waiting up to `timeout_s` for at least one."""
        beside = max(0, len(self._suspects) + self._slow.backlog - ASIDE)
        full = self.room_bytes() <= 0
        room = 0 if full else self._batcher.room(timeout_s) - beside
        if room <= 0 and (beside or full):
            self.idle = True  # as good as: nothing comes before these have had their turn
            self._wait_for_answers()
        return room

    def room_bytes(self) -> int:
        """How many bytes of payloads may come, beside those that wait to be decoded."""
        return self._memory.claim_bytes - self._slow.payload_bytes - self._suspects.payload_bytes

    # -- what was delivered ---------------------------------------------------------------------------------------

    def accept(self, lease: Lease, delivery: Delivery) -> None:
        """Decode what is quick and set apart what is not; what cannot run is answered at once, beside the batch."""
        admitted = self._admission.admit(lease, delivery)
        ran = self._prepare(admitted.quick)
        ended = admitted.ended + [ticket for ticket in admitted.quick if ticket.status is not Status.OK]
        self._suspects.add(admitted.suspects)
        self._slow.put(admitted.slow)
        if ended:
            self._handover.put(BatchResult(ended))
            expired = sum(ticket.status is Status.EXPIRED for ticket in ended)
            self.mostly_expired = expired >= EXPIRED_BACKLOG and expired > ran

    def _prepare(self, tickets: Sequence[Ticket]) -> int:
        """Decode and prepare, no more at a time than there is room for as inputs of the network. How many may run."""
        ran = 0
        while tickets:
            at_once = max(1, int(self._memory.waiting_bytes // max(1, self._input_bytes)))
            portion, tickets = tickets[:at_once], tickets[at_once:]
            self._batcher.wait_for_bytes()
            ran += self._prepare_portion(portion)
        return ran

    def _prepare_portion(self, tickets: Sequence[Ticket]) -> int:
        """Decode and prepare, and pass on to the network, at once or in parts where it takes longer. How many may run."""
        ready: list[Ticket] = []
        ran, put_s = 0, time.perf_counter()
        with self._gate.shared():
            for ticket in tickets:
                large = ticket.pixels >= PIXELS_ALIKE
                if large and ready and (ready[-1].pixels < PIXELS_ALIKE or time.perf_counter() - put_s > PUT_EVERY_S):
                    self._batcher.put(ready)
                    ready, put_s = [], time.perf_counter()
                self._admission.prepare(ticket, self._row.decoding)
                if ticket.status is Status.OK:
                    ready.append(ticket)
                    ran += 1
        if ready:
            self._input_bytes = ready[-1].input_bytes
        self._batcher.put(ready)
        return ran

    def _take_decoded(self, ticket: Ticket) -> None:
        """An expensive picture is decoded, or refused; in its lane's thread."""
        if ticket.status is Status.OK:
            self._batcher.put([ticket])
        else:
            self._handover.put(BatchResult([ticket]))

    # -- what was set apart ---------------------------------------------------------------------------------------

    def relieve(self) -> bool:
        """Give what waits behind a picture that takes long to whoever has time for it. Whether anything did."""
        waiting = self._slow.withdraw() if self._slow.is_stuck else []
        self._give_back(waiting)
        return bool(waiting)

    def attend_to_suspects(self, lease: Lease, stop: threading.Event) -> bool:
        """Where it is time, let suspects run, each alone, once nothing else is in hand. Whether claims must wait for that."""
        if not self._suspects.are_due(idle=self.idle):
            return False
        self._gate.ask(self)
        if not self._gate.is_calm:  # a picture that takes long, of another model perhaps: meanwhile all others go on
            return False
        if len(lease.held) > len(self._suspects) + self._slow.backlog:
            self._wait_for_answers()
            return True
        until_s = time.monotonic() + TURN_S
        while self._suspects and time.monotonic() < until_s and not stop.is_set():
            ticket = self._suspects.pop()
            try:
                begun = self._work.suspicions.begin_alone(lease, ticket.job)
            except ConvqError:
                self._suspects.add([ticket])
                raise
            if begun:
                self._run_alone(lease, ticket)
        self._gate.withdraw(self)
        self._suspects.rest()
        return False

    def _run_alone(self, lease: Lease, ticket: Ticket) -> None:
        try:
            answers = self._runner.alone(ticket, self._work.holdings.read_payload)
        except ConvqError:
            # It could not be read, and did not die of that: with the lease, what was written down of it ends.
            lease.lost = True
            raise
        if answers is None:
            lease.held.discard((ticket.job.lane, ticket.job.entry))  # deleted, and acknowledged away
        else:
            self._handover.put(answers)

    def pause(self) -> None:
        """Nobody runs for now: others of this process need not make room for it."""
        self._gate.withdraw(self)

    def forget(self) -> None:
        """The lease is lost: what waits here is others' now."""
        self._gate.withdraw(self)
        self._suspects.withdraw()
        self._slow.withdraw()

    def give_back(self) -> None:
        """Nothing more comes: what has not begun is for others."""
        self._gate.withdraw(self)
        self._give_back([*self._suspects.withdraw(), *self._slow.withdraw()])

    def close(self) -> None:
        """Returns when what had begun is decoded."""
        self._slow.close()
        self._batcher.close()

    def _give_back(self, tickets: Sequence[Ticket]) -> None:
        leases = {ticket.lease.incarnation: ticket.lease for ticket in tickets}
        for lease in leases.values():
            if not lease.lost:
                self._work.give_back(lease, [ticket.job for ticket in tickets if ticket.lease is lease])

    def _wait_for_answers(self) -> None:
        self.published.wait(LOOK_S)
        self.published.clear()
