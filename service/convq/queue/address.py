"""How a server is named to people: its URL without the password, and the redis-cli that reaches it."""

from __future__ import annotations

import shlex
from urllib.parse import urlsplit, urlunsplit


def shown(url: str) -> str:
    """The URL without its password."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{host}"))


def redis_cli(url: str) -> str:
    """How redis-cli is called to reach the same server."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return f"redis-cli -s {shlex.quote(parts.path)}"
    if (parts.scheme, parts.hostname, parts.username, parts.password) == ("redis", "127.0.0.1", None, None):
        return "redis-cli" if parts.port in (None, 6379) else f"redis-cli -p {parts.port}"
    return f"redis-cli -u {shlex.quote(shown(url))}"
