"""Names and addresses of hosts, as people write them: whether one can be looked up at all, and how it stands in a URL."""

from __future__ import annotations

import ipaddress
import re

MOST_CHARACTERS = 253
"""Of a name, as DNS has it."""

_ASCII_NAME = re.compile(r"[A-Za-z0-9_.-]+")


def objection(host: str) -> str:
    """Why this is the name or address of no host, in words that go on after it; empty where it may be one.

    What has no form of its own in DNS would otherwise end the look-up with another error than that nobody has the name.
    """
    if is_ipv6(host):
        return ""
    if ":" in host or "%" in host:
        return "is no IPv6 address"
    try:
        name = host.encode("idna").decode("ascii")
    except UnicodeError:
        return "is no name of a host: its parts have 1 to 63 signs, with a dot between them"
    if not _ASCII_NAME.fullmatch(name):
        return "is no name of a host: it has signs that no name has"
    if len(name) > MOST_CHARACTERS:
        return f"is no name of a host: it has more than {MOST_CHARACTERS} signs"
    return ""


def is_ipv6(host: str) -> bool:
    """Whether it is an address such as ::1 or fe80::1%eth0, without brackets."""
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return host.isascii() and "/" not in host and not any(sign.isspace() or not sign.isprintable() for sign in host)


def in_url(host: str) -> str:
    """The host as it stands before a colon and a port: an IPv6 address in brackets, with its zone's % as %25."""
    return f"[{host.replace('%', '%25')}]" if ":" in host else host
