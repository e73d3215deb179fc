"""convq as its README says: the Python client; where answers are counted, plain XADD and an inbox."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

import redis

from caller import Event
from convq import Client

STREAM = "convq:{lenet}:jobs"


def connect(_name: str, address: str) -> Convq:
    """`address` is the server's URL."""
    return Convq(address)


class Convq:
    """One client of one service, and a connection of its own where answers are counted."""

    def __init__(self, url: str) -> None:
        self._client = Client(url, model="lenet")
        self._server: Any = redis.Redis.from_url(url)

    def ask(self, image: bytes) -> int:
        """One call."""
        return _label(self._client.classify(image).label)

    def many(self, images: Sequence[bytes]) -> list[int]:
        """`Client.map`, with as many jobs on their way as it wants."""
        return [_label(result.label) for result in self._client.map(images)]

    def watch(self, images: Sequence[bytes]) -> Iterator[list[Event]]:
        """Each answer of the inbox, so that a second one of a job would be seen."""
        inbox = f"convq:{{lenet}}:inbox:{secrets.token_hex(8)}"
        pipe = self._server.pipeline(transaction=False)
        for image in images:
            pipe.xadd(STREAM, {"image": image, "reply_to": inbox})
        pipe.execute()
        while True:
            found = self._server.execute_command("BLMPOP", 0.1, 1, inbox, "LEFT", "COUNT", 100)
            answers = [json.loads(document) for document in found[1]] if found else []
            yield [(one["entry"], one["status"] == "ok") for one in answers]


def _label(text: str | None) -> int:
    assert text is not None
    return int(text)
