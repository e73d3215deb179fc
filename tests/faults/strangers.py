"""What strangers may leave in the keys of one model: random types and bytes, drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MAX_ID = "18446744073709551615-18446744073709551615"
MODELS = "convq:models"
NUMBERS = [b"nan", b"inf", b"-inf", b"-1", b"0x10", b"1e308", b"1.5", b"", b" 7", b"\xff\xfe", b"9223372036854775807"]
NUMBERS += [b"-9223372036854775808", b"9" * 400, b"1e-5", b"00", "\u0663".encode(), b"true", b"[]"]
CFG = ["heard_ms", "grace_ms", "max_jobs", "max_bytes", "answered", "exporter", "exporter_ms", "exporter_term_ms"]
CFG += ["drain_per_s", "drain_full", "drain_ms", "drain_answered", "drain_waits", "bytes"]
DOOR = ["bytes", "refused_jobs", "refused_bytes"]
SCORES = ["inf", "-inf", "1e300", "-1e300", "0", "-1", "1", "9007199254740993", "1e18"]
IDS = [MAX_ID, "18446744073709551615-0", "9007199254740993-5", "99999999999999-1", "2000000000000-18446744073709551615"]

Command = tuple[Any, ...]


@dataclass(frozen=True)
class Strange:
    """One strange key: how to make it, in words and in commands. It is put right by deleting it."""

    key: str
    what: str
    commands: tuple[Command, ...]


class Stranger:
    """Draws strange keys of one model. The same seed draws the same."""

    def __init__(self, seed: int, model: str) -> None:
        self._chance = random.Random(seed)
        self._prefix = f"convq:{{{model}}}:"
        self._model = model

    def draw(self) -> Strange:
        """One strange key."""
        names = ["jobs:high", "jobs", "jobs:low", "leases", "cfg", "door", "cancelled", "dead", "suspects"]
        names += ["job:x", "result:x", "inbox:x", MODELS]
        name = self._chance.choice(names)
        key = name if name == MODELS else self._prefix + name
        if self._chance.random() < 0.5:
            return self._of_another_type(key)
        return self._of_its_type(key, name)

    def _bytes(self) -> bytes:
        size = self._chance.choice((0, 1, 3, 20, 300))
        known = [
            b"lenet",
            b"1:5-5",
            b"workers",
            b"\xff\x00\n\r",
            "é€".encode(),
            b"host.00000000-" + b"9" * 300 + b"-0a0b0c0d",
        ]
        return self._chance.choice([self._chance.randbytes(size), self._chance.choice(known)])

    def _fields(self) -> list[bytes]:
        return [self._bytes() for _ in range(2 * self._chance.randint(1, 4))]

    def _of_another_type(self, key: str) -> Strange:
        kinds: dict[str, Command] = {
            "string": ("SET", key, self._bytes()),
            "list": ("RPUSH", key, *self._fields()),
            "set": ("SADD", key, *self._fields()),
            "hash": ("HSET", key, *self._fields()),
            "zset": ("ZADD", key, self._chance.choice(SCORES), self._bytes()),
            "stream": ("XADD", key, self._chance.choice(["*", *IDS]), *self._fields()),
        }
        kind = self._chance.choice(sorted(kinds))
        return Strange(key, f"a {kind}", (("DEL", key), kinds[kind]))

    def _of_its_type(self, key: str, name: str) -> Strange:
        if name.startswith("jobs"):
            return self._stream(key)
        makers: dict[str, Callable[[], Command]] = {
            "leases": lambda: ("ZADD", key, self._chance.choice(SCORES), self._bytes()),
            "cfg": lambda: ("HSET", key, self._chance.choice(CFG), self._chance.choice(NUMBERS)),
            "door": lambda: ("HSET", key, self._chance.choice(DOOR), self._chance.choice(NUMBERS)),
            "suspects": lambda: ("HSET", key, self._bytes(), self._chance.choice(NUMBERS)),
            "cancelled": lambda: ("SADD", key, self._bytes()),
            "dead": lambda: ("XADD", key, "*", *self._fields()),
            "job:x": lambda: ("SET", key, self._bytes()),
            "result:x": lambda: ("RPUSH", key, self._bytes()),
            "inbox:x": lambda: ("RPUSH", key, self._bytes()),
            MODELS: lambda: ("HSET", key, self._chance.choice([self._bytes(), self._model]), self._bytes()),
        }
        commands = tuple(makers[name]() for _ in range(self._chance.randint(1, 8)))
        return Strange(key, "strange members", commands)

    def _stream(self, key: str) -> Strange:
        which = self._chance.choice(["entries", "id", "group", "consumer", "none"])
        group: Command = ("XGROUP", "CREATE", key, "workers", "0", "MKSTREAM")
        commands: dict[str, tuple[Command, ...]] = {
            "entries": tuple(("XADD", key, "*", *self._fields()) for _ in range(5)),
            "id": (("XADD", key, self._chance.choice(IDS), *self._fields()),),
            "group": (("DEL", key), group, ("XGROUP", "SETID", key, "workers", MAX_ID)),
            "consumer": (("DEL", key), group, ("XGROUP", "CREATECONSUMER", key, "workers", self._bytes())),
            "none": (("DEL", key),),
        }
        return Strange(key, f"a stream with a strange {which}", commands[which])
