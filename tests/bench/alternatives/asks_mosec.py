"""mosec over HTTP: one connection for one request, 256 that are kept open for many."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import queue
import threading
from collections.abc import Callable, Iterator, Sequence

from caller import Event

CONNECTIONS = 256
"""Twice what two workers take in one batch each."""
OK = 200
RETRY_S = 0.05


def connect(_name: str, address: str) -> Mosec:
    """`address` is host:port."""
    host, _, port = address.partition(":")
    return Mosec(host, int(port))


class Mosec:
    """A client of `mosec_server`. Requests are written by hand: a library would cost more than what is measured."""

    def __init__(self, host: str, port: int) -> None:
        self._where = (host, port)
        self._single = http.client.HTTPConnection(host, port)

    def ask(self, image: bytes) -> int:
        """One request on a connection that is kept open."""
        self._single.request("POST", "/inference", image)
        return int(json.loads(self._single.getresponse().read())["label"])

    def many(self, images: Sequence[bytes]) -> list[int]:
        """All connections at once."""
        said = [-1] * len(images)

        def note(number: int, status: int, body: bytes) -> None:
            if status == OK:
                said[number] = json.loads(body)["label"]

        asyncio.run(self._all(images, note))
        return said

    def watch(self, images: Sequence[bytes]) -> Iterator[list[Event]]:
        """One event a response, or where its connection broke; nothing is sent again, so that it is seen what is told."""
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()

        def note(number: int, status: int, _body: bytes) -> None:
            events.put((str(number), status == OK))

        threading.Thread(target=lambda: asyncio.run(self._all(images, note)), daemon=True).start()
        while True:
            came: list[Event] = []
            with contextlib.suppress(queue.Empty):
                came.append(events.get(timeout=0.1))
                while len(came) < 100:
                    came.append(events.get_nowait())
            yield came

    async def _all(self, images: Sequence[bytes], note: Callable[[int, int, bytes], None]) -> None:
        numbers = iter(range(len(images)))
        connections = range(min(CONNECTIONS, len(images)))
        await asyncio.gather(*(self._requests(images, numbers, note) for _ in connections))

    async def _requests(
        self, images: Sequence[bytes], numbers: Iterator[int], note: Callable[[int, int, bytes], None]
    ) -> None:
        """One request after the other on one connection; a new one where it broke."""
        reader, writer = await asyncio.open_connection(*self._where)
        for number in numbers:
            try:
                status, body = await _post(reader, writer, images[number])
            except (OSError, EOFError):
                status, body = 0, b""
                await asyncio.sleep(RETRY_S)
                reader, writer = await asyncio.open_connection(*self._where)
            note(number, status, body)
        writer.close()


async def _post(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, image: bytes) -> tuple[int, bytes]:
    """Status and body of one response."""
    writer.write(b"POST /inference HTTP/1.1\r\nHost: mosec\r\nContent-Length: %d\r\n\r\n" % len(image) + image)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
    return int(head.split(b" ", 2)[1]), await reader.readexactly(length)
