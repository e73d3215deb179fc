"""Owns the worker processes: starts them, watches them, keeps their leases, replaces the dead, drains on SIGTERM.

One loop, one tick: signals only append to a list; every tick handles them, then looks after the children. What talks to
Redis (heartbeats, fencing, queue depths) has a thread of its own, so that a server that hangs cannot hide a dead child.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from prometheus_client import CollectorRegistry

from convq.errors import ConvqError, ServiceFailed
from convq.interpreter import network_environment, python
from convq.ipc.allowance import Allowance
from convq.ipc.census import Census
from convq.ipc.crash_marks import CRASH_POINTS
from convq.ipc.messages import WorkerConfig, report_in
from convq.ipc.series import LAYOUT, reset_gauges
from convq.ipc.shared_memory import Board
from convq.logs import event, form_here
from convq.queue import Address
from convq.settings import Settings
from convq.supervisor.beat.heartbeat import Heartbeat
from convq.supervisor.crashes import CircuitBreaker, ending, points_of
from convq.supervisor.exposition.collectors import BoardCollector, FunctionCollector
from convq.supervisor.exposition.http import Probes
from convq.supervisor.exposition.progress import ProgressWatch
from convq.supervisor.exposition.readiness import readiness
from convq.supervisor.exposition.service_metrics import service_families
from convq.supervisor.loads import Loads
from convq.supervisor.long_loads import LongLoads
from convq.supervisor.rollout.controller import RolloutController
from convq.supervisor.rollout.lineup import Lineup
from convq.supervisor.roster import Roster
from convq.supervisor.slots import Slot
from convq.supervisor.starts import judge, note_bad_load
from convq.supervisor.voices import Voices, new_mark
from convq.threads import Watch

log = logging.getLogger("convq.supervisor")

TICK_S = 0.05
ABSENT_S = 2.0
"""Between two ticks: this process stood still."""
GOODBYE_S = (5.0, 0.5)
"""How long Redis may take to note the end of the service: after a drain, and after a second signal."""


class Supervisor:
    """Runs the service until SIGTERM or SIGINT. `run` is called once, from the main thread."""

    def __init__(
        self,
        settings: Settings,
        redis: Address,
        repository: Path,
        models: tuple[str, ...],
        workers: int,
        companion: Callable[[], str | None] = lambda: None,
        on_ready: Callable[[Mapping[str, Any]], None] = lambda _: None,
    ) -> None:
        """`companion` says why the service cannot go on; `on_ready` is told once where and what it serves."""
        self._settings = settings
        self._models = Roster(models)
        self._board = Board(LAYOUT, workers, len(self._models))
        self._slots = [Slot(number) for number in range(workers)]
        self._orders = {
            "memory": Allowance.of(settings.worker_memory, workers),
            "workers": workers,
            "board": self._board.descriptor,
            "supervisor": os.getpid(),
            "redis": redis,
            "repository": str(repository),
            "device": settings.device,
            "lease_ms": settings.lease_ms,
            "result_ttl_ms": settings.result_ttl_ms,
            "drain_s": settings.drain,
            "log": form_here(settings.log),
            "log_mark": new_mark(),
            "log_jobs": settings.log_jobs,
            "otlp": settings.otlp,
        }
        self._companion, self._on_ready = companion, on_ready
        self._signals: list[int] = []
        self._draining_since_s: float | None = None
        self._exit_code = 0
        self._goodbye_s = GOODBYE_S[0]
        self._was_ready = False
        self._ticked_s = time.monotonic()
        self._watch = Watch(log)
        self._voices = Voices(self._watch)
        self.heartbeat = Heartbeat(settings, redis, self._board, self._models, self._slots, self._watch)
        self._crashes = CircuitBreaker(self._board, self._models, workers, load_s=settings.load_within)
        self._clients: dict[str, Census] = {}
        self._progress = ProgressWatch(self._board, self._models, workers, settings.lease)
        self._lineup = Lineup(repository, settings.only, self._models, self._board)
        voice = self.heartbeat.describe, self.heartbeat.refusals
        self._versions = RolloutController(self._lineup, settings, self._slots, self._board, *voice, self._watch)
        self._loads = Loads(self._board, self._models, self._slots, self._lineup.is_proven)
        self._long_loads = LongLoads(self._board, self._models, self._slots, settings.load_within, self._lineup.wants)
        self.probes = Probes(settings.http_address, self._registry(), self._live, self._ready, self._watch)

    def _registry(self) -> CollectorRegistry:
        """What /metrics says."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(BoardCollector(self._board, self._models, len(self._slots)))
        registry.register(
            FunctionCollector(
                lambda: service_families(
                    self.heartbeat.depths(),
                    self._slots,
                    self._crashes.suspended(),
                    self._progress.stalled(),
                    self.heartbeat.foreign_keys.counts(),
                    self.heartbeat.unserved_streams.found,
                    self._lineup.states(),
                    self._lineup.unserved(),
                    self._lineup.unfit(),
                    {model: self._clients[model].totals() for model in self._models if model in self._clients},
                )
            )
        )
        return registry

    def run(self) -> int:
        """Serve until told to stop; the exit code. Raises ServiceFailed, or the error that a worker's start ended with."""
        for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if one != signal.SIGHUP or signal.getsignal(one) != signal.SIG_IGN:  # nohup wants it to go on
                signal.signal(one, lambda number, _: self._signals.append(number))
        self.probes.start()
        self.heartbeat.start()
        event(log, logging.INFO, "listening", http=self.probes.url, pid=os.getpid())
        try:
            self._versions.start()
            while self._tick():
                time.sleep(TICK_S)
        finally:
            self._end()
        return self._exit_code

    # -- one tick -------------------------------------------------------------------------------------------------

    def _tick(self) -> bool:
        """Handle signals, then children. False when all is over."""
        self._note_absence()
        while self._signals:
            self._handle(self._signals.pop(0))
        trouble = self._companion() or self.heartbeat.refusal
        if trouble and self._draining_since_s is None:
            raise trouble if isinstance(trouble, ConvqError) else ServiceFailed(trouble)
        self._look_for_the_fallen()
        self._loads.look()
        self._long_loads.look()
        for slot in self._slots:
            self._look_after(slot)
        if self._draining_since_s is None:
            served = self._lineup.plans().keys() - self.heartbeat.unserved.keys()
            self._progress.look(self._slots, served, self.heartbeat.jobs, self._crashes.suspended())
            self._note_ready()
            return True
        if time.monotonic() - self._draining_since_s > self._settings.drain + 1.0:
            event(log, logging.WARNING, "the drain took too long; what is left is killed and run again elsewhere")
            self._kill_all()
        return any(slot.process is not None for slot in self._slots)

    def _look_for_the_fallen(self) -> None:
        """A service that lacks a thread is not what it says it is: it ends, so that whoever started it starts it anew.

        A drain goes on: what is claimed is answered as far as the leases last.
        """
        fallen = self._watch.fallen
        if fallen is None:
            return
        if self._draining_since_s is None:
            raise ServiceFailed(f"the service gives up: {fallen}")
        self._exit_code = self._exit_code or ServiceFailed.exit_code

    def _note_absence(self) -> None:
        """Where this process stood still, others may have too (a frozen host or container): nobody is late for that."""
        now_s = time.monotonic()
        if now_s - self._ticked_s > ABSENT_S:
            for slot in self._slots:
                slot.note_absence(0.0 if slot.stopped else now_s - self._ticked_s)
        self._ticked_s = now_s

    def _handle(self, number: int) -> None:
        """First signal: drain. Second: at once."""
        if self._draining_since_s is not None:
            if number == signal.SIGHUP:  # a closed terminal is told of by the shell, and again by the kernel
                return
            self._exit_code = 130 if number == signal.SIGINT else 1
            self._goodbye_s = GOODBYE_S[1]
            self._kill_all()
            return
        event(log, logging.INFO, "draining", signal=signal.Signals(number).name)
        self._exit_code = 130 if number == signal.SIGINT else 0
        self._draining_since_s = time.monotonic()
        self.heartbeat.drain()
        for slot in self._slots:
            if slot.process is not None:
                slot.process.send_signal(signal.SIGTERM)
                slot.process.send_signal(signal.SIGCONT)

    def _look_after(self, slot: Slot) -> None:
        if slot.process is None:
            if self._draining_since_s is None and time.monotonic() >= slot.start_at_s:
                self._start(slot)
            return
        slot.note_stops()
        slot.late = self._crashes.late(slot)
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
            self._bury(slot, status)

    def _start(self, slot: Slot) -> None:
        changing = {"slot": slot.number, "models": self._models.places, "plans": self._versions.give(slot)}
        changing["checked"] = self._lineup.seals()
        orders = WorkerConfig.model_validate({**changing, **self._orders})
        slot.process = subprocess.Popen(
            python("convq.worker.process"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[self._board.descriptor],
            env=network_environment(self._settings.device),
        )
        slot.forget()
        process = slot.process
        if process.stdout and process.stderr:
            self._voices.hear(slot.number, process.pid, process.stderr, orders.log_mark)
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

    def _bury(self, slot: Slot, status: int) -> None:
        """A worker ended: free its jobs for others at once, and decide when the next one starts."""
        process = slot.take_out()
        if process is None:
            return
        was_ready, slot.ready_since_s = slot.ready_since_s, None
        hung = slot.late is not None
        blamed = self._draining_since_s is None and not slot.unwanted
        judged = (hung or blamed) and not (slot.late and slot.late.is_loading)
        points = points_of(status, hung=hung, grown_bytes=slot.grown_bytes) if judged else 0
        bad = self._loads.judge(slot, status, self._settings.load_within) if blamed else None
        if points >= CRASH_POINTS and not (slot.late and slot.late.is_decoding):
            self._crashes.note_death(slot.number)
            self._versions.note_death(slot.number, "it hung" if hung else ending(status))  # before others take its jobs
        self.heartbeat.fence(slot.number, process.pid, points, slot.late)
        for index, model in enumerate(self._models):
            if model:
                reset_gauges(self._board.row(slot.number, index))
        if self._draining_since_s is not None:
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
            note_bad_load(bad, self._versions, running=self._was_ready)
        if bad or (was_ready is None and judge(slot, ending(status), self._versions, running=self._was_ready)):
            slot.failures, slot.start_at_s = 0, time.monotonic()

    def _note_ready(self) -> None:
        if not self._was_ready and self._ready()[0]:
            self._was_ready = True
            served = list(self._lineup.plans())
            said = {"workers": len(self._slots), "http": self.probes.url}
            event(log, logging.INFO, "ready", models=", ".join(served), **said)
            self._on_ready({"models": served, **said})

    # -- probes ---------------------------------------------------------------------------------------------------

    def _live(self) -> tuple[bool, str]:
        """Alive while the loop goes round and all threads live; never a question of Redis: its outage must restart nothing."""
        if self._watch.fallen is not None:
            return False, str(self._watch.fallen)
        age_s = time.monotonic() - self._ticked_s
        return age_s < 5.0, f"last tick {age_s:.1f} s ago"  # noqa: PLR2004 - 100 ticks

    def _ready(self) -> tuple[bool, str]:
        if self._draining_since_s is not None:
            return False, "draining"
        return readiness(self._slots, self.heartbeat, self._lineup, self._progress, self._long_loads)

    # -- end ------------------------------------------------------------------------------------------------------

    def _kill_all(self) -> None:
        for slot in self._slots:
            if slot.process is not None:
                slot.process.kill()

    def _end(self) -> None:
        """Workers first, then the list of models (nobody serves them now), then the listener, last of all."""
        self._versions.stop()
        self._kill_all()
        for slot in self._slots:
            if slot.process is not None:
                slot.process.wait()
                self.heartbeat.fence(slot.number, slot.process.pid)
        self.heartbeat.stop(self._goodbye_s)
        self.probes.stop()
        self._voices.wait()
