"""One connection to Redis, owned by one thread, that never sends a command twice.

redis-py's clients send a command again after a connection error. For XADD that makes a second job; for XREADGROUP it
strands the entries of the lost reply in this worker's own pending list. A `Link` speaks to redis-py's `Connection`
below that machinery: what broke is reported, once, and the caller decides.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from convq.errors import QueueFull, RedisRefused, RedisUnavailable, SettingsError

SOCKET_TIMEOUT_S = 5.0
"""A reply later than this means that the connection is dead. Every BLOCK of convq is far shorter."""
CONNECT_TIMEOUT_S = 3.0

Command = tuple[Any, ...]

_TRANSIENT = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.BusyLoadingError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.TryAgainError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.MasterDownError,
    OSError,
)
_TRANSIENT_REPLIES = (
    "LOADING",
    "BUSY",
    "MISCONF",
    "READONLY",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "NOREPLICAS",
    "UNBLOCKED",
)


def lua(name: str) -> str:
    """The text of `lua/<name>.lua` of this package."""
    return files("convq.queue").joinpath("lua", f"{name}.lua").read_text()


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script of `queue/lua/`, called by its hash and sent whole where the server does not know it."""

    name: str
    source: str
    sha: str

    @classmethod
    def load(cls, *names: str) -> Script:
        """Read `lua/<name>.lua` of this package; several are one script in that order, called by the last name."""
        source = "\n".join(lua(name) for name in names)
        return cls(names[-1], source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())

    def call(self, keys: Sequence[str], args: Sequence[Any]) -> Command:
        """The EVALSHA of this script."""
        return ("EVALSHA", self.sha, len(keys), *keys, *args)

    def whole(self, call: Command) -> Command:
        """The same call as EVAL, for a server that does not know the script."""
        return ("EVAL", self.source, *call[2:])


def connection_options(url: str, socket_timeout_s: float = SOCKET_TIMEOUT_S) -> dict[str, Any]:
    """What every connection of convq is made with: RESP2, bytes, explicit timeouts, nothing sent twice.

    Raises SettingsError for a URL that redis-py cannot read.
    """
    try:
        kind = redis.connection.parse_url(url).get("connection_class")  # type: ignore[no-untyped-call]
    except ValueError as error:
        raise SettingsError(
            f"{url!r} is no Redis URL ({error}); expected redis://HOST:PORT/DB, rediss:// or unix://PATH"
        ) from None
    options: dict[str, Any] = {
        "protocol": 2,
        "socket_timeout": socket_timeout_s,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_error": [],
        "health_check_interval": 0,
        "client_name": f"convq-{os.getpid()}",
    }
    if kind is not redis.UnixDomainSocketConnection:
        options["socket_keepalive"] = True
    return options


def understood(error: Exception) -> Exception:
    """The error of convq's tree for one of redis-py's."""
    text = str(error)
    if isinstance(error, redis.exceptions.OutOfMemoryError) or text.startswith("OOM"):
        return QueueFull("Redis is at its maxmemory and takes no new jobs; try again when workers have drained some")
    if isinstance(error, redis.exceptions.AuthenticationError | redis.exceptions.NoPermissionError):
        return RedisRefused(f"Redis refused the credentials or the rights: {text}")
    if isinstance(error, _TRANSIENT) or text.startswith(_TRANSIENT_REPLIES):
        return RedisUnavailable(f"Redis cannot answer now: {text or type(error).__name__}")
    return RedisRefused(f"Redis refused a command: {text}")


class Link:
    """One connection. Not for two threads at once; connects by itself at the first command.

    After any RedisUnavailable the connection is closed, and what was under way may or may not have happened.
    """

    def __init__(self, url: str) -> None:
        pool = redis.ConnectionPool.from_url(url, max_connections=1, **connection_options(url))
        self._connection: Any = pool.make_connection()
        self._doubted = False
        self.connects = 0

    @property
    def connected(self) -> bool:
        """Whether the next command finds an open connection."""
        return bool(self._connection.is_connected)

    def close(self) -> None:
        """Close the connection; the next command opens a new one."""
        self._connection.disconnect()

    def doubt(self) -> None:
        """Open a new connection before the next command; any thread may say so.

        Where another connection to the same server broke, this one may be half open, and would cost its whole timeout.
        """
        self._doubted = True

    def call(self, *command: Any) -> Any:
        """Send one command and return its reply. Raises RedisUnavailable, RedisRefused, QueueFull."""
        reply = self.flush([command])[0]
        if isinstance(reply, Exception):
            raise understood(reply) from reply
        return reply

    def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Call a script; a server that lost it is sent the source."""
        call = script.call(keys, args)
        reply = self.flush([call])[0]
        if isinstance(reply, redis.exceptions.NoScriptError):
            reply = self.flush([script.whole(call)])[0]
        if isinstance(reply, Exception):
            raise understood(reply) from reply
        return reply

    def flush(self, commands: Sequence[Command]) -> list[Any]:
        """Send several commands in one write and return all replies; a refused command's reply is the exception.

        Raises RedisUnavailable when the connection broke.
        """
        connection = self._connection
        try:
            if self._doubted:
                self._doubted = False
                connection.disconnect()
            if not connection.is_connected:
                self.connects += 1
                connection.connect()
            connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            return [self._reply() for _ in commands]
        except (redis.exceptions.RedisError, OSError) as error:
            connection.disconnect()
            raise understood(error) from error

    def _reply(self) -> Any:
        try:
            return self._connection.read_response()
        except redis.exceptions.ResponseError as refused:
            return refused
