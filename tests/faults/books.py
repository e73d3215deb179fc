"""The oracle: what a client submitted, and every distinct answer that ever stood in its inboxes."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from servers import wait_until
from services import JOBS, digits, image_of, tensor_of

INBOX = "convq:{lenet}:inbox:"
JOBS_PER_INBOX = 20_000  # far below the length at which an inbox forgets
SHOWN = (("7", tensor_of(digits()[0])), ("1", tensor_of(digits()[2])))
DRAWN = (image_of(digits()[0]), image_of(digits()[2]))
UNREACHABLE = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError)


def connect(url: str, timeout_s: float = 10.0) -> Any:
    """A client that sends nothing twice: a re-sent XADD would be a second job of the test's own making."""
    return redis.Redis.from_url(url, socket_timeout=timeout_s, retry=Retry(NoBackoff(), 0))


class Books:
    """Tensor jobs with ids of their own, and the books on them.

    A job is *accepted* once the server said its entry id, *unsure* where its reply was lost, *refused* where it said no.
    Results are read without taking them away, so an answer counts once however often it is read; two different documents
    for one job are two answers.
    """

    def __init__(self, url: str, name: str) -> None:
        self.name = name
        self.accepted: dict[str, str] = {}
        self.unsure: set[str] = set()
        self.refused: dict[str, str] = {}
        self.documents: dict[str, set[bytes]] = {}
        self.said: dict[str, dict[str, Any]] = {}
        self._serial = itertools.count()
        self._producing = connect(url)
        self._reading = connect(url)
        self._read: dict[str, int] = {}

    # -- submitting -----------------------------------------------------------------------------------------------

    def submit(
        self, jobs: int, *, pixel: int = 0, stream: str = JOBS, ending: bytes | None = None, **fields: str | int
    ) -> list[str]:
        """XADD jobs, half sevens and half ones; `pixel` is the value of the corner. Their ids; check `accepted`.

        With `ending` they are PNG files with these bytes behind, which no decoder looks at.
        """
        made = []
        for first in range(0, jobs, 200):
            chunk = [self._job(pixel, ending, fields) for _ in range(min(200, jobs - first))]
            made += self._send(chunk, stream)
        return made

    def _job(self, pixel: int, ending: bytes | None, fields: dict[str, str | int]) -> list[Any]:
        serial = next(self._serial)  # in one step: a load has a thread of its own
        job_id = f"{self.name}-{serial}"
        tensor = bytes([pixel]) + SHOWN[serial % 2][1][1:]
        inbox = f"{INBOX}{self.name}.{serial // JOBS_PER_INBOX}"
        self._read.setdefault(inbox, 0)
        parts: list[Any] = ["id", job_id, "reply_to", inbox]
        if ending is None:
            parts += ["tensor", tensor, "dtype", "uint8", "shape", "1,32,32"]
        else:
            parts += ["image", DRAWN[serial % 2] + ending]
        return parts + [part for pair in fields.items() for part in pair]

    def _send(self, chunk: list[list[Any]], stream: str) -> list[str]:
        ids = [str(parts[1]) for parts in chunk]
        self.unsure.update(ids)
        pipeline = self._producing.pipeline(transaction=False)
        for parts in chunk:
            pipeline.execute_command("XADD", stream, "*", *parts)
        with suppress(*UNREACHABLE):
            for job_id, reply in zip(ids, pipeline.execute(raise_on_error=False), strict=True):
                self.unsure.discard(job_id)
                if isinstance(reply, bytes):
                    self.accepted[job_id] = reply.decode()
                else:
                    self.refused[job_id] = str(reply)
        return ids

    @contextmanager
    def load(self, jobs: int = 40, every_s: float = 0.02) -> Iterator[None]:
        """Submit all the time, from a thread of its own, whatever becomes of the server."""
        over = threading.Event()

        def produce() -> None:
            while not over.wait(every_s):
                self.submit(jobs)

        thread = threading.Thread(target=produce)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    # -- reading --------------------------------------------------------------------------------------------------

    def read(self) -> int:
        """Take in what is new in the inboxes; how many jobs are answered. A server that is away has nothing new."""
        with suppress(*UNREACHABLE, redis.exceptions.ResponseError):
            for inbox, first in list(self._read.items()):
                documents = self._reading.lrange(inbox, first, -1)
                self._read[inbox] = first + len(documents)
                for document in documents:
                    said = json.loads(document)
                    self.documents.setdefault(said["id"], set()).add(document)
                    self.said[said["id"]] = said
        return len(self.documents)

    def rewind(self) -> None:
        """Read every inbox from its beginning again: the server may have forgotten its newest answers."""
        self._read = dict.fromkeys(self._read, 0)

    def answered(self, ids: Iterable[str]) -> bool:
        """Whether all these jobs have an answer."""
        self.read()
        return set(ids) <= set(self.documents)

    def goes_on(self) -> bool:
        """Whether a job that is pushed now is answered within a moment; for a `wait_until`."""
        before = self.read()
        self.submit(1)
        return wait_until(lambda: self.read() > before, 30)

    def settle(self, timeout_s: float = 40.0) -> None:
        """Wait until every accepted job has its answer."""
        with suppress(AssertionError):  # `lost` says it better
            wait_until(lambda: self.answered(self.accepted), timeout_s, every_s=0.05)

    # -- the verdict ----------------------------------------------------------------------------------------------

    @property
    def lost(self) -> list[str]:
        """Jobs that were accepted and never answered."""
        return sorted(set(self.accepted) - set(self.documents))

    @property
    def twice(self) -> list[str]:
        """Jobs with two answers."""
        return sorted(job_id for job_id, documents in self.documents.items() if len(documents) > 1)

    @property
    def strange(self) -> list[str]:
        """Answers to jobs that were never sent, or were refused."""
        return sorted(set(self.documents) - set(self.accepted) - self.unsure)

    @property
    def wrong(self) -> list[dict[str, Any]]:
        """Answers that say `ok` and the wrong digit."""
        return [
            said
            for said in self.said.values()
            if said["status"] == "ok" and self._label(said) != SHOWN[self._number(said) % 2][0]
        ]

    def _label(self, said: dict[str, Any]) -> str:
        return str(said["predictions"][0]["label"])

    def _number(self, said: dict[str, Any]) -> int:
        return int(said["id"].rpartition("-")[2])

    def statuses(self) -> dict[str, int]:
        """How many answers there are of each status."""
        counts: dict[str, int] = {}
        for said in self.said.values():
            counts[said["status"]] = counts.get(said["status"], 0) + 1
        return counts

    def check(self) -> None:
        """Exactly one right answer for each accepted job, none for any other."""
        assert [] == self.lost[:3], f"{len(self.lost)} of {len(self.accepted)} lost"
        doubles = [sorted(self.documents[job_id]) for job_id in self.twice]
        assert [] == doubles[:3], f"{len(doubles)} of {len(self.accepted)} answered twice"
        assert [] == self.strange[:3], f"{len(self.strange)} answered without having been accepted"
        assert [] == self.wrong[:3], f"{len(self.wrong)} answered wrongly"

    def forget(self) -> None:
        """Delete the inboxes, and close."""
        self._reading.delete(*self._read) if self._read else None
        self.close()

    def close(self) -> None:
        """Close both connections."""
        self._producing.close()
        self._reading.close()
