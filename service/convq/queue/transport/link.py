"""One connection to Redis, owned by one thread, that never sends a command twice.

redis-py's clients send a command again after a connection error. For XADD that makes a second job; for XREADGROUP it
strands the entries of the lost reply in this worker's own pending list. A `Link` speaks to redis-py's `Connection`
below that machinery: what broke is reported, once, and the caller decides.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.retry import Retry

from convq.errors import ConvqError, QueueFull, RedisRefused, RedisUnavailable, StrangeKey
from convq.masking import masked, remember
from convq.queue.transport.address import Address, password_in
from convq.queue.transport.metering import Meter, ReplyTooLarge, metered

SOCKET_TIMEOUT_S = 5.0
"""A reply later than this means that the connection is dead. Every BLOCK of convq is far shorter."""
CONNECT_TIMEOUT_S = 3.0

Command = tuple[Any, ...]
AT_MAXMEMORY = "Redis is at its maxmemory"
EXHAUSTED = "exhausted the last possible ID"
"""What a stream says whose last entry has the largest id there is."""

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
_TRAILER = re.compile(r" script: [0-9a-f]{40}, on .*", re.DOTALL)
"""Where in a script a command was refused; "ACL failure in script: …" goes on with what was."""
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
    return files("convq.queue").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")


def text_of(name: bytes) -> str:
    """A name that a stranger may have written, bytes that are no text escaped: for a log, and never to be sent back."""
    return name.decode("utf-8", "backslashreplace")


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script of `queue/lua/`, called by its hash and sent whole where the server does not know it."""

    name: str
    source: str
    sha: str

    @classmethod
    def load(cls, *names: str) -> Script:
        """Read `lua/<name>.lua` of this package; several are one script in that order, called by the last name.

        Flags, the line that begins with #!, count for the whole and stand before it.
        """
        texts = [lua(name) for name in names]
        flags = next((text.partition("\n")[0] for text in texts if text.startswith("#!")), None)
        bodies = [text.partition("\n")[2] if text.startswith("#!") else text for text in texts]
        source = "\n".join(bodies if flags is None else [flags, *bodies])
        return cls(names[-1], source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())

    def call(self, keys: Sequence[str], args: Sequence[Any]) -> Command:
        """The EVALSHA of this script."""
        return ("EVALSHA", self.sha, len(keys), *keys, *args)

    def whole(self, call: Command) -> Command:
        """The same call as EVAL, for a server that does not know the script."""
        return ("EVAL", self.source, *call[2:])


class PasswordFile(CredentialProvider):
    """User and password, the password as its file holds it when a connection is made: it may change under a service."""

    def __init__(self, user: str | None, file: Path) -> None:
        self._user = user
        self._file = file

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """What AUTH is sent with. Raises redis-py's ConnectionError: the file may be there again in a moment."""
        try:
            password = password_in(self._file)
        except (OSError, ValueError) as error:
            raise redis.exceptions.ConnectionError(f"no password in {self._file}: {error}") from None
        remember(password)
        return (password,) if self._user is None else (self._user, password)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """The same, for asyncio."""
        return self.get_credentials()


def connection_options(address: Address, socket_timeout_s: float = SOCKET_TIMEOUT_S) -> dict[str, Any]:
    """The URL and what else every connection is made with: RESP2, bytes, explicit timeouts, nothing sent twice.

    Raises SettingsError for a URL that says too much or cannot be read, and for files that are not what they should be.
    """
    address.examine()
    kind = redis.connection.parse_url(address.url).get("connection_class")  # type: ignore[no-untyped-call]
    options: dict[str, Any] = {
        "url": address.url,
        "protocol": 2,
        "socket_timeout": socket_timeout_s,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_error": [],
        "health_check_interval": 0,
        "client_name": f"convq-{os.getpid()}",
        "driver_info": None,  # no CLIENT SETINFO: Redis 7.0 does not know it, so that no ACL for all versions can allow it
    }
    if kind is not redis.UnixDomainSocketConnection:
        options["socket_keepalive"] = True
    if kind is redis.SSLConnection:
        options |= _tls_options(address)
    if address.password_file is not None:
        options["url"] = address.without_user
        options["credential_provider"] = PasswordFile(address.user, Path(address.password_file))
    return options


def _tls_options(address: Address) -> dict[str, Any]:
    """The files are read at every connect: what has been renewed is used by the next one."""
    return {
        "ssl_ca_certs": None if address.ca is None else str(address.ca),
        "ssl_certfile": None if address.cert is None else str(address.cert),
        "ssl_keyfile": None if address.key is None else str(address.key),
        "ssl_password": "",  # else OpenSSL would ask for that of an encrypted key on the terminal
        "ssl_min_version": ssl.TLSVersion.TLSv1_2,
    }


def understood(error: Exception) -> Exception:
    """The error of convq's tree for one of redis-py's."""
    text = masked(str(error))
    if (tls := _tls_error(error)) is not None:
        return tls
    if isinstance(error, redis.exceptions.OutOfMemoryError) or text.startswith("OOM"):
        return QueueFull(f"{AT_MAXMEMORY} and takes no new jobs; try again when workers have drained some")
    if isinstance(error, redis.exceptions.AuthenticationError | redis.exceptions.NoPermissionError):
        return RedisRefused(f"Redis refused the credentials or the rights: {text}")
    if isinstance(error, _TRANSIENT) or text.startswith(_TRANSIENT_REPLIES):
        return RedisUnavailable(f"Redis cannot answer now: {text or type(error).__name__}")
    return _refusal(_TRAILER.sub("", text))


def _refusal(text: str) -> ConvqError:
    """What an error reply means that is none of the server as a whole."""
    if "WRONGTYPE" in text:
        return StrangeKey(f"a key that convq keeps holds something else: {text}")
    if EXHAUSTED in text:
        return RedisUnavailable(f"this stream takes no jobs until a service has mended it: {text}")
    return RedisRefused(f"Redis refused a command: {text}")


def hangs_up(refused: Exception) -> bool:
    """Whether the server closes the connection behind this reply: it could not tell where the next command begins.

    What else it closes behind (no room for clients, protected mode) are no replies to a command.
    """
    return str(refused).removeprefix("ERR ").startswith("Protocol error")


_HANDSHAKE_REFUSALS = {
    "CERTIFICATE_REQUIRED": "the server wants a client certificate: name one with --redis-cert and --redis-key",
    "UNKNOWN_CA": "the server does not know the authority that signed --redis-cert",
    "BAD_CERTIFICATE": "the server does not take the certificate in --redis-cert",
    "CERTIFICATE_EXPIRED": "for the server the certificate in --redis-cert has expired",
    "HANDSHAKE_FAILURE": "the server wants a client certificate (--redis-cert, --redis-key), or no cipher suits both",
    "WRONG_VERSION_NUMBER": "what listens there does not speak TLS: name its TLS port, or a redis:// URL",
    "RECORD_LAYER_FAILURE": "what listens there does not speak TLS: name its TLS port, or a redis:// URL",
}
"""End of OpenSSL's reason -> what it means here."""
_HOST_MISMATCHES = {62, 64}
"""OpenSSL's verify codes for a certificate that is of another host name or IP address."""


def _tls_error(error: BaseException) -> ConvqError | None:
    """What a failed handshake means; None where the error is of another kind."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return None
    if isinstance(cause, ssl.SSLCertVerificationError):
        if cause.verify_code in _HOST_MISMATCHES:
            why = f"{cause.verify_message.rstrip('.')}; name the host in the URL as the certificate does"
        else:
            why = f"{cause.verify_message}; name the authority that signed it with --redis-ca"
        return RedisRefused(f"the server's certificate is not trusted: {why}")
    if isinstance(cause, ssl.SSLEOFError):  # the reason is lost where the server closes while we still write
        return RedisUnavailable(
            "Redis ended the TLS connection: it is gone, or does not take our client certificate (--redis-cert, --redis-key)"
        )
    for ending, why in _HANDSHAKE_REFUSALS.items():
        if (cause.reason or "").endswith(ending):
            return RedisRefused(f"no TLS with Redis: {why}")
    return None


class Link:
    """One connection. Not for two threads at once; connects by itself at the first command.

    After any RedisUnavailable the connection is closed, and what was under way may or may not have happened.
    """

    def __init__(self, where: Address | str) -> None:
        pool = redis.ConnectionPool.from_url(max_connections=1, **connection_options(Address.of(where)))
        self.meter = Meter()
        pool.connection_class = metered(pool.connection_class, self.meter)
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

    def flush(self, commands: Sequence[Command], limit_bytes: float = math.inf) -> list[Any]:
        """Send several commands in one write and return all replies; a refused command's reply is the exception.

        Raises RedisUnavailable when the connection broke; ReplyTooLarge where the replies have more than `limit_bytes`
        bytes together: then the rest was not read, and the connection is closed.
        """
        connection = self._connection
        self.meter.start(limit_bytes)
        try:
            if self._doubted:
                self._doubted = False
                connection.disconnect()
            if not connection.is_connected:
                self.connects += 1
                connection.connect()
            connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            return [self._reply() for _ in commands]
        except ReplyTooLarge:
            connection.disconnect()
            raise
        except (redis.exceptions.RedisError, OSError) as error:
            connection.disconnect()
            raise understood(error) from error
        finally:
            self.meter.end()

    def _reply(self) -> Any:
        try:
            return self._connection.read_response()
        except redis.exceptions.ResponseError as refused:
            if hangs_up(refused):
                self.close()
            return refused
