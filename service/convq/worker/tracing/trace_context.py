"""The W3C trace context that a client gave its job, as far as it is one. Knows nothing of OpenTelemetry."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TRACEPARENT = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?P<trace>(?!0{32})[0-9a-f]{32})-(?P<span>(?!0{16})[0-9a-f]{16})-"
    r"(?P<flags>[0-9a-f]{2})(?P<more>-.*)?\Z",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class TraceContext:
    """The trace that a job belongs to, and the span in it that submitted the job; both in lower-case hexadecimals."""

    trace_id: str
    span_id: str
    sampled: bool
    """Whether the client wants its spans to be recorded."""


def trace_context(traceparent: str | None) -> TraceContext | None:
    """What a job's `traceparent` says; None where there is none, or none that the standard allows."""
    found = _TRACEPARENT.match(traceparent) if traceparent else None
    if found is None or (found["version"] == "00" and found["more"]):
        return None
    return TraceContext(found["trace"], found["span"], bool(int(found["flags"], 16) & 1))
