"""Opens a graph that nobody knows, runs it on noise, and says what a manifest for it would hold.

Run as a program, because such a graph may crash, hang or swell: reads `{"file", "called", "wishes"}` (the ONNX file, what
messages call it, and the fields of `Overrides`) and answers with the findings, the manifest and the number of classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from convq.errors import ModelBroken
from convq.importer.findings import Finding, Overrides, as_json
from convq.importer.guessing import guess
from convq.importer.infer_input import look_at_batch
from convq.importer.infer_outputs import check_some_are_numbers
from convq.importer.manifest_writer import manifest_text
from convq.importer.metadata.exporters import told_by
from convq.importer.open_graph import Session
from convq.importer.sandbox import answer_once, ask
from convq.repository.files import MOST_BYTES, read_given
from convq.repository.onnx_metadata import metadata_of
from convq.repository.operators import Operators, operators_of

MODULE = "convq.importer.probing"


@dataclass(frozen=True, slots=True)
class Probed:
    """What a manifest for a graph would hold, or why there can be none."""

    ok: bool
    findings: Sequence[Finding] = ()
    manifest: str = ""
    """The text of the file."""
    classes: int = 0
    """How many names of classes it needs; 0 for a model without."""
    names: Sequence[str] = ()
    """These names, where the graph or its family brings them."""
    reason: str = ""
    """Why it cannot be served; empty where it can."""
    exit_code: int = 0
    """What a command that needs this graph should end with: 2 where a wish contradicts it, else 3."""
    timed_out: bool = False
    """There is none because it did not end in time."""
    traceback: str = ""
    """Of an error in the child that nobody foresaw."""


def probe(file: Path, called: str, wishes: Overrides, *, within_s: float) -> Probed:
    """What a manifest for an ONNX file would hold, from a child process. Blocks; never raises for the graph's sake.

    `file` holds all its weights. The child may take `within_s` seconds, and the memory that is to spare.
    """
    question = {"file": str(file.absolute()), "called": called, "wishes": asdict(wishes)}
    answer = ask(MODULE, question, within_s=within_s)
    if not answer["ok"]:
        return Probed(
            ok=False,
            reason=answer["reason"],
            exit_code=answer["exit_code"],
            timed_out=answer.get("timed_out", False),
            traceback=answer.get("traceback", ""),
        )
    findings = [Finding.from_json(one) for one in answer["findings"]]
    made = {key: answer[key] for key in ("manifest", "classes", "names")}
    return Probed(ok=True, findings=findings, **made)


def _probe(question: dict[str, Any]) -> dict[str, Any]:
    """In the child. Raises ModelBroken, SettingsError."""
    content = read_given(Path(question["file"]), MOST_BYTES["model.onnx"])
    return look(content, question["called"], Overrides(**_with_tuples(question["wishes"])))


def look(content: bytes, called: str, wishes: Overrides) -> dict[str, Any]:
    """What the child of `probe` answers, in this process: for graphs that are known to behave.

    `{"findings": […], "manifest": text, "classes": number, "names": […]}`. Raises ModelBroken, SettingsError.
    """
    operators = _operators(content)
    graph = _opened(content, Path(called))
    check_some_are_numbers(graph)
    made = guess(graph, wishes, told_by(metadata_of(content)))
    findings = [*made.findings, *look_at_batch(graph, made.trial, wishes, operators.shared_fault())]
    said = {"findings": as_json(findings), "manifest": manifest_text("", findings)}
    return {**said, "classes": made.classes, "names": list(made.names)}


def _opened(content: bytes, called: Path) -> Session:
    """Raises ModelBroken."""
    from convq.engine.onnx_session import open_session, without_paths  # noqa: PLC0415 - only the child may load onnxruntime

    session = open_session(content, called, "cpu", 1)
    return Session(session, refused=without_paths)


def _operators(content: bytes) -> Operators:
    """What its operators say. Raises ModelBroken where they draw random numbers."""
    try:
        found = operators_of(content)
    except ValueError as error:
        raise ModelBroken(str(error)) from None
    if why := found.random_fault():
        raise ModelBroken(why)
    return found


def _with_tuples(said: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a dataclass from JSON, which knows no tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in said.items()}


if __name__ == "__main__":
    answer_once(_probe)
