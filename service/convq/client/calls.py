"""What both clients do, written once: coroutines that never suspend when their wire blocks (see `queue.transport.wires`).

What a caller gave is looked at before anything is sent, in the same order for both.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from convq.client.inputs import is_slow, job_for, within_trace
from convq.client.mapping import Map
from convq.client.options import (
    client_name_of,
    in_flight_of,
    inbox_of,
    job_id_of,
    model_of,
    options_of,
    priority_of,
    several,
    timeout_of,
)
from convq.errors import Answered, BadField, JobFailed, ResultGone, ResultTimeout
from convq.protocol import DEDUP_WINDOW_S, Job, JobState, Result, decode_result
from convq.queue import Producer, Shard, Submission
from convq.queue.transport.wires import Wire


def meant(served: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The model that somebody means who names none: the only one, or the only one that yields classes; else None."""
    names = list(served) if len(served) == 1 else [name for name, said in served.items() if said.get("classes")]
    return names[0] if len(names) == 1 else None


class Calls:
    """What both clients do, over either wire. Raises BadField for a model or a client whose name cannot be one."""

    def __init__(self, wire: Wire, model: str | None, client_name: str | None = None) -> None:
        self._wire = wire
        self._always = {} if client_name is None else {"client": client_name_of(client_name, "client_name")}
        self._model = None if model is None else Shard(model_of(model)).model
        self._producers: dict[str, Producer] = {}

    async def producer(self, model: str | None) -> Producer:
        """The producer of that model, of the client's own, or the one that is `meant`. Raises BadField."""
        name = self._model if model is None else model_of(model)
        if name is None:
            served = await self._any().served()
            name = self._model = meant(served)
            if name is None:
                raise BadField(f"say which model: {', '.join(sorted(served)) or 'no worker serves any now'}")
        if name not in self._producers:
            self._producers[name] = Producer(self._wire, Shard(name))
        return self._producers[name]

    def _any(self) -> Producer:
        return Producer(self._wire, Shard("any"))

    async def served(self) -> dict[str, dict[str, Any]]:
        """The models that live workers serve: name -> description."""
        return await self._any().served()

    async def submit(
        self, call: str, images: Iterable[Any], model: str | None, priority: str, given: Mapping[str, Any]
    ) -> list[str]:
        """Put jobs into the queue and return their ids; `call` is what the caller called."""
        options, lane = self._always | options_of(call, given), priority_of(priority)
        producer = await self.producer(model)
        if "reply_to" in options:
            inbox_of(producer.shard.inbox_prefix, options["reply_to"])
        options = within_trace(options)
        submissions = [Submission(await self._job(image, options), lane) for image in several(call, images)]
        try:
            entries = await producer.submit(submissions)
        except Answered:
            if len(submissions) == 1 and (own := submissions[0].job.id) and producer.holds(own):
                return [own]  # its answer is in our hands, for a call that was interrupted
            raise
        return [one.job.id or entry for one, entry in zip(submissions, entries, strict=True)]

    async def _job(self, image: Any, options: dict[str, Any]) -> Job:
        """The job of an image, made apart where that takes long."""
        work = partial(job_for, image, options)
        return await self._wire.apart(work) if is_slow(image) else work()

    async def result(self, job_id: str, timeout: float, model: str | None) -> Result:
        """The result of a job. Raises ResultTimeout, which says whether it is worth waiting longer, and ResultGone."""
        job_id_of(job_id, "job_id")
        timeout_s = timeout_of(timeout)
        producer = await self.producer(model)
        document = await producer.result(job_id, timeout_s)
        if document is None:
            raise await self._why_nothing(producer, job_id, timeout_s)
        return decode_result(document)

    def received(self, job_id: str, model: str | None) -> None:
        """The result of that job has reached the caller: from here on an interrupt loses nothing of ours."""
        name = model if model is not None else self._model
        if name in self._producers:
            self._producers[name].received(job_id)

    async def classify(
        self, image: Any, timeout: float, model: str | None, priority: str, given: Mapping[str, Any]
    ) -> Result:
        """Submit one image and wait. Raises JobFailed where it does not end as ok."""
        timeout_of(timeout)
        job_id = (await self.submit("classify", [image], model, priority, given))[0]
        result = await self.result(job_id, timeout, model)
        self.received(job_id, model)
        if not result.ok:
            raise JobFailed(f"job {job_id} ended as {result.explain()}", result)
        return result

    async def _why_nothing(self, producer: Producer, job_id: str, timeout_s: float) -> ResultTimeout:
        """Whether it is worth waiting longer: where is the job, and does a worker serve that model at all?"""
        state = await producer.status(job_id)
        if state is JobState.UNKNOWN and (answered := await producer.was_answered(job_id)) is not None:
            return _gone(job_id) if answered else _vanished(job_id)
        model, served = producer.shard.model, await self.served()
        if model not in served:
            return ResultTimeout(producer.unserved(served))
        return ResultTimeout(
            f"no result for {job_id} in {timeout_s:g} s; a worker serves {model!r}, the job is {state}"
        )

    async def cancel(self, job_ids: Sequence[str], model: str | None) -> None:
        """Withdraw jobs."""
        ids = [job_id_of(one, "job_id") for one in job_ids]
        await (await self.producer(model)).cancel(ids)

    async def status(self, job_id: str, model: str | None) -> JobState:
        """Where a job is."""
        return await (await self.producer(model)).status(job_id_of(job_id, "job_id"))

    def map(
        self,
        images: Iterable[Any],
        timeout: float,
        in_flight: int,
        model: str | None,
        priority: str,
        given: Mapping[str, Any],
    ) -> AsyncGenerator[Result, None]:
        """Results in the order of the images. What is wrong with the arguments is said here, before the first is wanted."""
        options, lane = self._always | options_of("map", given), priority_of(priority)
        timeout_s, most, source = timeout_of(timeout), in_flight_of(in_flight), several("map", images)
        if model is not None:
            Shard(model_of(model))

        async def results() -> AsyncGenerator[Result, None]:
            producer = await self.producer(model)
            one = Map(self._wire, producer, timeout_s, most, lane)
            async with aclosing(one.results(source, within_trace(options), self._job, self._why_nothing)) as answers:
                async for answer in answers:
                    yield answer

        return results()


def _gone(job_id: str) -> ResultGone:
    return ResultGone(
        f"the id {job_id} was answered already within the last {DEDUP_WINDOW_S} s, and its result has been read or has "
        "expired; to have an image computed again, give another id"
    )


def _vanished(job_id: str) -> ResultTimeout:
    return ResultTimeout(
        f"nothing is left of {job_id}: it was deleted before it was answered; submitted again with that id, it is a new job"
    )
