"""AVIF: 8, 10 and 12 bits, gray, colour, alpha, grids; of a sequence the first picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

from PIL.AvifImagePlugin import AvifImageFile

from convq.engine.codecs import orientation
from convq.engine.codecs.avif_frames import Boxes, check_frames
from convq.engine.codecs.raster import Raster, of_image, peak
from convq.errors import BadImage

BRANDS = (b"avif", b"avis")
_MAX_BOXES = 10_000
_COMPATIBLE_FROM = 16


@dataclass(frozen=True, slots=True)
class AvifHeader:
    """The largest picture that the file describes."""

    file: bytes
    width: int
    height: int
    boxes: Boxes

    @property
    def peak_bytes(self) -> int:
        """The planes of 16 bits, RGBA of the decoder, and its copy as bytes."""
        return peak(self.width * self.height, 6 + 4 + 4)

    def raster(self) -> Raster:
        """The primary picture, turned as its own properties say: EXIF does not count in AVIF."""
        if any(kind == b"clap" for kind, _, _ in self.boxes):
            raise BadImage("the AVIF image is cut by its property clap, which is not read")
        check_frames(self.file, self.boxes)
        image = AvifImageFile(BytesIO(self.file))
        # Pillow names irot and imir as if they were EXIF, and drops what EXIF itself says.
        turn = orientation.of_exif(image.info.get("exif", b"")) or 1
        if image.size != (self.width, self.height):
            raise BadImage(
                f"the AVIF image is {image.width} x {image.height} pixels, and describes {self.width} x {self.height}"
            )
        channels = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}[image.mode]
        return Raster(self.width, self.height, channels, of_image(image), turn)


def recognised(data: bytes) -> bool:
    """Whether the first box names AVIF, as its own brand or among the compatible ones."""
    if data[4:8] != b"ftyp":
        return False
    end = min(int.from_bytes(data[:4], "big"), len(data), 1024)
    return data[8:12] in BRANDS or any(data[at : at + 4] in BRANDS for at in range(_COMPATIBLE_FROM, end - 3, 4))


def header(data: bytes) -> AvifHeader:
    """Walks the boxes down to the properties of pictures and tracks; BadImage where none has a size."""
    largest, boxes = (0, 0), list(_boxes(data, 0, len(data)))
    for kind, start, end in boxes:
        if kind == b"ispe" and end - start >= 12:  # noqa: PLR2004
            size = (
                int.from_bytes(data[start + 4 : start + 8], "big"),
                int.from_bytes(data[start + 8 : start + 12], "big"),
            )
            largest = max(largest, size, key=lambda sides: sides[0] * sides[1])
        elif kind == b"av01" and end - start >= 28:  # noqa: PLR2004
            size = (
                int.from_bytes(data[start + 24 : start + 26], "big"),
                int.from_bytes(data[start + 26 : start + 28], "big"),
            )
            largest = max(largest, size, key=lambda sides: sides[0] * sides[1])
    if not all(largest):
        raise BadImage("the AVIF image is truncated or damaged: no picture in it has a size")
    return AvifHeader(data, *largest, boxes)


_INSIDE = {b"meta": 4, b"iprp": 0, b"ipco": 0, b"moov": 0, b"trak": 0, b"mdia": 0, b"minf": 0, b"stbl": 0, b"stsd": 8}
"""Boxes that hold boxes, and how many bytes stand before these."""


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of the contents of every box, the outer one first."""
    waiting = [(at, end)]
    for _ in range(_MAX_BOXES):
        while waiting and waiting[-1][0] + 8 > waiting[-1][1]:
            waiting.pop()
        if not waiting:
            return
        at, end = waiting.pop()
        size, kind, start = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], at + 8
        if size == 1:
            size, start = int.from_bytes(data[at + 8 : at + 16], "big"), at + 16
        close = at + size if size else end
        if close < start or close > end:
            return
        waiting.append((close, end))
        yield kind, start, close
        if kind == b"iinf":
            waiting.append((start + (6 if data[start : start + 1] == b"\0" else 8), close))
        elif kind in _INSIDE:
            waiting.append((start + _INSIDE[kind], close))
    raise BadImage(f"the AVIF image has more than {_MAX_BOXES} boxes")
