"""A folder beside the models in which one is made, until it is moved into its place in one step.

Services do not look into it, as its name begins with a dot. What a process that was killed has left is cleared by the next:
whoever works in such a folder holds a lock on it, which ends with the process whatever ends that.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

WAIT_S: Final = 5.0
POLL_S: Final = 0.01


@contextmanager
def workshop(root: Path, prefix: str) -> Iterator[Path]:
    """A new folder `root`/`prefix`… for as long as it takes; those with that prefix that nobody works in are removed.

    Raises OSError where `root` cannot be written.
    """
    root.mkdir(parents=True, exist_ok=True)
    with _alone(root) as is_alone:
        if is_alone:
            _clear(root, prefix)
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
        held = _lock(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if held is not None:
            os.close(held)


@contextmanager
def _alone(root: Path) -> Iterator[bool]:
    """Whether nobody else makes or clears folders here meanwhile: between making one and locking it, it looks abandoned."""
    give_up_at = time.monotonic() + WAIT_S
    while (held := _lock(root)) is None and time.monotonic() < give_up_at:
        time.sleep(POLL_S)
    try:
        yield held is not None
    finally:
        if held is not None:
            os.close(held)


def _clear(root: Path, prefix: str) -> None:
    for folder in root.glob(f"{prefix}*"):
        if folder.is_symlink() or not folder.is_dir():
            continue
        held = _lock(folder)
        if held is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(held)


def _lock(folder: Path) -> int | None:
    """A lock on a folder, held until it is closed; None where another holds it, or the file system knows none."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
        return descriptor
    return None
