"""Text on pictures in any script: which font has the glyphs, and what is written where none has."""

from __future__ import annotations

import os
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any, Final

from PIL import ImageFont

from convq.errors import BadField

_FOLDERS: Final = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts", "/System/Library/Fonts", "/Library/Fonts")  # fmt: skip
_FILES: Final = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "LiberationSans-Regular.ttf",
    "Arial Unicode.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "wqy-zenhei.ttc",
    "wqy-microhei.ttc",
    "DroidSansFallbackFull.ttf",
    "NotoSansArabic-Regular.ttf",
    "NotoSansHebrew-Regular.ttf",
    "NotoSansDevanagari-Regular.ttf",
    "NotoSansThai-Regular.ttf",
)
"""What systems bring that has more than English, in this order."""
_PROBE_PX: Final = 16
_NO_CHARACTER: Final = "\uffff"
_LONGEST: Final = 200
"""Characters of a text that are looked at; more have no place on any picture."""
_MARK: Final = "…"


class Fonts:
    """Fonts of one size: the one that a caller names, Pillow's own, and what the system has for other scripts."""

    def __init__(self, size_px: int, file: str | os.PathLike[str] | None = None) -> None:
        """`file` is a TrueType or OpenType font that comes first. Raises BadField where it is none."""
        check_font(file)
        self.size_px = size_px
        self._file = None if file is None else str(file)

    def has(self, text: str) -> bool:
        """Whether some font has all of its glyphs."""
        return self._source(text) is not None

    def of(self, text: str) -> Any:
        """The font for a text; where none has all glyphs, the first one, whose boxes stand for what is missing."""
        found = self._source(text)
        return self._first if found is None else _loaded(found, self.size_px)

    def width(self, text: str) -> int:
        """Pixels from left to right."""
        return int(self.of(text).getbbox(text)[2]) if text else 0

    @cached_property
    def height(self) -> int:
        """Pixels of a line, from the top of the highest letters to the bottom of the lowest."""
        font = self._first
        return int(sum(font.getmetrics())) if isinstance(font, ImageFont.FreeTypeFont) else self.size_px

    def fitted(self, text: str, most_px: int) -> str:
        """The text, or as much of its beginning as has room with an ellipsis; empty where nothing has."""
        if self.width(text) <= most_px:
            return text
        low, high = 0, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.width(text[:middle] + _MARK) <= most_px else (low, middle - 1)
        return text[:low].rstrip() + _MARK if low else ""

    @property
    def _first(self) -> Any:
        return _loaded(self._file or "", self.size_px)

    def _source(self, text: str) -> str | None:
        """The file of the first font that has all glyphs, empty for Pillow's own; None where there is none."""
        own = [] if self._file is None else [self._file]
        tried = (one for part in (own, [""], system_fonts()) for one in part)
        characters = frozenset(text[:_LONGEST])
        return next((one for one in tried if all(_has(one, character) for character in characters)), None)


def check_font(file: str | os.PathLike[str] | None) -> None:
    """Raise BadField where that file is no font."""
    if file is None:
        return
    try:
        _loaded(str(file), _PROBE_PX)
    except OSError:
        raise BadField(f"{str(file)!r} is no font that can be read: TrueType or OpenType") from None


def written(text: str) -> str:
    """A text of strangers as one line of what can be seen: no control characters, no lone surrogates, not endless."""
    seen = "".join(one if one.isprintable() else " " for one in text[: 2 * _LONGEST]).strip()
    return seen if len(seen) <= _LONGEST else seen[: _LONGEST - 1] + _MARK


@lru_cache(maxsize=64)
def _loaded(file: str, size_px: int) -> Any:
    """The font of a file, or Pillow's own: of one size where Pillow was built without FreeType. Raises OSError."""
    if file:
        return ImageFont.truetype(file, size_px)
    try:
        return ImageFont.load_default(size_px)
    except ImportError:
        return ImageFont.load_default_imagefont()


@cache
def system_fonts() -> list[str]:
    """Those of `_FILES` that are installed here, in that order."""
    found: dict[str, str] = {}
    for folder in _FOLDERS:
        for where, _, names in os.walk(Path(folder).expanduser()):
            for name in names:
                if name in _FILES:
                    found.setdefault(name, str(Path(where) / name))
    return [found[name] for name in _FILES if name in found]


@cache
def _has(file: str, character: str) -> bool:
    """Whether a font draws something else for this character than for one that there is not."""
    try:
        return character == " " or _shape(file, character) != _missing(file)
    except (OSError, ValueError):  # a damaged file of the system, or a font that has Latin letters alone
        return character.isascii() and not file


@cache
def _missing(file: str) -> tuple[Any, bytes]:
    """What a font draws where it has no glyph."""
    return _shape(file, _NO_CHARACTER)


def _shape(file: str, character: str) -> tuple[Any, bytes]:
    mask = _loaded(file, _PROBE_PX).getmask(character)
    return mask.size, bytes(mask)
