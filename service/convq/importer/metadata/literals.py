"""Reads a literal of Python or JSON that a stranger wrote: numbers, texts, lists and dictionaries, and nothing that runs.

Not `ast.literal_eval`, which a few kilobytes of brackets or signs can end together with its process. This one goes through
the text once, with bounds on its length, on how deep it is nested and on how much it holds.
"""

from __future__ import annotations

import re
from typing import Any, Final

MOST_BYTES: Final = 64 << 10
"""Of the text, in UTF-8."""
MOST_ENTRIES: Final = 10_000
"""That a dictionary may have, or a list."""
MOST_VALUES: Final = 2 * MOST_ENTRIES + 2
"""Of one text, keys included."""
MOST_DEPTH: Final = 4

_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<sign>[\[\]{}(),:])
    |(?P<number>[-+]?(?:\d{1,30}(?:\.\d{0,30})?|\.\d{1,30})(?:[eE][-+]?\d{1,4})?)
    |(?P<word>[A-Za-z_]\w{0,30})
    |(?P<text>[uU]?(?:'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")))""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE: Final = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)
_ESCAPED: Final = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "\n": ""}
_WORDS: Final = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None}
_CLOSING: Final = {"[": "]", "(": ")", "{": "}"}


def literal(text: str) -> Any:
    """The value that the text says: None, bool, int, float, str, list (of tuples, too) or dict.

    Raises ValueError, in words that go on after what the text is called, for anything else or too much of it.
    """
    if len(text) > MOST_BYTES or len(text.encode("utf-8", "replace")) > MOST_BYTES:
        raise ValueError(f"has more than {MOST_BYTES >> 10} KiB")
    reader = _Reader(text)
    value = reader.value(0)
    if reader.peek()[1]:
        raise ValueError("is no literal: something follows it")
    return value


class _Reader:
    """Goes through one text."""

    def __init__(self, text: str) -> None:
        self._text, self._at, self._entries = text.rstrip(), 0, 0

    def peek(self) -> tuple[str, str, int]:
        """Kind, text and end of what comes next; no text at the end."""
        if self._at >= len(self._text):
            return "", "", self._at
        match = _TOKEN.match(self._text, self._at)
        if match is None or match.lastgroup is None:
            raise ValueError(f"is no literal at its character {self._at + 1}")
        return match.lastgroup, match[match.lastgroup], match.end()

    def value(self, depth: int) -> Any:
        """One value, with all that is in it."""
        kind, token, end = self.peek()
        self._entries += 1
        if self._entries > MOST_VALUES:
            raise ValueError(f"holds more than {MOST_VALUES:,} values")
        if token in _CLOSING and kind == "sign":
            if depth == MOST_DEPTH:
                raise ValueError(f"is nested more than {MOST_DEPTH} deep")
            self._at = end
            return self._mapping(depth) if token == "{" else self._list(_CLOSING[token], depth)  # noqa: S105
        self._at = end
        if kind == "number":
            return float(token) if set(token) & set(".eE") else int(token)
        if kind == "text":
            return _unescaped(token)
        if kind == "word" and token in _WORDS:
            return _WORDS[token]
        raise ValueError(f"is no literal: {token[:30]!r} is no value" if token else "is no literal: it ends too early")

    def _list(self, closing: str, depth: int) -> list[Any]:
        found: list[Any] = []
        while not self._takes(closing):
            found.append(self.value(depth + 1))
            self._comma_or(closing)
        return found

    def _mapping(self, depth: int) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        while not self._takes("}"):
            key = self.value(MOST_DEPTH)  # no key is nested
            if not self._takes(":"):
                raise ValueError("is no literal: expected ':' after a key")
            found[key] = self.value(depth + 1)
            self._comma_or("}")
        return found

    def _takes(self, sign: str) -> bool:
        kind, token, end = self.peek()
        if kind == "sign" and token == sign:
            self._at = end
            return True
        return False

    def _comma_or(self, closing: str) -> None:
        if not self._takes(",") and self.peek()[1] != closing:
            raise ValueError(f"is no literal: expected ',' or '{closing}' at its character {self._at + 1}")


def _unescaped(token: str) -> str:
    """What a text in quotes says."""
    inner = token.lstrip("uU")[1:-1]

    def said(match: re.Match[str]) -> str:
        escape = match[1]
        if len(escape) > 1:
            number = int(escape[1:], 16)
            return chr(number) if number < 0x110000 and not 0xD800 <= number < 0xE000 else "?"  # noqa: PLR2004
        return _ESCAPED.get(escape, escape)

    return _ESCAPE.sub(said, inner)
