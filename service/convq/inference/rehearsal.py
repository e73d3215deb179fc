"""Loads a version of a model as the service would, in a process of its own, before anybody depends on it.

A graph can crash, hang or ask for absurd amounts of memory; no test inside a worker survives that. Run as a program it
reads `{"folder", "version", "device"}` and answers with what the model is, how long it took to load, or why it cannot be
served.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convq.inference.confinement import answer_once, ask, leave_room

MODULE = "convq.inference.rehearsal"
WITHIN_S = 60.0
SPARE_S = 1.0
"""For batches of sizes that are not always tried; a worker that starts takes less time for them."""
PATIENCE = 15
"""How far behind the workers a trial stands in line for the processor; one that is timed stands beside them."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
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


def rehearse(
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
) -> Rehearsal:
    """Load and warm up one version in a child process, and say how it went. Blocks; never raises for the model's sake.

    `folder` holds the manifest. The child may take `within_s` seconds and `memory_limit_bytes` of memory (None: what
    is to spare); what the version itself takes must leave as much for each of `workers` that load it, and be no more than
    `most_bytes`. With `examine` it also shows what the version answers, to `image` if that is given, and how fast.
    """
    question: dict[str, Any] = {
        "folder": str(folder.absolute()),
        "version": version,
        "device": device,
        "examine": examine,
    }
    question["share"] = {"workers": workers, "most_bytes": most_bytes}
    if image is not None:
        question["image"] = str(image.absolute())
    answer = ask(MODULE, question, within_s=within_s, memory_limit_bytes=memory_limit_bytes)
    if not answer["ok"]:
        timed_out = answer.get("timed_out", False)
        return Rehearsal(ok=False, reason=answer["reason"], exit_code=answer["exit_code"], timed_out=timed_out)
    return Rehearsal(
        ok=True,
        load_s=answer["load_s"],
        seal=answer["seal"],
        description=answer["description"],
        examination=answer["examination"],
    )


def _load(question: dict[str, Any]) -> dict[str, Any]:
    """In the child. Raises what `Engine.load`, `Engine.warm_up` and `examine` raise."""
    from convq.inference.examination import examine  # noqa: PLC0415 - only the child may load onnxruntime
    from convq.inference.session import Engine  # noqa: PLC0415 - as above

    if not question.get("examine"):
        os.nice(PATIENCE)
    leave_room(**question.get("share", {}))
    folder = Path(question["folder"])
    engine = Engine.load(folder, question["version"], device=question.get("device", "auto"))
    engine.warm_up(SPARE_S)
    image = question.get("image")
    examination = examine(engine, folder, Path(image) if image else None) if question.get("examine") else {}
    return {
        "description": engine.describe(),
        "seal": engine.seal,
        "load_s": round(engine.load_s, 3),
        "examination": examination,
    }


if __name__ == "__main__":
    answer_once(_load)
