"""What a detector found, as results have it: part of the protocol's words, see `convq.protocol`."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

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
        runs, filled = self._runs(), [False, True]
        if min(runs, default=0) < 0 or sum(runs) != height * width:
            raise ValueError(f"the run lengths of a mask do not add up to its {height * width} pixels")
        values = (filled * (len(runs) // 2 + 1))[: len(runs)]
        return np.repeat(np.array(values, dtype=np.bool_), runs).reshape(width, height).T

    def _runs(self) -> list[int]:
        """Five bits a character, lowest first; from the fourth on a length is its difference to the one two before it."""
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
