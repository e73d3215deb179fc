"""What a command finds when it starts: streams that are closed, odd encodings, a umask that locks it out of its own files."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any

from convq.outlet import say
from convq.printable import printable_lines

_MODES = (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY)
_NAMES = ("stdin", "stdout", "stderr")


def make_usable() -> None:
    """Open what is closed, before a socket or a file gets its number and a library writes into that. Twice does no harm.

    What an encoding cannot express is written as an escape: a label in Chinese must not end a command under LC_ALL=C.
    """
    for descriptor, mode in enumerate(_MODES):
        try:
            os.fstat(descriptor)
        except OSError:
            _open_nothing(descriptor, mode)
    for name, mode in zip(_NAMES, _MODES, strict=True):
        if getattr(sys, name) is None and name == "stdout":
            sys.stdout = io.TextIOWrapper(io.BufferedWriter(_Nowhere()), encoding="utf-8")
        elif getattr(sys, name) is None:
            kind = "r" if mode == os.O_RDONLY else "w"
            setattr(sys, name, open(_NAMES.index(name), kind, encoding="utf-8", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    os.umask(os.umask(0o077) & 0o077)  # whatever it says of others, what is made here is ours


class _Nowhere(io.RawIOBase):
    """Standard output that was closed before the command began: nothing stops, and what was lost is known at the end."""

    lost = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self.lost = True
        return len(data)


def _open_nothing(descriptor: int, mode: int) -> None:
    opened = os.open(os.devnull, mode)
    if opened == descriptor:
        os.set_inheritable(descriptor, True)
        return
    os.dup2(opened, descriptor)
    os.close(opened)


def complain(text: str) -> None:
    """Write to standard error for people: printable, and without waiting for ever for somebody who reads it."""
    logs = sys.modules.get("convq.logs")  # not imported for this
    if logs is not None:
        logs.flush()
    say(printable_lines(text))


def end_output() -> str | None:
    """Write what is left for standard output; why that is not possible, empty where its reader has simply gone."""
    try:
        sys.stdout.flush()
    except OSError as error:
        _open_nothing(1, os.O_WRONLY)  # the interpreter will try once more
        return "" if error.errno == errno.EPIPE else error.strerror or str(error)
    except ValueError:  # closed by the command itself
        return None
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(raw, _Nowhere) and raw.lost:
        raw.lost = False  # said once
        return os.strerror(errno.EBADF)
    return None


def is_of_output(error: Exception) -> bool:
    """Whether this is what a full disk or a terminal that is gone says to whoever prints: it names no file."""
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF)
    return isinstance(error, OSError) and error.filename is None and error.errno in codes
