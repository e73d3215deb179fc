"""Loads a version of a model as the service would, in a process of its own, before anybody depends on it.

A graph can crash, hang or ask for absurd amounts of memory; no test inside a worker survives that. The process is
`dry_run_child`; this module imports nothing that loads networks, for supervisors must not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convq.errors import ConvqError, ModelBroken, SettingsError
from convq.importer.sandbox import ask

CHILD = "convq.importer.dry_run_child"
WITHIN_S = 60.0
SLOW = "--within gives it longer; warm-up runs a whole batch, so a smaller limits.max_batch in its manifest makes that shorter"


@dataclass(frozen=True, slots=True)
class DryRun:
    """How loading a version in a process of its own went."""

    ok: bool
    reason: str = ""
    """Why it cannot be served; empty where it can."""
    load_s: float = 0.0
    """Seconds for loading and warming up, without the start of the process."""
    seal: str = ""
    """`Engine.seal`: the checksums of the graphs that were opened."""
    description: Mapping[str, Any] = field(default_factory=dict)
    """What `Engine.describe` says of it."""
    examination: Mapping[str, Any] = field(default_factory=dict)
    """What `examination.examine` found, where that was asked for."""
    exit_code: int = 0
    """What a command that needs this version should end with."""
    timed_out: bool = False
    """It cannot be served because it did not end in time."""
    lasting: bool = False
    """It would be the same on every machine: its network crashes, hangs or answers wrongly."""
    traceback: str = ""
    """Of an error in the child that nobody foresaw."""


def dry_run(
    folder: Path,
    version: int,
    *,
    device: str = "auto",
    within_s: float = WITHIN_S,
    memory_limit_bytes: int | None = None,
    workers: int = 1,
    most_bytes: int | None = None,
    examine: bool = False,
    image: Path | None = None,
    draw: bool = False,
) -> DryRun:
    """Load and warm up one version in a child process, and say how it went. Blocks; never raises for the model's sake.

    `folder` holds the manifest. The child may take `within_s` seconds and `memory_limit_bytes` of memory (None: what
    is to spare); what the version itself takes must leave as much for each of `workers` that load it, and be no more than
    `most_bytes`. With `examine` it also shows what the version answers, to `image` if that is given, and how fast;
    with `draw`, a detector's answer drawn on it.
    """
    question: dict[str, Any] = {
        "folder": str(folder.absolute()),
        "version": version,
        "device": device,
        "examine": examine,
        "draw": draw,
    }
    question["share"] = {"workers": workers, "most_bytes": most_bytes}
    if image is not None:
        question["image"] = str(image.absolute())
    answer = ask(CHILD, question, within_s=within_s, memory_limit_bytes=memory_limit_bytes)
    if not answer["ok"]:
        return DryRun(
            ok=False,
            reason=answer["reason"],
            exit_code=answer["exit_code"],
            timed_out=answer.get("timed_out", False),
            lasting=answer.get("lasting", False),
            traceback=answer.get("traceback", ""),
        )
    return DryRun(
        ok=True,
        load_s=answer["load_s"],
        seal=answer["seal"],
        description=answer["description"],
        examination=answer["examination"],
    )


def examined(
    folder: Path, version: int, *, image: Path | None = None, within_s: float, slow: str = SLOW, draw: bool = False
) -> dict[str, Any]:
    """What a version is and answers, as one document; `slow` says what helps where its time is too short.

    With `draw`, a detector's answer comes with it as `drawing`, a PNG file in base64.

    Raises ModelBroken, SettingsError.
    """
    tried = dry_run(folder, version, within_s=within_s, examine=True, image=image, draw=draw)
    if not tried.ok:
        kind = SettingsError if tried.exit_code == SettingsError.exit_code else ModelBroken
        hint = f"; {slow}" if tried.timed_out else ""
        raise noted(kind(f"{folder.name}, version {version}: {tried.reason}{hint}"), tried.traceback)
    return {
        "name": folder.name,
        "version": version,
        "ok": True,
        "load_s": tried.load_s,
        **tried.examination,
        **{key: tried.description[key] for key in ("provider", "inputs", "outputs", "labels", "limits", "sha256")},
    }


def noted(error: ConvqError, traceback: str) -> ConvqError:
    """The error, with the traceback of a child process where there is one: `convq --debug` shows it."""
    if traceback:
        error.add_note(traceback)
    return error
