"""Server versions with holes that matter to this queue, as a table. A version that is not here is not thereby good.

A distribution may have mended a version without changing its number, so this is a warning and never a refusal.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

Version = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Vulnerability:
    """What is wrong, and in which versions: from the first of each pair on, until before the second, which has it mended."""

    reason: str
    ranges: tuple[tuple[Version, Version], ...]
    name: str = "redis"

    def mended_in(self, name: str, version: Version) -> Version | None:
        """The next version of the same line without this hole; None where that version does not have it."""
        if name != self.name:
            return None
        return next((mended for first, mended in self.ranges if first <= version < mended), None)


HOLES = (
    Vulnerability("XAUTOCLAIM may crash it (#10968)", (((7, 0, 3), (7, 0, 4)),)),
    Vulnerability("XADD and XTRIM may crash it after an RDB file was loaded (#14276)", (((8, 2, 0), (8, 2, 1)),)),
    Vulnerability("defragmentation of streams may crash it (#14323)", (((8, 2, 0), (8, 2, 2)),)),
    Vulnerability(
        "a Lua script may run code of its own (CVE-2025-49844)",
        (((7, 4, 0), (7, 4, 6)), ((8, 0, 0), (8, 0, 4)), ((8, 2, 0), (8, 2, 2))),
    ),
    Vulnerability(
        "XACKDEL, which convq does not use, may run foreign code (CVE-2025-62507)",
        (((8, 2, 0), (8, 2, 3)),),
    ),
    Vulnerability(
        "memory is used after it was freed when a blocked client goes on (CVE-2026-23479)",
        (
            ((7, 2, 0), (7, 4, 9)),
            ((8, 0, 0), (8, 2, 6)),
            ((8, 4, 0), (8, 4, 3)),
            ((8, 6, 0), (8, 6, 3)),
        ),
    ),
)


def parsed(version: str) -> Version:
    """The numbers of a version: (8, 2, 0) for 8.2.0-rc1. What is no number ends them."""
    numbers: list[int] = []
    for part in version.partition("-")[0].split("."):
        if not re.fullmatch("[0-9]{1,9}", part):
            break
        numbers.append(int(part))
    return tuple(numbers)


def known_holes(name: str, version: str) -> tuple[list[str], str]:
    """What is wrong with this version of "redis" or "valkey", and the version to go to; nothing and "" where nothing is."""
    found = [(hole.reason, hole.mended_in(name, parsed(version))) for hole in HOLES]
    holes = [(reason, mended) for reason, mended in found if mended is not None]
    target = max((mended for _, mended in holes), default=())
    return [reason for reason, _ in holes], ".".join(map(str, target))
