"""The HTTP pages under clients that are slow, silent, many or rude: the next probe is answered all the same."""

from __future__ import annotations

import json
import socket
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from convq.supervisor.exposition import http
from convq.supervisor.exposition.http import MOST_CONNECTIONS, Probes
from pace import Stopwatch
from servers import wait_until

SOON_S = 2.0


@pytest.fixture
def pages() -> Iterator[Probes]:
    def broken() -> tuple[bool, str]:
        raise ValueError("a defect")

    running = Probes(("127.0.0.1", 0), CollectorRegistry(), lambda: (True, "alive"), broken)
    running.start()
    yield running
    running.stop()


def connect(pages: Probes) -> socket.socket:
    port = int(pages.url.rpartition(":")[2])
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def alive(pages: Probes) -> bool:
    with Stopwatch() as watch:
        with urllib.request.urlopen(f"{pages.url}/livez", timeout=60) as reply:  # noqa: S310 - our own loopback address
            assert b"alive\n" == reply.read()
    return watch.quiet_s < SOON_S


def handlers() -> int:
    return sum("process_request_thread" in thread.name for thread in threading.enumerate())


def said(connection: socket.socket) -> bytes:
    """All that comes until the server ends the connection."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def test_however_many_connect_and_say_nothing_the_next_probe_is_answered(pages: Probes) -> None:
    silent = [connect(pages) for _ in range(5 * MOST_CONNECTIONS)]
    try:
        assert alive(pages)
        assert alive(pages)
        wait_until(lambda: handlers() <= MOST_CONNECTIONS)
        assert b"" == said(silent[0]), "the oldest is cut"
    finally:
        for connection in silent:
            connection.close()
    wait_until(lambda: handlers() == 0)


def test_who_sends_a_letter_now_and_then_is_cut_all_the_same(pages: Probes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each letter comes within the time that a single read may take: only the age of the connection tells."""
    monkeypatch.setattr(http, "REQUEST_TIMEOUT_S", 1)
    with connect(pages) as slow, Stopwatch() as watch:

        def dripped() -> bool:
            try:
                slow.sendall(b"x")
            except OSError:
                return True
            return False

        wait_until(dripped, every_s=0.1)

    assert watch.took_s >= 1
    assert watch.quiet_s < 5
    assert alive(pages)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.0\r\n\r\n", b"414"),
        (b"GET /livez HTTP/1.0\r\n" + b"X-Many: y\r\n" * 200 + b"\r\n", b"431"),
        (b"GET /livez HTTP/1.0\r\nX-Long: " + b"y" * 100_000 + b"\r\n\r\n", b"431"),
        (b"POST /metrics HTTP/1.0\r\nContent-Length: 999999999999\r\n\r\n", b"501"),
        (b"GET /../../etc/passwd HTTP/1.0\r\n\r\n", b"404"),
        (b"GET http://elsewhere/livez HTTP/1.0\r\n\r\n", b"404"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n", b"400"),
    ],
)
def test_what_is_no_sensible_request_is_refused(pages: Probes, request_bytes: bytes, status: bytes) -> None:
    with connect(pages) as rude:
        rude.sendall(request_bytes)
        assert status in said(rude)[:400]

    assert alive(pages)


def test_a_connection_answers_one_request(pages: Probes) -> None:
    with connect(pages) as busy:
        busy.sendall(b"GET /livez HTTP/1.1\r\nConnection: keep-alive\r\n\r\n" * 3)

        assert 1 == said(busy).count(b"200 OK")


def test_who_leaves_in_the_middle_is_no_news_and_a_defect_is_one_line(
    pages: Probes, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    for _ in range(20):
        with connect(pages) as hasty:
            hasty.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            hasty.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert alive(pages)
    with connect(pages) as asking:
        asking.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
        said(asking)

    wait_until(lambda: any("a page failed: ValueError('a defect')" in line for line in caplog.messages))
    assert "Traceback" not in json.dumps(capfd.readouterr())
