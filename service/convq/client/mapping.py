"""`map`: many images in, their results in the same order, whatever happens to the connection or the server meanwhile."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from typing import Any

from convq.errors import (
    BadImage,
    BadTensor,
    ConvqError,
    ImageTooLarge,
    JobError,
    QueueFull,
    RedisUnavailable,
    ResultTimeout,
)
from convq.protocol import ErrorBody, Job, JobState, Priority, Result, Status, decode_result
from convq.queue import Producer, Submission
from convq.queue.producer import payload_bytes
from convq.queue.transport.wires import Wire

IN_FLIGHT = 512
IN_FLIGHT_BYTES = 256 << 20
"""Payloads that are kept until their results are there; a job of more goes alone."""
MAP_CHUNK = 64
"""Jobs that `map` submits in one call, fewer where the queue never has room for so many; results are read between two calls."""
FILL_S = 0.1
"""How long it asks for more images before it submits what it has."""
FULL_PAUSE_S = 0.1
"""How long `map` waits at a full queue that does not say when there is room."""
LONGEST_PAUSE_S = 1.0
"""How long it waits at most: other producers, or more workers, may make the estimate wrong."""
FIRST_RETRY_S = 0.05
"""How long it waits for a connection that broke, doubling up to `LONGEST_PAUSE_S`."""
DRAIN_S = 1.0
"""How long a map that ends early waits for the answers of what it has withdrawn."""

Made = Callable[[Any, dict[str, Any]], Awaitable[Job]]
Why = Callable[[Producer, str, float], Awaitable[ResultTimeout]]


class Map:
    """One `map`. Its jobs have ids of its own making, so that what is lost can be submitted again and is answered once.

    These ids are not entered in the table of ids of the last 10 minutes: that would cost memory for each of them. So a
    job whose submission was not acknowledged may run twice; the second answer is thrown away here.
    """

    def __init__(self, wire: Wire, producer: Producer, timeout_s: float, in_flight: int, priority: Priority) -> None:
        self._wire = wire
        self._producer = producer
        self._timeout_s = timeout_s
        self._in_flight = in_flight
        self._priority = priority
        self._name = f"map-{secrets.token_hex(8)}"
        self._inbox = producer.shard.inbox(self._name)
        self._named = 0
        self._pending: list[Submission] = []
        self._order: deque[str] = deque()
        self._waiting: dict[str, tuple[Submission, str | None]] = {}
        """Id -> what was submitted, and its entry id; None where the connection broke before that was known."""
        self._bytes = 0
        self._results: dict[str, Result] = {}
        self._chunk = MAP_CHUNK
        self._offer_s = 0.0
        """Not before, by `time.monotonic`: a refused offer has sent its images for nothing."""
        self._progress_s = 0.0
        self._retry_s = FIRST_RETRY_S
        self._again: set[str] = set()
        """Ids that were or are to be submitted a second time: they have their place in the order."""
        self._looked = False
        self._doubts = False
        """Whether something may have been lost since the jobs were last looked for."""

    async def results(
        self, images: Iterable[Any], options: dict[str, Any], made: Made, why: Why
    ) -> AsyncGenerator[Result, None]:
        """The results. `made` makes the job of an image, `why` the error for a wait without an end."""
        source, more = iter(images), True
        options = {**options, "reply_to": self._inbox}
        self._progress_s = time.monotonic()
        patience_s = DRAIN_S
        try:
            while more or self._pending or self._order:
                more = more and await self._fill(source, options, made)
                try:
                    await self._step(more=more)
                except RedisUnavailable as broken:
                    await self._pause_after(broken)
                if self._waiting and self._left_s() <= 0:
                    patience_s = 0.0
                    name, (_, entry) = next(iter(self._waiting.items()))
                    raise await why(self._producer, entry or name, self._timeout_s)
                while self._order and self._order[0] in self._results:
                    yield self._results.pop(self._order.popleft())
                    self._moved()
        finally:
            await self._leave(patience_s)

    def _moved(self) -> None:
        """There was progress: the caller's patience begins anew."""
        self._progress_s = time.monotonic()
        self._looked = False

    def _left_s(self) -> float:
        return self._progress_s + self._timeout_s - time.monotonic()

    def _room(self) -> int:
        """How many jobs may join those that are on their way."""
        if self._bytes >= IN_FLIGHT_BYTES:
            return 0
        return min(MAP_CHUNK - len(self._pending), self._in_flight - len(self._order))

    def _refused(self, name: str, why: JobError) -> Result:
        """What the service would answer, had it been sent: the other images go on."""
        error = ErrorBody(code=why.code, message=str(why))
        return Result(id=name, entry="", model=self._producer.shard.model, status=Status.ERROR, error=error)

    async def _fill(self, source: Any, options: dict[str, Any], made: Made) -> bool:
        """Make jobs of the next images; False where there are no more."""
        until_s = time.monotonic() + FILL_S
        while self._room() > 0 and time.monotonic() < until_s:
            try:
                image = next(source)
            except StopIteration:
                return False
            name = f"{self._name}-{self._named}"
            self._named += 1
            self._order.append(name)
            try:
                job = await made(image, {**options, "id": name})
            except (BadImage, BadTensor, ImageTooLarge) as unfit:
                self._results[name] = self._refused(name, unfit)
                self._moved()
                continue
            self._pending.append(Submission(job, self._priority, once=False))
            self._bytes += payload_bytes(job)
            self._moved()
        return True

    async def _step(self, *, more: bool) -> None:
        """Look for what may be lost, submit what is pending, read what has come."""
        if self._doubts:
            await self._recover()
        pause_s = max(0.0, self._offer_s - time.monotonic())
        if self._pending and not pause_s:
            await self._offer()
            pause_s = max(0.0, self._offer_s - time.monotonic())
        wait_s = max(0.0, self._left_s())
        if self._pending:
            wait_s = min(wait_s, pause_s)
        elif more and self._room() > 0:
            wait_s = 0.0
        half_s = self._timeout_s / 2
        if self._waiting and not await self._take_in(min(wait_s, half_s)) and self._left_s() <= half_s:
            # Half the time without a word: what the server lost without our noticing is found now, if that is why.
            self._doubts, self._looked = not self._looked, True
        self._retry_s = FIRST_RETRY_S

    async def _offer(self) -> None:
        """Submit what is pending; at a full queue note when to try again, and with how much.

        Raises QueueFull when the time is over. Without anything to read meanwhile it waits here.
        """
        offered = self._pending[: self._chunk]
        entries: Sequence[str | None]
        try:
            entries = await self._producer.submit(offered)
        except RedisUnavailable:
            self._submitted(offered, [None] * len(offered))
            raise
        except QueueFull as full:
            entries = full.accepted
            self._chunk = max(1, full.most_jobs or self._chunk)
            if self._left_s() <= 0:
                raise
            pause_s = min(full.retry_after_s or FULL_PAUSE_S, LONGEST_PAUSE_S, self._left_s())
            self._offer_s = time.monotonic() + pause_s
            if not self._waiting and not entries:
                await self._wire.sleep(pause_s)
        self._submitted(offered, entries)

    def _submitted(self, offered: Sequence[Submission], entries: Sequence[str | None]) -> None:
        """The first jobs of those that were offered are on their way, as many as there are entries."""
        for submission, entry in zip(offered, entries, strict=False):
            self._waiting[str(submission.job.id)] = (submission, entry)
        del self._pending[: len(entries)]

    async def _take_in(self, timeout_s: float) -> int:
        """Read what is in the inbox, waiting for it; how many jobs that answered."""
        count = 0
        for document in await self._producer.collect(self._inbox, IN_FLIGHT, timeout_s):
            result = decode_result(document)
            answered = self._waiting.pop(result.id, None)
            if answered is not None:  # else it is a second answer
                self._results[result.id] = result
                self._bytes -= payload_bytes(answered[0].job)
                count += 1
        if count:
            self._moved()
        return count

    async def _pause_after(self, broken: RedisUnavailable) -> None:
        """Give the connection time to come back. Raises the error itself when the time is over."""
        self._doubts = True
        if self._left_s() <= 0:
            raise broken
        await self._wire.sleep(min(self._retry_s, self._left_s()))
        self._retry_s = min(2 * self._retry_s, LONGEST_PAUSE_S)

    async def _recover(self) -> None:
        """Offer again what is neither in the queue nor answered: the server lost it, or the connection broke over it."""
        await self._take_in(0)
        lost = [
            name
            for name, (_, entry) in list(self._waiting.items())
            if entry is None or await self._producer.status(entry) is JobState.UNKNOWN
        ]
        await self._take_in(0)  # what was answered since is not lost
        lost = [name for name in lost if name in self._waiting]
        self._again.update(lost)
        self._pending[:0] = [self._waiting.pop(name)[0] for name in lost]
        self._doubts = False

    async def _leave(self, patience_s: float) -> None:
        """Withdraw what is on its way and read what still comes, so that nothing is computed or kept for nobody."""
        until_s = time.monotonic() + patience_s
        try:
            if self._waiting:
                await self._producer.cancel(list(self._waiting))
            while self._waiting and await self._take_in(max(0.0, until_s - time.monotonic())):
                continue
            if self._again:
                await self._take_in(0)  # second answers
        except ConvqError:
            return  # withdrawn or not, results that nobody reads expire by themselves
