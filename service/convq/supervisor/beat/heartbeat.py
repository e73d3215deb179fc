"""Keeps the leases of this service's workers, says what is served and measures the queues: all that beats once a second.

In a thread and on a connection of its own. A worker that hangs is not renewed, so its lease runs out; a dead one is fenced.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from convq.errors import ConvqError, RedisRefused, RedisUnavailable
from convq.ipc import caution
from convq.ipc.messages import incarnation_of, is_gone
from convq.ipc.shared_memory import Board
from convq.logs import event
from convq.queue import Accusation, Address, LeaseKeeper, Shard
from convq.queue.supervision import ShardDepth
from convq.settings import Settings
from convq.supervisor.beat.announcements import Announcements
from convq.supervisor.beat.exports import Exports
from convq.supervisor.beat.foreign_keys import ForeignKeys
from convq.supervisor.beat.refusal_book import RefusalBook
from convq.supervisor.beat.steps import Steps
from convq.supervisor.beat.troubles import Troubles
from convq.supervisor.beat.unserved_streams import UnservedStreams
from convq.supervisor.crashes import accusations
from convq.supervisor.overdue import Overdue
from convq.supervisor.slots import Slot
from convq.threads import Watch

log = logging.getLogger("convq.supervisor")

LOOK_EVERY_S = 30.0
"""How often the server is asked again what it is: an operator may have changed its settings, or another took its place."""
LEASES, LIST, KNOWN = "leases", "the list of models", "names that the door lets in"
"""Steps of a beat that more depends on than the step itself."""
FIRST_ANSWER_WITHIN_S = 5.0
"""A server that has never answered by then is an error of the start, not an outage to wait out."""


@dataclass(frozen=True, slots=True)
class _Dead:
    """A worker that died, as one model saw it: its lease, and whom its death accuses."""

    index: int
    shard: Shard
    incarnation: str
    suspects: Sequence[Accusation]


class Heartbeat:
    """The thread. `beats` says whether the last round reached Redis; `models` are those of the board's places."""

    def __init__(
        self,
        settings: Settings,
        redis: Address,
        board: Board,
        models: Sequence[str],
        slots: Sequence[Slot],
        watch: Watch | None = None,
    ) -> None:
        self._keeper = LeaseKeeper(redis, lease_ms=settings.lease_ms)
        self._settings = settings
        self._board = board
        self._models = models
        self._mine: dict[str, set[str]] = {}
        self._slots = slots
        self._dead: queue.SimpleQueue[_Dead | None] = queue.SimpleQueue()
        self._news = False
        self._troubles = Troubles(log, "heartbeat")
        self.foreign_keys = ForeignKeys(self._keeper, self._troubles, log, self._shards)
        self.unserved_streams = UnservedStreams(self._keeper.lookout(), self._troubles)
        self._step = Steps(self._troubles, self.foreign_keys.why).run
        self._announcements = Announcements(self._keeper, settings, self._troubles)
        self._exports = Exports(self._keeper, self._step, self.foreign_keys.look_ahead)
        self.refusals = RefusalBook(self._keeper.refusals(), self._troubles, self._shards, self._beat_now)
        self._stopping = self._draining = False
        self._remarks: set[str] = set()
        self._started_s = time.monotonic()
        self._thread = (watch or Watch(log)).thread("heartbeat", self._run)
        self.beats = False
        self.trouble = "not asked yet"
        self.refusal: ConvqError | None = None
        self.jobs: Mapping[str, tuple[int, float]] = self._keeper.jobs

    def _shards(self) -> list[Shard]:
        """Of the models that have a place on the board now."""
        return [Shard(model) for model in self._models if model]

    def has_announced(self, models: Collection[str]) -> bool:
        """Whether each of these is in the list that clients read, but for those that cannot be served; and one is."""
        missing = set(models) - self._announcements.listed
        return bool(self._announcements.listed) and missing <= self.unserved.keys()

    @property
    def unserved(self) -> dict[str, str]:
        """Model -> why this service cannot serve it now, though its workers could."""
        whys = {shard.model: self._why_unserved(shard) for shard in self._shards()}
        return {model: why for model, why in whys.items() if why is not None}

    def _why_unserved(self, shard: Shard) -> str | None:
        return self._troubles.of(shard.model, LEASES) or self.foreign_keys.unserved(shard)

    def depths(self) -> dict[str, ShardDepth]:
        """Model -> how much its queue holds, for the models whose queue this service exports at this moment."""
        return {} if self._draining else self._exports.depths(self._models)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def drain(self) -> None:
        """Export no queue any more, so that another service can; leases are kept."""
        self._draining = True
        self._beat_now()

    def stop(self, within_s: float = 5.0) -> None:
        """End the thread; take the models out of the list where nobody else serves them.

        A server that does not answer within `within_s` seconds is not waited for: leases and list run out by themselves.
        """
        self._stopping = True
        self._dead.put(None)
        self._thread.join(timeout=within_s)
        if self._thread.is_alive():  # it still uses the connection, which is not for two threads
            event(log, logging.WARNING, "Redis does not answer; leases and models run out by themselves")
            return
        try:
            self.refusals.keep()
            self._exports.end()
            for shard in self._shards():
                self._step(shard.model, "withdrawing", self._keeper.withdraw, [shard.model])
        except RedisUnavailable as error:
            event(log, logging.WARNING, str(error), during="withdrawing the models")
        self._keeper.close()

    def describe(self, model: str, description: Mapping[str, object] | None) -> None:
        """What `convq:models` says of a model, from a worker that has loaded it, at once; None: no worker has it any more."""
        self._announcements.describe(model, description)
        self._beat_now()

    def fence(self, slot: int, pid: int, points: int = 0, late: Overdue | None = None) -> None:
        """End the leases of a dead worker as soon as the thread can; others take over its jobs from then on.

        The jobs that its death accuses get `points` of suspicion: what was `late`, or else all that native code worked on.
        """
        for index, model in enumerate(self._models):
            if not model:
                continue
            row = self._board.row(slot, index)
            nonce = int(row.get("pulse_incarnation"))
            row.set("pulse_incarnation", 0)
            suspects = accusations(row, index, points, late)
            if points:
                caution.note_death(row)
            row.clear_marks()
            if nonce:
                self._dead.put(_Dead(index, Shard(model), incarnation_of(pid, nonce), suspects))

    def _beat_now(self) -> None:
        self._news = True
        self._dead.put(None)

    # -- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        interval_s = min(1.0, self._settings.lease / 4)
        next_s = look_s = 0.0
        connections = 0
        inspected = False
        while not self._stopping or not self._dead.empty():
            try:
                self.refusals.keep()
                if not inspected or time.monotonic() >= look_s or self._keeper.reconnects != connections:
                    self._inspect(first=not inspected)
                    inspected, connections = True, self._keeper.reconnects
                    look_s = time.monotonic() + LOOK_EVERY_S
                self._fence_dead(max(0.0, next_s - time.monotonic()))
                if self._news or time.monotonic() >= next_s:
                    self._news = False
                    next_s = time.monotonic() + interval_s
                    self._beat()
            except ConvqError as error:
                self._note(error, inspected)
                if self._stopping:
                    return
                time.sleep(min(0.2, interval_s))

    def _inspect(self, *, first: bool) -> None:
        """Whether a queue may live on this server: refused at the start, later said once and loudly."""
        server = self._keeper.inspect() if first else self._keeper.look()
        self._step("", KNOWN, self._keeper.make_known, [*filter(None, self._models), *self._settings.expect])
        if first:
            event(log, logging.INFO, "connected", server=str(server))
        told, self._remarks = self._remarks, set()
        for remark in server.remarks:
            if remark.level != "ok":
                self._remarks.add(f"{remark.level} {remark.check}")
                if f"{remark.level} {remark.check}" not in told:
                    level = logging.ERROR if remark.level == "problem" else logging.WARNING
                    event(log, level, str(remark), check=remark.check)

    def _fence_dead(self, wait_s: float) -> None:
        """Fence a worker that died, waiting up to `wait_s` for one; None in the queue only ends the waiting."""
        try:
            dead = self._dead.get(timeout=max(0.001, wait_s))
        except queue.Empty:
            return
        if dead is None:
            return
        try:
            held = self._keeper.fence(dead.shard, dead.incarnation, dead.suspects)
        except RedisUnavailable:
            self._dead.put(dead)
            raise
        except ConvqError as error:  # then its lease runs out, as nobody renews it
            self._troubles.note(dead.shard.model, "fence", str(error))
            held = 0
        if held:
            facts = {"incarnation": dead.incarnation, "jobs": held, "suspects": len(dead.suspects)}
            event(log, logging.WARNING, "a dead worker's jobs are free for others", **facts)
        self._ask_to_reclaim(dead.index)

    def _fence_gone(self, index: int, shard: Shard) -> None:
        """Fence workers of this machine whose process is gone: their service died before it could, all at once."""
        known = self._keeper.incarnations(shard)
        mine = self._mine.setdefault(shard.model, set())
        mine.intersection_update(known)
        gone = [one for one in known if one not in mine and is_gone(one)]  # ours are fenced with whom they accuse
        for incarnation in gone:
            held = self._keeper.fence(shard, incarnation)
            event(log, logging.WARNING, "a dead service's jobs are free for others", incarnation=incarnation, jobs=held)
        if gone:
            self._ask_to_reclaim(index)

    def _ask_to_reclaim(self, index: int) -> None:
        for slot in self._slots:
            row = self._board.row(slot.number, index)
            row.set("pulse_reclaim", row.get("pulse_reclaim") + 1)

    def _beat(self) -> None:
        """Leases first: everything else may come late."""
        seated = [(index, Shard(model)) for index, model in enumerate(self._models) if model]
        for index, shard in seated:
            self._step(shard.model, LEASES, self._renew, index, shard)
            self._step(shard.model, "leases of dead services", self._fence_gone, index, shard)
        for _, shard in seated:
            self._step(shard.model, "types of keys", self.foreign_keys.look, shard)
            self._step(shard.model, LIST, self._announcements.make, shard, self._why_unserved(shard))
            if not self._draining:
                self._step(shard.model, "export", self._exports.stand, shard)
        if self._draining:
            self._exports.end()
        self._step("", LIST, self._announcements.withdraw_others, self._models)
        self._forget({shard.model for _, shard in seated})
        exports = bool(self._exports.any and self._announcements.listed)  # whoever does looks, and not every service
        self._step("", "looking through the keys", self.unserved_streams.look, exports)
        for trouble in self._keeper.keep_functions():
            event(log, logging.WARNING, trouble, during="heartbeat")
        if not self.beats:
            event(log, logging.INFO, "heartbeat reaches Redis")
        self.beats = True

    def _forget(self, here: Collection[str]) -> None:
        """Models that have left: others may export their queues."""
        self._exports.forget(here)
        self._announcements.forget(here)
        self._mine = {model: mine for model, mine in self._mine.items() if model in here}

    def _renew(self, index: int, shard: Shard) -> None:
        """Renew the workers that make progress; tell those whose lease is gone through the board."""
        owners: dict[str, tuple[int, int]] = {}
        for slot in self._slots:
            nonce = int(self._board.row(slot.number, index).get("pulse_incarnation"))
            if nonce and slot.pid is not None and not slot.stopped:
                owners[incarnation_of(slot.pid, nonce)] = (slot.number, nonce)
        if not owners:
            self._keeper.incarnations(shard)  # where there can be no leases, there are no owners: said all the same
            return
        self._mine.setdefault(shard.model, set()).update(owners)
        for incarnation in self._keeper.renew(shard, list(owners)):
            number, nonce = owners[incarnation]
            self._board.row(number, index).set("pulse_fenced", nonce)

    def _note(self, error: ConvqError, inspected: bool) -> None:
        if self.beats or self.trouble != str(error):
            event(log, logging.WARNING, str(error), during="heartbeat")
        self.beats, self.trouble = False, str(error)
        never = not inspected and time.monotonic() - self._started_s > FIRST_ANSWER_WITHIN_S
        if never or (isinstance(error, RedisRefused) and not inspected):
            self.refusal = error
