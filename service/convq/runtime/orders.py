"""What supervisor and worker have to agree on; imports nothing heavy, for the supervisor must be up before any network."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict


class Orders(BaseModel):
    """What a supervisor tells a worker at its start."""

    model_config = ConfigDict(frozen=True)

    slot: int
    workers: int
    board: int
    supervisor: int
    redis: str
    repository: Path
    models: tuple[str, ...]
    device: Literal["auto", "cpu", "cuda"]
    lease_ms: int
    result_ttl_ms: int
    drain_s: float
    log: Literal["auto", "console", "json"]


def worker_name(pid: int) -> str:
    """The part of an incarnation that says which process it is: host and process id."""
    return f"{socket.gethostname()[:80]}-{pid}"
