"""Counts the bytes of a reply while they come in, and stops reading one that is larger than its reader can hold.

How large the reply to a claim becomes is known only when it is on the way: clients decide what lies in the stream. So
the socket itself counts, below the parser, which would collect all of it first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

LARGE_BYTES = 1 << 20
"""From here on a reply is worth a note: only while one comes in can it be what its reader dies of."""


class ReplyTooLarge(Exception):
    """The reply to a command is larger than its reader allows. The command has been carried out."""


class Meter:
    """Counts what one connection reads. `on_large` hears of each reply that has grown beyond `LARGE_BYTES`, and of its end."""

    def __init__(self) -> None:
        self.read_bytes = 0
        """Since `start`."""
        self.large = False
        self.on_large: Callable[[bool], object] = bool
        """True once a reply is large, False when it has come or broken off."""
        self._limit_bytes: float = 0.0

    def start(self, limit_bytes: float) -> None:
        """What comes from now on is another reply, of at most `limit_bytes`."""
        self.read_bytes, self.large, self._limit_bytes = 0, False, limit_bytes

    def end(self) -> None:
        """Nothing more comes of it."""
        if self.large:
            self.large = False
            self.on_large(False)

    def count(self, more_bytes: int) -> None:
        """So much has been read. Raises ReplyTooLarge."""
        self.read_bytes += more_bytes
        if self.read_bytes > LARGE_BYTES:
            if not self.large:
                self.large = True
                self.on_large(True)
            if self.read_bytes > self._limit_bytes:
                raise ReplyTooLarge(f"more than {self._limit_bytes:,.0f} bytes")


class MeteredSocket:
    """A connected socket that tells a meter what was read; everything else is the socket's own."""

    def __init__(self, socket: Any, meter: Meter) -> None:
        self._socket = socket
        self._count = meter.count

    def recv(self, *args: Any) -> Any:
        """As of the socket: what redis-py's own parser reads with."""
        data = self._socket.recv(*args)
        self._count(len(data))
        return data

    def recv_into(self, *args: Any) -> int:
        """As of the socket: what its parser with hiredis reads with."""
        size: int = self._socket.recv_into(*args)
        self._count(size)
        return size

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


def metered(connection_class: type[Any], meter: Meter) -> type[Any]:
    """That class of redis-py's connections, over sockets that this meter watches."""

    def connect(self: Any) -> MeteredSocket:
        return MeteredSocket(connection_class._connect(self), meter)  # noqa: SLF001 - below its retry machinery, as `Link`

    return type(f"Metered{connection_class.__name__}", (connection_class,), {"_connect": connect})
