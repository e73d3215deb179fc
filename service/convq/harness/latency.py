"""How long jobs took, summed up: percentiles that each were really measured, never a value between two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


def nearest_rank(ordered: Sequence[float], percent: float) -> float:
    """The percentile of ascending values, at least one, as one of these values."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles in milliseconds. All 0 where nothing was measured."""

    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float

    @classmethod
    def of(cls, spent_ms: Sequence[float]) -> Latency:
        """The percentiles of these."""
        ordered = sorted(spent_ms) or [0.0]
        return cls(*(nearest_rank(ordered, percent) for percent in (50, 90, 95, 99, 99.9, 100)))
