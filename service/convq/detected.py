"""What networks see in a picture, as results have it: part of the protocol's words, see `convq.protocol`."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import TYPE_CHECKING, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    import numpy as np


class PictureSize(BaseModel):
    """Of the upright picture, in pixels."""

    model_config = ConfigDict(frozen=True)

    width: int
    height: int


class RunLengths(BaseModel):
    """A mask as COCO's compressed run lengths, down the columns of the picture, zeros first."""

    model_config = ConfigDict(frozen=True)

    size: tuple[int, int] = Field(description="height and width of the picture")
    counts: str

    def array(self) -> np.ndarray:
        """The mask, [height, width] of bool. Needs numpy; ValueError where it is none."""
        import numpy as np  # noqa: PLC0415 - the base install has no numpy

        height, width = self.size
        runs, filled = self.runs(), [False, True]
        values = (filled * (len(runs) // 2 + 1))[: len(runs)]
        return np.repeat(np.array(values, dtype=np.bool_), runs).reshape(width, height).T

    def runs(self) -> list[int]:
        """The lengths, in pixels, in turns outside and inside of the mask. ValueError where they are not those of its size.

        Five bits a character, lowest first; from the fourth on a length is its difference to the one two before it.
        """
        runs: list[int] = []
        value = shift = 0
        for character in self.counts.encode():
            group = character - 48
            value |= (group & 31) << shift
            shift += 5
            if group & 32:
                continue
            if group & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))  # noqa: PLR2004 - the first three stand for themselves
            value = shift = 0
        height, width = self.size
        if min(runs, default=0) < 0 or sum(runs) != height * width:
            raise ValueError(f"the run lengths of a mask do not add up to its {height * width} pixels")
        return runs


class MaskPicture(BaseModel):
    """A mask as a PNG of its box alone, gray of 0 or 255."""

    model_config = ConfigDict(frozen=True)

    x: int = Field(description="of the top left pixel, in the picture")
    y: int
    data: str = Field(description="base64 of the PNG")

    def png(self) -> bytes:
        """The PNG file."""
        return base64.b64decode(self.data)


class Detection(BaseModel):
    """One object that was found; coordinates are pixels of the upright picture, from its top left corner."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    label: str
    index: int
    score: float = Field(description="between 0 and 1")
    box: tuple[float, float, float, float] = Field(description="x1, y1, x2, y2; of what has corners, around them")
    corners: tuple[tuple[float, float], ...] | None = Field(
        None, description="of a rotated rectangle, four, clockwise as seen"
    )
    keypoints: tuple[tuple[float, ...], ...] | None = Field(
        None,
        description="x, y and perhaps a score each, in the order of the model's names; may lie outside the picture",
    )
    rle: RunLengths | None = Field(None, alias="mask", description="which pixels of the picture belong to it")
    polygons: tuple[tuple[float, ...], ...] | None = Field(
        None, description="instead of mask: rings x, y, x, y, …; holes run the other way round; even-odd"
    )
    mask_png: MaskPicture | None = Field(None, description="instead of mask")

    @property
    def mask(self) -> np.ndarray:
        """The mask, [height, width] of bool, made anew each time. Needs numpy; ValueError where there are no run lengths."""
        if self.rle is None:
            raise ValueError("this detection has no mask as run lengths: ask for format='rle' of a model with masks")
        return self.rle.array()


_SHOWN: Final = 3
"""Classes of pixels that a line names."""


class SegmentClass(BaseModel):
    """A class that occurs in a class map."""

    model_config = ConfigDict(frozen=True)

    label: str
    index: int
    share: float = Field(description="of the pixels of the map, from 0 to 1")


class Segments(BaseModel):
    """Which class each pixel of a picture belongs to."""

    model_config = ConfigDict(frozen=True)

    format: Literal["png"] = "png"
    width: int = Field(description="of the map, in pixels")
    height: int
    data: str = Field(
        description="base64 of a PNG, gray of 8 bits, or 16 above 255 classes: level = index of the class"
    )
    classes: tuple[SegmentClass, ...] = Field(description="those that occur, largest share first")
    box: tuple[float, float, float, float] | None = Field(
        None, description="x1, y1, x2, y2: the part of the picture that the map covers, where that is not all of it"
    )

    def png(self) -> bytes:
        """The PNG file."""
        return base64.b64decode(self.data)

    def array(self) -> np.ndarray:
        """The indices of the classes, [height, width] of uint8 or uint16; the highest number is nothing. Needs numpy."""
        return gray_levels(self.png())

    def told(self) -> str:
        """The classes that most of the pixels belong to, for people."""
        return ", ".join(f"{one.label} {one.share:.1%}" for one in self.classes[:_SHOWN]) or "no class"

    def mask(self, label: str) -> np.ndarray:
        """Which pixels belong to classes of that label, [height, width] of bool; none, where they do not occur. Needs numpy."""
        import numpy as np  # noqa: PLC0415 - the base install has no numpy

        return np.isin(self.array(), [one.index for one in self.classes if one.label == label])


class Vector(BaseModel):
    """What a picture is like, as numbers."""

    model_config = ConfigDict(frozen=True)

    size: int
    dtype: Literal["float32"] = "float32"
    normalized: bool = Field(description="whether its length is 1")
    data: str | None = Field(None, description="base64 of little-endian values")
    values: tuple[float, ...] | None = Field(None, description="instead of data")

    def array(self) -> np.ndarray:
        """The numbers, [size] of float32. Needs numpy."""
        import numpy as np  # noqa: PLC0415 - the base install has no numpy

        if self.data is None:
            return np.array(self.values or (), dtype=np.float32)
        return np.frombuffer(base64.b64decode(self.data), dtype="<f4")


_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_UP: Final = 2
"""The filter of every row of such a file: what stands there is the difference to the row above."""


def gray_levels(png: bytes) -> np.ndarray:
    """The levels of a gray PNG file that a service has written, [height, width] of uint8 or uint16. Needs numpy.

    Raises ValueError for any other file: to read those of all kinds takes a library for pictures.
    """
    import numpy as np  # noqa: PLC0415 - the base install has no numpy

    chunks, place = {}, len(_SIGNATURE)
    while place + 8 <= len(png):
        length, kind = struct.unpack_from(">I4s", png, place)
        chunks[kind] = png[place + 8 : place + 8 + length]
        place += 12 + length
    try:
        width, height, bits, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
        rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), dtype=np.uint8).reshape(height, -1)
    except (KeyError, struct.error, zlib.error, ValueError):
        raise ValueError("this is no PNG file of a service") from None
    plain = png.startswith(_SIGNATURE) and rest == [0, 0, 0, 0] and bits in (8, 16)
    if not plain or rows.shape[1] != 1 + width * bits // 8 or (rows[:, 0] != _UP).any():
        raise ValueError("this is no gray PNG file of a service: use a library for pictures")
    levels = np.cumsum(rows[:, 1:], axis=0, dtype=np.uint8)
    if bits == 8:  # noqa: PLR2004
        return levels.reshape(height, width)
    return np.ascontiguousarray(levels).view(">u2").astype(np.uint16).reshape(height, width)


_HIGHEST_LEVEL: Final = 65_535


class Output(BaseModel):
    """One output: an array (`dtype`, `shape`) or an image (`format`), base64 in `data`."""

    model_config = ConfigDict(frozen=True)

    name: str
    data: str = Field(description="base64 of little-endian C-order bytes, or of the encoded image")
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    format: Literal["png"] | None = None
    low: float | None = Field(None, description="of depth: what level 0 means")
    high: float | None = Field(None, description="of depth: what level 65535 means")
    box: tuple[float, float, float, float] | None = Field(
        None, description="x1, y1, x2, y2: the part of the picture that a map covers, where that is not all of it"
    )

    def png(self) -> bytes:
        """The PNG file of an image output, ready to be written or decoded. ValueError for an array."""
        if self.format is None:
            raise ValueError(f"output {self.name} is an array ({self.dtype}): use array()")
        return self.bytes()

    def bytes(self) -> bytes:
        """The decoded bytes."""
        return base64.b64decode(self.data)

    def array(self) -> np.ndarray:
        """The array, of `dtype` and `shape` (without the batch axis). Needs numpy; ValueError for an image output."""
        import numpy as np  # noqa: PLC0415 - the base install has no numpy

        if self.dtype is None or self.shape is None:
            raise ValueError(f"output {self.name} is an image ({self.format}): use png(), or levels() of a map")
        return np.frombuffer(self.bytes(), np.dtype(self.dtype).newbyteorder("<")).reshape(self.shape)

    def levels(self) -> np.ndarray:
        """The levels of a matte or of depth, [height, width] of uint8 or uint16. Needs numpy; ValueError for anything else."""
        return gray_levels(self.png())

    def depth(self) -> np.ndarray:
        """How far away each pixel is, [height, width] of float64. Needs numpy; ValueError for what is no depth."""
        if self.low is None or self.high is None:
            raise ValueError(f"output {self.name} is no depth")
        distances: np.ndarray = self.low + (self.high - self.low) * (self.levels() / _HIGHEST_LEVEL)
        return distances
