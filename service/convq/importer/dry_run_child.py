"""The process that loads a version for `dry_run`: one question on standard input, one answer on standard output."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convq.importer.sandbox import answer_once, leave_room

if TYPE_CHECKING:
    from convq.engine.engine import Engine

SPARE_S = 10.0
"""Of the processor, for batches of sizes that are not always tried: all of them, for most networks. A worker that starts takes less."""
PATIENCE = 15
"""How far behind the workers a trial stands in line for the processor; one that is timed stands beside them."""
ENGINES: list[Engine] = []
"""The one that is loaded, once it is."""


def load(question: dict[str, Any]) -> dict[str, Any]:
    """What `dry_run.DryRun` says of the version `{"folder", "version", "device", "examine", "image", "draw", "share"}`.

    Raises what `Engine.load`, `Engine.warm_up` and `examine` raise.
    """
    from convq.importer.examination import examine  # noqa: PLC0415 - brings onnxruntime: not before the limits stand
    from convq.importer.watched_engine import WatchedEngine  # noqa: PLC0415 - as above

    if not question.get("examine"):
        os.nice(PATIENCE)
    leave_room(**question.get("share", {}))
    folder = Path(question["folder"])
    engine = WatchedEngine.load(folder, question["version"], device=question.get("device", "auto"))
    ENGINES.append(engine)
    engine.warm_up(SPARE_S)
    image = question.get("image")
    given, draw = Path(image) if image else None, bool(question.get("draw"))
    examination = examine(engine, folder, given, draw=draw) if question.get("examine") else {}
    return {
        "description": engine.describe(),
        "seal": engine.seal,
        "load_s": round(engine.load_s, 3),
        "examination": examination,
    }


def hanging(within_s: float) -> str:
    """How the network hangs, when nearly all of its time is over; empty where it may just need longer.

    A batch counts as hung that has taken longer than `limits.max_batch_s` or a quarter of the whole time, and far longer
    than all before it.
    """
    if ENGINES:
        from convq.importer.watched_engine import WatchedEngine  # noqa: PLC0415 - it is there already

        limit_s = min(ENGINES[0].manifest.limits.max_batch_s, within_s / 4)
        if size := WatchedEngine.stuck(limit_s):
            return f"it did not end within {within_s:g} s: its network hangs, on {size} job{'s'[: size > 1]} in a batch"
    return ""


if __name__ == "__main__":
    answer_once(load, hanging)
