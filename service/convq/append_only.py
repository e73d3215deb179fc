"""Why a server does not load its append-only file, told from its log and its files: a newer server's, or damaged, and where.

The servers' own advice for nearly everything is a tool with `--fix`, which cuts all that follows the first bad byte.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from convq.errors import RedisUnavailable

FOLDER = "appendonlydir"
LONGEST_LINE_BYTES = 64
LONGEST_PREAMBLE_BYTES = 4096

_FILE = re.compile(r"appendonly\.aof\.\d+\.(?:base|incr)\.(?:rdb|aof)")
_NAMED = re.compile(r"^\s*file\s+\"?([^\s\"]+)\"?\s.*\btype\s+[bi]\b", re.MULTILINE)
"""A line of the manifest whose file the server loads; files of type h are only waiting to be removed."""
_FORMAT = re.compile(rb"(REDIS|VALKEY)(\d{3,4})")
_UNKNOWN = re.compile(r"[Uu]nknown command '([^']{1,40})'")
_OFFSET = re.compile(r"Internal error in RDB reading offset (\d+)")


@dataclass(frozen=True, slots=True)
class Damage:
    """Where a file of commands stops making sense."""

    good_bytes: int
    """Up to here it is whole; a transaction that does not end counts as not begun, as the servers' tools see it."""
    good_commands: int
    size_bytes: int


def refuse_loss(data: Path, server: str) -> None:
    """Raise RedisUnavailable where `server` would begin empty beside what lies in `data`, or lacks what is named there.

    Without a manifest that names them, a server takes no notice of its files: it says that it is ready, and the keys are gone.
    """
    try:
        lost = _find_loss(data)
    except OSError as error:
        lost = f"{error.filename or data / FOLDER} cannot be read: {error.strerror}"
    if lost:
        raise RedisUnavailable(f"{server} did not start: {lost}")


def _find_loss(data: Path) -> str:
    manifest, folder = _manifest(data), data / FOLDER
    if not folder.is_dir():
        return ""
    written = manifest.exists()
    named = _NAMED.findall(manifest.read_text(encoding="utf-8", errors="replace")) if written else []
    for name in named:
        if not (folder / name).exists():
            return _missing(folder / name)
    held = sorted(path for path in folder.iterdir() if _FILE.fullmatch(path.name))
    if named or not any(_holds_data(path) for path in held):
        return ""
    trouble = "is damaged: it names the files beside it, one a line, and names none" if written else "is missing"
    files = ", ".join(path.name for path in held)
    return (
        f"{manifest} {trouble}, and without it the server would begin empty beside {files}; put it back from a copy, or "
        f"move {folder} away to begin with nothing. Nothing was changed"
    )


def _holds_data(file: Path) -> bool:
    """False for what a server writes at its very first start: when it is killed before the manifest, nothing is lost."""
    if file.suffix != ".rdb":
        return file.stat().st_size > 0
    with file.open("rb") as content:
        begin = content.read(LONGEST_PREAMBLE_BYTES)
    found = _FORMAT.match(begin)
    at = found.end() if found else 0
    while begin[at : at + 1] == b"\xfa":  # a fact about the server itself: its version, the time
        at = _behind_string(begin, _behind_string(begin, at + 1))
    return found is None or begin[at : at + 1] != b"\xff" or len(begin) > at + 9


def _behind_string(content: bytes, at: int) -> int:
    """Where a short string, or a number that is kept as one, ends in a snapshot."""
    first = content[at] if at < len(content) else 0
    return at + 1 + {0xC0: 1, 0xC1: 2, 0xC2: 4}.get(first, first & 0x3F)


def explain(data: Path, log: str, server: str) -> str:
    """Why `server` (such as "valkey 9.1.2") did not load what lies in `data`, from the end of its log; empty where it is not that."""
    if "Invalid AOF manifest" in log:
        return f"{_manifest(data)} is damaged: it names the files beside it, one a line; put it back from a copy"
    names = _FILE.findall(log)
    if not names:
        return ""
    file = data / FOLDER / names[-1]
    if not file.exists():
        return _missing(file)
    if unknown := _UNKNOWN.search(log):
        return f"{file} holds the command {unknown[1]!r}, which {server} does not know: {_newer(server)}"
    return _of_the_base(file, log, server) if file.suffix == ".rdb" else _of_the_commands(file, server)


def find_damage(file: Path) -> Damage | None:
    """The first place where a file of commands in Redis's protocol is none; None where it is whole. Raises OSError."""
    size_bytes = file.stat().st_size
    good_bytes = commands = seen = 0
    inside = False
    with file.open("rb") as content:
        while content.tell() < size_bytes:
            name = _command(content)
            if name is None:
                return Damage(good_bytes, commands, size_bytes)
            seen += bool(name)
            inside = name == b"MULTI" or (inside and name != b"EXEC")
            if not inside:
                good_bytes, commands = content.tell(), seen
    return Damage(good_bytes, commands, size_bytes) if inside else None


def _command(content: BufferedReader) -> bytes | None:
    """The name of the next command, in capitals and at most a line long; empty for a comment, None for what is neither."""
    line = content.readline(LONGEST_LINE_BYTES)
    if line.startswith(b"#") and line.endswith(b"\n"):
        return b""
    name = None
    for _ in range(_number(line, b"*")):
        length = _number(content.readline(LONGEST_LINE_BYTES), b"$")
        if length < 0:
            return None
        word = content.read(min(length, LONGEST_LINE_BYTES))
        content.seek(length - len(word), 1)
        if content.read(2) != b"\r\n":
            return None
        name = word.upper() if name is None else name
    return name


def _number(line: bytes, sign: bytes) -> int:
    """What stands after `sign`; -1 where the line is something else."""
    digits = line[1:-2]
    whole = line[:1] == sign and line[-2:] == b"\r\n" and digits.isdigit() and len(digits) < 16  # noqa: PLR2004
    return int(digits) if whole else -1


def _of_the_commands(file: Path, server: str) -> str:
    damage = find_damage(file)
    if damage is None:
        return ""
    lost_bytes = damage.size_bytes - damage.good_bytes
    tool = f"{server.partition(' ')[0]}-check-aof --fix"
    return (
        f"{file} is damaged at byte {damage.good_bytes} of {damage.size_bytes}, after {damage.good_commands} whole commands; "
        f"{tool} would cut the last {lost_bytes} bytes, and what is good among them too: copy the folder first"
    )


def _of_the_base(file: Path, log: str, server: str) -> str:
    """Of the snapshot that the commands begin with: its first bytes say who wrote it."""
    with file.open("rb") as content:
        found = _FORMAT.match(content.read(16))
    if offset := _OFFSET.search(log):
        return f"{file} is damaged near byte {offset[1]}: put it back from a copy"
    if found is None:
        return f"{file} is damaged: it does not begin as a snapshot does; put it back from a copy"
    written = f"{found[1].decode().capitalize()}'s format {int(found[2])}"
    return f"{file} has {written}, which {server} cannot read: {_newer(server)}"


def _newer(server: str) -> str:
    return f"it was written by a newer server, or by another one than {server.partition(' ')[0]}; start that one. Nothing was changed"


def _missing(file: Path) -> str:
    return f"{file} is missing, though the manifest beside it names it; put it back from a copy"


def _manifest(data: Path) -> Path:
    return data / FOLDER / "appendonly.aof.manifest"
