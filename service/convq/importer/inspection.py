"""Reads the layers of a graph that a stranger made, in a process of its own with limits on time and memory.

Nothing of the graph runs, but inference of shapes and the protocol buffer itself are native code, and what a few kilobytes
unfold to is up to whoever wrote them. Run as a program it reads `{"file", "folder", "sides"}` and answers with the rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convq.errors import ModelBroken
from convq.importer.sandbox import answer_once, ask
from convq.layers import Architecture, layers_of
from convq.repository.files import MOST_BYTES, read_inside

MODULE = "convq.importer.inspection"
MOST_ANSWER_BYTES = 64 << 20
"""Of the table as JSON: some 200,000 rows."""


def inspect(
    file: Path, folder: Path, sides: Sequence[int | None], *, within_s: float, memory_limit_bytes: int | None = None
) -> Architecture:
    """The table of the ONNX file `file` of the model in `folder`; `sides` is one image, as `layers_of` takes it.

    The child may take `within_s` seconds and `memory_limit_bytes` of memory (None: what is to spare).

    Raises:
        ModuleNotFoundError: the package onnx is not installed.
        ModelBroken: there is no table, in words that go on after the file's name.
    """
    question = {"file": str(file.absolute()), "folder": str(folder.absolute()), "sides": list(sides)}
    answer = ask(MODULE, question, within_s=within_s, memory_limit_bytes=memory_limit_bytes)
    if answer.get("lacks_onnx"):
        raise ModuleNotFoundError("No module named 'onnx'", name="onnx")
    if not answer["ok"]:
        slow = "; --within gives it longer" if answer.get("timed_out") else ""
        raise ModelBroken(f"cannot be looked into: {answer['reason']}{slow}")
    return Architecture.from_json(answer["layers"])


def _inspect(question: dict[str, Any]) -> dict[str, Any]:
    """In the child. Raises ModelBroken."""
    file = Path(question["file"])
    content = read_inside(file, Path(question["folder"]), MOST_BYTES[file.name])
    try:
        rows = layers_of(content, tuple(question["sides"])).to_json()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "onnx":
            raise
        return {"lacks_onnx": True}
    size_bytes = 0
    for row in rows:
        size_bytes += len(json.dumps(row))
        if size_bytes > MOST_ANSWER_BYTES:
            raise ModelBroken(f"its table has more than {MOST_ANSWER_BYTES >> 20} MiB")
    return {"layers": rows}


if __name__ == "__main__":
    answer_once(_inspect)
