"""How a client's commands travel: `BlockingWire` blocks its thread, `AsyncioWire` suspends where it waits.

What is written once for both is a coroutine over a `Wire`. The blocking one never suspends, so that a coroutine over it
runs to its end in one step (see `at_once`).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import redis
import redis.asyncio

from convq.queue.transport.address import Address
from convq.queue.transport.link import Command, connection_options, hangs_up, understood
from convq.queue.transport.waiting import TRACKED, Kept, WaitingRoom

SHORTEST_BLOCK_S = 0.001
WAIT_SLICE_S = 2.0
"""One blocking read waits at most this long: well inside the socket's timeout."""
MOST_CONNECTIONS = 16
"""Of one asyncio client, for commands that are answered at once. More that come at the same time take turns."""
MOST_THREADS = 1 << 20

T = TypeVar("T")


class Wire(Protocol):
    """How commands travel: replies in order; a refused command's reply is the exception. Raises RedisUnavailable."""

    async def flush(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one write and return their replies."""

    async def take(self, key: str, timeout_s: float) -> Any:
        """Wait for the one element of a list and take it; None when the time is over. May be a refusal, as in `flush`.

        Whoever ends the wait by force (a cancellation, an interrupt) loses nothing: an element that was taken and not
        returned is kept here, and the next call returns it. A caller that may be interrupted calls `received` at the end.
        """

    def received(self, key: str) -> None:
        """What was taken from that key has reached whoever asked for it."""

    def holds(self, key: str) -> bool:
        """Whether something was or is being taken from that key that nobody has got yet."""

    async def collect(self, key: str, most: int, timeout_s: float) -> Any:
        """Wait for elements of a list and take up to `most`; None when the time is over. May be a refusal."""

    async def apart(self, work: Callable[[], T]) -> T:
        """Do what takes long where it does not hold up others that share the thread."""

    async def sleep(self, pause_s: float) -> None:
        """Do nothing for that many seconds."""

    async def close(self) -> None:
        """Close every connection."""


class _BlockingPipeline(redis.client.Pipeline):
    """Commands of one write. A connection that the server ends goes back into the pool closed, not for others to fail."""

    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        """One reply, as the server sends it."""
        try:
            return super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        except redis.exceptions.ResponseError as refused:
            if hangs_up(refused):
                connection.disconnect()
            raise


class _AsyncioPipeline(redis.asyncio.client.Pipeline):
    """The same, for asyncio."""

    async def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        """One reply, as the server sends it."""
        try:
            return await super().parse_response(connection, command_name, **options)
        except redis.exceptions.ResponseError as refused:
            if hangs_up(refused):
                await connection.disconnect()
            raise


class _Packer(redis.connection.HiredisRespSerializer):
    """Numbers as text: hiredis 3.5 ends the process where Ctrl-C comes while it writes one down."""

    def pack(self, *args: Any) -> Any:
        """A command as it is sent, in pieces."""
        texts = [str(one) if isinstance(one, int | float) else one for one in args]
        return super().pack(*texts)  # type: ignore[arg-type]


class BlockingWire:
    """Commands over redis-py's blocking client; its methods never suspend. May be shared by threads."""

    def __init__(self, where: Address | str) -> None:
        options = connection_options(Address.of(where)) | {"command_packer": _Packer()}
        # A thread has at most one connection at a time: their number is that of the caller's threads.
        self._redis = redis.Redis.from_url(**options, max_connections=MOST_THREADS)
        self._told = redis.ConnectionPool.from_url(**options | TRACKED, max_connections=MOST_THREADS)
        self._idle: list[Any] = []
        """Connections of `_told`; the pool itself takes one back in whatever state an interrupt left it."""
        self._peeks = True
        self._kept = Kept()

    async def flush(self, commands: Sequence[Command]) -> list[Any]:
        """See `Wire`."""
        try:
            # no callbacks: one shape of replies for both wires, whatever redis-py makes of a command
            pipeline = _BlockingPipeline(self._redis.connection_pool, {}, False, None)
            replies: list[Any] = _pipelined(pipeline, commands).execute(raise_on_error=False)
        except (redis.exceptions.RedisError, OSError) as error:
            raise understood(error) from error
        except BaseException:
            # An interrupt in the midst of a connect leaves a connection in the pool with replies that nobody has read.
            self._redis.connection_pool.disconnect(inuse_connections=False)
            raise
        return replies

    async def take(self, key: str, timeout_s: float) -> Any:
        """See `Wire`. An interrupt may come at any moment."""
        if (kept := self._kept.get(key)) is not None:
            popped = (await self.flush([("LPOP", key)]))[0]
            return popped if isinstance(popped, bytes) else kept
        give_up_s = time.monotonic() + timeout_s
        while True:
            slice_s = max(0.0, min(give_up_s - time.monotonic(), WAIT_SLICE_S))
            reply = await self._taken(key, slice_s)
            if isinstance(reply, bytes):
                self._kept.put(key, reply)
            if reply is not None or slice_s < SHORTEST_BLOCK_S:
                return reply

    def received(self, key: str) -> None:
        """See `Wire`."""
        self._kept.drop(key)

    def holds(self, key: str) -> bool:
        """See `Wire`."""
        return self._kept.get(key) is not None

    async def _taken(self, key: str, slice_s: float) -> Any:
        """The first element, which is popped, or a refusal; None when the time is over."""
        if self._peeks:
            try:
                reply = self._read_and_popped(key, slice_s)
            except (redis.exceptions.RedisError, OSError) as error:
                raise understood(error) from error
            if not isinstance(reply, redis.exceptions.NoPermissionError):
                return reply
            self._peeks = False  # a user of older rights: an interrupt in the moment of the pop loses what was popped
        pop: Command = ("LPOP", key) if slice_s < SHORTEST_BLOCK_S else ("BLPOP", key, f"{slice_s:.3f}")
        reply = (await self.flush([pop]))[0]
        return reply[1] if isinstance(reply, list) else reply

    def _read_and_popped(self, key: str, slice_s: float) -> Any:
        """See `_taken`. It is read as soon as the server says that it is there, kept, and only then popped."""
        until_s = time.monotonic() + slice_s
        connection: Any = None
        try:
            connection = self._connected()
            refusal, found = _asked(connection, [("CLIENT", "TRACKING", "ON", "NOLOOP"), ("LRANGE", key, "0", "0")])
            if isinstance(refusal, Exception):
                return refusal
            while isinstance(found, list):
                if found:
                    self._kept.put(key, found[0])
                    (popped,) = _asked(connection, [("LPOP", key)])
                    if popped is not None:
                        return popped
                    self._kept.drop(key)  # somebody else was faster
                else:
                    left_s = until_s - time.monotonic()
                    if left_s < SHORTEST_BLOCK_S or not connection.can_read(timeout=left_s):
                        return None
                    connection.read_response(push_request=True)
                (found,) = _asked(connection, [("LRANGE", key, "0", "0")])
            return found
        except BaseException:  # an interrupt may come at any moment
            if connection is not None:
                connection.disconnect()  # what is on its way is for nobody else
                connection = None
            raise
        finally:
            if connection is not None:
                self._idle.append(connection)

    def _connected(self) -> Any:
        """A connection for one thread, with nothing unread on it."""
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            with suppress(redis.exceptions.RedisError, OSError):
                if connection.pid == os.getpid() and not connection.can_read(timeout=0):
                    return connection
            connection.disconnect()
        made: Any = self._told.make_connection()
        made.connect()
        return made

    async def collect(self, key: str, most: int, timeout_s: float) -> Any:
        """See `Wire`. In slices of WAIT_SLICE_S; with no time left it does not block."""
        while timeout_s >= SHORTEST_BLOCK_S:
            slice_s = min(timeout_s, WAIT_SLICE_S)
            reply = (await self.flush([("BLMPOP", f"{slice_s:.3f}", 1, key, "LEFT", "COUNT", most)]))[0]
            if reply is not None:
                return reply[1] if isinstance(reply, list) else reply
            timeout_s -= slice_s
        return (await self.flush([("LPOP", key, most)]))[0]

    async def apart(self, work: Callable[[], T]) -> T:
        """See `Wire`."""
        return work()

    async def sleep(self, pause_s: float) -> None:
        """See `Wire`."""
        time.sleep(pause_s)  # noqa: ASYNC251 - this wire blocks: that is what it is for

    async def close(self) -> None:
        """See `Wire`."""
        self._redis.close()
        while self._idle:
            self._idle.pop().disconnect()


class AsyncioWire:
    """Commands over redis-py's asyncio client, on at most MOST_CONNECTIONS connections and one for all that wait.

    Belongs to the event loop that first uses it; where that has ended, to the next one.
    """

    def __init__(self, where: Address | str) -> None:
        self._where = Address.of(where)
        connection_options(self._where)  # what is wrong with it is said here
        self._loop: asyncio.AbstractEventLoop | None = None
        self._redis: redis.asyncio.Redis
        self._turns: asyncio.Semaphore
        self._room: WaitingRoom
        self._kept = Kept()

    def _open(self) -> None:
        """Make what belongs to the running loop."""
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        if self._loop is not None and self._loop.is_running():
            raise RuntimeError(
                "this AsyncClient belongs to another event loop, which still runs: make one for each loop"
            )
        options = connection_options(self._where)
        options["retry"] = redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 0)
        self._redis = redis.asyncio.Redis.from_url(**options)
        self._turns = asyncio.Semaphore(MOST_CONNECTIONS)
        self._room = WaitingRoom(self._where, self._kept)
        self._loop = loop

    async def flush(self, commands: Sequence[Command]) -> list[Any]:
        """See `Wire`."""
        self._open()
        try:
            async with self._turns:
                pipeline = _AsyncioPipeline(self._redis.connection_pool, {}, False, None)
                replies: list[Any] = await _pipelined(pipeline, commands).execute(raise_on_error=False)
        except (redis.exceptions.RedisError, OSError, TimeoutError) as error:
            raise understood(error) from error
        return replies

    async def take(self, key: str, timeout_s: float) -> Any:
        """See `Wire`."""
        self._open()
        if (kept := self._kept.get(key)) is not None:
            self._kept.drop(key)
            return kept
        return await self._room.take(key, ("LPOP", key), timeout_s)

    def received(self, key: str) -> None:
        """See `Wire`: nothing is kept of what was returned."""

    def holds(self, key: str) -> bool:
        """See `Wire`."""
        return self._kept.get(key) is not None or self._room.is_popping(key)

    async def collect(self, key: str, most: int, timeout_s: float) -> Any:
        """See `Wire`."""
        self._open()
        return await self._room.take(key, ("LPOP", key, most), timeout_s)

    async def apart(self, work: Callable[[], T]) -> T:
        """See `Wire`: in a thread."""
        return await asyncio.to_thread(work)

    async def sleep(self, pause_s: float) -> None:
        """See `Wire`."""
        await asyncio.sleep(pause_s)

    async def close(self) -> None:
        """See `Wire`."""
        if self._loop is asyncio.get_running_loop():
            await self._room.close()
            await self._redis.aclose()
        self._loop = None


def _asked(connection: Any, commands: Sequence[Command]) -> list[Any]:
    connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    replies: list[Any] = []
    for _ in commands:
        try:
            replies.append(connection.read_response())
        except redis.exceptions.ResponseError as refused:
            replies.append(refused)
    return replies


def _pipelined(pipeline: Any, commands: Sequence[Command]) -> Any:
    for command in commands:
        pipeline.execute_command(*command)
    return pipeline


def at_once(steps: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends, and return its result."""
    try:
        steps.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    steps.close()
    raise RuntimeError("a coroutine over a blocking wire suspended: this is a bug of convq")
