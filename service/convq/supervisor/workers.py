"""The worker processes of a service: starts them, hears what they report, ends those that hang, buries the dead."""

from __future__ import annotations

import logging
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import IO

from convq.interpreter import network_environment, python
from convq.ipc.census import Census
from convq.ipc.crash_marks import CRASH_POINTS
from convq.ipc.messages import ServiceConfig, WorkerConfig, report_in
from convq.ipc.series import reset_gauges
from convq.ipc.shared_memory import Board
from convq.logs import event
from convq.supervisor.beat.heartbeat import Heartbeat
from convq.supervisor.crashes import CircuitBreaker, ending, points_of
from convq.supervisor.failed_starts import judge, note_bad_load
from convq.supervisor.loads import Loads
from convq.supervisor.long_loads import LongLoads
from convq.supervisor.rollout.controller import RolloutController
from convq.supervisor.roster import Roster
from convq.supervisor.slots import Slot
from convq.supervisor.voices import Voices
from convq.threads import Watch

log = logging.getLogger("convq.supervisor")


class Workers:
    """Those in all places of a service. Owned by the supervisor's loop; `clients` may be asked by any thread."""

    def __init__(
        self,
        service: ServiceConfig,
        load_within_s: float,
        slots: Sequence[Slot],
        board: Board,
        models: Roster,
        versions: RolloutController,
        heartbeat: Heartbeat,
        watch: Watch,
    ) -> None:
        """A version may take `load_within_s` to load; `versions` says which, `heartbeat` ends the leases of the dead."""
        self._service, self._load_within_s = service, load_within_s
        self._slots, self._board, self._models = slots, board, models
        self._versions, self._heartbeat = versions, heartbeat
        self._watch, self._voices = watch, Voices(watch)
        self._clients: dict[str, Census] = {}
        self._draining = False
        self.crashes = CircuitBreaker(board, models, len(slots), load_s=load_within_s)
        self._loads = Loads(board, models, slots, versions.lineup.is_proven)
        self.long_loads = LongLoads(board, models, slots, load_within_s, versions.lineup.wants)

    def look(self, *, running: bool) -> None:
        """Once a tick; `running`: the service was ready once. Raises ServiceFailed where no worker survives its start."""
        self._loads.look()
        self.long_loads.look()
        for slot in self._slots:
            self._look_after(slot, running=running)

    def note_absence(self, lasted_s: float) -> None:
        """This process stood still until now; who was stopped anyway is no later for that."""
        for slot in self._slots:
            slot.note_absence(0.0 if slot.stopped else lasted_s)

    def clients(self) -> dict[str, dict[str, int]]:
        """Model -> name of a client -> jobs of it that were answered, for the models that there are."""
        return {model: self._clients[model].totals() for model in self._models if model in self._clients}

    def drain(self) -> None:
        """Have all of them finish what they hold; none is started any more."""
        self._draining = True
        for slot in self._slots:
            if slot.process is not None:
                slot.process.send_signal(signal.SIGTERM)
                slot.process.send_signal(signal.SIGCONT)

    @property
    def are_gone(self) -> bool:
        """Whether none is left."""
        return all(slot.process is None for slot in self._slots)

    def kill(self) -> None:
        """End all of them at once."""
        for slot in self._slots:
            if slot.process is not None:
                slot.process.kill()

    def end(self) -> None:
        """Kill those that are left, and see them off."""
        self.kill()
        for slot in self._slots:
            if slot.process is not None:
                slot.process.wait()
                self._heartbeat.fence(slot.number, slot.process.pid)

    def last_words(self) -> None:
        """Wait a moment for what they wrote before they ended."""
        self._voices.wait()

    def _look_after(self, slot: Slot, *, running: bool) -> None:
        if slot.process is None:
            if not self._draining and time.monotonic() >= slot.start_at_s:
                self._start(slot)
            return
        slot.note_stops()
        slot.late = self.crashes.late(slot)
        if slot.late is not None:
            what = f"a worker hangs in its {slot.late.phase}; it is replaced"
            event(log, logging.ERROR, what, worker=slot.number, pid=slot.pid, model=self._models[slot.late.model])
            slot.process.kill()
        elif slot.unwanted:
            what = "a worker loads a version that is not wanted any more; it is replaced"
            event(log, logging.WARNING, what, worker=slot.number, pid=slot.pid, version=slot.unwanted)
            slot.process.kill()
        status = slot.poll(wait=bool(slot.late or slot.unwanted))
        if status is not None:
            self._bury(slot, status, running=running)

    def _start(self, slot: Slot) -> None:
        orders = WorkerConfig(
            service=self._service,
            slot=slot.number,
            models=self._models.places,
            plans=self._versions.give(slot),
            checked=self._versions.lineup.seals(),
        )
        slot.process = subprocess.Popen(
            python("convq.worker.process"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[self._board.descriptor],
            env=network_environment(self._service.device),
        )
        slot.forget()
        process = slot.process
        if process.stdout and process.stderr:
            self._voices.hear(slot.number, process.pid, process.stderr, self._service.log_mark)
            self._watch.start(f"worker-{slot.number}", self._listen, slot, process.stdout)
            slot.send(orders)

    def _listen(self, slot: Slot, reports: IO[bytes]) -> None:
        """Take in what one worker reports, until it is gone."""
        for line in reports:
            report = report_in(line)
            if report is None:  # of a library in its process that writes to standard output
                event(
                    log, logging.WARNING, "a worker said what is no report", worker=slot.number, said=repr(line[:200])
                )
            elif report["event"] == "loaded":
                self._versions.note_loaded(slot, report)
            elif report["event"] == "refused":
                self._versions.note_refused(slot, report)
            elif report["event"] == "clients":
                self._clients.setdefault(report["model"], Census()).add(report["jobs"])
            elif report["event"] == "left":
                slot.note_left(report["model"])
            elif report["event"] == "ready":
                slot.ready_since_s = time.monotonic()
            elif report["event"] == "failed":
                slot.failure = report

    def _bury(self, slot: Slot, status: int, *, running: bool) -> None:
        """A worker ended: free its jobs for others at once, and decide when the next one starts."""
        process = slot.take_out()
        if process is None:
            return
        was_ready, slot.ready_since_s = slot.ready_since_s, None
        hung = slot.late is not None
        blamed = not self._draining and not slot.unwanted
        judged = (hung or blamed) and not (slot.late and slot.late.is_loading)
        points = points_of(status, hung=hung, grown_bytes=slot.grown_bytes) if judged else 0
        bad = self._loads.judge(slot, status, self._load_within_s) if blamed else None
        if points >= CRASH_POINTS and not (slot.late and slot.late.is_decoding):
            self.crashes.note_death(slot.number)
            self._versions.note_death(slot.number, "it hung" if hung else ending(status))  # before others take its jobs
        self._heartbeat.fence(slot.number, process.pid, points, slot.late)
        for index, model in enumerate(self._models):
            if model:
                reset_gauges(self._board.row(slot.number, index))
        if self._draining:
            return
        killed = status == -signal.SIGKILL and not hung
        delay_s = slot.delay_next(was_ready, accused=points > 0, killed=killed)
        event(
            log,
            logging.WARNING,
            "a worker died",
            worker=slot.number,
            pid=process.pid,
            status=ending(status),
            next_s=delay_s,
            **({"reason": slot.failure["message"]} if slot.failure else {}),
        )
        if bad is not None:
            note_bad_load(bad, self._versions, running=running)
        if bad or (was_ready is None and judge(slot, ending(status), self._versions, running=running)):
            slot.failures, slot.start_at_s = 0, time.monotonic()
