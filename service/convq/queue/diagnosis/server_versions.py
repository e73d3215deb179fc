"""Versions of servers: as numbers that can be compared, and the two that crash on what a queue does all the time.

Nothing here is about security: which versions have vulnerabilities is for a scanner to say, whose list does not age. A
distribution may have mended a version without changing its number, so this is a warning and never a refusal.
"""

from __future__ import annotations

import re

Version = tuple[int, ...]

CRASHES: tuple[tuple[str, Version, Version], ...] = (
    ("XADD and XTRIM may crash it after an RDB file was loaded (#14276)", (8, 2, 0), (8, 2, 1)),
    ("defragmentation of streams may crash it (#14323)", (8, 2, 0), (8, 2, 2)),
)
"""Of Redis: what is wrong, since which version, and the one that has it mended. A crash loses what was not on the disk yet."""


def parsed(version: str) -> Version:
    """The numbers of a version: (8, 2, 0) for 8.2.0-rc1. What is no number ends them."""
    numbers: list[int] = []
    for part in version.partition("-")[0].split("."):
        if not re.fullmatch("[0-9]{1,9}", part):
            break
        numbers.append(int(part))
    return tuple(numbers)


def known_crashes(name: str, version: str) -> tuple[list[str], str]:
    """Why this version of "redis" or "valkey" loses jobs, and the version to go to; nothing and "" where it does not."""
    there = parsed(version)
    found = [(why, mended) for why, first, mended in CRASHES if name == "redis" and first <= there < mended]
    target = max((mended for _, mended in found), default=())
    return [why for why, _ in found], ".".join(map(str, target))
