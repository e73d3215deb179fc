"""The client's side of one shard: submit, wait, cancel, ask. Written once, as coroutines over a `Wire`."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from convq.errors import (
    Answered,
    BadField,
    ConvqError,
    JobHeld,
    QueueFull,
    RedisRefused,
    RedisUnavailable,
    UnknownModel,
)
from convq.protocol import CANCELLED_TTL_S, DEDUP_WINDOW_S, Job, JobState, Priority
from convq.queue.keys import LANES, MODELS, Shard, is_model_name
from convq.queue.transport.link import AT_MAXMEMORY, Script, understood
from convq.queue.transport.wires import Wire

SUBMIT = Script.load("numbers", "drain", "known", "whereabouts", "names", "door", "submit")
STATUS = Script.load("known", "whereabouts", "status")

SUBMIT_JOBS = 100
"""Jobs per submit script: bounds the time that the server does nothing else."""
NO_FUNCTION = "Function not found"
SUBMIT_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Submission:
    """One job and the lane that it goes to."""

    job: Job
    priority: Priority = Priority.NORMAL
    once: bool = True
    """Whether a job with the same `id` is the same job for the next 10 minutes, which costs the server's memory."""


class Producer:
    """Submits jobs to one shard and reads their results, over either wire."""

    def __init__(self, wire: Wire, shard: Shard) -> None:
        self._wire = wire
        self.shard = shard
        self._scripts = False
        """Whether the server had no functions when it was last asked: then the same is sent as scripts."""

    async def submit(self, submissions: Sequence[Submission]) -> list[str]:
        """Put jobs into the queue and return one entry id per job, in order.

        A job whose `id` was seen within the dedup window is not added again: its first entry id comes back while its answer is
        to come or unread, and Answered is raised where that was read; where nothing is left of it, it is a new job. Jobs travel
        in chunks of at most 100 jobs and 4 MiB, each taken as a whole or refused with QueueFull, whose `accepted` are
        the entry ids of the chunks before, with Answered, JobHeld or UnknownModel. After RedisUnavailable it is unknown whether the chunk under way was taken:
        jobs with an `id` may be submitted again safely.
        """
        entries: list[str] = []
        for chunk in _chunks(submissions):
            try:
                reply = await self._submit(self._submit_args(chunk))
            except QueueFull as full:
                full.accepted = entries
                raise
            except UnknownModel as unknown:
                raise await self._explained(unknown) from unknown
            entries += [entry.decode() for entry in reply]
        return entries

    async def _submit(self, args: list[Any]) -> Any:
        shard = self.shard
        keys = [shard.cfg, *shard.streams]
        whole = [DEDUP_WINDOW_S * 1000, *args]
        try:
            return await self._ask("convq_submit_jobs", args, SUBMIT, keys, whole)
        except QueueFull as full:
            if AT_MAXMEMORY not in str(full) or self._scripts:
                raise
            # There the server runs no function that may write; one that cannot says whether there is another reason.
            reply = (await self._wire.flush([("FCALL", "convq_refusal", 1, shard.streams[1], *args)]))[0]
            if str(reply).startswith(tuple(_REFUSALS)):
                _checked(reply)
            raise

    def _submit_args(self, chunk: Sequence[Submission]) -> list[Any]:
        args: list[Any] = []
        for submission in chunk:
            job, fields = submission.job, submission.job.fields()
            known_as = job.id if job.id and submission.once else ""
            args += (LANES.index(submission.priority) + 1, known_as, payload_bytes(job), len(fields), *fields)
        return args

    async def result(self, job_id: str, timeout_s: float) -> bytes | None:
        """Wait for the result document of a job and take it; None when the time is over.

        A caller that may be interrupted says `received` when it has it.
        """
        document: bytes | None = _checked(await self._wire.take(self.shard.result(job_id), timeout_s))
        return document

    def holds(self, job_id: str) -> bool:
        """Whether the result of that job was taken, or is being taken, for a call that ended before it had it."""
        return self._wire.holds(self.shard.result(job_id))

    def received(self, job_id: str) -> None:
        """The result of that job has reached whoever asked for it: there is no need to keep it any longer."""
        self._wire.received(self.shard.result(job_id))

    async def collect(self, inbox: str, most: int, timeout_s: float) -> list[bytes]:
        """Wait for results in an inbox and take up to `most`; an empty list when the time is over."""
        return _checked(await self._wire.collect(inbox, most, timeout_s)) or []

    async def cancel(self, job_ids: Sequence[str]) -> None:
        """Withdraw jobs: those that have not run end as `cancelled`; those that are done stay done."""
        if not job_ids:
            return
        key = self.shard.cancelled
        for reply in await self._wire.flush([("SADD", key, *job_ids), ("EXPIRE", key, CANCELLED_TTL_S)]):
            _checked(reply)

    async def status(self, job_id: str) -> JobState:
        """Where a job is."""
        keys = [self.shard.result(job_id), self.shard.job(job_id), *self.shard.streams]
        reply = await self._ask("convq_status", [job_id], STATUS, keys, [job_id])
        return JobState(reply.decode())

    async def was_answered(self, job_id: str) -> bool | None:
        """Of a job that is `unknown`: whether it was answered, or has vanished; None where its id is not remembered."""
        known = _checked((await self._wire.flush([("GET", self.shard.job(job_id))]))[0])
        return None if known is None else b" answered " in known

    async def served(self) -> dict[str, dict[str, Any]]:
        """What live services say that they serve: model -> its description."""
        flat = _checked((await self._wire.flush([("HGETALL", MODELS)]))[0])
        found = {name: _description(text) for name, text in zip(flat[::2], flat[1::2], strict=True)}
        return {name.decode(): said for name, said in found.items() if said is not None and is_model_name(name)}

    async def _explained(self, unknown: UnknownModel) -> UnknownModel:
        """With the names that are served, where this user may read them."""
        try:
            return UnknownModel(self.unserved(await self.served(), unknown.nearest), unknown.nearest)
        except ConvqError:
            return unknown

    def unserved(self, served: Mapping[str, Any], nearest: str | None = None) -> str:
        """That nobody serves this model, in words: who is served, and what was perhaps meant."""
        nearest = nearest or next(iter(difflib.get_close_matches(self.shard.model, served, n=1)), None)
        hint = f" Did you mean {nearest!r}?" if nearest else ""
        return f"no worker serves {self.shard.model!r}; served: {', '.join(sorted(served)) or 'nothing'}.{hint}"

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
        payload = payload_bytes(submission.job)
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


def payload_bytes(job: Job) -> int:
    """How large the image or tensor of a job is."""
    return len(job.image or job.tensor or b"")


def _checked(reply: Any) -> Any:
    if not isinstance(reply, Exception):
        return reply
    text = str(reply)
    if text.startswith("WRONGTYPE"):
        raise BadField(f"a key that convq reads holds something else: {text}")
    word, _, rest = text.partition(" ")
    raise _REFUSALS[word](*_facts(rest)) if word in _REFUSALS else understood(reply) from reply


def _facts(text: str) -> tuple[str, dict[str, str]]:
    """What the door says, and what stands behind that for programs."""
    why, *facts = text.split("; ")
    known = dict(fact.split("=", 1) for fact in facts if "=" in fact)
    return "; ".join([why, *(fact for fact in facts if "=" not in fact)]), known


def _queue_full(why: str, known: dict[str, str]) -> QueueFull:
    """How much is there and may be, and where it is known, when there is room again."""
    if "retry_after_ms" in known:
        wait_s = int(known["retry_after_ms"]) / 1e3
        return QueueFull(f"the queue is full: {why}; try again in {wait_s:.3g} s", wait_s)
    full = QueueFull(f"the queue is full: {why}; try again later")
    if "most_jobs" in known:
        full.most_jobs = int(known["most_jobs"])
    return full


def _answered(why: str, known: dict[str, str]) -> Answered:
    ago_s = int(known.get("answered_ms_ago", 0)) / 1e3
    return Answered(f"{why} ({ago_s:.3g} s ago); to have an image computed again, give another id")


_REFUSALS: dict[str, Callable[[str, dict[str, str]], ConvqError]] = {
    "QUEUEFULL": _queue_full,
    "ANSWERED": _answered,
    "HELD": lambda why, known: JobHeld(why, int(known.get("retry_after_ms", 1000)) / 1e3),
    "UNKNOWNMODEL": lambda why, known: UnknownModel(why, known.get("nearest")),
}
"""First word of what the door says -> the error of the tree."""
