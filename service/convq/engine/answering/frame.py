"""Where the picture of a job lies in the network's input, and how large that is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from convq.answers.coordinates import Placement
from convq.answers.detections import Size

Layout = Literal["NCHW", "NHWC"]


class Frame(NamedTuple):
    """What it takes to say of an answer where in the picture it lies."""

    placement: Placement
    size: Size
    """Of the network's input."""


NOWHERE: Final = Frame(Placement(1, 1), Size(1, 1))
"""Of what has no picture."""


def size_of(shape: Sequence[int], layout: Layout) -> Size:
    """Of an input of that shape, without the batch axis."""
    return Size(*shape[1:3]) if layout == "NCHW" else Size(*shape[:2])


def frame_of(shape: Sequence[int], layout: Layout, placement: Placement | None) -> Frame:
    """Of an input of that shape, without the batch axis; without a `placement` the picture is the input itself."""
    size = size_of(shape, layout)
    return Frame(Placement(size.width, size.height) if placement is None else placement, size)
