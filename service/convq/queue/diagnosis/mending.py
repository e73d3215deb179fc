"""How a setting of the server is changed by whoever looks at it: with which command, as which user, and what keeps it so.

A command that its reader may not run helps nobody, and what `CONFIG SET` says is gone when the server starts again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import redis

from convq.queue.transport.address import ADMIN, Address, redis_cli
from convq.queue.transport.link import Command, Link

_PROBES: dict[str, Command] = {
    "CONFIG": ("CONFIG", "SET", "convq-asks-whether-it-may", "1"),
    "DEL": ("DEL", "convq:{convq-asks}:whether-it-may"),
    "HDEL": ("HDEL", "convq:models", "convq asks whether it may"),
}
"""Commands that change nothing, and that are refused to whoever may not run their like."""


@dataclass(slots=True)
class Rights:
    """What the user of a connection may do to the server, asked once: each refusal is a line of the server's ACL log."""

    link: Link
    _replies: dict[str, Any] = field(default_factory=dict)

    def may(self, name: str) -> bool:
        """Whether the user may run that command of `_PROBES`."""
        return not isinstance(self._ask(name), redis.exceptions.NoPermissionError)

    def is_absent(self, name: str) -> bool:
        """Whether the server has no such command: those who rent servers out take CONFIG away."""
        reply = self._ask(name)
        return isinstance(reply, Exception) and "unknown command" in str(reply).lower()

    def _ask(self, name: str) -> Any:
        if name not in self._replies:
            self._replies[name] = self.link.flush([_PROBES[name]])[0]
        return self._replies[name]


def caller(address: Address, rights: Rights, name: str) -> str:
    """redis-cli as a user who may run that command: the one of the address, or else `admin` of deploy/redis/users.acl."""
    return redis_cli(address, None if rights.may(name) else ADMIN)


def change(
    address: Address, rights: Rights, info: Mapping[str, str], setting: str, value: str
) -> tuple[str, str | None]:
    """The command that changes this setting now, and what keeps it so when the server starts again.

    Args:
        address: where the server is, and as whom it was asked.
        rights: of that user.
        info: the server's INFO.
        setting: its name, such as maxmemory-policy.
        value: as it is written in the server's configuration file.

    Returns:
        The command and None, where a provider keeps the settings; otherwise the command and a sentence with the line.
    """
    if rights.is_absent("CONFIG"):
        return f"set {setting} to {value} where your provider keeps this server's settings (its parameter group)", None
    cli = caller(address, rights, "CONFIG")
    file = info.get("config_file")
    if file:
        kept = f"{cli} CONFIG REWRITE, or the line '{setting} {value}' in {file}"
    elif file == "":
        kept = f"start it with --{setting} {value}: it has no configuration file"
    else:
        kept = f"the line '{setting} {value}' in its configuration file"
    return f"{cli} CONFIG SET {setting} {value}", f"for its next start: {kept}"
