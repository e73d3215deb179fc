"""The books: which jobs were taken, which were answered, how often, and how long after each fault all was well again.

Knows neither Redis nor processes. Jobs that are settled are forgotten; what stays is counts and the first offences.
"""

from __future__ import annotations

import json
import math
import threading
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

OFFENCES_KEPT = 20
WINDOW_S = 2.5
"""Without fsync at every command a killed server may forget so much of its newest writes; what is documented, and a
little for the time between a write and our look at it."""


@dataclass(slots=True, eq=False)
class Ticket:
    """One job. Times are monotonic seconds; `entry` is None until a submission was confirmed."""

    id: str
    label: str
    entry: str | None = None
    accepted_s: float = 0.0
    answered_s: float | None = None
    checksum: int = 0

    @property
    def settled(self) -> bool:
        """Nothing more is to come: it was taken and it was answered."""
        return self.entry is not None and self.answered_s is not None


@dataclass(slots=True)
class Recovery:
    """How long the jobs that were in flight at a fault took to be answered; `took_s` is infinite until they all were."""

    kind: str
    alone: bool
    began_s: float
    waiting: set[str]
    in_flight: int
    took_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Offence:
    """One broken promise: the job, what is wrong with it, and what else is known."""

    id: str
    what: str
    known: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Counts:
    """The sums.

    `rolled_back` and `repeated`: lost, and answered twice, inside the window of a server that was killed and does not
    sync every command; always 0 where it does.
    """

    submitted: int
    answered: int
    lost: int
    duplicated: int
    wrong: int
    rolled_back: int
    repeated: int

    @property
    def clean(self) -> bool:
        """Whether every job has exactly one right answer."""
        return not (self.lost or self.duplicated or self.wrong)


class Ledger:
    """One run's books, for several threads. `strict`: the server may forget nothing, even when it is killed."""

    def __init__(self, name: str, *, strict: bool = True) -> None:
        self.strict = strict
        self.offences: list[Offence] = []
        self.recoveries: list[Recovery] = []
        self._prefix = f"{name}-"
        self._opened = 0
        self._lock = threading.Lock()
        self._tickets: dict[str, Ticket] = {}
        self._waiting: dict[str, Ticket] = {}
        self._active: list[Recovery] = []
        self._server_kills_s: list[float] = []
        self._submitted = self._answered = self._duplicated = self._wrong = 0
        self._lost = self._rolled_back = self._repeated = 0

    # -- jobs -----------------------------------------------------------------------------------------------------

    def open(self, label: str) -> Ticket:
        """A new job, whose right answer is `label`, a class or an error code; not submitted yet."""
        with self._lock:
            ticket = Ticket(f"{self._prefix}{self._opened}", label)
            self._opened += 1
            self._tickets[ticket.id] = ticket
            return ticket

    def accept(self, tickets: Sequence[Ticket], entries: Sequence[str], now_s: float) -> None:
        """These jobs are in the queue: from now on they must be answered."""
        with self._lock:
            for ticket, entry in zip(tickets, entries, strict=True):
                ticket.entry, ticket.accepted_s = entry, now_s
                self._submitted += 1
                if ticket.answered_s is None:  # the answer may be quicker than a submission whose reply was lost
                    self._waiting[ticket.id] = ticket

    def record(self, documents: Iterable[bytes], now_s: float, *, again: bool = False) -> None:
        """Answers that were published. `again`: they are read a second time, and the same bytes are the same answer."""
        with self._lock:
            for document in documents:
                self._record(document, now_s, again=again)

    def _record(self, document: bytes, now_s: float, *, again: bool) -> None:
        said = json.loads(document)
        ticket = self._tickets.get(said["id"])
        checksum = zlib.crc32(document)
        if ticket is None:
            self._note_stranger(said)
        elif ticket.answered_s is None:
            ticket.answered_s, ticket.checksum = now_s, checksum
            self._waiting.pop(ticket.id, None)
            self._answered += 1
            self._recover(ticket.id, now_s)
            if _answer_in(said) != ticket.label:
                self._wrong += 1
                self._offend(ticket.id, f"wrong answer, {ticket.label} expected", said)
        elif not (again and checksum == ticket.checksum):
            self._note_twice(ticket.id, ticket.answered_s, said)

    def _note_twice(self, job_id: str, first_s: float | None, said: dict[str, Any]) -> None:
        if not self.strict and (first_s is None or self._forgotten(first_s)):
            self._repeated += 1
            return
        self._duplicated += 1
        self._offend(job_id, "answered twice", said)

    def _note_stranger(self, said: dict[str, Any]) -> None:
        """An answer to a job that is settled and forgotten, or that was never asked for."""
        number = str(said["id"]).removeprefix(self._prefix)
        if number.isdigit() and int(number) < self._opened:
            self._note_twice(said["id"], None, said)
            return
        self._wrong += 1
        self._offend(str(said["id"]), "answered without having been asked", said)

    def forget(self, tickets: Iterable[Ticket]) -> None:
        """Settled jobs, of which nothing more is expected; whatever else comes counts as a second answer."""
        with self._lock:
            for ticket in tickets:
                self._tickets.pop(ticket.id, None)

    def in_flight(self) -> int:
        """How many jobs were taken and are not answered."""
        return len(self._waiting)

    def oldest_s(self) -> float | None:
        """When the oldest of them was taken; None where there is none."""
        with self._lock:
            return next((ticket.accepted_s for ticket in self._waiting.values()), None)

    def write_off(self, now_s: float, older_s: float = 0.0, *, only_excused: bool = False) -> list[Ticket]:
        """Give up jobs that have waited `older_s` seconds: lost, or rolled back where that may happen. Returns the lost."""
        with self._lock:
            late = [ticket for ticket in self._waiting.values() if now_s - ticket.accepted_s >= older_s]
            excused = [ticket for ticket in late if not self.strict and self._forgotten(ticket.accepted_s)]
            lost = [] if only_excused else [ticket for ticket in late if ticket not in excused]
            for ticket in [*excused, *lost]:
                del self._waiting[ticket.id]
            for ticket in excused:
                ticket.answered_s = ticket.accepted_s  # should an answer come all the same, it is inside the window
                self._recover(ticket.id, now_s)
            self._rolled_back += len(excused)
            self._lost += len(lost)
            return lost

    def blame(self, ticket: Ticket, known: dict[str, Any]) -> None:
        """Note what is known of a job that is lost."""
        with self._lock:
            self._offend(ticket.id, "lost", {"entry": ticket.entry, **known})

    def _offend(self, job_id: str, what: str, known: dict[str, Any]) -> None:
        if len(self.offences) < OFFENCES_KEPT:
            self.offences.append(Offence(job_id, what, known))

    # -- faults ---------------------------------------------------------------------------------------------------

    def strike(self, kind: str, now_s: float, *, alone: bool = True) -> Recovery:
        """A fault happens now: watch the jobs in flight until all of them are answered.

        Faults that meet are not `alone`: their recoveries say nothing about the one kind.
        """
        with self._lock:
            for other in self._active:
                other.alone = False
            recovery = Recovery(kind, alone and not self._active, now_s, set(self._waiting), len(self._waiting))
            if recovery.waiting:
                self._active.append(recovery)
            else:
                recovery.took_s = 0.0
            self.recoveries.append(recovery)
            return recovery

    def server_killed(self, now_s: float) -> None:
        """The server was killed now: without fsync at every command it may have forgotten its newest writes."""
        with self._lock:
            self._server_kills_s.append(now_s)

    def _recover(self, job_id: str, now_s: float) -> None:
        for recovery in self._active:
            recovery.waiting.discard(job_id)
        if any(not recovery.waiting for recovery in self._active):
            for recovery in self._active:
                if not recovery.waiting:
                    recovery.took_s = now_s - recovery.began_s
            self._active = [recovery for recovery in self._active if recovery.waiting]

    def _forgotten(self, moment_s: float) -> bool:
        return any(killed - WINDOW_S <= moment_s <= killed + WINDOW_S for killed in self._server_kills_s)

    # -- sums -----------------------------------------------------------------------------------------------------

    def counts(self) -> Counts:
        """The sums so far; what still waits is not lost yet."""
        with self._lock:
            return Counts(
                submitted=self._submitted,
                answered=self._answered,
                lost=self._lost,
                duplicated=self._duplicated,
                wrong=self._wrong,
                rolled_back=self._rolled_back,
                repeated=self._repeated,
            )

    def worst_recovery_s(self) -> float:
        """The longest of all recoveries; infinite where one has not ended."""
        return max((recovery.took_s for recovery in self.recoveries), default=0.0)


def _answer_in(said: dict[str, Any]) -> str:
    """The first class, or the error code where the job was refused."""
    if said["status"] == "ok":
        return str(said["predictions"][0]["label"])
    return str(said.get("error", {}).get("code", said["status"]))
