"""Waiting for many keys at a time over one connection: tracked reads.

A blocking pop holds a connection as long as it waits, so that a thousand of them need a thousand connections, or wait for
each other. Here the server is asked whether a key is there, remembers that this connection asked (`CLIENT TRACKING`),
and says so once when the key is written; then it is popped. Nothing depends on that word arriving: once a second every
key is asked for again. Where the server does not allow tracking, asking is all there is: each key at a pace of its own,
soon at first and more seldom the longer it is waited for.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis.asyncio
from redis.maint_notifications import MaintNotificationsConfig

from convq.errors import InternalFault, RedisUnavailable
from convq.queue.transport.address import Address
from convq.queue.transport.link import SOCKET_TIMEOUT_S, Command, connection_options, understood
from convq.queue.transport.rounds import ASK_FIRST_S, Rounds

log = logging.getLogger("convq.client")

SWEEP_S = 1.0
"""How often every key is asked for again where the server says what was written."""
LINGER_S = 1.0
"""How long the connection stays open for the next wait."""
KEYS_AT_ONCE = 100
"""Keys of one EXISTS. Where one of them is there, all are tried."""

TRACKED: dict[str, Any] = {"protocol": 3, "maint_notifications_config": MaintNotificationsConfig(enabled=False)}
"""What a connection is made with that is told of keys: RESP3 carries replies and such words alike."""

_PUSHED = object()


class Kept:
    """Documents that were taken, or are being taken, and that nobody has been given yet: key -> document, bounded."""

    MOST = 1000
    MOST_BYTES = 64 << 20

    def __init__(self) -> None:
        self._documents: dict[str, bytes] = {}

    def put(self, key: str, document: bytes) -> None:
        """Keep a document; the oldest go where there are too many."""
        self._documents[key] = document
        while len(self._documents) > 1 and (len(self._documents) > self.MOST or self._bytes() > self.MOST_BYTES):
            self._documents.pop(next(iter(self._documents), key), None)

    def _bytes(self) -> int:
        return sum(map(len, list(self._documents.values())))

    def get(self, key: str) -> bytes | None:
        """The document of that key, left where it is."""
        return self._documents.get(key)

    def drop(self, key: str) -> None:
        """Forget the document of that key."""
        try:
            # No call, and so no moment in which an interrupt could come between this and the return of the document.
            del self._documents[key]
        except KeyError:
            return


@dataclass(slots=True, eq=False)
class _Waiter:
    """One call that waits. `pop` takes what it waits for; `last` asks for an answer even if there is nothing."""

    pop: Command
    reply: asyncio.Future[Any]
    last: bool = False


@dataclass(slots=True)
class _Sent:
    """A command whose reply is awaited: an EXISTS of several keys, or the pop of one."""

    keys: tuple[str, ...]
    pops: bool
    sent_s: float
    unwatched: bool = False
    """The server has said, or we have caused, that the key was written: it must be asked for anew to be told again."""


class WaitingRoom:
    """Any number of coroutines of one event loop that wait for keys, each with its own end of patience.

    What was popped for a call that has been cancelled goes to the next one that waits for the key, or into `kept`.
    """

    def __init__(self, where: Address | str, kept: Kept) -> None:
        options = connection_options(Address.of(where))
        options |= TRACKED
        options["retry"] = redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 0)
        self._pool = redis.asyncio.ConnectionPool.from_url(**options)
        self._kept = kept
        self._waiters: dict[str, deque[_Waiter]] = {}
        self._to_ask: dict[str, None] = {}
        self._to_pop: dict[str, bool] = {}
        """Key -> whether it must be asked for anew where it turns out to be empty."""
        self._popping: dict[str, bool] = {}
        """Keys with a pop on its way, one at a time -> whether to pop again where that one comes back empty."""
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._tracks = True
        """Whether the server says what was written; where it has refused that once, it is not asked for it again."""
        self._rounds = Rounds()

    async def take(self, key: str, pop: Command, timeout_s: float) -> Any:
        """What `pop` yields as soon as it yields something; None when the time is over. A refusal is the reply.

        Raises RedisUnavailable, for every call that waits, when the connection breaks.
        """
        waiter = _Waiter(pop, asyncio.get_running_loop().create_future())
        self._waiters.setdefault(key, deque()).append(waiter)
        self._to_ask[key] = None
        self._attend()
        try:
            await asyncio.wait([waiter.reply], timeout=timeout_s)
            if not waiter.reply.done():
                waiter.last = True
                self._pop_soon(key)
                await asyncio.wait([waiter.reply])
            return waiter.reply.result()
        except asyncio.CancelledError:
            self._withdraw(key, waiter)
            raise
        finally:
            self._leave(key, waiter)

    def is_popping(self, key: str) -> bool:
        """Whether a pop of that key is on its way."""
        return key in self._popping

    def _withdraw(self, key: str, waiter: _Waiter) -> None:
        """A reply that came in the moment of the cancellation is for somebody else."""
        reply = waiter.reply.result() if waiter.reply.done() and waiter.reply.exception() is None else None
        self._leave(key, waiter)
        if isinstance(reply, bytes):
            self._hand_over(key, reply)

    def _leave(self, key: str, waiter: _Waiter) -> None:
        waiters = self._waiters.get(key)
        if waiters is not None and waiter in waiters:
            waiters.remove(waiter)
            if not waiters:
                del self._waiters[key]

    async def close(self) -> None:
        """Close the connection. Calls that still wait end with RedisUnavailable."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        await self._pool.disconnect()

    # -- the connection ---------------------------------------------------------------------------------------------

    def _attend(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._serve(), name="convq-waiting")
        self._wake.set()

    def _end(self) -> None:
        """From here on the next wait begins anew, with a connection of its own."""
        if self._task is asyncio.current_task():
            self._task = None

    async def _serve(self) -> None:
        """Connect, write and read until nobody waits any more."""
        connection: Any = self._pool.make_connection()  # type: ignore[no-untyped-call]
        sent: deque[_Sent] = deque()
        reader: asyncio.Task[None] | None = None
        self._popping.clear()
        try:
            await self._connect(connection)
            reader = asyncio.create_task(self._read(connection, sent), name="convq-waiting-reader")
            reader.add_done_callback(lambda _: self._wake.set())
            await self._write(connection, sent, reader)
        except asyncio.CancelledError:
            self._end()
            self._fail(None)
            raise
        except Exception as error:  # noqa: BLE001 - whatever it was, nobody may wait for what no longer works
            self._end()
            self._fail(error)
        finally:
            try:
                if reader is not None:
                    reader.cancel()
                    await asyncio.gather(reader, return_exceptions=True)
            finally:
                await connection.disconnect()

    async def _connect(self, connection: Any) -> None:
        await connection.connect()
        connection._parser.set_invalidation_push_handler(self._hear)  # noqa: SLF001 - redis-py has no other way to it
        if not self._tracks:
            return
        await connection.send_command("CLIENT", "TRACKING", "ON", "NOLOOP")
        try:
            await connection.read_response()
        except redis.exceptions.ResponseError as refused:
            log.info("results are asked for again and again, for Redis refuses CLIENT TRACKING: %s", refused)
            self._tracks = False

    async def _hear(self, push: Any) -> Any:
        """The server says which keys were written; no keys at all after a flush of everything."""
        keys = push[1]
        for key in list(self._waiters) if keys is None else [key.decode() for key in keys]:
            if key in self._waiters:
                self._pop_soon(key, unwatched=True)
        return _PUSHED

    async def _write(self, connection: Any, sent: deque[_Sent], reader: asyncio.Task[None]) -> None:
        swept_s = used_s = time.monotonic()
        late = False
        while True:
            self._wake.clear()
            if reader.done():
                return reader.result()
            now_s = time.monotonic()
            used_s = now_s if self._waiters else used_s
            if now_s - used_s >= LINGER_S and not sent:
                return self._end()
            sweeps = now_s - swept_s >= SWEEP_S
            if sweeps:
                swept_s, late = now_s, _check_late(sent, now_s, late=late)
            await self._send(connection, sent, [] if sent else self._due_again(now_s, sweeps=sweeps))
            try:
                async with asyncio.timeout(max(0.0, self._next_s(swept_s) - time.monotonic())):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _due_again(self, now_s: float, *, sweeps: bool) -> list[str]:
        """The keys that are to be asked for again."""
        return list(self._waiters if sweeps else ()) if self._tracks else self._rounds.due(now_s, self._waiters)

    def _next_s(self, swept_s: float) -> float:
        """When there is something to do at the latest; not at once, where a reply is still on its way."""
        soon_s = time.monotonic() + ASK_FIRST_S
        return min(swept_s + SWEEP_S, math.inf if self._tracks else max(self._rounds.next_s, soon_s))

    async def _send(self, connection: Any, sent: deque[_Sent], again: Sequence[str]) -> None:
        """Pop what may be there, ask for what is new, and once more for what is to be asked for `again`."""
        now_s = time.monotonic()
        pops = {key: unwatched for key, unwatched in self._to_pop.items() if key in self._waiters}
        asks: list[tuple[str, ...]] = [(key,) for key in self._to_ask if key in self._waiters and key not in pops]
        if not self._tracks:
            self._rounds.begin(self._to_ask, now_s)
        self._to_pop.clear()
        self._to_ask.clear()
        asks += (tuple(again[at : at + KEYS_AT_ONCE]) for at in range(0, len(again), KEYS_AT_ONCE))
        commands: list[Command] = [self._waiters[key][0].pop for key in pops]
        commands += [("EXISTS", *keys) for keys in asks]
        if commands:
            self._popping.update(dict.fromkeys(pops, False))
            sent.extend(_Sent((key,), pops=True, sent_s=now_s, unwatched=unwatched) for key, unwatched in pops.items())
            sent.extend(_Sent(keys, pops=False, sent_s=now_s) for keys in asks)
            await connection.send_packed_command(connection.pack_commands(commands), check_health=False)

    async def _read(self, connection: Any, sent: deque[_Sent]) -> None:
        while True:
            try:
                reply = await connection.read_response(timeout=math.inf, disconnect_on_error=False, push_request=True)
            except redis.exceptions.ResponseError as refused:
                reply = refused
            if reply is _PUSHED:
                continue
            command = sent.popleft()
            if command.pops:
                self._popped(command.keys[0], reply, unwatched=command.unwatched)
            elif reply != 0:  # so many exist; what a refusal means, the pop will say
                for key in command.keys:
                    self._pop_soon(key)

    # -- what replies mean ------------------------------------------------------------------------------------------

    def _pop_soon(self, key: str, *, unwatched: bool = False) -> None:
        if key in self._popping:
            self._popping[key] = self._popping[key] or unwatched
            return
        self._to_pop[key] = self._to_pop.get(key, False) or unwatched
        self._wake.set()

    def _popped(self, key: str, reply: Any, *, unwatched: bool) -> None:
        """Something for the first that waits, or nothing: somebody else was faster, or it is not there yet."""
        again = self._popping.pop(key, False)
        if reply is not None:
            self._hand_over(key, reply)
            return
        for waiter in [one for one in self._waiters.get(key, ()) if one.last]:
            self._answer(key, waiter, None)
        if key not in self._waiters:
            return
        if again:
            self._pop_soon(key, unwatched=True)
        elif unwatched:
            self._to_ask[key] = None
            self._wake.set()

    def _hand_over(self, key: str, reply: Any) -> None:
        """The first that waits for the key gets it, the others go on waiting; where nobody does, it is kept."""
        waiting = self._waiters.get(key)
        if waiting:
            self._answer(key, waiting[0], reply)
            if key in self._waiters:
                self._pop_soon(key, unwatched=True)
        elif isinstance(reply, bytes):
            self._kept.put(key, reply)

    def _answer(self, key: str, waiter: _Waiter, reply: Any) -> None:
        """It waits no more from this moment on, though its coroutine goes on later: nothing is popped for it meanwhile."""
        waiter.reply.set_result(reply)
        self._leave(key, waiter)

    def _fail(self, error: Exception | None) -> None:
        for key, waiters in list(self._waiters.items()):
            for waiter in list(waiters):
                waiter.reply.set_exception(_failure(error))
                self._leave(key, waiter)


def _check_late(sent: deque[_Sent], now_s: float, *, late: bool) -> bool:
    """Whether a reply is overdue; the second time in a row the connection is dead, and not our own loop too busy."""
    overdue = bool(sent) and now_s - sent[0].sent_s > SOCKET_TIMEOUT_S
    if overdue and late:
        raise redis.exceptions.TimeoutError(f"no reply within {SOCKET_TIMEOUT_S:g} s")
    return overdue


def _failure(error: Exception | None) -> Exception:
    """Each call gets an error of its own: a shared one would gather the tracebacks of all."""
    if error is None:
        return RedisUnavailable("the client was closed while this call waited")
    if isinstance(error, redis.exceptions.RedisError | OSError):
        return understood(error)
    return InternalFault(f"waiting for results failed: {type(error).__name__}: {error}")
