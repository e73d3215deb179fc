"""The Python client: submit images, wait for results. Needs the base install alone: no numpy, no onnxruntime.

`Client` blocks, `AsyncClient` suspends; both are thin over one `Calls`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterable, Sequence
from typing import Any, NoReturn, Self

from convq.client.calls import Calls
from convq.client.mapping import IN_FLIGHT
from convq.protocol import JobState, Result
from convq.queue import Address, AsyncioWire, BlockingWire, at_once

DEFAULT_URL = "redis://127.0.0.1:6379/0"
DEFAULT_TIMEOUT_S = 10.0


class Client:
    """A blocking client. May be shared by threads, and used on both sides of a fork.

    Args:
        url: a Redis URL (redis://, rediss://, unix://), or an `Address`, which adds certificates and a file with the
            password.
        model: the model that calls mean when they name none. Where neither names one, it is the only model that is
            served, or the only one that yields classes.
        client_name: how this program calls itself, 1 to 64 characters of A-Z a-z 0-9 . _ : -, so that operators see who
            fills a queue. Jobs of a client without a name count as unnamed.

    An image is encoded bytes (or what holds them: bytearray, memoryview, mmap), a path, a PIL image, or a numpy array of
    dtype uint8 or float32 in the layout of the model's input without the batch axis, for example (1, 32, 32). A PIL image
    travels as PNG with its transparency and EXIF orientation, and gets the answer that its file would get.

    Options of a job, the same for both clients; the service would refuse what they refuse:

    - `id`: your own, 1 to 64 characters of A-Z a-z 0-9 . _ : -. The job may then be submitted again for 10 minutes and
      stays one job.
    - `ttl_ms`: milliseconds, 0 or more; a job that has waited longer ends as `expired` and is not computed.
    - `reply_to`: key of an inbox of the same model; the result goes there and not to `result`. Not for `classify`, `map`.
    - `top_k`: how many predictions, 1 or more; 5 if not given.
    - `outputs`: names of outputs or feature maps, as a list or with commas between them.
    - `version`: of the network, 1 or more; the newest if not given.
    - `min_score`: from 0 to 1; detections and predictions below it are left out. For detections: the model's if not given.
    - `iou`: from 0 to 1; boxes of one class that overlap by more than this are one object.
    - `max_detections`: 1 to 1000, best first. `labels`: only these are detections, as a list or with commas between them.
    - `format`: of masks `rle` (if not given), `polygon`, `png` or `none`; of an embedding `base64` or `list`; of maps
      `picture` or `network`; one word of each, as a list or with commas between them.
    - `traceparent`: W3C trace context; without one the job continues the current OpenTelemetry span, where there is one.
    - `client`: in place of `client_name`, for jobs that are passed on for others.
    - `priority`: high, normal or low.

    Timeouts are seconds, 0 or more, and not infinite. Every call may raise RedisUnavailable or RedisRefused; arguments
    that cannot be right raise BadField, BadImage, BadTensor or ImageTooLarge before anything is sent. A client that was
    closed connects again when it is used. It cannot be pickled: another process makes its own.
    """

    def __init__(
        self, url: str | Address = DEFAULT_URL, *, model: str | None = None, client_name: str | None = None
    ) -> None:
        self._wire = BlockingWire(url)
        self._calls = Calls(self._wire, model, client_name)

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
        **unknown: Any,
    ) -> str:
        """Put one job into the queue and return its id; the options are described at the class.

        With an `id` of your own the call may be repeated safely for 10 minutes, whatever became of it: it stays one job.
        Without one, after RedisUnavailable, it is unknown whether the job is in the queue.

        Raises QueueFull where the queue takes no more, BadField (also for an option that there is not) and its siblings.
        """
        given = {
            "id": id,
            "ttl_ms": ttl_ms,
            "reply_to": reply_to,
            "top_k": top_k,
            "outputs": outputs,
            "version": version,
            "traceparent": traceparent,
            **unknown,
        }
        return at_once(self._calls.submit("submit", [image], model, priority, given))[0]

    def submit_many(
        self, images: Iterable[Any], model: str | None = None, *, priority: str = "normal", **options: Any
    ) -> list[str]:
        """Put many jobs into the queue in few round trips; options as for `submit`, except `id`. Returns their ids.

        Raises QueueFull, whose `accepted` are the ids of the first jobs, those that were taken before it was full.
        """
        return at_once(self._calls.submit("submit_many", images, model, priority, options))

    def result(self, job_id: str, timeout: float = DEFAULT_TIMEOUT_S, model: str | None = None) -> Result:
        """Wait up to `timeout` seconds for the result of a job and take it.

        An interrupt (Ctrl-C) loses nothing: a result that had arrived is there for the next call of this client, and
        one that had not stays in Redis. Two callers that wait for one job: one of them gets it.

        Raises ResultTimeout: the job goes on, ask again. ResultGone where it was submitted with an id of its own and its
        result has been read or has expired.
        """
        result = at_once(self._calls.result(job_id, timeout, model))
        self._calls.received(job_id, model)
        return result

    def classify(
        self,
        image: Any,
        model: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
        *,
        priority: str = "normal",
        **options: Any,
    ) -> Result:
        """Submit one image and wait up to `timeout` seconds for its result; options as for `submit`, except `reply_to`.

        A call with an `id` that ended by a timeout, an interrupt or a broken connection may be repeated: the job is
        still the same one, and is not computed again.

        Raises JobFailed where the job does not end as ok, ResultTimeout, QueueFull. ResultGone, at once, for an `id`
        that was answered within the last 10 minutes and whose result has been read.
        """
        return at_once(self._calls.classify(image, timeout, model, priority, options))

    def map(
        self,
        images: Iterable[Any],
        model: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
        *,
        in_flight: int = IN_FLIGHT,
        priority: str = "normal",
        **options: Any,
    ) -> Generator[Result, None, None]:
        """Results of many images, in their order, failed ones included (look at `Result.ok`).

        At most `in_flight` jobs and 256 MiB of images are on their way at a time; a full queue is waited for, and so is
        a server that restarts or a connection that breaks: what is lost is submitted again, and each image is answered
        once. Options as for `submit`, except `id` and `reply_to`: `map` makes both itself. A generator that is closed
        early, or ends by an error, withdraws the jobs that are on their way.

        An image that cannot be read, or is none, has a result with the error `bad_image`, `bad_tensor` or `image_too_large`, as one
        that the service refuses has, without an entry id.

        Raises ResultTimeout where nothing at all arrives for `timeout` seconds, QueueFull or RedisUnavailable where the
        queue is full or the server away for as long. Arguments are looked at when it is called, images when it is their turn.
        """
        return self._answers(self._calls.map(images, timeout, in_flight, model, priority, options))

    def _answers(self, answers: AsyncGenerator[Result, None]) -> Generator[Result, None, None]:
        try:
            while True:
                try:
                    answer = at_once(anext(answers))
                except StopAsyncIteration:
                    return
                yield answer
        finally:
            at_once(answers.aclose())

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
        """Close the connections. Twice does no harm."""
        at_once(self._wire.close())

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Client holds connections and cannot be pickled: make one in each process")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient:
    """The same as `Client`, for asyncio, with the same options, errors and units.

    Any number of calls may wait at a time, each with its own timeout: all results are waited for on one connection, and
    other commands take turns on at most 16. A PIL image, a file or a large array is read and encoded in a thread; don't
    change it until the call has returned. Belongs to the event loop that uses it: RuntimeError in a second one while the
    first still runs.
    """

    def __init__(
        self, url: str | Address = DEFAULT_URL, *, model: str | None = None, client_name: str | None = None
    ) -> None:
        self._wire = AsyncioWire(url)
        self._calls = Calls(self._wire, model, client_name)

    async def submit(self, image: Any, model: str | None = None, *, priority: str = "normal", **options: Any) -> str:
        """See `Client.submit`. A cancelled call may have put its job into the queue."""
        return (await self._calls.submit("submit", [image], model, priority, options))[0]

    async def submit_many(
        self, images: Iterable[Any], model: str | None = None, *, priority: str = "normal", **options: Any
    ) -> list[str]:
        """See `Client.submit_many`."""
        return await self._calls.submit("submit_many", images, model, priority, options)

    async def result(self, job_id: str, timeout: float = DEFAULT_TIMEOUT_S, model: str | None = None) -> Result:
        """See `Client.result`. A cancelled call loses nothing: a result that had just arrived is there for the next call."""
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
        return await self._calls.classify(image, timeout, model, priority, options)

    def map(
        self,
        images: Iterable[Any],
        model: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
        *,
        in_flight: int = IN_FLIGHT,
        priority: str = "normal",
        **options: Any,
    ) -> AsyncGenerator[Result, None]:
        """See `Client.map`. Use `contextlib.aclosing` where the loop may be left early, so that it ends there and then."""
        return self._calls.map(images, timeout, in_flight, model, priority, options)

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
        """Close the connections; calls that still wait end with RedisUnavailable. Twice does no harm."""
        await self._wire.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("an AsyncClient holds connections and cannot be pickled: make one in each process")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
