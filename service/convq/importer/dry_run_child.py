"""The process that loads a version for `rehearsal`: one question on standard input, one answer on standard output."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from convq.importer.sandbox import answer_once, leave_room

SPARE_S = 1.0
"""For batches of sizes that are not always tried; a worker that starts takes less time for them."""
PATIENCE = 15
"""How far behind the workers a trial stands in line for the processor; one that is timed stands beside them."""


def load(question: dict[str, Any]) -> dict[str, Any]:
    """What `rehearsal.Rehearsal` says of the version `{"folder", "version", "device", "examine", "image", "share"}`.

    Raises what `Engine.load`, `Engine.warm_up` and `examine` raise.
    """
    from convq.engine.engine import Engine  # noqa: PLC0415 - as above
    from convq.importer.examination import examine  # noqa: PLC0415 - brings onnxruntime: not before the limits stand

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
    answer_once(load)
