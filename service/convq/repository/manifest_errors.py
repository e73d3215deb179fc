"""What is wrong with a TOML file that does not fit its type, in one line: file, line, key, what was expected."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ValidationError


def explain(file: Path, text: str, err: ValidationError) -> str:
    """One line for the first error of `err`; how many more there are is said, as they often vanish together."""
    first, *rest = err.errors(include_url=False)
    keys = tuple(first["loc"])
    line = _line_of(text, keys)
    where = f"{file}:{line}" if line else str(file)
    dotted = ".".join(map(str, keys)) or "the manifest"
    if first["type"] == "extra_forbidden":
        what = "unknown key"
    else:
        what = expectation(err)
        if not isinstance(first["input"], dict | BaseModel) and first["type"] != "missing":
            what += f", found {str(first['input'])[:60]!r}"
    more = f" (and {len(rest)} more)" if rest else ""
    return f"{where}: {dotted}: {what}{more}"


def expectation(err: ValidationError) -> str:
    """What the first error of `err` says was expected, in words that go on after the value or its key."""
    what = str(err.errors(include_url=False)[0]["msg"]).removeprefix("Value error, ")
    what = what.replace("Input should be", "expected").replace("a valid tuple", "a list")
    return what if what.startswith("expected") else f"expected {what}"


def _line_of(text: str, keys: Sequence[int | str]) -> int | None:
    """The line on which the last named key of `keys` stands, or its table begins; None where it is not plain."""
    tables: dict[str, int] = {}
    current: tuple[int | str, ...] = ()
    best: int | None = None
    dotted = re.compile(rf"\s*{re.escape(str(keys[0]))}\s*\." if len(keys) == 1 else r"(?!)")
    for number, line in enumerate(text.splitlines(), start=1):
        if not current and dotted.match(line):
            return number
        if header := re.match(r"\s*(\[\[?)\s*([\w.\"-]+)\s*\]", line):
            name = header[2]
            tables[name] = tables.get(name, -1) + 1
            current = (name, tables[name]) if header[1] == "[[" else (name,)
            if tuple(keys[: len(current)]) == current:
                best = number
            elif len(keys) == 1 and name.startswith(f"{keys[0]}."):
                return number
        elif (entry := re.match(r"\s*([\w-]+)\s*=", line)) and (*current, entry[1]) == tuple(keys[: len(current) + 1]):
            return number
    return best
