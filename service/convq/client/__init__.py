"""The Python client: submit images, wait for results. Needs the base install alone: no numpy, no onnxruntime.

`Client` blocks, `AsyncClient` suspends; both are thin over one `Calls`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any, Self

from convq.client.calls import IN_FLIGHT, Calls
from convq.client.inputs import options_of
from convq.protocol import JobState, Result
from convq.queue import Address, AsyncioWire, BlockingWire, at_once

DEFAULT_URL = "redis://127.0.0.1:6379/0"
DEFAULT_TIMEOUT_S = 10.0


class Client:
    """A blocking client. May be shared by threads.

    `url` is a Redis URL (redis://, rediss://, unix://), or an `Address`, which adds certificates and a file with the
    password; `model` the model that calls mean when they name none. Where
    neither names one, it is the only model that is served, or the only one that yields classes.

    Every call may raise RedisUnavailable or RedisRefused. An image is encoded bytes, a path, a PIL image, or a numpy
    array of dtype uint8 or float32 in the layout of the model's input without the batch axis, for example (1, 32, 32).
    """

    def __init__(self, url: str | Address = DEFAULT_URL, *, model: str | None = None) -> None:
        self._wire = BlockingWire(url)
        self._calls = Calls(self._wire, model)

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
        options = options_of(
            id=id,
            ttl_ms=ttl_ms,
            reply_to=reply_to,
            top_k=top_k,
            outputs=outputs,
            version=version,
            traceparent=traceparent,
        )
        return at_once(self._calls.submit([image], model, priority, options))[0]

    def submit_many(
        self, images: Sequence[Any], model: str | None = None, *, priority: str = "normal", **options: Any
    ) -> list[str]:
        """Put many jobs into the queue in few round trips; options as for `submit`, except `id`. Returns their ids.

        Raises QueueFull, whose `accepted` are the ids of the first jobs, those that were taken before it was full.
        """
        return at_once(self._calls.submit(images, model, priority, options_of(**options)))

    def result(self, job_id: str, timeout: float = DEFAULT_TIMEOUT_S, model: str | None = None) -> Result:
        """Wait up to `timeout` seconds for the result of a job and take it. Raises ResultTimeout."""
        return at_once(self._calls.result(job_id, timeout, model))

    def classify(
        self,
        image: Any,
        model: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
        *,
        priority: str = "normal",
        **options: Any,
    ) -> Result:
        """Submit one image and wait for its result; options as for `submit`. Raises JobFailed, ResultTimeout, QueueFull."""
        return at_once(self._calls.classify(image, timeout, model, priority, options_of(**options)))

    def map(
        self,
        images: Iterable[Any],
        model: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
        *,
        in_flight: int = IN_FLIGHT,
        priority: str = "normal",
        **options: Any,
    ) -> Iterator[Result]:
        """Results of many images, in their order, failed ones included (look at `Result.ok`).

        At most `in_flight` jobs are on their way at a time; a full queue is waited for. Raises ResultTimeout where
        nothing at all arrives for `timeout` seconds.
        """
        results = self._calls.map(images, timeout, in_flight, model, priority, options_of(**options))
        while True:
            try:
                yield at_once(anext(results))  # type: ignore[arg-type]
            except StopAsyncIteration:
                return

    def cancel(self, *job_ids: str, model: str | None = None) -> None:
        """Withdraw jobs: those that have not run yet end with the status `cancelled`."""
        at_once(self._calls.cancel(job_ids, model))

    def status(self, job_id: str, model: str | None = None) -> JobState:
        """Where a job is."""
        return at_once(self._calls.status(job_id, model))

    def served(self) -> dict[str, dict[str, Any]]:
        """The models that live workers serve, with their versions, inputs and limits."""
        return at_once(self._calls.served())

    def close(self) -> None:
        """Close the connections."""
        at_once(self._wire.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient:
    """The same as `Client`, for asyncio. Belongs to the event loop that first uses it."""

    def __init__(self, url: str | Address = DEFAULT_URL, *, model: str | None = None) -> None:
        self._wire = AsyncioWire(url)
        self._calls = Calls(self._wire, model)

    async def submit(self, image: Any, model: str | None = None, *, priority: str = "normal", **options: Any) -> str:
        """See `Client.submit`."""
        return (await self._calls.submit([image], model, priority, options_of(**options)))[0]

    async def submit_many(
        self, images: Sequence[Any], model: str | None = None, *, priority: str = "normal", **options: Any
    ) -> list[str]:
        """See `Client.submit_many`."""
        return await self._calls.submit(images, model, priority, options_of(**options))

    async def result(self, job_id: str, timeout: float = DEFAULT_TIMEOUT_S, model: str | None = None) -> Result:
        """See `Client.result`."""
        return await self._calls.result(job_id, timeout, model)

    async def classify(
        self,
        image: Any,
        model: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
        *,
        priority: str = "normal",
        **options: Any,
    ) -> Result:
        """See `Client.classify`."""
        return await self._calls.classify(image, timeout, model, priority, options_of(**options))

    async def map(
        self,
        images: Iterable[Any],
        model: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
        *,
        in_flight: int = IN_FLIGHT,
        priority: str = "normal",
        **options: Any,
    ) -> AsyncIterator[Result]:
        """See `Client.map`."""
        async for result in self._calls.map(images, timeout, in_flight, model, priority, options_of(**options)):
            yield result

    async def cancel(self, *job_ids: str, model: str | None = None) -> None:
        """See `Client.cancel`."""
        await self._calls.cancel(job_ids, model)

    async def status(self, job_id: str, model: str | None = None) -> JobState:
        """See `Client.status`."""
        return await self._calls.status(job_id, model)

    async def served(self) -> dict[str, dict[str, Any]]:
        """See `Client.served`."""
        return await self._calls.served()

    async def close(self) -> None:
        """See `Client.close`."""
        await self._wire.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
