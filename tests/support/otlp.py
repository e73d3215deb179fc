"""A collector of traces for tests: takes OTLP over HTTP, as any other does, and keeps what came."""

from __future__ import annotations

import gzip
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from servers import wait_until


@dataclass(frozen=True)
class Span:
    """One span as it was sent; ids in hexadecimals, times in nanoseconds."""

    name: str
    trace: str
    id: str
    parent: str
    kind: int
    began_ns: int
    ended_ns: int
    error: bool
    message: str
    attributes: dict[str, Any]
    links: tuple[str, ...]
    resource: dict[str, Any]

    @property
    def spent_ms(self) -> float:
        """How long it took."""
        return (self.ended_ns - self.began_ns) / 1e6


class Collector:
    """Listens on a free port. `mood`: takes what comes, refuses it with 503, or never answers."""

    def __init__(self, mood: Literal["takes", "refuses", "hangs"] = "takes") -> None:
        self.mood = mood
        self.spans: list[Span] = []
        self.headers: dict[str, str] = {}
        self.requests = 0
        self._released = threading.Event()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers["Content-Encoding"] == "gzip":
                    body = gzip.decompress(body)
                collector.requests += 1
                if collector.mood == "hangs":
                    collector._released.wait()
                elif self.path == "/v1/traces" and collector.mood == "takes":
                    collector.headers = dict(self.headers)
                    collector.spans += spans_of(body)
                self.send_response(200 if collector.mood == "takes" else 503)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        """What `--otlp` gets."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def wait_for(self, name: str, count: int = 1, timeout_s: float = 15.0) -> list[Span]:
        """At least so many spans whose name begins with `name`."""

        def found() -> list[Span]:
            return [span for span in list(self.spans) if span.name.startswith(name)]

        wait_until(lambda: len(found()) >= count, timeout_s)
        return found()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def spans_of(body: bytes) -> list[Span]:
    """The spans of one request."""
    return [
        Span(
            span.name,
            span.trace_id.hex(),
            span.span_id.hex(),
            span.parent_span_id.hex(),
            span.kind,
            span.start_time_unix_nano,
            span.end_time_unix_nano,
            span.status.code == span.status.STATUS_CODE_ERROR,
            span.status.message,
            _values(span.attributes),
            tuple(link.span_id.hex() for link in span.links),
            _values(part.resource.attributes),
        )
        for part in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in part.scope_spans
        for span in scope.spans
    ]


def _values(pairs: Any) -> dict[str, Any]:
    def value(pair: KeyValue) -> Any:
        return getattr(pair.value, pair.value.WhichOneof("value") or "string_value")

    return {pair.key: value(pair) for pair in pairs}
