"""The sample digits: read from their files, written as PNG, drawn with half blocks. Without numpy and Pillow.

Two pixels share one character, as characters are about twice as high as wide.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from convq.errors import ServiceFailed
from convq.protocol import Result

if TYPE_CHECKING:
    from rich.console import Console

SHOWN = 5
INK = 96
"""From this level of gray on, a pixel is drawn where there are no colours."""


@dataclass(frozen=True, slots=True)
class Digit:
    """One digit to draw: the rows and columns that hold ink, as levels of gray, and what was said about it."""

    rows: tuple[bytes, ...]
    label: str
    said: str
    score: float

    @property
    def width(self) -> int:
        """Pixels from left to right."""
        return len(self.rows[0])

    @property
    def height(self) -> int:
        """Pixels from top to bottom."""
        return len(self.rows)

    def level(self, x: int, y: int) -> int:
        """Gray from 0 to 255; what is outside is black."""
        return self.rows[y][x] if y < self.height else 0

    @property
    def caption(self) -> str:
        """The answer, and the truth where it differs."""
        return f"{self.said}  {self.score:.1%}" if self.said == self.label else f"said {self.said}, is {self.label}"


def read_sample(folder: Path) -> tuple[list[list[bytes]], list[str]]:
    """Images, each as rows of gray pixels, and their labels, from the gzipped IDX files of the sample."""
    try:
        pixels = gzip.decompress((folder / "t10k-1000-images-idx3-ubyte.gz").read_bytes())
        labels = gzip.decompress((folder / "t10k-1000-labels-idx1-ubyte.gz").read_bytes())
    except OSError as error:
        raise ServiceFailed(f"the sample digits cannot be read ({error}): install convq again") from None
    _, count, height, width = struct.unpack_from(">4I", pixels)
    starts = [16 + index * height * width for index in range(count)]
    images = [[pixels[at + y * width : at + (y + 1) * width] for y in range(height)] for at in starts]
    return images, [str(label) for label in labels[8 : 8 + count]]


def encode(rows: Sequence[bytes], level: int = -1, channels: int = 1) -> bytes:
    """A gray image, or with 3 `channels` an RGB one, as a PNG file; `level` is zlib's, 0 stores the pixels as they are."""
    colour = 0 if channels == 1 else 2
    header = struct.pack(">IIBBBBB", len(rows[0]) // channels, len(rows), 8, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows), level)
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    body = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def choose(images: Sequence[list[bytes]], truth: Sequence[str], results: Sequence[Result]) -> list[Digit]:
    """The first ones of different classes that were right, and the first that was wrong, last."""
    right: dict[str, int] = {}
    wrong: list[int] = []
    for index, (label, result) in enumerate(zip(truth, results, strict=True)):
        if result.label != label:
            wrong.append(index)
        else:
            right.setdefault(label, index)
    shown = [*list(right.values())[: SHOWN - len(wrong[:1])], *wrong[:1]]
    return [_digit(images[index % len(images)], truth[index], results[index]) for index in shown]


def _digit(rows: list[bytes], label: str, result: Result) -> Digit:
    inked = [y for y, row in enumerate(rows) if any(row)]
    columns = [x for x in range(len(rows[0])) if any(row[x] for row in rows)]
    cut = tuple(row[columns[0] : columns[-1] + 1] for row in rows[inked[0] : inked[-1] + 1])
    best = result.predictions[0].score if result.predictions else 0.0
    return Digit(cut, label, result.label, best)


def draw(console: Console, digits: Sequence[Digit]) -> None:
    """As many side by side as there is room for."""
    row: list[Digit] = []
    for digit in digits:
        if row and sum(_width(one) for one in (*row, digit)) > console.width - 2:
            _draw_row(console, row)
            row = []
        row.append(digit)
    if row:
        _draw_row(console, row)


def _width(digit: Digit) -> int:
    return max(digit.width, len(digit.caption)) + 3


def _draw_row(console: Console, digits: Sequence[Digit]) -> None:
    from rich.text import Text  # noqa: PLC0415 - with the console

    colours = console.color_system is not None
    for y in range(0, max(digit.height for digit in digits), 2):
        line = Text("  ")
        for digit in digits:
            for x in range(digit.width):
                above, below = digit.level(x, y), digit.level(x, y + 1)
                if colours:
                    line.append("▀", f"rgb({above},{above},{above}) on rgb({below},{below},{below})")
                else:
                    line.append(" ▀▄█"[(above >= INK) + 2 * (below >= INK)])
            line.append(" " * (_width(digit) - digit.width))
        if not colours:
            line.rstrip()
        console.print(line, soft_wrap=True)
    console.print(
        f"  {''.join(f'{digit.caption:<{_width(digit)}}' for digit in digits)}".rstrip() + "\n", soft_wrap=True
    )
