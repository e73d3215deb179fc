"""Random lives of jobs with ids of their own, against a model in plain Python of what a client must be told.

`--lives 1000` is the size at which this was shown; the default is a sample of it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis

from convq.errors import Answered, ConvqError, JobHeld
from convq.protocol import Job, Priority
from convq.queue import (
    BlockingWire,
    Commits,
    Completion,
    Lease,
    LeaseKeeper,
    Producer,
    Received,
    Shard,
    Submission,
    WorkQueue,
    at_once,
)
from convq.queue.functions import SOURCE
from convq.queue.keys import LANES
from servers import OwnServer

IDS = ("a", "b")
INBOX = "convq:{lenet}:inbox:me"
STEPS = 14
LEASE_MS = 600_000
"""No lease runs out by itself: the steps say when."""
SAME, NEW, READ, UNSURE = "the same job", "a new job", "Answered", "JobHeld"


# -- what must be true ------------------------------------------------------------------------------------------------


@dataclass
class Entry:
    """One entry of a stream as the model knows it."""

    job: str
    stream: str
    inbox: bool
    window: int
    """How often the window of its id was over when it came."""
    exists: bool = True
    holder: str | None = None


@dataclass
class Known:
    """What the server remembers of an id."""

    entry: str
    answered: bool = False


@dataclass
class Model:
    """Entries, who holds them, how each worker is, what is remembered of ids, what can be read."""

    entries: dict[str, Entry] = field(default_factory=dict)
    workers: dict[str, str] = field(default_factory=dict)
    """Incarnation -> good or silent; gone where it is not here."""
    known: dict[str, Known] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    """Id -> entry whose answer lies in its result key."""
    inbox: list[str] = field(default_factory=list)
    """Entries whose answers lie in the inbox."""
    published: Counter[tuple[str, int]] = field(default_factory=Counter)
    window: Counter[str] = field(default_factory=Counter)
    """Id -> how often its window was over: of the jobs that came within one, at most one is published."""

    def told(self, job: str) -> str:
        """What a client that submits this id must hear."""
        known = self.known.get(job)
        if known is None:
            return NEW
        entry = self.entries[known.entry]
        if known.answered:
            there = known.entry in self.inbox if entry.inbox else job in self.unread
            return SAME if there else READ
        lease = self.workers.get(entry.holder or "", "gone")
        if entry.exists or lease == "good":
            return SAME
        if lease == "silent":
            return UNSURE
        return SAME if job in self.unread else NEW

    def answer(self, name: str) -> None:
        """An entry was answered."""
        entry = self.entries[name]
        entry.exists, entry.holder = False, None
        if entry.inbox:
            self.inbox.append(name)
        else:
            self.unread.setdefault(entry.job, name)
        self.published[entry.job, entry.window] += 1
        known = self.known.get(entry.job)
        if known is not None and known.entry == name:
            known.answered = True


# -- what is done -----------------------------------------------------------------------------------------------------


@dataclass
class World:
    """A real server with real queues, and the model beside it. Every step does to the one what it does to the other."""

    server: OwnServer
    chance: random.Random
    model: Model = field(default_factory=Model)
    shard: Shard = field(default_factory=lambda: Shard("lenet"))
    log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.redis: Any = redis.Redis.from_url(self.server.url, decode_responses=True)
        self.redis.flushall()
        self.redis.function_load(SOURCE, replace=True)
        self.wire = BlockingWire(self.server.url)
        self.producer = Producer(self.wire, self.shard)
        self.keeper = LeaseKeeper(self.server.url, lease_ms=LEASE_MS)
        self.commits = Commits(self.server.url, self.shard, result_ttl_ms=1000)
        self.work: dict[str, tuple[WorkQueue, Lease, dict[str, Received]]] = {}

    def disconnect(self) -> None:
        for work, _, _ in self.work.values():
            work.close()
        self.commits.close()
        self.keeper.close()
        at_once(self.wire.close())

    def close(self) -> None:
        self.disconnect()
        self.redis.close()

    # clients

    def submit(self, job: str) -> None:
        lane, inbox = self.chance.choice(LANES), self.chance.random() < 0.3
        must = self.model.told(job)
        said, entry = self._submit(job, lane, inbox)
        self.log.append(f"submit {job} to {lane}, inbox {inbox}: {said} {entry}; must be {must}")
        if said == "entry":
            said = NEW if entry not in self.model.entries else SAME
        assert must == said, self.log
        if said == SAME:
            assert entry == self.model.known[job].entry, self.log
        if said == NEW:
            assert entry is not None
            self.model.entries[entry] = Entry(job, self.shard.stream(lane), inbox, self.model.window[job])
            self.model.known[job] = Known(entry)

    def _submit(self, job: str, lane: Priority, inbox: bool) -> tuple[str, str | None]:
        """By library or by function, as chance has it."""
        reply_to = INBOX if inbox else None
        if self.chance.random() < 0.5:
            try:
                return "entry", at_once(
                    self.producer.submit([Submission(Job(image=b"x", id=job, reply_to=reply_to), lane)])
                )[0]
            except (Answered, JobHeld) as error:
                return type(error).__name__, None
        fields = ["image", "x", "id", job, *(("reply_to", INBOX) if inbox else ())]
        try:
            return "entry", str(self.redis.fcall("convq_submit", 1, self.shard.stream(lane), *fields))
        except redis.ResponseError as error:
            return {"ANSWERED": READ, "HELD": UNSURE}[str(error).partition(" ")[0]], None

    def read(self, job: str) -> None:
        found = self.redis.lpop(self.shard.result(job))
        assert found == self.model.unread.pop(job, None), self.log

    def result_expires(self, job: str) -> None:
        self.redis.delete(self.shard.result(job))
        self.model.unread.pop(job, None)

    def read_inbox(self, _: str) -> None:
        found = self.redis.lpop(INBOX, 100) or []
        assert len(found) == len(self.model.inbox), self.log
        self.model.inbox.clear()

    def window_is_over(self, job: str) -> None:
        self.redis.delete(self.shard.job(job))
        if self.model.known.pop(job, None) is not None:
            self.model.window[job] += 1

    # strangers

    def delete(self, job: str) -> None:
        there = [name for name, entry in self.model.entries.items() if entry.job == job and entry.exists]
        for name in there:
            self.redis.xdel(self.model.entries[name].stream, name)
            self.model.entries[name].exists = False

    def trim(self, _: str) -> None:
        stream = self.chance.choice(self.shard.streams)
        self.redis.xtrim(stream, maxlen=0, approximate=False)
        for entry in self.model.entries.values():
            entry.exists = entry.exists and entry.stream != stream

    # workers

    def start(self, _: str) -> None:
        work = WorkQueue(self.server.url, self.shard, worker=f"w-{len(self.work)}", lease_ms=LEASE_MS)
        lease = work.take()
        self.work[lease.incarnation] = work, lease, {}
        self.model.workers[lease.incarnation] = "good"

    def claim(self, _: str) -> None:
        for name in self._alive("good"):
            work, lease, held = self.work[name]
            self._hold(name, work.claim(lease, 10, 1).jobs, held)

    def reclaim(self, _: str) -> None:
        """Whoever is silent is dead now, and a living worker takes over what is there; what is not, is forgotten."""
        living = self._alive("good")
        if not living:
            return
        for name in self._alive("silent"):
            self.kill(name)
        work, lease, held = self.work[living[0]]
        while True:
            delivery = work.reclaim(lease, 10)
            self._hold(living[0], delivery.jobs, held)
            if not delivery.more:
                break
        for entry in self.model.entries.values():
            if not entry.exists and self.model.workers.get(entry.holder or "") != "good":
                entry.holder = None

    def _hold(self, name: str, jobs: list[Received], held: dict[str, Received]) -> None:
        for job in jobs:
            held[job.entry] = job
            self.model.entries[job.entry].holder = name

    def answer(self, _: str) -> None:
        """One worker commits what it holds, silent or not; a dead one tries in vain."""
        if not self.work:
            return
        name = self.chance.choice(list(self.work))
        lease, held = self.work[name][1:]
        completions = [Completion(job, job.entry.encode()) for job in held.values()]
        documents = [
            Completion(one.job, f'{{"entry":"{one.job.entry}"}}'.encode() if one.job.reply_to else one.document)
            for one in completions
        ]
        mine = [entry for entry in held if self.model.entries[entry].holder == name and name in self.model.workers]
        with suppress(ConvqError):
            assert len(mine) == self.commits.complete(lease, documents).published, self.log
        held.clear()
        for entry in mine:
            self.model.answer(entry)

    def fall_silent(self, _: str) -> None:
        for name in self._alive("good")[:1]:
            self.redis.zadd(self.shard.leases, {name: 1})
            self.model.workers[name] = "silent"

    def die(self, _: str) -> None:
        for name in list(self.model.workers)[:1]:
            self.kill(name)

    def kill(self, name: str) -> None:
        self.keeper.fence(self.shard, name)
        del self.model.workers[name]

    def _alive(self, how: str) -> list[str]:
        return [name for name, state in self.model.workers.items() if state == how]

    # the server

    def restart(self, _: str) -> None:
        """Killed and started again with what it had written; everybody connects anew."""
        self.server.restart()
        self.disconnect()

    def roll_back(self, _: str) -> None:
        """Started again with nothing: no client and no worker knows."""
        self.redis.flushall()
        self.redis.function_load(SOURCE, replace=True)
        windows = self.model.window + Counter(dict.fromkeys(IDS, 1))
        self.model = Model(entries=self.model.entries, published=self.model.published, window=windows)
        for entry in self.model.entries.values():
            entry.exists, entry.holder = False, None

    def step(self) -> None:
        weights = {
            self.submit: 10, self.read: 4, self.read_inbox: 2, self.result_expires: 1, self.window_is_over: 1,
            self.delete: 3, self.trim: 1, self.start: 2, self.claim: 5, self.reclaim: 2, self.answer: 5,
            self.fall_silent: 2, self.die: 2, self.restart: 0.15, self.roll_back: 0.3,
        }  # fmt: skip
        (does,) = self.chance.choices(list(weights), list(weights.values()))
        self.log.append(does.__name__)
        does(self.chance.choice(IDS))

    def settle(self) -> None:
        """Everybody dies, one worker comes and answers all there is; whoever then submits again hears of it at once."""
        for name in list(self.model.workers):
            self.kill(name)
        self.start("")
        self.claim("")
        self.reclaim("")
        (name,) = self._alive("good")
        self.work = {name: self.work[name]}
        self.answer("")
        assert not any(entry.exists for entry in self.model.entries.values()), self.log
        for job in IDS:
            self.submit(job)
        self.claim("")
        self.answer("")
        for job in IDS:
            assert self.model.known[job].answered or job in self.model.unread, self.log
            self.submit(job)
        assert max(self.model.published.values()) == 1, (self.model.published, self.log)


@pytest.fixture(scope="module")
def forgetting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnServer]:
    """A server that keeps what it has acknowledged over a kill: the model knows then what it has."""
    data: Path = tmp_path_factory.mktemp("same-id")
    with OwnServer(data, appendfsync="always") as running:
        yield running


@pytest.mark.timeout(0)
def test_whoever_submits_an_id_again_is_always_answered_or_told(
    forgetting: OwnServer, pytestconfig: pytest.Config
) -> None:
    for seed in range(pytestconfig.getoption("--lives", 40)):
        world = World(forgetting, random.Random(seed))
        try:
            for _ in range(STEPS):
                world.step()
            world.settle()
        except BaseException as error:
            error.add_note(f"sequence {seed}: {world.log}")
            raise
        finally:
            world.close()
