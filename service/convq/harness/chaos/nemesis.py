"""Does what the plan says to the stage, when it says so, and lets everything run again afterwards. Main thread only."""

from __future__ import annotations

import heapq
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from typing import Any

from convq.errors import ConvqError, RedisUnavailable
from convq.harness.chaos.crowd import Crowd
from convq.harness.chaos.faults import Fault, Kind
from convq.harness.chaos.ledger import Ledger, Recovery
from convq.harness.chaos.load import Digit
from convq.harness.chaos.stage import Stage, children_of, wait_for
from convq.harness.service_process import ChildService
from convq.queue import BlockingWire, Shard, at_once
from convq.queue.keys import MODELS
from convq.queue.transport.link import understood

TARGET_WITHIN_S = 20.0
"""A service that was just started has no workers for a moment."""
REACH_WITHIN_S = 10.0
RETRY_S = 0.02
PICTURES = 12
BAD_JOBS = 200
"""Enough lines to fill the pipe of the log many times over."""
DAMAGED = Digit("bad_image", b"\x89PNG\r\n\x1a\n", b"")
NO_TEXT = b"\xff\xfe\x00\x1b[2J"


class Nemesis:
    """Strikes on time: call `strike_due` often. `troubles` says what ended that should not have."""

    def __init__(
        self, plan: Sequence[Fault], stage: Stage, ledger: Ledger, crowd: Crowd, large: Sequence[Digit], shard: Shard
    ) -> None:
        self.troubles: list[str] = []
        self.struck: list[Kind] = []
        self._stage = stage
        self._ledger = ledger
        self._crowd = crowd
        self._large = large
        self._shard = shard
        self._wire = BlockingWire(stage.url)
        self.began_s = time.monotonic()
        self._number = count()
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._stopped: set[int] = set()
        self._server_away = self._service_away = False
        for fault in plan:
            self._at(self.began_s + fault.at_s, lambda fault=fault: self._strike(fault))  # type: ignore[misc]

    def _at(self, when_s: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (when_s, next(self._number), act))

    def _after(self, pause_s: float, act: Callable[[], None]) -> None:
        self._at(time.monotonic() + pause_s, act)

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return not self._agenda

    def strike_due(self) -> None:
        """Do what is due now. Raises RedisUnavailable where the server does not start again."""
        self._look_after_service()
        while self._agenda and self._agenda[0][0] <= time.monotonic():
            heapq.heappop(self._agenda)[2]()

    def close(self) -> None:
        """Let go on what is stopped, and leave."""
        for pid in list(self._stopped):
            self._let_go_on(pid)
        at_once(self._wire.close())

    # -- the faults -----------------------------------------------------------------------------------------------

    def _strike(self, fault: Fault) -> None:
        if self._server_away or (self._service_away and fault.kind in (Kind.WORKER, Kind.STOP, Kind.SERVICE)):
            self._after(RETRY_S, lambda: self._strike(fault))  # what it is meant for is not there now
            return
        strikes: dict[Kind, Callable[[Fault], None]] = {
            Kind.WORKER: self._kill_worker,
            Kind.STOP: self._stop_worker,
            Kind.SERVICE: self._kill_service,
            Kind.SERVER: self._kill_server,
            Kind.CONNECTIONS: self._kill_connections,
            Kind.SCRIPTS: self._flush_scripts,
            Kind.GUEST: self._invite,
            Kind.PICTURES: self._send_pictures,
            Kind.LOG: self._leave_log,
            Kind.KEYS: self._scribble,
        }
        strikes[fault.kind](fault)
        self.struck.append(fault.kind)

    def _note(self, fault: Fault) -> Recovery:
        return self._ledger.strike(fault.kind, time.monotonic(), alone=fault.alone)

    def _kill_worker(self, fault: Fault) -> None:
        pid = self._worker(fault)
        if pid is not None:
            self._note(fault)
            self._signal(pid, signal.SIGKILL)

    def _stop_worker(self, fault: Fault) -> None:
        pid = self._worker(fault)
        if pid is not None:
            self._note(fault)
            self._stopped.add(pid)
            self._signal(pid, signal.SIGSTOP)
            self._after(fault.lasts_s, lambda: self._let_go_on(pid))

    def _let_go_on(self, pid: int) -> None:
        self._stopped.discard(pid)
        self._signal(pid, signal.SIGCONT)

    def _kill_service(self, fault: Fault) -> None:
        self._note(fault)
        self._service_away = True
        self._stage.remove(self._stage.service)
        self._after(fault.lasts_s, self._restart_service)

    def _restart_service(self) -> None:
        self._stage.service = self._stage.start_service()
        self._service_away = False

    def _kill_server(self, fault: Fault) -> None:
        self._note(fault)
        self._server_away = True
        self._stage.kill_server()
        self._ledger.server_killed(time.monotonic())
        self._after(fault.lasts_s, self._restart_server)

    def _restart_server(self) -> None:
        self._stage.restart_server()
        self._server_away = False
        if not self._ledger.strict:
            self._crowd.read_again()

    def _kill_connections(self, fault: Fault) -> None:
        """Cut some of the connections that there are, of workers, supervisors and the client."""
        rng = random.Random(fault.pick)  # noqa: S311 - it must be replayed, not guessed
        share = rng.uniform(0.3, 1.0)
        mine = self._ask("CLIENT", "ID")
        listing = self._ask("CLIENT", "LIST").decode().splitlines()
        others = sorted(number for line in listing if (number := int(line.split()[0].removeprefix("id="))) != mine)
        self._note(fault)
        for number in others:
            if rng.random() < share:
                with suppress(ConvqError):  # it may have gone by itself
                    self._ask("CLIENT", "KILL", "ID", number)

    def _flush_scripts(self, fault: Fault) -> None:
        self._note(fault)
        self._ask("SCRIPT", "FLUSH")

    def _invite(self, fault: Fault) -> None:
        """A second service: it joins, takes its share, and is told to go."""
        guest = self._stage.start_service()
        self._after(fault.lasts_s, lambda: self._send_away(guest, fault))

    def _send_away(self, guest: ChildService, fault: Fault) -> None:
        if not guest.is_ready and guest.status() is None:
            self._after(RETRY_S, lambda: self._send_away(guest, fault))  # the guest has not come yet
            return
        self._note(fault)
        guest.leave()
        self._expect_gone(guest, time.monotonic())

    def _expect_gone(self, guest: ChildService, since_s: float) -> None:
        if guest.status() is None and time.monotonic() - since_s < TARGET_WITHIN_S:
            self._after(RETRY_S, lambda: self._expect_gone(guest, since_s))
            return
        status = self._stage.dismiss(guest)
        if status != 0:
            self.troubles.append(f"a service that was told to go ended with {status}: {guest.last_words}")

    def _send_pictures(self, fault: Fault) -> None:
        self._note(fault)
        self._crowd.mix_in([self._large[number % len(self._large)] for number in range(PICTURES)])

    def _leave_log(self, fault: Fault) -> None:
        service = self._stage.service
        self._note(fault)
        service.read_log(False)
        self._crowd.mix_in([DAMAGED] * BAD_JOBS)
        self._after(fault.lasts_s, lambda: service.read_log(True))

    def _scribble(self, fault: Fault) -> None:
        """What no program of ours would write; none of it belongs to a job."""
        shard, stranger = self._shard, Shard("stranger")
        self._note(fault)
        self._ask("HSET", MODELS, NO_TEXT, NO_TEXT)
        self._ask("ZADD", shard.leases, "inf", NO_TEXT)
        self._ask("SADD", shard.cancelled, NO_TEXT)
        self._ask("HSET", shard.suspects, NO_TEXT, NO_TEXT)
        self._ask("HSET", shard.cfg, "heard_ms", "soup", "grace_ms", NO_TEXT, "drain_per_s", "-1")
        self._ask("SET", stranger.leases, NO_TEXT)
        self._after(fault.lasts_s, lambda: self._wipe(stranger))

    def _wipe(self, stranger: Shard) -> None:
        if self._server_away:
            self._after(RETRY_S, lambda: self._wipe(stranger))
            return
        shard = self._shard
        self._ask("HDEL", MODELS, NO_TEXT)
        self._ask("ZREM", shard.leases, NO_TEXT)
        self._ask("SREM", shard.cancelled, NO_TEXT)
        self._ask("HDEL", shard.suspects, NO_TEXT)
        self._ask("DEL", stranger.leases)

    # -- targets --------------------------------------------------------------------------------------------------

    def _look_after_service(self) -> None:
        """A service that ends by itself is trouble; without a new one all would wait in vain."""
        service = self._stage.service
        if not self._service_away and service.status() is not None:
            self.troubles.append(f"the service ended by itself with {service.status()}: {service.last_words}")
            self._stage.remove(service)
            self._stage.service = self._stage.start_service()

    def _worker(self, fault: Fault) -> int | None:
        """A worker of the service, waiting for one where it has just been started."""
        service = self._stage.service
        pids = wait_for(lambda: children_of(service.pid) or service.status() is not None, TARGET_WITHIN_S)
        if not isinstance(pids, list):
            self.troubles.append(f"the service has no workers after {TARGET_WITHIN_S:g} s: {service.last_words}")
            return None
        return int(pids[int(fault.pick * len(pids))])

    def _signal(self, pid: int, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # it was killed by another fault in between
            os.kill(pid, number)

    def _ask(self, *command: Any) -> Any:
        """The reply to one command, asking again while the server is not reached."""
        give_up_at = time.monotonic() + REACH_WITHIN_S
        while True:
            try:
                reply = at_once(self._wire.flush([command]))[0]
                if isinstance(reply, Exception):
                    raise understood(reply) from reply
                return reply
            except RedisUnavailable:
                if time.monotonic() > give_up_at:
                    raise
                time.sleep(RETRY_S)
