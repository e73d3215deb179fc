"""Where a server is and how it is reached: URL, certificates, the file with the password; and how it is named to people."""

from __future__ import annotations

import ipaddress
import shlex
import shutil
import ssl
from codecs import BOM_UTF8
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit, urlunsplit

from convq.errors import SettingsError
from convq.masking import echoed, masked_url, password_of, remember
from convq.queue.transport.url import examine_url

MAX_PASSWORD_BYTES = 4096
TLS_FILES = ("ca", "cert", "key")
ADMIN, OPERATOR, WORKER = "admin", "operator", "worker"
"""Users of deploy/redis/users.acl whom messages name: who may change the server, look after it, and serve."""
USERS = ("producer", WORKER, OPERATOR, "exporter", "keda", ADMIN)
"""All of them."""


@dataclass(frozen=True, slots=True, repr=False)
class Address:
    """A Redis URL (redis://, rediss://, unix://) and the files that belong to it; as text it shows no password.

    Args:
        url: may name user and password; on a command line others can read them.
        ca: PEM file of the authorities that may have signed the server's certificate, besides those of the system.
        cert: PEM file of the client's own certificate, for servers that ask for one.
        key: PEM file of the private key of `cert`, not encrypted.
        password_file: file whose one line is the password. Like the others it is read at every connect, so that what
            has changed is used by the next one; the user's name stands in the URL.
    """

    url: str
    ca: str | Path | None = None
    cert: str | Path | None = None
    key: str | Path | None = None
    password_file: str | Path | None = None

    @classmethod
    def of(cls, where: Address | str) -> Address:
        """`where` itself, or the address of a bare URL."""
        return where if isinstance(where, Address) else cls(where)

    def __post_init__(self) -> None:
        for password in self._passwords():
            remember(password)

    def __str__(self) -> str:
        return shown(self.url)

    def __repr__(self) -> str:
        return f"Address({shown(self.url)!r})"

    @property
    def user(self) -> str | None:
        """The user that the URL names."""
        name = urlsplit(self.url).username
        return unquote(name) if name else None

    @property
    def without_user(self) -> str:
        """The URL without user and password."""
        parts = urlsplit(self.url)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))

    @property
    def is_here(self) -> bool:
        """Whether only processes of this machine can be meant."""
        host = urlsplit(self.url).hostname
        if host is None or host == "localhost":
            return True
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    @property
    def holds_password(self) -> bool:
        """Whether the URL itself has one."""
        return bool(self._passwords())

    def _passwords(self) -> list[str]:
        """As they are written in the URL. Never raises: the URL may be anything."""
        options = parse_qsl(self.url.partition("?")[2])
        given = [value for name, value in options if name in ("password", "ssl_password")]
        return [password for password in (password_of(self.url), *given) if password]

    def examine(self) -> None:
        """Look at URL and files. Raises SettingsError, which says what is wrong with which of them."""
        examine_url(self.url)
        self._examine_tls()
        if self.password_file is not None:
            if self.holds_password:
                _refuse("password_file", self.password_file, f"{self} holds a password too; give one of them")
            try:
                password_in(Path(self.password_file))
            except OSError as error:
                _refuse("password_file", self.password_file, _reason(error))
            except ValueError as error:
                _refuse("password_file", self.password_file, str(error))

    def _examine_tls(self) -> None:
        given = {name: Path(getattr(self, name)) for name in TLS_FILES if getattr(self, name) is not None}
        for name, path in given.items():
            if not self.url.startswith("rediss://"):
                _refuse(name, path, f"only a rediss:// URL is spoken to over TLS, and this is {self}")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if given else None
        if context and self.ca is not None:
            _examine_ca(context, Path(self.ca))
        if context and (self.cert is not None or self.key is not None):
            if self.key is None:
                _refuse("cert", self.cert, "its private key is missing: name it with --redis-key")
            if self.cert is None:
                _refuse("key", self.key, "the certificate that it belongs to is missing: name it with --redis-cert")
            _examine_pair(context, Path(self.cert), Path(self.key))


def _examine_ca(context: ssl.SSLContext, ca: Path) -> None:
    try:
        context.load_verify_locations(cafile=ca)
    except ssl.SSLError:
        _refuse("ca", ca, "it holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)")
    except OSError as error:
        _refuse("ca", ca, _reason(error))


def _examine_pair(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    for name, path in (("cert", cert), ("key", key)):
        try:
            text = path.read_bytes()
        except OSError as error:
            _refuse(name, path, _reason(error))
        if b"-----BEGIN " not in text:
            _refuse(name, path, "it is no PEM file (-----BEGIN …)")
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            _refuse("key", key, f"it is not the key of {cert}")
        _refuse("cert", cert, f"OpenSSL reads no certificate and key from it and {key} ({error.reason})")


def _no_password() -> str:
    """Called where a key is encrypted; without this OpenSSL would ask on the terminal."""
    raise SettingsError("--redis-key is encrypted, and nobody is there to type its password: give one that is not")


def _refuse(name: str, path: str | Path | None, why: str) -> NoReturn:
    raise SettingsError(f"--redis-{name.replace('_', '-')} {_named(path)}: {why}")


def _named(path: str | Path | None) -> str:
    """The path where it is one: it exists, or its folder does; what lies in no folder may be the password itself, given where its file belongs."""
    text = str(path)
    if "/" in text and (Path(text).parent.is_dir() and Path(text).parent != Path("/")):
        return text
    return echoed(text).strip("'")


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def password_in(file: Path) -> str:
    """The one line of that file, without a byte order mark. Raises OSError where it cannot be read, ValueError where it holds anything else."""
    if not file.is_file():
        file.stat()
        raise ValueError("it is no regular file, and a password is read again at every connect")
    with file.open("rb") as opened:
        held = opened.read(MAX_PASSWORD_BYTES + 1)
    lines = held.removeprefix(BOM_UTF8).splitlines() or [b""]
    if len(lines) != 1 or not lines[0].strip() or len(held) > MAX_PASSWORD_BYTES:
        seen = (
            "its first is blank"
            if not lines[0].strip()
            else f"it has {len(lines)}"
            if len(lines) > 1
            else "it is longer"
        )
        raise ValueError(f"it must hold one line, the password, of at most {MAX_PASSWORD_BYTES} bytes, and {seen}")
    try:
        return lines[0].decode()
    except UnicodeDecodeError:
        raise ValueError("it must hold text in UTF-8") from None


def shown(url: str) -> str:
    """The URL without any password."""
    return masked_url(url)


def redis_cli(where: Address | str, user: str | None = None) -> str:
    """How redis-cli, or valkey-cli where only that is here, is called to reach the same server: for a shell, as it is.

    A password is read from its file, or asked for on the terminal. `user`: another one than the address names; its password
    is read from the file of that name beside the other one, where there is such a file.
    """
    address = Address.of(where)
    parts = urlsplit(address.url)
    command = [_client_program()]
    if parts.scheme == "unix":
        command += ["-s", parts.path, *_database(parts)]
    elif parts.scheme == "redis" and parts.hostname == "127.0.0.1" and parts.path in ("", "/", "/0"):
        command += [] if parts.port in (None, 6379) else ["-p", str(parts.port)]
    else:
        command += ["-u", Address(shown(address.url)).without_user]
    name = user or address.user
    command += ["--user", name] if name else []
    file = address.password_file if user is None else _file_of(address, user)
    command += ["--askpass"] if file is None and (user is not None or address.holds_password) else []
    for flag, path in (("--cacert", address.ca), ("--cert", address.cert), ("--key", address.key)):
        command += [flag, str(path)] if path is not None else []
    secret = f'REDISCLI_AUTH="$(cat {shlex.quote(str(file))})" ' if file else ""
    return secret + shlex.join(command)


def _client_program() -> str:
    """Debian's valkey brings valkey-cli alone. Where there is neither, the better known name says what to install."""
    return "valkey-cli" if shutil.which("valkey-cli") and not shutil.which("redis-cli") else "redis-cli"


def _database(parts: SplitResult) -> list[str]:
    number = dict(parse_qsl(parts.query)).get("db", "0")
    return [] if number == "0" else ["-n", number]


def _file_of(address: Address, user: str) -> Path | None:
    """Where the password of that user lies: beside the one that was named, as `make secrets` puts them."""
    beside = Path(address.password_file).parent / user if address.password_file is not None else None
    return beside if beside is not None and beside.is_file() else None


def flags(where: Address | str, user: str | None = None) -> str:
    """The options by which a command of convq reaches the same server, as that user or as the one of the address.

    The password of a URL is shown as `***`: it is for the reader to put in.
    """
    address = Address.of(where)
    parts = urlsplit(shown(address.url))
    file = address.password_file
    if user is not None and user != address.user:
        file = _file_of(address, user) or (address.password_file and "FILE")
        secret = ":***" if address.holds_password else ""
        parts = parts._replace(netloc=f"{user}{secret}@{parts.netloc.rpartition('@')[2]}")
    command = ["--redis", urlunsplit(parts)]
    named = {"ca": address.ca, "cert": address.cert, "key": address.key, "password-file": file}
    for name, path in named.items():
        command += [f"--redis-{name}", str(path)] if path is not None else []
    return shlex.join(command)
