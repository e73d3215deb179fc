"""A reply behind which the server closes the connection: the next command takes a new one instead of failing on the old.

When a client is told that a connection is over, the network decides. Here it never is told: what must hold whenever the
news comes must hold without it.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Self

import pytest
import redis

from convq import AsyncClient, Client
from convq.errors import RedisRefused
from convq.queue.transport.link import Link
from servers import OwnServer

LIMIT = 1 << 20
TOO_LONG = b"x" * (LIMIT + 1)


class SilentRelay:
    """Passes bytes on, and to a client no end of a connection: what the server has closed takes bytes for ever."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # closed: the test is over
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                self._open += [client, server]
                threading.Thread(target=_pass_on, args=(client, server), daemon=True).start()
                threading.Thread(target=_pass_on, args=(server, client), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for end in (self._listener, *self._open):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while chunk := source.recv(1 << 16):
            with suppress(OSError):
                sink.sendall(chunk)


@pytest.fixture
def url(any_server: OwnServer) -> Iterator[str]:
    with redis.Redis.from_url(any_server.url) as admin, SilentRelay(any_server.port) as relay:
        (usual,) = admin.config_get("proto-max-bulk-len").values()
        admin.config_set("proto-max-bulk-len", LIMIT)
        yield relay.url
        admin.config_set("proto-max-bulk-len", usual)


def test_a_client_goes_on_after_a_job_that_the_server_could_not_read(url: str) -> None:
    with Client(url, model="lenet") as client:
        for _ in range(3):
            job = client.submit(b"x")
            with pytest.raises(RedisRefused, match="Protocol error"):
                client.submit(TOO_LONG)

            assert "waiting" == client.status(job)


def test_so_does_one_of_asyncio(url: str) -> None:
    async def main() -> None:
        async with AsyncClient(url, model="lenet") as client:
            for _ in range(3):
                job = await client.submit(b"x")
                with pytest.raises(RedisRefused, match="Protocol error"):
                    await client.submit(TOO_LONG)

                assert "waiting" == await client.status(job)

    asyncio.run(main())


def test_what_other_threads_do_meanwhile_is_not_disturbed(url: str) -> None:
    with Client(url, model="lenet") as client:
        over = threading.Event()
        failed: list[Exception] = []

        def watch() -> None:
            while not over.is_set():
                try:
                    client.status("1-1")
                except Exception as error:  # noqa: BLE001 - whatever it is: none is right
                    failed.append(error)

        thread = threading.Thread(target=watch)
        thread.start()
        for _ in range(5):
            with pytest.raises(RedisRefused):
                client.submit(TOO_LONG)
        over.set()
        thread.join()

    assert [] == failed


@pytest.mark.parametrize(
    "send", [lambda link, *command: link.call(*command), lambda link, *command: link.flush([command])]
)
def test_so_does_a_worker_link(url: str, send: Callable[..., Any]) -> None:
    link = Link(url)
    with suppress(RedisRefused):
        send(link, "SET", "a", TOO_LONG)

    assert not link.connected
    assert b"PONG" == link.call("PING")
    assert 2 == link.connects
    link.close()


def test_a_refusal_that_leaves_the_connection_open_costs_none(url: str) -> None:
    link = Link(url)
    for command in (["NO-SUCH"], ["GET"], ["Protocol error"], ["LPUSH", "a", "x"], ["GET", "a"]):
        with suppress(RedisRefused):
            link.call(*command)

    assert link.connected
    assert 1 == link.connects
    link.close()
