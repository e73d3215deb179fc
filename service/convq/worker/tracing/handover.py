"""Traces of jobs: what publishing threads hand over once all is answered, and the thread that makes spans of it.

Nothing here may slow the service. Only numbers are handed over; spans are drawn and sent by a thread of its own, which
takes a bounded share of the interpreter and holds a bounded number of jobs. What is more is dropped and counted.
"""

from __future__ import annotations

import logging
import os
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

from convq.ipc.shared_memory import StatsRow
from convq.logs import defect, event
from convq.threads import Watch
from convq.worker.postprocessor import BatchResult
from convq.worker.tracing.collector import check, is_wanted, own_ratio
from convq.worker.tracing.span_records import SpanBatch, SpanRecord
from convq.worker.tracing.trace_context import trace_context

if TYPE_CHECKING:
    from convq.worker.tracing.spans import Spans

log = logging.getLogger("convq.tracing")

MOST_WAITING = 4096
"""Jobs that wait to be drawn, at most."""
SEND_EVERY_S = 1.0
JOBS_PER_SEND = 128
"""About 800 spans: a few hundred kilobytes."""
SHARE = 0.2
"""Of one core, at most, for drawing and sending: the interpreter lock is shared with those who serve."""
FLUSH_WITHIN_S = 2.0
"""How long a drain waits for the last spans: a collector that is gone must not hold it up."""
COMPLAIN_EVERY_S = 10.0


class Tracing:
    """The traces of one worker. `published` may be called by many threads."""

    def __init__(self, spans: Spans, ratio: float, rows: Mapping[str, StatsRow], watch: Watch | None = None) -> None:
        self._spans = spans
        self._ratio = ratio
        self._rows = rows
        self._queue: queue.SimpleQueue[SpanBatch | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting = 0
        self._dropped: Counter[str] = Counter()
        self._next_complaint_s = 0.0
        self._broke = False
        self._closing = threading.Event()
        self._thread = (watch or Watch(log)).thread("tracing", self._run)

    @classmethod
    def start(cls, url: str | None, worker: str, rows: Mapping[str, StatsRow], watch: Watch) -> Self | None:
        """Begin to send spans to `url`, in the name of that worker; None where no traces are wanted.

        `rows` are those of the board, by model. Raises SettingsError as `check` does.
        """
        if not is_wanted(url):
            return None
        check(url)
        from convq.worker.tracing.spans import Spans  # noqa: PLC0415 - brings OpenTelemetry, for those alone who want it

        tracing = cls(Spans(str(url), worker), own_ratio(os.environ), rows, watch)
        tracing._thread.start()
        return tracing

    def published(self, model: str, answers: BatchResult, began_s: float, done_s: float) -> None:
        """Keep what is to be traced of these jobs. Never blocks."""
        trails = []
        for ticket in answers.tickets:
            given = ticket.job.traceparent
            context = trace_context(given) if given is not None else None
            if context.sampled if context is not None else random.random() < self._ratio:  # noqa: S311 - no secret
                trails.append(SpanRecord.of(ticket, context))
        if not trails:
            return
        with self._lock:
            full = self._waiting + len(trails) > MOST_WAITING
            self._waiting += 0 if full else len(trails)
        if full:
            self._drop(model, len(trails), "full")
            return
        epoch_s = time.time() - time.perf_counter()
        reason = str(answers.batch.reason) if answers.batch is not None else None
        self._queue.put(SpanBatch(model, trails, reason, len(answers.tickets), began_s, done_s, epoch_s))

    def close(self, within_s: float) -> None:
        """Send what is left, as far as that is done in so many seconds. Nothing may be published after this."""
        self._queue.put(None)
        self._closing.set()
        self._thread.join(min(within_s, FLUSH_WITHIN_S))
        self._spans.close()

    # -- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        more = True
        while more:
            began_s = time.thread_time()
            tracks, more = self._gather()
            try:
                self._send(tracks)
            except Exception as error:  # noqa: BLE001 - a job that cannot be drawn is no reason to serve none
                self._note_defect(tracks, error)
            self._complain()
            self._closing.wait((time.thread_time() - began_s) * (1 / SHARE - 1))

    def _gather(self) -> tuple[list[SpanBatch], bool]:
        """What there is to send, and whether there will be more. One request for many jobs: waits a little for others."""
        tracks: list[SpanBatch] = []
        jobs, give_up_s = 0, float("inf")
        while jobs < JOBS_PER_SEND:
            try:
                track = self._queue.get(timeout=None if not tracks else max(0.0, give_up_s - time.monotonic()))
            except queue.Empty:
                break
            if track is None:
                return tracks, False
            if not tracks:
                give_up_s = time.monotonic() + SEND_EVERY_S
            tracks.append(track)
            jobs += len(track.trails)
        return tracks, True

    def _send(self, tracks: list[SpanBatch]) -> None:
        for track in tracks:
            self._spans.draw(track)
        delivered = self._spans.send()
        for track in tracks:
            if not delivered:
                self._drop(track.model, len(track.trails), "undelivered")
        with self._lock:
            self._waiting -= sum(len(track.trails) for track in tracks)

    def _note_defect(self, tracks: list[SpanBatch], error: Exception) -> None:
        """These jobs have no trace; said once, and counted as those that a collector did not take."""
        if not self._broke:
            self._broke = True
            defect(log, "the traces of jobs could not be drawn", error)
        for track in tracks:
            self._drop(track.model, len(track.trails), "undelivered")
        with self._lock:
            self._waiting -= sum(len(track.trails) for track in tracks)

    def _drop(self, model: str, jobs: int, reason: str) -> None:
        self._rows[model].add("convq_traces_dropped", jobs, reason)
        with self._lock:
            self._dropped[reason] += jobs

    def _complain(self) -> None:
        """Say what was dropped, seldom."""
        now_s = time.monotonic()
        with self._lock:
            if not self._dropped or now_s < self._next_complaint_s:
                return
            dropped, self._dropped = self._dropped, Counter()
        self._next_complaint_s = now_s + COMPLAIN_EVERY_S
        if dropped["undelivered"]:
            facts = {"jobs": dropped["undelivered"], "reason": self._spans.trouble}
            event(log, logging.WARNING, "the collector did not take the traces of jobs", **facts)
        if dropped["full"]:
            hint = "trace fewer of them: OTEL_TRACES_SAMPLER_ARG, or the sampling of those who submit"
            event(log, logging.WARNING, "more jobs are traced than can be sent", jobs=dropped["full"], hint=hint)
