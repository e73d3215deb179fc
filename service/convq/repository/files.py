"""Opens the files of model folders, which strangers may have made: nothing else in convq reads one.

A folder that was handed over may hold links to any file of the machine, pipes that never end, devices, or gigabytes
where a line was meant. What is opened here is a regular file of a bounded size, and it lies in the model's folder or at
least in the folder of models: links inside are how Kubernetes mounts a ConfigMap and how caches share a file.
"""

from __future__ import annotations

import os
import stat
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Sequence
from io import BufferedReader
from pathlib import Path
from typing import Final

from convq.errors import ModelBroken
from convq.printable import brief, brief_list

MIB: Final = 1 << 20
MOST_BYTES: Final = {
    "manifest.toml": MIB,
    "report.json": 16 * MIB,
    "model.onnx": (1 << 31) - 1,
    "features.onnx": (1 << 31) - 1,
}
"""File -> bytes that it may have. A graph is one message of protocol buffers, which hold less than 2 GiB."""
MOST_LABELS_BYTES: Final = 8 * MIB
MOST_LABEL_CHARACTERS: Final = 1000
MOST_SAMPLE_BYTES: Final = 512 * MIB
"""Of a warm-up sample; the most that one job could bring."""

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
"""Without O_NONBLOCK the opening of a pipe waits for somebody to write."""


def open_inside(file: Path, model: Path, most_bytes: int) -> BufferedReader:
    """Open a file of the folder `model`: a regular one of at most `most_bytes`, without following a link out of it.

    A link may lead to another place in the folder of models, which is the one that holds `model`. Raises ModelBroken,
    which names the file and what was expected.
    """
    try:
        real = file.resolve(strict=True)
        homes = (model.resolve(), model.absolute().parent.resolve())
    except (OSError, RuntimeError, ValueError) as error:
        raise _unreadable(file, error) from None
    if not any(real.is_relative_to(home) for home in homes):
        raise ModelBroken(f"{file}: is a link that leads out of the folder of models; expected a file in it")
    return _open(file, real, most_bytes)


def open_given(file: Path, most_bytes: int) -> BufferedReader:
    """Open a file that a person has named: it may lie anywhere, and is a regular one of at most `most_bytes` all the same."""
    try:
        real = file.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise _unreadable(file, error) from None
    return _open(file, real, most_bytes)


def read_inside(file: Path, model: Path, most_bytes: int) -> bytes:
    """The content of a file of the folder `model`; raises ModelBroken as `open_inside` does."""
    with open_inside(file, model, most_bytes) as content:
        return _read(content, file, most_bytes)


def read_given(file: Path, most_bytes: int) -> bytes:
    """The content of a file that a person has named; raises ModelBroken as `open_given` does."""
    with open_given(file, most_bytes) as content:
        return _read(content, file, most_bytes)


def read_sample(file: Path, model: Path) -> bytes:
    """The warm-up sample of the folder `model`, which its errors are called."""
    try:
        return read_inside(file, model, MOST_SAMPLE_BYTES)
    except ModelBroken as error:
        raise ModelBroken(str(error).replace(f"{file}: ", f"{file}: the warm-up sample ", 1)) from None


def text_of(content: bytes, file: Path) -> str:
    """UTF-8 text with its byte order mark, if it has one, taken away. Raises ModelBroken for any other encoding."""
    if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) or b"\0" in content:
        raise ModelBroken(f"{file}: is not UTF-8 text but UTF-16 or binary; save it as UTF-8")
    try:
        return content.removeprefix(BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ModelBroken(f"{file}:{line}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def labels_of(content: bytes, file: Path) -> tuple[str, ...]:
    """Class names, one a line, without blanks around them; empty lines at the end are nobody's. Raises ModelBroken.

    Lines end as on any system. What else counts as a line break in Unicode may stand in a name.
    """
    lines = text_of(content, file).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    # Files that were put together from several may have marks in the middle.
    labels = [line.strip().strip("\ufeff").strip() for line in lines]
    while labels and not labels[-1]:
        labels.pop()
    if not labels or "" in labels:
        where = labels.index("") + 1 if labels else 1
        raise ModelBroken(f"{file}:{where}: is empty; expected one class name on every line")
    longest = max(range(len(labels)), key=lambda index: len(labels[index]))
    if len(labels[longest]) > MOST_LABEL_CHARACTERS:
        raise ModelBroken(
            f"{file}:{longest + 1}: has {len(labels[longest])} characters; a class name has at most {MOST_LABEL_CHARACTERS}"
        )
    return tuple(labels)


def alphabet_of(content: bytes, file: Path) -> tuple[str, ...]:
    """Characters, one a line, which blanks may be; empty lines at the end are nobody's. Raises ModelBroken.

    Lines end as those of `labels_of`.
    """
    lines = text_of(content, file).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    while lines and not lines[-1]:
        lines.pop()
    if not lines or "" in lines:
        where = lines.index("") + 1 if lines else 1
        raise ModelBroken(f"{file}:{where}: is empty; expected one character on every line")
    if long := next((number for number, one in enumerate(lines, 1) if len(one) > MOST_LABEL_CHARACTERS), None):
        raise ModelBroken(f"{file}:{long}: has {len(lines[long - 1])} characters; expected one on every line")
    return tuple(lines)


def repeated(labels: Sequence[str]) -> str:
    """The names that stand for several classes, with their lines; empty where each is another."""
    lines: dict[str, list[str]] = {}
    for number, label in enumerate(labels, start=1):
        lines.setdefault(label, []).append(str(number))
    named = (f"'{brief(label)}' (lines {brief_list(there)})" for label, there in lines.items() if len(there) > 1)
    return brief_list(named, 3)


def _open(file: Path, real: Path, most_bytes: int) -> BufferedReader:
    """`real` is where `file` leads. Looked at before it is opened, since opening alone does things to some devices."""
    try:
        _check(real.stat(follow_symlinks=False), file, most_bytes)
        descriptor = os.open(real, _FLAGS | os.O_NOFOLLOW)
    except OSError as error:
        raise _unreadable(file, error) from None
    try:
        _check(os.fstat(descriptor), file, most_bytes)
        if real.resolve() != real:  # a folder on the way became a link just now
            raise ModelBroken(f"{file}: changes while it is read")
        return os.fdopen(descriptor, "rb")
    except BaseException:  # Ctrl-C too: an open file must not stay behind
        os.close(descriptor)
        raise


def _check(facts: os.stat_result, file: Path, most_bytes: int) -> None:
    if not stat.S_ISREG(facts.st_mode):
        kind = _KINDS.get(stat.S_IFMT(facts.st_mode), "something else")
        raise ModelBroken(f"{file}: is {kind}; expected a regular file")
    if facts.st_size > most_bytes:
        raise _too_large(file, facts.st_size, most_bytes)


def _read(content: BufferedReader, file: Path, most_bytes: int) -> bytes:
    """All of it. One that grows meanwhile, or whose size the file system does not know, is bounded as well.

    No more is asked for than there is: Python sets aside all that it is asked to read, which a limit of memory counts.
    """
    try:
        parts = [content.read(os.fstat(content.fileno()).st_size)]
        while (left := most_bytes + 1 - sum(map(len, parts))) > 0 and (more := content.read(min(MIB, left))):
            parts.append(more)
    except OSError as error:
        raise _unreadable(file, error) from None
    found = parts[0] if len(parts) == 1 else b"".join(parts)
    if len(found) > most_bytes:
        raise _too_large(file, len(found), most_bytes)
    return found


def _too_large(file: Path, size_bytes: int, most_bytes: int) -> ModelBroken:
    return ModelBroken(f"{file}: has {size_bytes} bytes; at most {most_bytes} are read")


def _unreadable(file: Path, error: OSError | RuntimeError | ValueError) -> ModelBroken:
    """RuntimeError is what Python up to 3.12 says of links that lead in a circle, ValueError is of a zero byte in a name."""
    if isinstance(error, OSError):
        reason = error.strerror
    else:
        reason = "its links lead in a circle" if isinstance(error, RuntimeError) else "its name is that of no file"
    return ModelBroken(f"{file}: cannot be read: {reason}")
