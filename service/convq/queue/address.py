"""Where a server is and how it is reached: URL, certificates, the file with the password; and how it is named to people."""

from __future__ import annotations

import ipaddress
import shlex
import ssl
from codecs import BOM_UTF8
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from convq.errors import SettingsError
from convq.masking import echoed, masked_url, password_of, remember
from convq.queue.url import examine_url

MAX_PASSWORD_BYTES = 4096
TLS_FILES = ("ca", "cert", "key")


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


def redis_cli(where: Address | str) -> str:
    """How redis-cli is called to reach the same server. A password is left to the reader, or read from its file."""
    address = Address.of(where)
    parts = urlsplit(address.url)
    command = ["redis-cli"]
    if parts.scheme == "unix":
        command += ["-s", parts.path]
    elif (
        parts.scheme == "redis"
        and parts.hostname == "127.0.0.1"
        and parts.path in ("", "/", "/0")
        and not _secret(parts)
    ):
        command += [] if parts.port in (None, 6379) else ["-p", str(parts.port)]
    else:
        command += ["-u", address.without_user if address.password_file else shown(address.url)]
    if address.password_file is not None and address.user is not None:
        command += ["--user", address.user]
    for flag, path in (("--cacert", address.ca), ("--cert", address.cert), ("--key", address.key)):
        command += [flag, str(path)] if path is not None else []
    secret = f'REDISCLI_AUTH="$(cat {shlex.quote(str(address.password_file))})" ' if address.password_file else ""
    return secret + shlex.join(command)


def _secret(parts: Any) -> bool:
    return bool(parts.username or parts.password)
