"""What a Redis URL may say: where the server is, who we are, which database. Everything else is convq's own affair.

redis-py takes every keyword of its connections from a URL, and what stands there wins over what the program passes.
"""

from __future__ import annotations

import difflib
import re
from contextlib import suppress
from typing import NoReturn
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from convq.errors import SettingsError
from convq.host import host_names
from convq.masking import masked_url, password_of

TAKEN = ("db", "username", "password")
"""Options that a URL may have."""

_LEAVE_OUT = "leave it out: convq sets it itself"
_INSTEAD = {
    "ssl_ca_certs": "name that file with --redis-ca",
    "ssl_ca_path": "name a file with --redis-ca",
    "ssl_ca_data": "name a file with --redis-ca",
    "ssl_certfile": "name that file with --redis-cert",
    "ssl_keyfile": "name that file with --redis-key",
    "ssl_password": "name a key that is not encrypted with --redis-key",
    "ssl_cert_reqs": "certificates are always verified; name your authority with --redis-ca",
    "ssl_check_hostname": "certificates are always verified; name the host as the certificate does",
    "ssl": "write rediss:// in the place of redis://",
    "credential_provider": "name a file with --redis-password-file",
    "host": "it stands behind redis://",
    "port": "it stands behind the host",
    "path": "write unix:///PATH",
}
"""Option -> what to do instead; all others that redis-py knows are to be left out."""
_OWN = frozenset(
    [
        "protocol",
        "decode_responses",
        "encoding",
        "encoding_errors",
        "socket_timeout",
        "socket_connect_timeout",
        "socket_keepalive",
        "socket_keepalive_options",
        "socket_read_size",
        "socket_type",
        "retry",
        "retry_on_timeout",
        "retry_on_error",
        "health_check_interval",
        "max_connections",
        "timeout",
        "client_name",
        "lib_name",
        "lib_version",
        "driver_info",
        "redis_connect_func",
        "parser_class",
        "connection_class",
        "connection_pool",
        "connection_pool_class",
        "command_packer",
        "event_dispatcher",
        "legacy_responses",
        "single_connection_client",
        "auto_close_connection_pool",
        "cache",
        "cache_config",
        "maint_notifications_config",
        "ssl_min_version",
        "ssl_ciphers",
        "ssl_validate_ocsp",
        "ssl_validate_ocsp_stapled",
        "ssl_ocsp_context",
        "ssl_ocsp_expected_cert",
        "ssl_include_verify_flags",
        "ssl_exclude_verify_flags",
    ]
)
_NUMBER = re.compile(r"[0-9]{1,9}")


def examine_url(url: str) -> None:
    """Raise SettingsError for a URL that could be understood in two ways, or that says more than it may."""
    parts = _split(url)
    rest = f"{parts.path}?{parts.query}#{parts.fragment}"
    if parts.scheme == "unix":
        if parts.netloc.rpartition("@")[2] or not parts.path.strip("/"):
            _unreadable(url)
    elif "@" in rest:
        _unreadable(url)  # a / or ? or # that belongs to the password has cut it in two
    if parts.fragment or url.endswith("#"):
        _unreadable(url)
    if parts.hostname and (why := host_names.objection(unquote(parts.hostname))):
        raise SettingsError(f"the host of the URL {masked_url(url)} {why}")
    databases = [] if parts.scheme == "unix" or parts.path in ("", "/") else [parts.path[1:]]
    _examine_database(url, databases)  # first: an option behind such a one may be the rest of a password
    databases += _options(url, parts)
    if len(databases) > 1:
        raise SettingsError(f"the URL {masked_url(url)} names a database twice; once is enough")
    _examine_database(url, databases)


def _examine_database(url: str, databases: list[str]) -> None:
    if databases and not _NUMBER.fullmatch(databases[0]):
        raise SettingsError(
            f"the URL {masked_url(url)} names a database that is no number; expected redis://HOST:PORT/0"
        )


def _split(url: str) -> SplitResult:
    parts = _parts(url)
    if parts is None or not re.match(r"\s*(?:rediss?|unix)://", url):
        _unreadable(url)
    if any(ord(sign) < ord(" ") or sign == "\x7f" for sign in url.strip()):
        _unreadable(url)  # urlsplit takes some of them out
    return parts


def _parts(url: str) -> SplitResult | None:
    """None where it cannot be split. The reason is left behind: it may repeat a part of the password."""
    with suppress(ValueError):
        parts = urlsplit(url)
        _ = parts.port, parts.hostname
        return parts
    return None


def _options(url: str, parts: SplitResult) -> list[str]:
    """The databases that options name. Raises SettingsError for all other options but user and password."""
    seen: set[str] = set()
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if name not in TAKEN:
            _refuse_option(url, name, hidden=bool(seen & {"password", "ssl_password"}))
        if name in seen or (name == "password" and password_of(url)):
            raise SettingsError(f"the URL {masked_url(url)} has its option {name} twice; once is enough")
        seen.add(name)
    return [value for name, value in parse_qsl(parts.query, keep_blank_values=True) if name == "db"]


def _refuse_option(url: str, name: str, *, hidden: bool) -> NoReturn:
    known = name in _OWN or name in _INSTEAD
    if hidden and not known:
        raise SettingsError(
            f"the URL {masked_url(url)} has an option behind the password that convq does not know; in a password write "
            "& as %26"
        )
    shown = name if re.fullmatch(r"\w{1,40}", name) and name.isascii() else "***"
    if known:
        why = _INSTEAD.get(name, _LEAVE_OUT)
    else:
        near = difflib.get_close_matches(name.lower(), TAKEN, n=1)
        why = f"did you mean {near[0]}?" if near else f"a Redis URL may have {', '.join(TAKEN)}"
    raise SettingsError(f"the option {shown} in the URL {masked_url(url)} is not taken; {why}")


def _unreadable(url: str) -> NoReturn:
    raise SettingsError(
        f"'{masked_url(url)}' is no Redis URL; expected redis://HOST:PORT/DB, rediss:// or unix:///PATH, and in user and "
        "password every sign but letters, digits and - . _ ~ as %XX. It is what --redis, CONVQ_REDIS_URL or a program gave"
    )
