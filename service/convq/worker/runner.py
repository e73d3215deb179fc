"""Runs batches in the network: together with the other threads of the process, or, for a suspect, alone."""

from __future__ import annotations

import time
from collections.abc import Callable

from convq.engine.engine import Prepared
from convq.errors import ModelFault
from convq.ipc.crash_marks import Gate, listed
from convq.ipc.series import CloseReason
from convq.ipc.shared_memory import Row
from convq.protocol import Status
from convq.queue import Received
from convq.worker.admission.batcher import Batch
from convq.worker.admission.preprocessor import Admission
from convq.worker.answerer import Answerer, Answers
from convq.worker.loaded_model import Role
from convq.worker.shadow import Shadow, in_network
from convq.worker.ticket import Ticket


class Runner:
    """The networks of one pipeline. `run` and `compare` are for its running thread, `alone` for the one that fetches."""

    def __init__(self, admission: Admission, answerer: Answerer, row: Row, gate: Gate) -> None:
        self._admission = admission
        self._answerer = answerer
        self._row = row
        self._gate = gate
        self._shadow = Shadow(row)

    def run(self, batch: Batch[Ticket]) -> list[Answers]:
        """Run one batch. Where onnxruntime refuses it, each job runs by itself, so that one cannot fail its neighbours."""
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
            return answers + [one for part in parts for one in self.run(part)]
        try:
            with self._gate.shared():
                return [*answers, self._run_network(tickets, batch)]
        except ModelFault as error:
            if len(tickets) > 1:
                return answers + [one for ticket in tickets for one in self.run(Batch([ticket], batch.reason))]
            return [*answers, self._refused(tickets, error)]

    def alone(self, ticket: Ticket, read_payload: Callable[[Received], bool]) -> Answers | None:
        """Read, decode, run and answer one suspect; from the first to the last of it, nobody else is in native code.

        None where there is nothing to read any more. Raises what `read_payload` raises.
        """
        with self._gate.alone():
            self._row.alone.set(ticket.name.encode())
            try:
                if ticket.job.unread and not read_payload(ticket.job):
                    return None
                return self._run_alone(ticket)
            finally:
                self._row.alone.clear()

    def _run_alone(self, ticket: Ticket) -> Answers:
        tickets = [ticket]
        self._admission.prepare(ticket, self._row.decoding)
        if ticket.status is not Status.OK:
            return Answers(tickets)
        try:
            answers = self._run_network(tickets, Batch(tickets, CloseReason.IDLE))
            answers.completions = self._answerer.answer(answers)
            return answers
        except ModelFault as error:
            return self._refused(tickets, error)

    def compare(self, answers: Answers, inputs: list[Prepared] | None) -> None:
        """Run a shadow, where there is one, on the inputs that these answers came from. Nobody waits for what it says."""
        shadow = self._admission.serving.shadow
        if inputs is not None and shadow is not None:
            with self._gate.shared():
                self._shadow.compare(answers, inputs, shadow)

    def _run_network(self, tickets: list[Ticket], batch: Batch[Ticket]) -> Answers:
        engine, inputs = tickets[0].engine, [ticket.prepared for ticket in tickets if ticket.prepared is not None]
        assert engine is not None  # noqa: S101 - `prepare` gives a ticket both, or refuses it
        wanted = {name for ticket in tickets for name in ticket.job.outputs}
        names = listed([ticket.name for ticket in tickets])
        began = time.perf_counter()
        with in_network(self._row, engine, names):
            outputs = engine.run(inputs, wanted)
        ended_s = time.perf_counter()
        for ticket in tickets:
            ticket.wait_s = max(0.0, began - ticket.arrived_s - ticket.decode_s - ticket.prepare_s)
            ticket.infer_s = ended_s - began
            ticket.prepared = None
        role, serving = self._role(tickets[0]), self._admission.serving
        shadowed = role == "serving" and serving.shadow is not None and not tickets[0].alone
        kept = inputs if shadowed else None
        return Answers(tickets, outputs, batch, engine, role, inputs=kept, names=names, ended_s=ended_s)

    def _refused(self, tickets: list[Ticket], error: ModelFault) -> Answers:
        tickets[0].fail(error)
        return Answers(tickets, engine=tickets[0].engine, role=self._role(tickets[0]))

    def _role(self, ticket: Ticket) -> Role | None:
        return None if ticket.engine is None else self._admission.serving.role_of(ticket.engine)
