"""The function library `convq` on the server: `FCALL convq_submit`, the door for clients of every language.

Redis keeps a library like data, over restarts; only FUNCTION FLUSH, another version or an empty server takes it away.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from convq.errors import QueueFull, RedisRefused
from convq.protocol import DEDUP_WINDOW_S
from convq.queue.entries import KNOWN_FIELDS
from convq.queue.spelling import OTHERS, spellings
from convq.queue.transport.link import Link, lua

LIBRARY = "convq"
VERSION = 7
"""Raised with every change of what the library does: a service loads its own over an older one, never over a newer one."""
LOOK_EVERY_S = 3.0
MISSED = "clients cannot call FCALL convq_submit; their XADD works as before"


def _table(entries: Mapping[str, str]) -> str:
    return "{ " + ", ".join(f"{key} = {value}" for key, value in sorted(entries.items())) + " }"


SOURCE = "\n".join(
    (
        f"#!lua name={LIBRARY}",
        f"-- library version {VERSION}, loaded by convq serve",
        f"local DEDUP_WINDOW_MS = {DEDUP_WINDOW_S * 1000}",
        f"local FIELDS = {_table(dict.fromkeys(KNOWN_FIELDS, 'true'))}",
        f"local OTHERS = {_table(dict.fromkeys(OTHERS, 'true'))}",
        f"local WRITTEN = {_table({word: repr(name) for word, name in spellings().items()})}",
        *map(lua, ("numbers", "drain", "known", "whereabouts", "names", "door", "functions")),
    )
)


class FunctionLibrary:
    """Keeps the library on one server. What goes wrong here is no reason to stop: jobs come by XADD, too."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._next_s = 0.0
        self._started = False
        self._trouble: str | None = None

    def keep(self, now_s: float) -> list[str]:
        """Look every few seconds of `now_s` (monotonic), load what is absent or older; say what went wrong, once.

        Raises RedisUnavailable.
        """
        if now_s < self._next_s:
            return []
        self._next_s = now_s + LOOK_EVERY_S
        try:
            if self._wanted(self._installed()):
                self._link.call("FUNCTION", "LOAD", "REPLACE", SOURCE)
            trouble = None
        except RedisRefused as error:
            trouble = f"{MISSED}: {error}. To have it: ACL SETUSER <user> +function|list +function|load"
        except QueueFull as error:
            trouble = f"{MISSED}: {error}"
        self._started = self._started or trouble is None
        said = [trouble] if trouble is not None and trouble != self._trouble else []
        self._trouble = trouble
        return said

    def _installed(self) -> str | None:
        """The source of the library that is there."""
        found: Any = self._link.call("FUNCTION", "LIST", "LIBRARYNAME", LIBRARY, "WITHCODE")
        if not isinstance(found, list) or not found or not isinstance(found[0], list):
            return None
        facts = dict(zip(found[0][::2], found[0][1::2], strict=False))
        code = facts.get(b"library_code")
        return code.decode("utf-8", "replace") if isinstance(code, bytes) else ""

    def _wanted(self, installed: str | None) -> bool:
        """Whether ours must be loaded. Builds that differ under one number don't overwrite each other again and again."""
        if installed is None:
            return True
        named = re.search(r"^-- library version ([0-9]{1,9})\b", installed, re.MULTILINE)
        theirs = int(named[1]) if named else 0
        return theirs < VERSION or (theirs == VERSION and installed != SOURCE and not self._started)
