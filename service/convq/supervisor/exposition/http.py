"""/metrics, /livez and /readyz over plain HTTP. No web framework: three pages, read by machines.

Whoever may connect may be slow, silent or many: a connection has a time and one request, and of too many the oldest is
cut, so that a probe of the machine that keeps this service alive always gets through.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from convq.errors import SettingsError
from convq.host import host_names
from convq.logs import event
from convq.threads import Watch

log = logging.getLogger("convq.probes")

Check = Callable[[], tuple[bool, str]]
"""Whether all is well, and one line for the person who asks."""

REQUEST_TIMEOUT_S = 10
"""A connection is cut this long after it was made, whatever came in meanwhile."""
MOST_CONNECTIONS = 64


class Probes:
    """The listener. `live`: the supervisor's loop goes round, whatever Redis does. `ready`: jobs are being asked for."""

    def __init__(
        self,
        address: tuple[str, int],
        registry: CollectorRegistry,
        live: Check,
        ready: Check,
        watch: Watch | None = None,
    ) -> None:
        self._watch = watch or Watch(log)
        pages = {
            "/metrics": lambda: (200, CONTENT_TYPE_LATEST, generate_latest(registry)),
            "/livez": lambda: _checked(live),
            "/readyz": lambda: _checked(ready),
        }
        try:
            self._server = _Server(address, _handler(pages))
        except OSError as error:
            reason = error.strerror or str(error)
            where = f"{host_names.in_url(address[0])}:{address[1]}"
            raise SettingsError(f"cannot listen on {where} ({reason}); choose another --http") from None
        self.url = f"http://{host_names.in_url(address[0])}:{self._server.server_address[1]}"

    def start(self) -> None:
        """Answer from a thread of its own."""
        self._watch.start("probes", self._server.serve_forever)

    def stop(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = MOST_CONNECTIONS

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family, place = _place(*address)
        super().__init__(place, handler)
        self._open: dict[socket.socket, float] = {}
        """When each connection was made, by `time.monotonic`, the oldest first. Handlers take theirs out."""

    def server_bind(self) -> None:
        """Where it is `::`, IPv4 is listened to as well, whatever the system's default is."""
        if self.address_family == socket.AF_INET6:
            with contextlib.suppress(OSError):
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread; where too many are open already, the oldest one goes."""
        for oldest in list(self._open)[: max(0, len(self._open) - MOST_CONNECTIONS + 1)]:
            self._cut(oldest)
        self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Called twice a second: cut what has been open too long."""
        for request, since_s in list(self._open.items()):
            if time.monotonic() - since_s > REQUEST_TIMEOUT_S:
                self._cut(request)

    def shutdown_request(self, request: Any) -> None:
        """The end of a connection."""
        self._open.pop(request, None)
        super().shutdown_request(request)

    def _cut(self, request: socket.socket) -> None:
        """Its handler finds the connection ended, and ends."""
        self._open.pop(request, None)
        with contextlib.suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """What a client's disappearance throws is no news; anything else is a defect."""
        del request  # closed by whoever calls this
        error = sys.exception()
        if not isinstance(error, OSError):
            event(log, logging.ERROR, f"a page failed: {error!r}", client=client_address[0])


def _place(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    """The family of a host's address and the address itself, IPv4 where a name has both. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, *_, place = min(found, key=lambda one: one[0] != socket.AF_INET)
    return family, place


def _checked(check: Check) -> tuple[int, str, bytes]:
    well, line = check()
    return 200 if well else 503, "text/plain; charset=utf-8", f"{line}\n".encode()


def _handler(pages: dict[str, Callable[[], tuple[int, str, bytes]]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_TIMEOUT_S
        server_version = "convq"
        sys_version = ""

        def do_GET(self) -> None:
            page = pages.get(self.path.partition("?")[0])
            status, kind, body = page() if page else (404, "text/plain; charset=utf-8", b"/metrics /livez /readyz\n")
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

        def log_message(self, format: str, *args: object) -> None:
            """Probes come every few seconds: not worth a line each."""

    return Handler
