"""Which connections push jobs, as the server lists them: the only trace of clients that give their jobs no name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from convq.errors import ConvqError, RedisUnavailable
from convq.queue.transport.link import Link, text_of

PUSHES = {"xadd", "fcall"}
"""The last command of who pushes; pipelines and transactions show as what ended them."""
MOST_CONNECTIONS = 2000
"""Of a server with more the list is not asked for: it is made and sent whole."""
LATELY_S = 60
_CLIENTS = re.compile(rb"^connected_clients:([0-9]{1,9})\r?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Pusher:
    """Connections of one name, address (without the port) and user whose last command pushed jobs, less than a minute ago."""

    name: str
    address: str
    user: str
    connections: int


def pushers(link: Link) -> list[Pusher] | None:
    """Who pushes, most connections first; None where this user may not know, or there are too many connections.

    Raises RedisUnavailable.
    """
    try:
        found = _CLIENTS.search(link.call("INFO", "clients"))
        if found is None or int(found[1]) > MOST_CONNECTIONS:
            return None
        listed = link.call("CLIENT", "LIST")
    except RedisUnavailable:
        raise
    except ConvqError:
        return None
    counts = Counter(_pushing(text_of(listed)))
    return [Pusher(*who, connections) for who, connections in counts.most_common()]


def _pushing(listed: str) -> Iterator[tuple[str, str, str]]:
    for line in listed.splitlines():
        facts = dict(part.partition("=")[::2] for part in line.split(" "))
        if facts.get("cmd") in PUSHES and facts.get("idle", "").isdigit() and int(facts["idle"]) < LATELY_S:
            yield facts.get("name", ""), facts.get("addr", "").rpartition(":")[0], facts.get("user", "")
