"""How much memory one worker may have: what it was told, or its share of the container."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from convq.host.cgroups import ROOT, memory_limit_bytes

MIB = 1 << 20
DEFAULT_BYTES = 480 * MIB
"""What a worker plans with where nothing says how much it may have."""
DECODE_BYTES = 384 * MIB
"""What one picture may take then, beside the models: as a JPEG or PNG file of 50 megapixels does."""
TOGETHER_SHARE = 8
"""This part of what is planned with is for what comes of one batch."""
OTHERS_BYTES = 96 * MIB
"""Of a container's limit: for the supervisor."""
USABLE = 0.9
"""Of the rest: an allocator keeps some pages, and the kernel counts its own."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one worker may have: how much it plans with, and what it may never go beyond, where anything says so.

    Where nothing does, one picture may take `DECODE_BYTES`, however much the models do.
    """

    planned_bytes: int
    limit_bytes: int | None

    @property
    def together_bytes(self) -> int:
        """What the outputs of one batch may take, with the documents that are made of them; twice that, all batches in hand."""
        return self.planned_bytes // TOGETHER_SHARE

    @classmethod
    def of(cls, setting: int | None, workers: int, root: Path = ROOT) -> Allowance:
        """From `--worker-memory`, or else from the limit of the container that these workers share."""
        if setting is not None:
            return cls(setting, setting)
        container = memory_limit_bytes(root)
        if container is None:
            return cls(DEFAULT_BYTES, None)
        share = max(1, int((container - OTHERS_BYTES) * USABLE / workers))
        return cls(min(DEFAULT_BYTES, share), share)
