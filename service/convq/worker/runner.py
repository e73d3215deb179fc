"""Runs batches in the network: together with the other threads of the process, or, for a suspect, alone."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from weakref import WeakSet

from convq.engine.engine import Engine, Prepared
from convq.engine.room import fitting, taken_bytes
from convq.errors import ModelFault
from convq.ipc.crash_marks import Gate, listed
from convq.ipc.series import CloseReason
from convq.ipc.shared_memory import StatsRow
from convq.logs import event
from convq.protocol import Status
from convq.queue import Received
from convq.worker.admission.batcher import Batch
from convq.worker.admission.memory import Memory
from convq.worker.admission.preprocessor import Preprocessor
from convq.worker.loaded_model import Role
from convq.worker.postprocessor import BatchResult, Postprocessor
from convq.worker.shadow import Shadow, in_network
from convq.worker.ticket import Ticket

log = logging.getLogger("convq.worker")


class Runner:
    """The networks of one pipeline. `run` and `compare` are for its running thread, `alone` for the one that fetches."""

    def __init__(
        self, admission: Preprocessor, answerer: Postprocessor, row: StatsRow, gate: Gate, memory: Memory
    ) -> None:
        self._admission = admission
        self._answerer = answerer
        self._row = row
        self._gate = gate
        self._memory = memory
        self._shadow = Shadow(row, memory.together_bytes)
        self._said: WeakSet[Engine] = WeakSet()

    def run(self, batch: Batch[Ticket]) -> Iterator[BatchResult]:
        """Run one batch, in parts where what comes of it has no room at once: the next one when this one was passed on.

        Where onnxruntime refuses it, each job runs by itself, so that one cannot fail its neighbours.
        """
        waiting: Sequence[Ticket] = batch.items
        while waiting:
            now_s = time.perf_counter()
            late = [ticket for ticket in waiting if ticket.expires_s <= now_s]
            if late:
                for ticket in late:
                    ticket.status = Status.EXPIRED
                yield BatchResult(late)
                waiting = [ticket for ticket in waiting if ticket.status is Status.OK]
                continue
            most, outputs_bytes = self._fitting(waiting)
            part, waiting = waiting[:most], waiting[most:]
            yield from self._run_part(list(part), batch, self._memory.hold(outputs_bytes))

    def _run_part(self, tickets: list[Ticket], batch: Batch[Ticket], held_bytes: int) -> Iterator[BatchResult]:
        made = self._attempt(tickets, batch, held_bytes)
        if isinstance(made, BatchResult):
            yield made
            return
        self._memory.let_go(held_bytes)
        if len(tickets) == 1:
            yield self._refused(tickets, made)
            return
        for ticket in tickets:
            yield from self.run(Batch([ticket], batch.reason))

    def _attempt(self, tickets: list[Ticket], batch: Batch[Ticket], held_bytes: int) -> BatchResult | ModelFault:
        try:
            with self._gate.shared():
                return self._run_network(tickets, batch, held_bytes)
        except ModelFault as error:
            return error

    def _fitting(self, tickets: Sequence[Ticket]) -> tuple[int, int]:
        """How many of these may run together, and what their outputs and documents will take in bytes.

        All have one version and one shape of input. Where nobody knows what comes of that shape, and it may be much, the
        first one shows.
        """
        engine, prepared = tickets[0].engine, tickets[0].prepared
        assert engine is not None and prepared is not None  # noqa: S101, PT018 - `prepare` gives a ticket both, or refuses it
        wanted = {name for ticket in tickets for name in ticket.job.outputs}
        largest = min(len(tickets), engine.max_batch)
        job_bytes, is_known = engine.output_bytes(prepared.shape, wanted)
        told_bytes = engine.told_bytes(prepared.shape, wanted)
        fits = fitting(job_bytes, largest, self._memory.together_bytes, told_bytes)
        if fits < largest and is_known:
            self._note(engine, job_bytes, fits)
        elif fits < largest:
            fits = 1
        return fits, taken_bytes(job_bytes, fits, told_bytes)

    def _note(self, engine: Engine, job_bytes: int, fits: int) -> None:
        """Say once of a version that its outputs make batches smaller."""
        if engine not in self._said:
            self._said.add(engine)
            facts = {"model": engine.name, "version": engine.version, "jobs": fits, "max_batch": engine.max_batch}
            text = "batches are smaller than max_batch, for what the outputs take"
            event(log, logging.WARNING, text, **facts, output_bytes=job_bytes)

    def alone(self, ticket: Ticket, read_payload: Callable[[Received], bool]) -> BatchResult | None:
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

    def _run_alone(self, ticket: Ticket) -> BatchResult:
        tickets = [ticket]
        self._admission.prepare(ticket, self._row.decoding)
        if ticket.status is not Status.OK:
            return BatchResult(tickets)
        try:
            answers = self._run_network(tickets, Batch(tickets, CloseReason.IDLE))
            answers.completions = self._answerer.answer(answers)
            return answers
        except ModelFault as error:
            return self._refused(tickets, error)

    def compare(self, answers: BatchResult, inputs: list[Prepared] | None) -> None:
        """Run a shadow, where there is one, on the inputs that these answers came from. Nobody waits for what it says."""
        shadow = self._admission.serving.shadow
        if inputs is not None and shadow is not None:
            with self._gate.shared():
                self._shadow.compare(answers, inputs, shadow)

    def _run_network(self, tickets: list[Ticket], batch: Batch[Ticket], held_bytes: int = 0) -> BatchResult:
        engine, inputs = tickets[0].engine, [ticket.prepared for ticket in tickets if ticket.prepared is not None]
        assert engine is not None  # noqa: S101 - `prepare` gives a ticket both, or refuses it
        wanted = {name for ticket in tickets for name in ticket.job.outputs}
        names = listed([ticket.name for ticket in tickets])
        began = time.perf_counter()
        with in_network(self._row, engine, names):
            outputs = engine.run(inputs, wanted)
        ended_s = time.perf_counter()
        if engine.is_placed:
            for ticket, one in zip(tickets, inputs, strict=True):
                ticket.placement = engine.frame_of(one.shape, one.placement).placement
        for ticket in tickets:
            ticket.wait_s = max(0.0, began - ticket.arrived_s - ticket.decode_s - ticket.prepare_s)
            ticket.infer_s = ended_s - began
            ticket.prepared = None
        role, serving = self._role(tickets[0]), self._admission.serving
        shadowed = role == "serving" and serving.shadow is not None and not tickets[0].alone
        kept = inputs if shadowed else None
        return BatchResult(
            tickets,
            outputs,
            batch,
            engine,
            role,
            inputs=kept,
            shape=inputs[0].shape,
            names=names,
            size=len(tickets),
            held_bytes=held_bytes,
            ended_s=ended_s,
        )

    def _refused(self, tickets: list[Ticket], error: ModelFault) -> BatchResult:
        tickets[0].fail(error)
        return BatchResult(tickets, engine=tickets[0].engine, role=self._role(tickets[0]))

    def _role(self, ticket: Ticket) -> Role | None:
        return None if ticket.engine is None else self._admission.serving.role_of(ticket.engine)
