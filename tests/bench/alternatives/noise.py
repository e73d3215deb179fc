"""How much else runs on this machine, while nothing of ours does anything."""

from __future__ import annotations

import time
from pathlib import Path

LOOK_S = 1.0
CALM = 0.35
"""Where others take no more of the machine than this, it is calm."""


def calm(within_s: float) -> float:
    """Wait so long at most until it is calm; the share of the processors that was busy at the last look, from 0 to 1."""
    deadline_s = time.monotonic() + within_s
    while (share := _busy()) > CALM and time.monotonic() < deadline_s:
        pass
    return share


def _busy() -> float:
    """The share of all processors that was not idle during one look."""
    idle_before, all_before = _ticks()
    time.sleep(LOOK_S)
    idle, ticks = _ticks()
    return 1 - (idle - idle_before) / max(1, ticks - all_before)


def _ticks() -> tuple[int, int]:
    """Of all processors together: ticks that were idle or waited for a disk, and all ticks."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)
