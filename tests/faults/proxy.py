"""A TCP proxy that a test puts between the service and its server, to be the network on a bad day.

It can hold everything back, strand the connections that exist, reset them, be slow, send byte by byte, and stop
at a fail-point: at a named command on its way to the server, or at the reply to it on its way back.
"""

from __future__ import annotations

import re
import socket
import struct
import threading
from dataclasses import dataclass, field
from typing import Literal, Self

NAME = re.compile(rb"convq-(\d+)")
RESET = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: closing sends RST
NOTHING = b"*-1\r\n"


@dataclass(eq=False)
class FailPoint:
    """Stops one command, once: the request before the server sees it, or the reply that has something in it.

    `caught` is set when it has happened, `pid` is then the process that sent the command. What was held goes on at
    `release`; a reply is thrown away. With `then="reset"` the connection is reset at once.
    """

    command: bytes
    where: Literal["request", "reply"]
    then: Literal["hold", "reset"] = "hold"
    caught: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)
    pid: int = 0


class Pair:
    """One connection through the proxy: its end to the client, and its end to the server."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.pid = 0
        self.stranded = False
        self.awaited: FailPoint | None = None

    def close(self, *, reset: bool = False) -> None:
        """End both connections, in good order or by RST."""
        for end in (self.client, self.server):
            try:
                if reset:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            end.close()


class Proxy:
    """Listens on a free port of 127.0.0.1 and passes on to the server at `port`. Its switches may be turned any time."""

    def __init__(self, port: int) -> None:
        self.delay_s = 0.0
        self.trickling = False
        self.accepted = 0
        self._failpoint: FailPoint | None = None
        self._flowing = threading.Event()
        self._flowing.set()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._pairs: set[Pair] = set()
        self._server_port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """What the service connects to."""
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"

    def freeze(self) -> None:
        """A partition: nothing passes, nobody is told. What is under way is kept, as TCP would keep it."""
        self._flowing.clear()

    def thaw(self) -> None:
        """The partition is over: what was kept goes on."""
        self._flowing.set()

    def strand(self) -> int:
        """Half-open: the connections that exist now carry nothing any more, and nobody is told; new ones work."""
        with self._lock:
            for pair in self._pairs:
                pair.stranded = True
            return len(self._pairs)

    def reset(self) -> int:
        """RST to both ends of every connection."""
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            pair.close(reset=True)
        return len(pairs)

    def stop_at(self, failpoint: FailPoint) -> FailPoint:
        """Arm a fail-point."""
        self._failpoint = failpoint
        return failpoint

    def close(self) -> None:
        """End everything."""
        self._over.set()
        self._flowing.set()
        self._listener.close()
        self.reset()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        self._listener.settimeout(0.2)
        while not self._over.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:  # nobody within the 0.2 s, or closed
                continue
            self.accepted += 1
            try:
                server = socket.create_connection(("127.0.0.1", self._server_port), 5)
            except OSError:
                client.close()
                continue
            pair = Pair(client, server)
            with self._lock:
                self._pairs.add(pair)
            for end in (client, server):
                end.settimeout(None)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._pump, args=(pair, client, server), daemon=True).start()
            threading.Thread(target=self._pump, args=(pair, server, client), daemon=True).start()

    def _pump(self, pair: Pair, source: socket.socket, sink: socket.socket) -> None:
        try:
            while chunk := source.recv(1 << 16):
                self._flowing.wait()
                if pair.stranded:
                    self._over.wait()
                    return
                if not (self._at_request if source is pair.client else self._at_reply)(pair, chunk):
                    return
                self._send(sink, chunk)
        except OSError:
            pass
        finally:
            pair.close()
            with self._lock:
                self._pairs.discard(pair)

    def _send(self, sink: socket.socket, chunk: bytes) -> None:
        self._over.wait(self.delay_s)
        step = 1 if self.trickling else len(chunk)
        for at in range(0, len(chunk), step):
            sink.sendall(chunk[at : at + step])

    def _at_request(self, pair: Pair, chunk: bytes) -> bool:
        """Whether a request may go on. Requests that a fail-point names begin their write, so 300 bytes tell."""
        name = NAME.search(chunk) if not pair.pid else None
        if name:
            pair.pid = int(name[1])
        point = self._failpoint
        if point is None or point.command not in chunk[:300]:
            return True
        if point.where == "reply":
            pair.awaited = point
            return True
        return self._catch(pair, point)

    def _at_reply(self, pair: Pair, chunk: bytes) -> bool:
        """Whether a reply may go on; one that says "nothing" or is an error is not what a fail-point waits for."""
        point, pair.awaited = pair.awaited, None
        if point is None or point is not self._failpoint or chunk.startswith((NOTHING, b"-")):
            return True
        self._catch(pair, point)
        return False

    def _catch(self, pair: Pair, point: FailPoint) -> bool:
        with self._lock:
            if self._failpoint is not point:
                return True
            self._failpoint = None
        point.pid = pair.pid
        if point.then == "hold":
            point.caught.set()
            point.release.wait()
            return True
        pair.close(reset=True)
        point.caught.set()
        return False
