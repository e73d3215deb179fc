"""What supervisor and worker have to agree on; imports nothing heavy, for the supervisor must be up before any network."""

from __future__ import annotations

import json
import re
import socket
import zlib
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from convq.ipc.allowance import Allowance
from convq.ipc.plans import Plan
from convq.queue import Address

INCARNATION = re.compile(r"\.(?P<space>[0-9a-f]{8})-(?P<pid>[0-9]{1,10})-[0-9a-f]{8}\Z")
BOOT_ID, PID_NAMESPACE = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")


class ServiceConfig(BaseModel):
    """What is the same for all workers of a service, whenever they start."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    workers: int
    board: int
    supervisor: int
    redis: Address
    repository: Path
    device: Literal["auto", "cpu", "cuda"]
    lease_ms: int
    result_ttl_ms: int
    drain_s: float
    memory: Allowance
    log: Literal["console", "json"]
    log_mark: str
    """What each line of a worker's log begins with, see `voices`."""
    log_jobs: Literal["none", "failed", "all"]
    otlp: str | None


class WorkerConfig(BaseModel):
    """What a supervisor tells a worker at its start, through a pipe: a URL may hold a password."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    service: ServiceConfig
    slot: int
    models: tuple[str, ...]
    """The model of each place of the board, empty where there is none."""
    plans: dict[str, Plan]
    """Model -> what to do with it, at first."""
    checked: dict[str, dict[int, str]] = {}
    """Model -> version -> seal (see `Engine.seal`) of the files that were tried or loaded before: no others are loaded."""


class PlanUpdate(BaseModel):
    """What a supervisor tells a worker that runs: follow this plan now, or serve the model no longer."""

    model_config = ConfigDict(frozen=True)

    model: str
    place: int
    """Of the model on the board."""
    plan: Plan | None
    """None: what is in hand is finished, nothing more is claimed."""
    checked: dict[int, str] = {}
    """Version -> seal of the files that the supervisor has tried."""


def report_in(line: bytes) -> dict[str, Any] | None:
    """What a worker reports with this line of its standard output; None where a library of its process wrote the line."""
    try:
        report = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return report if isinstance(report, dict) and "event" in report else None


def worker_name(pid: int) -> str:
    """The part of an incarnation that says which process it is: host, boot and namespace, process id."""
    host, tag = socket.gethostname()[:80], process_space()
    return f"{host}.{tag}-{pid}" if tag else f"{host}-{pid}"


def incarnation_of(pid: int, nonce: int) -> str:
    """The name that the worker gave its lease: see `WorkQueue.take`."""
    return f"{worker_name(pid)}-{nonce:08x}"


@cache
def process_space() -> str:
    """8 hexadecimal digits for this boot of this machine and this namespace of process ids; empty elsewhere than on Linux.

    Only where they agree do two processes mean the same by a process id, whatever their hosts are called.
    """
    try:
        facts = f"{BOOT_ID.read_text(encoding='utf-8')} {PID_NAMESPACE.readlink()}"
    except OSError:
        return ""
    return f"{zlib.crc32(facts.encode()):08x}"


def is_gone(incarnation: str) -> bool:
    """Whether a worker ran in this process space and does not exist any more. False where that cannot be told."""
    found = INCARNATION.search(incarnation)
    return found is not None and found["space"] == process_space() and not Path(f"/proc/{found['pid']}").exists()
