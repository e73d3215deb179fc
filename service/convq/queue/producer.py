"""The client's side of one shard: submit, wait, cancel, ask.

The logic is written once, as coroutines over a `Wire`. `AsyncioWire` suspends where it waits; `BlockingWire` blocks its
thread and never suspends, so that a coroutine over it runs to its end in one step (see `at_once`).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import redis
import redis.asyncio

from convq.errors import BadField, QueueFull, RedisRefused, RedisUnavailable
from convq.protocol import CANCELLED_TTL_S, DEDUP_WINDOW_S, Job, JobState, Priority
from convq.queue.address import Address
from convq.queue.keys import GROUP, LANES, MODELS, Shard, is_model_name
from convq.queue.link import AT_MAXMEMORY, Command, Script, connection_options, hangs_up, understood

SUBMIT, STATUS = Script.load("door", "submit"), Script.load("whereabouts", "status")

SUBMIT_JOBS = 100
"""Jobs per submit script: bounds the time that the server does nothing else."""
NO_FUNCTION = "Function not found"
SUBMIT_BYTES = 4 << 20
SHORTEST_BLOCK_S = 0.001
WAIT_SLICE_S = 2.0
"""One blocking read waits at most this long: well inside the socket's timeout."""

T = TypeVar("T")


class Wire(Protocol):
    """How commands travel: replies in order; a refused command's reply is the exception. Raises RedisUnavailable."""

    async def flush(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one write and return their replies."""

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


class BlockingWire:
    """Commands over redis-py's blocking client; its methods never suspend. May be shared by threads."""

    def __init__(self, where: Address | str) -> None:
        self._redis = redis.Redis.from_url(**connection_options(Address.of(where)))

    async def flush(self, commands: Sequence[Command]) -> list[Any]:
        """See `Wire`."""
        try:
            # no callbacks: one shape of replies for both wires, whatever redis-py makes of a command
            pipeline = _BlockingPipeline(self._redis.connection_pool, {}, False, None)
            replies: list[Any] = _pipelined(pipeline, commands).execute(raise_on_error=False)
        except (redis.exceptions.RedisError, OSError) as error:
            raise understood(error) from error
        return replies

    async def sleep(self, pause_s: float) -> None:
        """See `Wire`."""
        time.sleep(pause_s)  # noqa: ASYNC251 - this wire blocks: that is what it is for

    async def close(self) -> None:
        """See `Wire`."""
        self._redis.close()


class AsyncioWire:
    """Commands over redis-py's asyncio client. Belongs to one event loop."""

    def __init__(self, where: Address | str) -> None:
        options = connection_options(Address.of(where))
        options["retry"] = redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 0)
        self._redis = redis.asyncio.Redis.from_url(**options)

    async def flush(self, commands: Sequence[Command]) -> list[Any]:
        """See `Wire`."""
        try:
            pipeline = _AsyncioPipeline(self._redis.connection_pool, {}, False, None)
            replies: list[Any] = await _pipelined(pipeline, commands).execute(raise_on_error=False)
        except (redis.exceptions.RedisError, OSError, TimeoutError) as error:
            raise understood(error) from error
        return replies

    async def sleep(self, pause_s: float) -> None:
        """See `Wire`."""
        await asyncio.sleep(pause_s)

    async def close(self) -> None:
        """See `Wire`."""
        await self._redis.aclose()


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


@dataclass(frozen=True, slots=True)
class Submission:
    """One job and the lane that it goes to."""

    job: Job
    priority: Priority = Priority.NORMAL


class Producer:
    """Submits jobs to one shard and reads their results, over either wire."""

    def __init__(self, wire: Wire, shard: Shard) -> None:
        self._wire = wire
        self.shard = shard
        self._scripts = False
        """Whether the server had no functions when it was last asked: then the same is sent as scripts."""

    async def submit(self, submissions: Sequence[Submission]) -> list[str]:
        """Put jobs into the queue and return one entry id per job, in order.

        A job whose `id` was seen within the dedup window is not added again: its first entry id comes back. Jobs travel
        in chunks of at most 100 jobs and 4 MiB, each taken as a whole or refused with QueueFull, whose `accepted` are
        the entry ids of the chunks before. After RedisUnavailable it is unknown whether the chunk under way was taken:
        jobs with an `id` may be submitted again safely.
        """
        entries: list[str] = []
        for chunk in _chunks(submissions):
            try:
                reply = await self._submit(self._submit_args(chunk))
            except QueueFull as full:
                full.accepted = entries
                raise
            entries += [entry.decode() for entry in reply]
        return entries

    async def _submit(self, args: list[Any]) -> Any:
        shard = self.shard
        keys = [shard.cfg, *shard.streams]
        whole = [DEDUP_WINDOW_S * 1000, shard.job_prefix, *args]
        try:
            return await self._ask("convq_submit_jobs", args, SUBMIT, keys, whole)
        except QueueFull as full:
            if AT_MAXMEMORY not in str(full) or self._scripts:
                raise
            # There the server runs no function that may write; one that cannot says whether the queue is full besides.
            reply = (await self._wire.flush([("FCALL", "convq_refusal", 1, shard.streams[1], *args)]))[0]
            if str(reply).startswith("QUEUEFULL"):
                _checked(reply)
            raise

    def _submit_args(self, chunk: Sequence[Submission]) -> list[Any]:
        args: list[Any] = []
        for submission in chunk:
            job, fields = submission.job, submission.job.fields()
            args += (LANES.index(submission.priority) + 1, job.id or "", _payload_bytes(job), len(fields), *fields)
        return args

    async def result(self, job_id: str, timeout_s: float) -> bytes | None:
        """Wait for the result document of a job and take it; None when the time is over."""
        key = self.shard.result(job_id)
        document: bytes | None = await self._pop(("BLPOP", key), ("LPOP", key), timeout_s, lambda reply: reply[1])
        return document

    async def collect(self, inbox: str, most: int, timeout_s: float) -> list[bytes]:
        """Wait for results in an inbox and take up to `most`; an empty list when the time is over."""
        tail = (1, inbox, "LEFT", "COUNT", most)
        return await self._pop(("BLMPOP",), ("LPOP", inbox, most), timeout_s, lambda reply: reply[1], tail) or []

    async def _pop(self, blocking: Command, at_once: Command, timeout_s: float, taken: Any, tail: Command = ()) -> Any:
        """One pop: in slices of WAIT_SLICE_S; with no time left it does not block (timeout 0 would mean for ever)."""
        while timeout_s >= SHORTEST_BLOCK_S:
            slice_s = min(timeout_s, WAIT_SLICE_S)
            command = (*blocking, f"{slice_s:.3f}", *tail) if tail else (*blocking, f"{slice_s:.3f}")
            reply = _checked((await self._wire.flush([command]))[0])
            if reply is not None:
                return taken(reply)
            timeout_s -= slice_s
        return _checked((await self._wire.flush([at_once]))[0])

    async def cancel(self, job_ids: Sequence[str]) -> None:
        """Withdraw jobs: those that have not run end as `cancelled`; those that are done stay done."""
        key = self.shard.cancelled
        for reply in await self._wire.flush([("SADD", key, *job_ids), ("EXPIRE", key, CANCELLED_TTL_S)]):
            _checked(reply)

    async def status(self, job_id: str) -> JobState:
        """Where a job is."""
        keys = [self.shard.result(job_id), self.shard.job(job_id), *self.shard.streams]
        reply = await self._ask("convq_status", [job_id], STATUS, keys, [GROUP, job_id])
        return JobState(reply.decode())

    async def served(self) -> dict[str, dict[str, Any]]:
        """What live services say that they serve: model -> its description."""
        flat = _checked((await self._wire.flush([("HGETALL", MODELS)]))[0])
        found = {name: _description(text) for name, text in zip(flat[::2], flat[1::2], strict=True)}
        return {name.decode(): said for name, said in found.items() if said is not None and is_model_name(name)}

    async def _ask(
        self, function: str, args: Sequence[Any], script: Script, keys: Sequence[str], whole: Sequence[Any]
    ) -> Any:
        """Call a function of the library, which needs no right to run scripts; the same script where there is none yet."""
        if not self._scripts:
            reply = (await self._wire.flush([("FCALL", function, 1, self.shard.streams[1], *args)]))[0]
            absent = isinstance(reply, redis.exceptions.ResponseError) and NO_FUNCTION in str(reply)
            if not absent and not isinstance(reply, redis.exceptions.NoPermissionError):
                return _checked(reply)
            self._scripts = True
        try:
            return await self._run(script, keys, whole)
        except RedisRefused as error:
            self._scripts = False  # perhaps a service has brought the functions meanwhile
            if "eval" not in str(error):
                raise
            raise RedisUnavailable(
                "no service has put its functions on this server yet, and this user may run no scripts instead; "
                f"start convq serve, or try again: {error}"
            ) from error

    async def _run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        call = script.call(keys, args)
        reply = (await self._wire.flush([call]))[0]
        if isinstance(reply, redis.exceptions.NoScriptError):
            reply = (await self._wire.flush([script.whole(call)]))[0]
        return _checked(reply)


def _chunks(submissions: Sequence[Submission]) -> list[list[Submission]]:
    chunks: list[list[Submission]] = []
    size = SUBMIT_BYTES
    for submission in submissions:
        payload = _payload_bytes(submission.job)
        if not chunks or len(chunks[-1]) == SUBMIT_JOBS or size + payload > SUBMIT_BYTES:
            chunks.append([])
            size = 0
        chunks[-1].append(submission)
        size += payload
    return chunks


def _description(text: bytes) -> dict[str, Any] | None:
    """What a service says of its model; None for what no service has written."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None


def _payload_bytes(job: Job) -> int:
    return len(job.image or job.tensor or b"")


def _checked(reply: Any) -> Any:
    if not isinstance(reply, Exception):
        return reply
    text = str(reply)
    if text.startswith("QUEUEFULL"):
        raise _queue_full(text.removeprefix("QUEUEFULL "))
    if text.startswith("WRONGTYPE"):
        raise BadField(f"a key that convq reads holds something else: {text}")
    raise understood(reply) from reply


def _queue_full(text: str) -> QueueFull:
    """What the door says: how much is there and may be, and where it is known, when there is room again."""
    why, *facts = text.split("; ")
    known = dict(fact.split("=", 1) for fact in facts if "=" in fact)
    if "retry_after_ms" in known:
        wait_s = int(known["retry_after_ms"]) / 1e3
        return QueueFull(f"the queue is full: {why}; try again in {wait_s:.3g} s", wait_s)
    full = QueueFull(f"the queue is full: {why}; try again later")
    if "most_jobs" in known:
        full.most_jobs = int(known["most_jobs"])
    return full
