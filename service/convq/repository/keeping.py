"""How tools put a version into its model's folder: with all that it was made with, under a number that is new, in one step."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from convq.errors import ModelBroken
from convq.repository.files import MOST_BYTES, open_inside, read_inside
from convq.repository.manifest import FILE
from convq.repository.model_folders import missing_in, versions_in
from convq.repository.numbering import Mark, ledger_of, mark_of, record
from convq.repository.version_files import VersionFiles, has_own_manifest, report_of

GRAPH = "model.onnx"


def next_number(model: Path) -> int:
    """The number after all that lie in the model's folder, or ever did. Raises ModelBroken, OSError."""
    there = versions_in(model) if model.is_dir() else ()
    return max([0, *there, *ledger_of(model)]) + 1


def was_given(model: Path, number: int) -> bool:
    """Whether the number lies there, or ever did. Raises ModelBroken, OSError."""
    return model.is_dir() and (number in versions_in(model) or number in ledger_of(model))


def keep_with(model: Path, version: int) -> list[str]:
    """Copy into a version's folder the manifest that holds for it, and what that names; the names, for its report.

    The manifest comes last: from then on the version's own files hold. Raises ModelBroken, OSError.
    """
    files = VersionFiles.of(model, version)
    folder = model / str(version)
    holds = [name for name, _ in files.named()]
    for name, most_bytes in files.named():
        _put(folder / name, read_inside(files.find(name), model, most_bytes))
    if not files.is_own:
        _put(folder / FILE, read_inside(model / FILE, model, MOST_BYTES[FILE]))
    return sorted({FILE, *holds})


def settle(model: Path, objection: Callable[[int], str]) -> list[int]:
    """Give each version of a model that has no manifest of its own a copy of the model's; which versions those were.

    `objection` loads a version and says why it cannot be served. Raises ModelBroken where the model's manifest has been
    changed so that a version whose files are whole cannot be served with it: it could never be gone back to. OSError.
    """
    loose = [one for one in versions_in(model) if not has_own_manifest(model, one) and _is_whole(model, one)]
    for version in loose:
        if reason := objection(version):
            raise ModelBroken(
                f"{model / FILE} does not fit version {version}, which has no manifest of its own, and could not be gone"
                f" back to: {reason}; put the manifest that it was made with at {model / str(version) / FILE}, or move the"
                " version away"
            )
    for version in loose:
        keep_with(model, version)
    return loose


def place(made: Path, model: Path, number: int, *, instead: Path | None = None) -> None:
    """Move a finished version from the folder `made` to where services look for it, and record its number.

    `instead` is where a version of that number is moved to that lies there already; without it that is an error, as is a
    number that was given before. Raises FileExistsError, ModelBroken, OSError.
    """
    with _alone(model):
        ledger, target = _completed(model, ledger_of(model)), model / str(number)
        if instead is None and (number in ledger or os.path.lexists(target)):
            raise FileExistsError(errno.EEXIST, f"the number {number} was given before", str(model))
        record(model, {**ledger, number: mark_of(made.parent, number, only_own=True)})
        if instead is not None and target.exists():
            target.rename(instead)
        made.rename(target)


def _completed(model: Path, ledger: Mapping[int, Mark]) -> dict[int, Mark]:
    """The ledger with the versions that came without a tool, and with what is known of those that were settled since."""
    found = dict(ledger)
    for version in versions_in(model):
        with suppress(ModelBroken):  # it cannot be served either
            mark = mark_of(model, version, only_own=True)
            if version not in found or (found[version].is_of(mark) and mark.answers):
                found[version] = mark
    return found


def _is_whole(model: Path, version: int) -> bool:
    """Whether its graph is the one that its report is about: then only the manifest can be at fault."""
    try:
        if missing_in(model / str(version)):
            return False
        with open_inside(model / str(version) / GRAPH, model, MOST_BYTES[GRAPH]) as content:
            return hashlib.file_digest(content, "sha256").hexdigest() == report_of(model, version).get("sha256")
    except (ModelBroken, OSError):
        return False


def _put(file: Path, content: bytes) -> None:
    """Write a file in one step, unless it is that already."""
    if file.is_file() and file.read_bytes() == content:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{file.name}-", dir=file.parent)
    with os.fdopen(descriptor, "wb") as written:
        written.write(content)
        os.fchmod(descriptor, 0o644)
    Path(name).replace(file)


@contextmanager
def _alone(model: Path) -> Iterator[None]:
    """Nobody else gives numbers of this model meanwhile, where the file system knows locks."""
    descriptor = os.open(model, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
