"""The last phase of a job: answers become documents, documents are committed until the server has said what became of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Protocol, TypeVar

from convq.errors import ConvqError, LeaseLost, RedisRefused, RedisUnavailable
from convq.ipc.crash_marks import Gate
from convq.logs import Limit, event
from convq.protocol import Status
from convq.queue import Commits, Committed, Completion, Lease, refuse_inbox
from convq.worker.counters import Counters
from convq.worker.postprocessor import BatchResult, Postprocessor
from convq.worker.ticket import Ticket

T = TypeVar("T")

log = logging.getLogger("convq.worker")

BACK_OFF_S = (0.05, 2.0)
"""First and longest wait between two tries while the server cannot answer."""


class Observer(Protocol):
    """Whoever is told of every batch once it is published. None is there where nobody asked for one."""

    def published(self, model: str, answers: BatchResult, began_s: float, done_s: float) -> None:
        """These jobs are answered: ranking began, and the server's answer came, at these moments of `time.perf_counter`."""


class Publisher:
    """Publishes for one model in one worker. Belongs to one thread, as its `Commits` does."""

    def __init__(
        self,
        model: str,
        answerer: Postprocessor,
        commits: Commits,
        tally: Counters,
        gate: Gate,
        witnesses: Sequence[Observer] = (),
    ) -> None:
        self._model = model
        self._answerer = answerer
        self._commits = commits
        self._tally = tally
        self._gate = gate
        self._witnesses = witnesses
        self._complaints = Limit(1)

    def publish(self, answers: BatchResult) -> None:
        """Rank and write what a batch gave, commit it, count it. Returns when the server has answered, however late."""
        began, ranked_s, result_bytes = time.perf_counter(), 0.0, 0
        for portion in (answers,) if answers.completions is not None else self._answerer.portions(answers):
            spent_s, written_bytes = self._publish_portion(portion)
            ranked_s, result_bytes = ranked_s + spent_s, result_bytes + written_bytes
        done = time.perf_counter()
        self._tally.answered(answers, result_bytes, ranked_s, done)
        for witness in self._witnesses:
            witness.published(self._model, answers, began, done)

    def _publish_portion(self, answers: BatchResult) -> tuple[float, int]:
        """Write the documents of one portion and commit them; how long writing took, and their bytes. Nothing of them is kept."""
        began = time.perf_counter()
        completions = answers.completions
        if completions is None:
            with self._gate.shared() if answers.outputs is not None else nullcontext():
                completions = self._answerer.answer(answers)
        ranked_s = time.perf_counter() - began
        self._commit(answers.tickets, completions)
        return ranked_s, sum([len(done.document) for done in completions])

    def _bury(self, ticket: Ticket, completion: Completion) -> None:
        """Answer what killed its workers as poisoned, and keep it as a dead letter."""
        why = str(ticket.job.problem)
        buried, _ = self._until_done(lambda: self._commits.bury(ticket.lease, completion, "poisoned", why))
        if buried:
            self._tally.buried(ticket)
            event(log, logging.ERROR, "buried a poisoned job", model=self._model, **ticket.names())

    def _commit(self, tickets: Sequence[Ticket], completions: Sequence[Completion]) -> None:
        """Publish, under the lease that each job was claimed with (nearly always one for all)."""
        leases: dict[str, tuple[Lease, list[Completion]]] = {}
        for ticket, completion in zip(tickets, completions, strict=True):
            if ticket.status is Status.POISONED:
                self._bury(ticket, completion)
            else:
                leases.setdefault(ticket.lease.incarnation, (ticket.lease, []))[1].append(completion)
        for lease, mine in leases.values():
            left = self._publish_under(lease, mine)
            if left.no_room:
                self._answer_briefly(lease, [ticket for ticket in tickets if ticket.job in left.no_room])
            if left.refused:
                self._answer_elsewhere(lease, [ticket for ticket in tickets if ticket.job in left.refused])

    def _answer_briefly(self, lease: Lease, tickets: Sequence[Ticket]) -> None:
        """The server has no room for what these jobs asked for: they are told so."""
        if self._complaints.take():
            text = "the server has no room for large answers; these jobs are answered as no_room"
            event(log, logging.WARNING, text, model=self._model, jobs=len(tickets))
        left = self._publish_under(lease, [self._answerer.without_room(ticket) for ticket in tickets])
        if left.refused:
            self._answer_elsewhere(lease, [ticket for ticket in tickets if ticket.job in left.refused])

    def _answer_elsewhere(self, lease: Lease, tickets: Sequence[Ticket]) -> None:
        """The inbox of these jobs is a key of another type: they are told so under their result keys."""
        for ticket in tickets:
            refuse_inbox(ticket.job, f"reply_to {ticket.job.reply_to!r} holds something else than a list of results")
            ticket.status = Status.ERROR
        self._publish_under(lease, [self._answerer.refusal(ticket) for ticket in tickets])

    def _publish_under(self, lease: Lease, completions: Sequence[Completion]) -> Committed:
        """Publish what was claimed under this lease; what is left is still ours to answer."""
        committed, repeated = self._until_done(lambda: self._commits.complete(lease, completions))
        if committed is None:
            self._tally.lost(len(completions))
            return Committed()
        if not repeated:  # what a repeated commit finds answered was mostly answered by its first try
            self._tally.lost(committed.lost)
        return committed

    def _until_done(self, commit: Callable[[], T]) -> tuple[T | None, bool]:
        """Repeat a commit until the server has answered: what it took once it does not publish twice.

        What it answered (None: the jobs are not ours any more), and whether it was asked more than once.
        """
        back_off_s, repeated = BACK_OFF_S[0], False
        while True:
            try:
                return commit(), repeated
            except LeaseLost as error:
                self._note_trouble(error)
                return None, repeated
            except (RedisUnavailable, RedisRefused) as error:  # refused: an operator may give the rights back
                self._note_trouble(error)
                repeated = True
                time.sleep(back_off_s)
                back_off_s = min(back_off_s * 2, BACK_OFF_S[1])

    def _note_trouble(self, error: ConvqError) -> None:
        self._tally.trouble(error)
        event(log, logging.WARNING, str(error), model=self._model, during="commit")
