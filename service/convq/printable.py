"""The one maker of printable text: what strangers wrote, as a terminal may be shown it.

Names, labels, ids, error messages and file names come from clients and from model files. Raw on a terminal they could
move its cursor, rename its window, hide what follows or read backwards.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

_UNSEEN = "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef"
"""Letters and marks to Python, and nothing to the eye: two names that differ by one of them look the same."""
_INVISIBLE = re.compile(f"[{_UNSEEN}]")


def printable(text: str) -> str:
    """The text on one line: what moves the cursor, breaks the line, turns it round or cannot be seen is an escape."""
    if text.isprintable() and (text.isascii() or not _INVISIBLE.search(text)):
        return text
    return "".join(c if c.isprintable() and not _INVISIBLE.match(c) else _escape(c) for c in text)


def printable_lines(text: str) -> str:
    """The same for a text whose lines were broken on purpose: only its line feeds stay."""
    return "\n".join(map(printable, text.split("\n")))


def excerpt(text: str, most: int, *, instead: str = "?") -> str:
    """The first `most` characters, with a sign in the place of each that cannot be printed: for a word in a message."""
    return "".join(c if c.isprintable() and not _INVISIBLE.match(c) else instead for c in text[:most])


def brief(text: str, most: int = 60) -> str:
    """`excerpt`, with a sign for what is left out; for a name that may be of any length."""
    return excerpt(text, most) + ("…" if len(text) > most else "")


def brief_list(names: Iterable[str], most: int = 5) -> str:
    """The first few of such names, and how many more there are."""
    said = list(names)
    more = f" and {len(said) - most} more" if len(said) > most else ""
    return ", ".join(map(brief, said[:most])) + more


def json_line(document: object, *, ascii_only: bool = False) -> str:
    """The document as one line of JSON: exact for who parses it, and harmless on a terminal. NaN and infinity are null."""
    line = strict_json(document, ensure_ascii=ascii_only)
    if printable(line) == line:
        return line
    return "".join(c if printable(c) == c else _escape_in_json(c) for c in line)


def strict_json(document: object, **options: Any) -> str:
    """`json.dumps` with null for NaN and infinity, which JSON does not know and other languages' parsers refuse."""
    try:
        return json.dumps(document, allow_nan=False, **options)
    except ValueError:
        return json.dumps(without_nan(document), allow_nan=False, **options)


def without_nan(value: Any) -> Any:
    """The value as JSON can say it: None for each NaN and infinity in it."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: without_nan(one) for name, one in value.items()}
    return [without_nan(one) for one in value] if isinstance(value, list | tuple) else value


def _escape_in_json(character: str) -> str:
    return "\\u007f" if character == "\x7f" else json.dumps(character)[1:-1]


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
