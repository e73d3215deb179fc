"""The Python client: submit images, wait for results. Needs the base install alone: no numpy, no onnxruntime.

`Client` blocks, `AsyncClient` suspends; both are thin over one `_Core`, whose coroutines never suspend when their wire
blocks (see `convq.queue.producer`).
"""

from __future__ import annotations

import difflib
import io
import os
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from convq.errors import BadField, BadImage, BadTensor, JobFailed, QueueFull, ResultTimeout
from convq.protocol import Job, JobState, Priority, Result, decode_result
from convq.queue import AsyncioWire, BlockingWire, Producer, Shard, Submission, at_once
from convq.queue.producer import Wire

DEFAULT_URL = "redis://127.0.0.1:6379/0"
DEFAULT_TIMEOUT_S = 10.0
DEFAULT_IN_FLIGHT = 512
MAP_CHUNK = 64
"""Jobs that `map` submits in one call; results are read between two calls."""
FULL_PAUSE_S = 0.1


@dataclass(frozen=True, slots=True)
class _Mapped:
    """Where one `map` stands: its inbox, the entries in the order of the images, the results that came."""

    inbox: str
    waiting: deque[str]
    results: dict[str, Result]


class _Core:
    """What both clients do, over either wire."""

    def __init__(self, wire: Wire, model: str | None) -> None:
        self._wire = wire
        self._model = model
        self._producers: dict[str, Producer] = {}

    async def producer(self, model: str | None) -> Producer:
        """The producer of that model, of the client's own, or of the only one that is served."""
        name = model or self._model
        if name is None:
            served = sorted(await self._any().served())
            if len(served) != 1:
                raise BadField(f"say which model: {', '.join(served) if served else 'no worker serves any now'}")
            name = self._model = served[0]
        if name not in self._producers:
            self._producers[name] = Producer(self._wire, Shard(name))
        return self._producers[name]

    def _any(self) -> Producer:
        return Producer(self._wire, Shard("any"))

    async def served(self) -> dict[str, dict[str, Any]]:
        return await self._any().served()

    async def submit(self, images: Sequence[Any], model: str | None, priority: str, options: dict[str, Any]) -> list[str]:
        producer = await self.producer(model)
        submissions = [Submission(_job(image, options), Priority(priority)) for image in images]
        entries = await producer.submit(submissions)
        return [one.job.id or entry for one, entry in zip(submissions, entries, strict=True)]

    async def result(self, job_id: str, timeout_s: float, model: str | None) -> Result:
        producer = await self.producer(model)
        document = await producer.result(job_id, timeout_s)
        if document is None:
            raise ResultTimeout(await self._why_nothing(producer, job_id, timeout_s))
        return decode_result(document)

    async def classify(
        self, image: Any, timeout_s: float, model: str | None, priority: str, options: dict[str, Any]
    ) -> Result:
        job_id = (await self.submit([image], model, priority, options))[0]
        result = await self.result(job_id, timeout_s, model)
        if not result.ok:
            raise JobFailed(f"job {job_id} ended as {result.explain()}", result)
        return result

    async def _why_nothing(self, producer: Producer, job_id: str, timeout_s: float) -> str:
        """Whether it is worth waiting longer: does a worker serve that model at all, and where is the job?"""
        model, served = producer.shard.model, sorted(await self.served())
        if model not in served:
            close = difflib.get_close_matches(model, served, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            return f"no worker serves {model!r}; served: {', '.join(served) or 'nothing'}.{hint}"
        state = await producer.status(job_id)
        return f"no result for {job_id} in {timeout_s:g} s; a worker serves {model!r}, the job is {state}"

    async def cancel(self, job_ids: Sequence[str], model: str | None) -> None:
        await (await self.producer(model)).cancel(job_ids)

    async def status(self, job_id: str, model: str | None) -> JobState:
        return await (await self.producer(model)).status(job_id)

    async def map(
        self, images: Iterable[Any], timeout_s: float, in_flight: int, model: str | None, priority: str, options: dict[str, Any]
    ) -> AsyncIterator[Result]:
        """Results in the order of the images, at most `in_flight` jobs on their way at a time."""
        producer = await self.producer(model)
        state = _Mapped(producer.shard.inbox(f"map-{secrets.token_hex(8)}"), deque(), {})
        options = {**options, "reply_to": state.inbox}
        source, pending, more = iter(images), list[Submission](), True
        progress_s = time.monotonic()
        while more or pending or state.waiting:
            while more and len(pending) < min(MAP_CHUNK, in_flight - len(state.waiting)):
                try:
                    pending.append(Submission(_job(next(source), options), Priority(priority)))
                except StopIteration:
                    more = False
            full = pending and not await self._offer(producer, pending, state, progress_s + timeout_s)
            room = more and len(state.waiting) < in_flight and not full
            if await self._take_in(producer, state, 0.0 if room else min(timeout_s, FULL_PAUSE_S if full else timeout_s)):
                progress_s = time.monotonic()
            elif state.waiting and time.monotonic() - progress_s >= timeout_s:
                raise ResultTimeout(await self._why_nothing(producer, state.waiting[0], timeout_s))
            while state.waiting and state.waiting[0] in state.results:
                yield state.results.pop(state.waiting.popleft())
                progress_s = time.monotonic()

    async def _offer(self, producer: Producer, pending: list[Submission], state: _Mapped, deadline_s: float) -> bool:
        """Submit what is pending; False where the queue is full and there is still time to wait for room."""
        try:
            state.waiting.extend(await producer.submit(pending))
        except QueueFull:
            if time.monotonic() >= deadline_s:
                raise
            if not state.waiting:
                await self._wire.sleep(FULL_PAUSE_S)
            return False
        pending.clear()
        return True

    async def _take_in(self, producer: Producer, state: _Mapped, timeout_s: float) -> int:
        if not state.waiting:
            return 0
        documents = await producer.collect(state.inbox, DEFAULT_IN_FLIGHT, timeout_s)
        for document in documents:
            result = decode_result(document)
            state.results[result.entry] = result
        return len(documents)


def _job(image: Any, options: dict[str, Any]) -> Job:
    """The job for an image: encoded bytes, a path, a PIL image, or an array in the layout of the model's input."""
    try:
        return Job.model_validate({**_input(image), **options})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadField(f"{where or 'job'}: {first['msg'].removeprefix('Value error, ')}") from None


def _input(image: Any) -> dict[str, Any]:
    if isinstance(image, bytes | bytearray | memoryview):
        return {"image": bytes(image)}
    if isinstance(image, str | os.PathLike):
        try:
            return {"image": Path(image).read_bytes()}
        except OSError as error:
            raise BadImage(f"cannot read {os.fspath(image)}: {error.strerror}") from None
    if hasattr(image, "dtype") and hasattr(image, "shape") and hasattr(image, "tobytes"):
        return _tensor(image)
    if hasattr(image, "save") and hasattr(image, "mode"):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return {"image": buffer.getvalue()}
    raise BadImage(f"an image is bytes, a path, a PIL image or a numpy array, not {type(image).__name__}")


def _tensor(array: Any) -> dict[str, Any]:
    if array.dtype.name not in ("uint8", "float32") or array.dtype.byteorder == ">":
        raise BadTensor(f"an array must be uint8 or little-endian float32, not {array.dtype}; convert it with .astype()")
    return {"tensor": array.tobytes(), "dtype": array.dtype.name, "shape": ",".join(str(n) for n in array.shape)}


def _options(**given: Any) -> dict[str, Any]:
    outputs = given.get("outputs")
    if outputs is not None and not isinstance(outputs, str):
        given["outputs"] = ",".join(outputs)
    return {name: value for name, value in given.items() if value is not None}


class Client:
    """A blocking client. May be shared by threads.

    `url` is a Redis URL (redis://, rediss://, unix://); `model` the model that calls mean when they name none. Where
    neither names one, it is the only model that is served.

    Every call may raise RedisUnavailable or RedisRefused. An image is encoded bytes, a path, a PIL image, or a numpy
    array of dtype uint8 or float32 in the layout of the model's input without the batch axis, for example (1, 32, 32).
    """

    def __init__(self, url: str = DEFAULT_URL, *, model: str | None = None) -> None:
        self._wire = BlockingWire(url)
        self._core = _Core(self._wire, model)

    def submit(
        self,
        image: Any,
        model: str | None = None,
        *,
        id: str | None = None,
        ttl_ms: int | None = None,
        reply_to: str | None = None,
        top_k: int | None = None,
        outputs: str | Sequence[str] | None = None,
        version: int | None = None,
        priority: str = "normal",
        traceparent: str | None = None,
    ) -> str:
        """Put one job into the queue and return its id.

        With an `id` of your own the call may be repeated safely for 10 minutes: it stays one job. `priority` is high,
        normal or low. Raises QueueFull where the queue takes no more, BadField and its siblings for bad arguments.
        """
        options = _options(
            id=id, ttl_ms=ttl_ms, reply_to=reply_to, top_k=top_k, outputs=outputs, version=version, traceparent=traceparent
        )
        return at_once(self._core.submit([image], model, priority, options))[0]

    def submit_many(self, images: Sequence[Any], model: str | None = None, *, priority: str = "normal", **options: Any) -> list[str]:
        """Put many jobs into the queue in few round trips; options as for `submit`, except `id`. Returns their ids."""
        return at_once(self._core.submit(images, model, priority, _options(**options)))

    def result(self, job_id: str, timeout: float = DEFAULT_TIMEOUT_S, model: str | None = None) -> Result:
        """Wait up to `timeout` seconds for the result of a job and take it. Raises ResultTimeout."""
        return at_once(self._core.result(job_id, timeout, model))

    def classify(
        self, image: Any, model: str | None = None, timeout: float = DEFAULT_TIMEOUT_S, *, priority: str = "normal", **options: Any
    ) -> Result:
        """Submit one image and wait for its result; options as for `submit`. Raises JobFailed, ResultTimeout, QueueFull."""
        return at_once(self._core.classify(image, timeout, model, priority, _options(**options)))

    def map(
        self,
        images: Iterable[Any],
        model: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
        *,
        in_flight: int = DEFAULT_IN_FLIGHT,
        priority: str = "normal",
        **options: Any,
    ) -> Iterator[Result]:
        """Results of many images, in their order, failed ones included (look at `Result.ok`).

        At most `in_flight` jobs are on their way at a time; a full queue is waited for. Raises ResultTimeout where
        nothing at all arrives for `timeout` seconds.
        """
        results = self._core.map(images, timeout, in_flight, model, priority, _options(**options))
        while True:
            try:
                yield at_once(anext(results))  # type: ignore[arg-type]
            except StopAsyncIteration:
                return

    def cancel(self, *job_ids: str, model: str | None = None) -> None:
        """Withdraw jobs: those that have not run yet end with the status `cancelled`."""
        at_once(self._core.cancel(job_ids, model))

    def status(self, job_id: str, model: str | None = None) -> JobState:
        """Where a job is."""
        return at_once(self._core.status(job_id, model))

    def served(self) -> dict[str, dict[str, Any]]:
        """The models that live workers serve, with their versions, inputs and limits."""
        return at_once(self._core.served())

    def close(self) -> None:
        """Close the connections."""
        at_once(self._wire.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient:
    """The same as `Client`, for asyncio. Belongs to the event loop that first uses it."""

    def __init__(self, url: str = DEFAULT_URL, *, model: str | None = None) -> None:
        self._wire = AsyncioWire(url)
        self._core = _Core(self._wire, model)

    async def submit(self, image: Any, model: str | None = None, *, priority: str = "normal", **options: Any) -> str:
        """See `Client.submit`."""
        return (await self._core.submit([image], model, priority, _options(**options)))[0]

    async def submit_many(
        self, images: Sequence[Any], model: str | None = None, *, priority: str = "normal", **options: Any
    ) -> list[str]:
        """See `Client.submit_many`."""
        return await self._core.submit(images, model, priority, _options(**options))

    async def result(self, job_id: str, timeout: float = DEFAULT_TIMEOUT_S, model: str | None = None) -> Result:
        """See `Client.result`."""
        return await self._core.result(job_id, timeout, model)

    async def classify(
        self, image: Any, model: str | None = None, timeout: float = DEFAULT_TIMEOUT_S, *, priority: str = "normal", **options: Any
    ) -> Result:
        """See `Client.classify`."""
        return await self._core.classify(image, timeout, model, priority, _options(**options))

    async def map(
        self,
        images: Iterable[Any],
        model: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
        *,
        in_flight: int = DEFAULT_IN_FLIGHT,
        priority: str = "normal",
        **options: Any,
    ) -> AsyncIterator[Result]:
        """See `Client.map`."""
        async for result in self._core.map(images, timeout, in_flight, model, priority, _options(**options)):
            yield result

    async def cancel(self, *job_ids: str, model: str | None = None) -> None:
        """See `Client.cancel`."""
        await self._core.cancel(job_ids, model)

    async def status(self, job_id: str, model: str | None = None) -> JobState:
        """See `Client.status`."""
        return await self._core.status(job_id, model)

    async def served(self) -> dict[str, dict[str, Any]]:
        """See `Client.served`."""
        return await self._core.served()

    async def close(self) -> None:
        """See `Client.close`."""
        await self._wire.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
