"""/metrics, /livez and /readyz over plain HTTP. No web framework: three pages, read by machines."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from convq.errors import SettingsError

Check = Callable[[], tuple[bool, str]]
"""Whether all is well, and one line for the person who asks."""

REQUEST_TIMEOUT_S = 10


class Probes:
    """The listener. `live`: the supervisor's loop goes round, whatever Redis does. `ready`: jobs are being asked for."""

    def __init__(self, address: tuple[str, int], registry: CollectorRegistry, live: Check, ready: Check) -> None:
        pages = {
            "/metrics": lambda: (200, CONTENT_TYPE_LATEST, generate_latest(registry)),
            "/livez": lambda: _checked(live),
            "/readyz": lambda: _checked(ready),
        }
        try:
            self._server = _Server(address, _handler(pages))
        except OSError as error:
            reason = error.strerror or str(error)
            raise SettingsError(
                f"cannot listen on {address[0]}:{address[1]} ({reason}); choose another --http"
            ) from None
        self.url = f"http://{address[0]}:{self._server.server_address[1]}"

    def start(self) -> None:
        """Answer from a thread of its own."""
        threading.Thread(target=self._server.serve_forever, name="probes", daemon=True).start()

    def stop(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True


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
