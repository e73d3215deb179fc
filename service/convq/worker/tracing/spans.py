"""Spans as OpenTelemetry draws and sends them. The only module that imports it, and nobody does who wants no traces.

Of each job: one span from its entry to its answer, continued from its `traceparent`, with the phases inside. Of each
batch: one span, in a trace of its own, with a link to each traced job. Names and attributes are those of the semantic
conventions for messaging; what they have no word for begins with `convq.`.
"""

from __future__ import annotations

import logging

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

import convq
from convq.queue import Shard
from convq.queue.keys import GROUP
from convq.worker.tracing.span_records import SpanBatch, SpanRecord
from convq.worker.tracing.trace_context import TraceContext

PATH = "/v1/traces"
"""Of the collector's traces, below the URL that the standard calls its endpoint."""
MAX_LINKS = 4096
"""The largest batch that a manifest may ask for."""
MAX_CHARACTERS = 256


class _Ended(SpanProcessor):
    """Collects the spans that have ended."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


class _LastWords(logging.Handler):
    """Keeps what the library said last, which is why something was not sent. Its log would go past ours."""

    words = "no reason was given"

    def emit(self, record: logging.LogRecord) -> None:
        self.words = record.getMessage()


class Spans:
    """Draws and sends. Belongs to one thread; `close` may be called from another."""

    def __init__(self, url: str, worker: str) -> None:
        self._ended = _Ended()
        self._exporter = OTLPSpanExporter(endpoint=_endpoint(url))
        own = {"service.name": "convq", "service.version": convq.__version__, "service.instance.id": worker}
        # What stands in OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES wins over what we say of ourselves.
        resource = Resource.create(own).merge(OTELResourceDetector().detect())
        limits = SpanLimits(max_links=MAX_LINKS, max_attribute_length=MAX_CHARACTERS)
        provider = TracerProvider(
            ALWAYS_ON, resource, shutdown_on_exit=False, span_limits=limits
        )  # who is asked is ours
        provider.add_span_processor(self._ended)
        self._tracer = provider.get_tracer("convq", convq.__version__)
        self._last_words = _LastWords()
        library = logging.getLogger("opentelemetry")
        library.handlers, library.propagate = [self._last_words], False

    @property
    def trouble(self) -> str:
        """Why the last spans were not sent."""
        return self._last_words.words

    def draw(self, track: SpanBatch) -> None:
        """Make spans of the traced jobs of one batch."""
        batch = self._begin_batch(track) if track.reason is not None else None
        for trail in track.trails:
            job = self._draw_job(track, trail, batch)
            if batch is not None:
                batch.add_link(job.get_span_context(), {"messaging.message.id": trail.entry})
        if batch is not None:
            batch.end(_ns(track, track.done_s))

    def send(self) -> bool:
        """Send what was drawn and forget it; whether the collector took it."""
        spans, self._ended.spans = self._ended.spans, []
        try:
            return self._exporter.export(spans) is SpanExportResult.SUCCESS
        except OSError as error:  # older versions let a time-out pass, which is one
            self._last_words.words = str(error)
            return False

    def close(self) -> None:
        """Send nothing more, not even what is being sent."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _begin_batch(self, track: SpanBatch) -> Span:
        first = track.trails[0]
        began_s = first.arrived_s + first.decode_s + first.wait_s
        attributes: dict[str, str | int] = {
            "messaging.system": "redis",
            "messaging.batch.message_count": track.size,
            "convq.model": track.model,
            "convq.batch.reason": str(track.reason),
        }
        return self._tracer.start_span(
            f"run {track.model}", Context(), attributes=attributes, start_time=_ns(track, began_s)
        )

    def _draw_job(self, track: SpanBatch, trail: SpanRecord, batch: Span | None) -> Span:
        stream = Shard(track.model).streams[trail.lane]
        job = self._tracer.start_span(
            f"process {stream}",
            _parent(trail.context),
            SpanKind.CONSUMER,
            _attributes(track, trail, stream),
            start_time=_ns(track, trail.arrived_s - trail.queue_s),
        )
        if trail.error is not None:
            code, message = trail.error
            job.set_attribute("error.type", code)
            job.set_status(Status(StatusCode.ERROR, message[:MAX_CHARACTERS]))
        self._draw_phases(track, trail, set_span_in_context(job), batch)
        job.end(_ns(track, track.done_s))
        return job

    def _draw_phases(self, track: SpanBatch, trail: SpanRecord, job: Context, batch: Span | None) -> None:
        """The phases, one after the other as in `timing_ms`; the answer's way out is the same for a whole batch."""
        at_s = trail.arrived_s - trail.queue_s
        links = [Link(batch.get_span_context())] if batch is not None else []
        for name, spent_s in (
            ("queue", trail.queue_s),
            ("decode", trail.decode_s),
            ("batch", trail.wait_s),
            ("inference", trail.infer_s),
        ):
            if spent_s:
                phase = self._tracer.start_span(
                    name, job, links=links if name == "inference" else (), start_time=_ns(track, at_s)
                )
                at_s += spent_s
                phase.end(_ns(track, at_s))
        self._tracer.start_span("publish", job, start_time=_ns(track, track.began_s)).end(_ns(track, track.done_s))


def _endpoint(url: str) -> str:
    base = url.rstrip("/")
    return base if base.endswith(PATH) else base + PATH


def _ns(track: SpanBatch, moment_s: float) -> int:
    """A moment of `time.perf_counter` as OpenTelemetry writes it: nanoseconds of the wall clock."""
    return int((moment_s + track.epoch_s) * 1e9)


def _parent(context: TraceContext | None) -> Context:
    """The span that submitted the job, or none."""
    if context is None:
        return Context()
    sampled = TraceFlags(TraceFlags.SAMPLED)
    remote = SpanContext(int(context.trace_id, 16), int(context.span_id, 16), is_remote=True, trace_flags=sampled)
    return set_span_in_context(NonRecordingSpan(remote), Context())


def _attributes(track: SpanBatch, trail: SpanRecord, stream: str) -> dict[str, str | int]:
    attributes: dict[str, str | int] = {
        "messaging.system": "redis",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": stream,
        "messaging.consumer.group.name": GROUP,
        "messaging.message.id": trail.entry,
        "convq.job.id": trail.job,
        "convq.model": track.model,
        "convq.status": str(trail.status),
        "convq.attempt": trail.attempt,
    }
    if trail.version is not None:
        attributes["convq.model.version"] = trail.version
    return attributes
