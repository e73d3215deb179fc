"""What both clients do, written once: coroutines that never suspend when their wire blocks (see `queue.producer`)."""

from __future__ import annotations

import difflib
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from convq.client.inputs import job_for, within_trace
from convq.errors import BadField, JobFailed, QueueFull, ResultTimeout
from convq.protocol import JobState, Priority, Result, decode_result
from convq.queue import Producer, Shard, Submission
from convq.queue.producer import Wire

IN_FLIGHT = 512
MAP_CHUNK = 64
"""Jobs that `map` submits in one call, fewer where the queue never has room for so many; results are read between two calls."""
FULL_PAUSE_S = 0.1
"""How long `map` waits at a full queue that does not say when there is room."""
LONGEST_PAUSE_S = 1.0
"""How long it waits at most: other producers, or more workers, may make the estimate wrong."""


@dataclass(slots=True)
class _Mapped:
    """Where one `map` stands: its inbox, the entries in the order of the images, the results that came."""

    inbox: str
    waiting: deque[str] = field(default_factory=deque)
    results: dict[str, Result] = field(default_factory=dict)
    chunk: int = MAP_CHUNK
    offer_s: float = 0.0
    """Not before, by `time.monotonic`: a refused offer has sent its images for nothing."""

    def pause_s(self) -> float:
        """Seconds until the next offer makes sense; 0 where that is now."""
        return max(0.0, self.offer_s - time.monotonic())


def meant(served: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The model that somebody means who names none: the only one, or the only one that yields classes; else None."""
    names = list(served) if len(served) == 1 else [name for name, said in served.items() if said.get("classes")]
    return names[0] if len(names) == 1 else None


class Calls:
    """What both clients do, over either wire."""

    def __init__(self, wire: Wire, model: str | None) -> None:
        self._wire = wire
        self._model = model
        self._producers: dict[str, Producer] = {}

    async def producer(self, model: str | None) -> Producer:
        """The producer of that model, of the client's own, or the one that is `meant`. Raises BadField."""
        name = model or self._model
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
        self, images: Sequence[Any], model: str | None, priority: str, options: dict[str, Any]
    ) -> list[str]:
        """Put jobs into the queue and return their ids."""
        producer = await self.producer(model)
        options = within_trace(options)
        submissions = [Submission(job_for(image, options), Priority(priority)) for image in images]
        entries = await producer.submit(submissions)
        return [one.job.id or entry for one, entry in zip(submissions, entries, strict=True)]

    async def result(self, job_id: str, timeout_s: float, model: str | None) -> Result:
        """The result of a job. Raises ResultTimeout, which says whether it is worth waiting longer."""
        producer = await self.producer(model)
        document = await producer.result(job_id, timeout_s)
        if document is None:
            raise ResultTimeout(await self._why_nothing(producer, job_id, timeout_s))
        return decode_result(document)

    async def classify(
        self, image: Any, timeout_s: float, model: str | None, priority: str, options: dict[str, Any]
    ) -> Result:
        """Submit one image and wait. Raises JobFailed where it does not end as ok."""
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
        """Withdraw jobs."""
        await (await self.producer(model)).cancel(job_ids)

    async def status(self, job_id: str, model: str | None) -> JobState:
        """Where a job is."""
        return await (await self.producer(model)).status(job_id)

    async def map(
        self,
        images: Iterable[Any],
        timeout_s: float,
        in_flight: int,
        model: str | None,
        priority: str,
        options: dict[str, Any],
    ) -> AsyncIterator[Result]:
        """Results in the order of the images, at most `in_flight` jobs on their way at a time."""
        if in_flight < 1:
            raise BadField(f"in_flight must be at least 1, not {in_flight}")
        producer = await self.producer(model)
        state = _Mapped(producer.shard.inbox(f"map-{secrets.token_hex(8)}"))
        options = {**within_trace(options), "reply_to": state.inbox}
        source, pending, more = iter(images), list[Submission](), True
        progress_s = time.monotonic()
        while more or pending or state.waiting:
            while more and len(pending) < min(MAP_CHUNK, in_flight - len(state.waiting)):
                try:
                    pending.append(Submission(job_for(next(source), options), Priority(priority)))
                except StopIteration:
                    more = False
            if pending and not state.pause_s():
                await self._offer(producer, pending, state, progress_s + timeout_s)
            room = more and len(state.waiting) < in_flight and not pending
            wait_s = min(timeout_s, state.pause_s()) if pending else timeout_s
            wait_s = 0.0 if room else wait_s
            if await self._take_in(producer, state, wait_s):
                progress_s = time.monotonic()
            elif state.waiting and time.monotonic() - progress_s >= timeout_s:
                raise ResultTimeout(await self._why_nothing(producer, state.waiting[0], timeout_s))
            while state.waiting and state.waiting[0] in state.results:
                yield state.results.pop(state.waiting.popleft())
                progress_s = time.monotonic()

    async def _offer(self, producer: Producer, pending: list[Submission], state: _Mapped, deadline_s: float) -> None:
        """Submit what is pending; at a full queue say in `state` when to try again, and with how much.

        Raises QueueFull when `deadline_s` has come. Without anything to read meanwhile it waits here.
        """
        try:
            entries = await producer.submit(pending[: state.chunk])
        except QueueFull as full:
            entries = full.accepted
            state.chunk = max(1, full.most_jobs or state.chunk)
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise
            pause_s = min(full.retry_after_s or FULL_PAUSE_S, LONGEST_PAUSE_S, left_s)
            state.offer_s = time.monotonic() + pause_s
            if not state.waiting and not entries:
                await self._wire.sleep(pause_s)
        state.waiting.extend(entries)
        del pending[: len(entries)]

    async def _take_in(self, producer: Producer, state: _Mapped, timeout_s: float) -> int:
        if not state.waiting:
            return 0
        documents = await producer.collect(state.inbox, IN_FLIGHT, timeout_s)
        for document in documents:
            result = decode_result(document)
            state.results[result.entry] = result
        return len(documents)
