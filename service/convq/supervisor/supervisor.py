"""Runs a service: its workers, their leases, the versions that they serve, and what is told of them; drains on SIGTERM.

One loop, one tick: signals only append to a list; every tick handles them, then looks after the workers. What talks to
Redis (heartbeats, fencing, queue depths) has a thread of its own, so that a server that hangs cannot hide a dead child.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from convq.errors import ConvqError, ServiceFailed
from convq.ipc.allowance import Allowance
from convq.ipc.messages import ServiceConfig
from convq.ipc.series import LAYOUT
from convq.ipc.shared_memory import Board
from convq.logs import event, form_here
from convq.queue import Address
from convq.settings import Settings
from convq.supervisor.beat.heartbeat import Heartbeat
from convq.supervisor.exposition.collectors import BoardCollector, FunctionCollector
from convq.supervisor.exposition.http import Probes
from convq.supervisor.exposition.progress import ProgressWatch
from convq.supervisor.exposition.readiness import readiness
from convq.supervisor.exposition.service_samples import ServiceState, service_families
from convq.supervisor.rollout.controller import RolloutController
from convq.supervisor.rollout.lineup import Lineup
from convq.supervisor.roster import Roster
from convq.supervisor.slots import Slot
from convq.supervisor.voices import new_mark
from convq.supervisor.workers import Workers
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
        self._companion, self._on_ready = companion, on_ready
        self._signals: list[int] = []
        self._draining_since_s: float | None = None
        self._exit_code = 0
        self._goodbye_s = GOODBYE_S[0]
        self._was_ready = False
        self._ticked_s = time.monotonic()
        self._watch = Watch(log)
        self.heartbeat = Heartbeat(settings, redis, self._board, self._models, self._slots, self._watch)
        self._progress = ProgressWatch(self._board, self._models, workers, settings.lease)
        self._lineup = Lineup(repository, settings.only, self._models, self._board)
        voice = self.heartbeat.describe, self.heartbeat.refusals
        self._versions = RolloutController(self._lineup, settings, self._slots, self._board, *voice, self._watch)
        self._workers = Workers(
            self._service_config(settings, redis, repository),
            settings.load_within,
            self._slots,
            self._board,
            self._models,
            self._versions,
            self.heartbeat,
            self._watch,
        )
        self.probes = Probes(settings.http_address, self._registry(), self._live, self._ready, self._watch)

    def _service_config(self, settings: Settings, redis: Address, repository: Path) -> ServiceConfig:
        """What every worker of this service is told."""
        return ServiceConfig(
            workers=len(self._slots),
            board=self._board.descriptor,
            supervisor=os.getpid(),
            redis=redis,
            repository=repository,
            device=settings.device,
            lease_ms=settings.lease_ms,
            result_ttl_ms=settings.result_ttl_ms,
            drain_s=settings.drain,
            memory=Allowance.of(settings.worker_memory, len(self._slots)),
            log=form_here(settings.log),
            log_mark=new_mark(),
            log_jobs=settings.log_jobs,
            otlp=settings.otlp,
        )

    def _registry(self) -> CollectorRegistry:
        """What /metrics says."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(BoardCollector(self._board, self._models, len(self._slots)))
        registry.register(
            FunctionCollector(
                lambda: service_families(
                    ServiceState(
                        depths=self.heartbeat.depths(),
                        slots=self._slots,
                        suspended=self._workers.crashes.suspended(),
                        stalled=self._progress.stalled(),
                        foreign_keys=self.heartbeat.foreign_keys.counts(),
                        unserved_streams=self.heartbeat.unserved_streams.found,
                        versions=self._lineup.states(),
                        unserved=self._lineup.unserved(),
                        unfit=self._lineup.unfit(),
                        clients=self._workers.clients(),
                    )
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
        self._workers.look(running=self._was_ready)
        if self._draining_since_s is None:
            served = self._lineup.plans().keys() - self.heartbeat.unserved.keys()
            self._progress.look(self._slots, served, self.heartbeat.jobs, self._workers.crashes.suspended())
            self._note_ready()
            return True
        if time.monotonic() - self._draining_since_s > self._settings.drain + 1.0:
            event(log, logging.WARNING, "the drain took too long; what is left is killed and run again elsewhere")
            self._workers.kill()
        return not self._workers.are_gone

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
            self._workers.note_absence(now_s - self._ticked_s)
        self._ticked_s = now_s

    def _handle(self, number: int) -> None:
        """First signal: drain. Second: at once."""
        if self._draining_since_s is not None:
            if number == signal.SIGHUP:  # a closed terminal is told of by the shell, and again by the kernel
                return
            self._exit_code = 130 if number == signal.SIGINT else 1
            self._goodbye_s = GOODBYE_S[1]
            self._workers.kill()
            return
        event(log, logging.INFO, "draining", signal=signal.Signals(number).name)
        self._exit_code = 130 if number == signal.SIGINT else 0
        self._draining_since_s = time.monotonic()
        self.heartbeat.drain()
        self._workers.drain()

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
        return readiness(self._slots, self.heartbeat, self._lineup, self._progress, self._workers.long_loads)

    # -- end ------------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        """Workers first, then the list of models (nobody serves them now), then the listener, last of all."""
        self._versions.stop()
        self._workers.end()
        self.heartbeat.stop(self._goodbye_s)
        self.probes.stop()
        self._workers.last_words()
