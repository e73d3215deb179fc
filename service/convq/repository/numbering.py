"""Which network each version number of a model has meant: a number that was given once is never given to another one.

The tools write `versions.json` in the model's folder: a number stays there after the version's folder was deleted. The same
files under the same number are the same version, however they came back; others are named and not served.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from convq.errors import ModelBroken
from convq.repository.files import MIB, read_inside
from convq.repository.version_files import VersionFiles, report_of

LEDGER: Final = "versions.json"
MOST_LEDGER_BYTES: Final = 16 * MIB
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Mark:
    """What tells a version from every other: its graph, and what makes answers of what that yields."""

    sha256: str
    """Of `model.onnx`, as the report says."""
    answers: str = ""
    """See `VersionFiles.answers`; empty where it is not the version's own and may change with the model's manifest."""

    def is_of(self, other: Mark) -> bool:
        """Whether both may be of the same version."""
        alike = not (self.answers and other.answers) or self.answers == other.answers
        return self.sha256 == other.sha256 and alike


def mark_of(model: Path, version: int, *, only_own: bool = False) -> Mark:
    """The mark of a version as it lies there; with `only_own`, of what lies in its own folder. Raises ModelBroken."""
    files, said = VersionFiles.of(model, version), report_of(model, version).get("sha256")
    if not isinstance(said, str):
        raise ModelBroken(f"{model / str(version)}: its report has no sha256")
    return Mark(said, files.answers() if files.is_own or not only_own else "")


def ledger_of(model: Path) -> Mapping[int, Mark]:
    """Number -> the mark of what was given it; empty where no tool has written a ledger. Raises ModelBroken."""
    file = model / LEDGER
    if not os.path.lexists(file):
        return {}
    try:
        said = json.loads(read_inside(file, model, MOST_LEDGER_BYTES))
        return {int(number): _mark_in(row) for number, row in said.items() if _NUMBER.fullmatch(number)}
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        raise ModelBroken(
            f"{file}: is not what convq writes; expected an object of numbers with their sha256"
        ) from None


def _mark_in(row: Mapping[str, Any]) -> Mark:
    return Mark(str(row["sha256"]), str(row.get("answers", "")))


def record(model: Path, ledger: Mapping[int, Mark]) -> None:
    """Write the ledger anew, in one step. Raises OSError."""
    rows = [
        f'  "{number}": {json.dumps({"sha256": mark.sha256} | ({"answers": mark.answers} if mark.answers else {}))}'
        for number, mark in sorted(ledger.items())
    ]
    descriptor, name = tempfile.mkstemp(prefix=f".{LEDGER}-", dir=model)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write("{\n" + ",\n".join(rows) + "\n}\n")
        os.fchmod(file.fileno(), 0o644)
    Path(name).replace(model / LEDGER)


def reused(version: int, given: Mark | None, found: Mark) -> str:
    """Why what lies under a number is not served under it, in words that go on after the version's folder; empty where it is."""
    if given is None or given.is_of(found):
        return ""
    if given.sha256 == found.sha256:
        return (
            f"the number {version} was given to this graph with another manifest or other labels; numbers are never given"
            " twice: rename the folder to the next number"
        )
    return (
        f"the number {version} was given to another network, with the SHA-256 {given.sha256[:_SHOWN]}…; numbers are never"
        " given twice: rename the folder to the next number"
    )
