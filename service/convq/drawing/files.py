"""Drawings as PNG files, which say of themselves that they are drawings: nobody's own picture is taken for one."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Final

from PIL import Image
from PIL.PngImagePlugin import PngInfo

_KEY, _MARK = "Software", "convq drawing"
_HEAD_BYTES: Final = 128
"""Pillow writes texts before the pixels."""


def png_of(drawing: Image.Image) -> bytes:
    """A PNG file with that mark, packed fast."""
    info, file = PngInfo(), BytesIO()
    info.add_text(_KEY, _MARK)
    drawing.save(file, "PNG", pnginfo=info, compress_level=1)
    return file.getvalue()


def is_drawing(file: Path) -> bool:
    """Whether a file is one that `png_of` made; False for what cannot be read."""
    try:
        with file.open("rb") as content:
            return f"{_KEY}\0{_MARK}".encode() in content.read(_HEAD_BYTES)
    except OSError:
        return False
