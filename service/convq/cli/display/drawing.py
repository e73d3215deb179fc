"""What a network was given, as files that people open: a picture of it, and the array itself for NumPy.

Without numpy and Pillow, which the base install has not: whoever asks a service from afar wants to see this as well. What was
a picture has at most 256 different values a channel, so that few of them are computed and the rest is looked up.
"""

from __future__ import annotations

import math
import struct
import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from convq.cli.digits import encode
from convq.detected import Output

CODES: Final = {"uint8": "B", "float32": "f"}
_NPY: Final = {"uint8": "|u1", "float32": "<f4"}
_NEAR: Final = 0.02
"""Of a level: so far from a whole number the arithmetic of float32 may have left it."""
_WHITE: Final = 255
_COLOUR: Final = 3
_NPY_STEP: Final = 64


@dataclass(frozen=True, slots=True)
class Drawing:
    """A picture of one input."""

    png: bytes
    levels: bool
    """Whether each pixel is the level from 0 to 255 that the network's input was made of. Otherwise the lowest value of
    all is black and the highest white; NaN is black too."""
    low: float
    high: float
    """Of the values themselves, without NaN and infinity; both 0 where there are no others."""


class _Planes(NamedTuple):
    """The channels of an input, each row after row."""

    values: list[array[Any]]
    height: int
    width: int


def draw(output: Output, described: Mapping[str, Any]) -> Drawing | None:
    """The input that `output` holds, as a picture; None where its shape is that of none: no gray or colour.

    `described` is what the service says of the model's input: layout, color, and how levels became numbers.
    """
    planes = _planes(output, described)
    if planes is None:
        return None
    known = [_levels(plane, described, channel) for channel, plane in enumerate(planes.values)]
    found = [part for part in known if part is not None] if described.get("color") != "none" else []
    finite = [value for plane in planes.values for value in set(plane) if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    exact = len(found) == len(known)
    channels = found if exact else [_stretched(plane, low, high) for plane in planes.values]
    if described.get("color") == "bgr":
        channels.reverse()
    return Drawing(_png(channels, planes.height, planes.width), exact, low, high)


def npy(output: Output) -> bytes:
    """The array of an output as a file of NumPy's own format, version 1.0."""
    shape = output.shape or ()
    sides = f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
    header = f"{{'descr': '{_NPY[output.dtype or '']}', 'fortran_order': False, 'shape': {sides}, }}"
    head_bytes = -(-(10 + len(header) + 1) // _NPY_STEP) * _NPY_STEP
    padded = header.ljust(head_bytes - 11) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded.encode("ascii") + output.bytes()


def _planes(output: Output, described: Mapping[str, Any]) -> _Planes | None:
    """The channels, where there are one or three of at least one pixel."""
    shape = output.shape or ()
    if len(shape) == 2:  # noqa: PLR2004 - one channel, without an axis for it
        shape = (1, *shape)
    if len(shape) != 3 or 0 in shape:  # noqa: PLR2004
        return None
    layout = described.get("layout") or ("NCHW" if shape[0] in (1, _COLOUR) else "NHWC")
    channels_last = layout == "NHWC" and len(output.shape or ()) == len(shape)
    height, width, count = shape if channels_last else (*shape[1:], shape[0])
    if count not in (1, _COLOUR):
        return None
    values: array[Any] = array(CODES[output.dtype or ""])
    values.frombytes(output.bytes())
    if sys.byteorder == "big":
        values.byteswap()
    size = height * width
    parts = [values[i::count] if channels_last else values[i * size : (i + 1) * size] for i in range(count)]
    return _Planes(parts, height, width)


def _levels(plane: array[Any], described: Mapping[str, Any], channel: int) -> bytes | None:
    """The levels that one channel was made of; None where it was not made of any: it would not have such values."""
    if plane.typecode == CODES["uint8"]:
        return plane.tobytes()
    scale, mean, std = described.get("scale", 1.0), _of(described, "mean", channel), _of(described, "std", channel)
    table: dict[float, int] = {}
    for value in set(plane):
        exact = (value * (1.0 if std is None else std) + (mean or 0.0)) / scale
        if not -_NEAR <= exact <= _WHITE + _NEAR or abs(exact - round(exact)) > _NEAR or len(table) > _WHITE:
            return None
        table[value] = round(exact)
    return bytes(map(table.__getitem__, plane))


def _of(described: Mapping[str, Any], name: str, channel: int) -> float | None:
    """`mean` or `std` of a channel: there is one for all, or one each."""
    values: Sequence[float] = described.get(name) or ()
    return values[channel if len(values) > 1 else 0] if values else None


def _stretched(plane: array[Any], low: float, high: float) -> bytes:
    factor = _WHITE / (high - low) if high > low else 0.0
    if not math.isfinite(factor) or not factor:
        return bytes(len(plane))
    bounded = (low if value != value else min(max(value, low), high) for value in plane)  # noqa: PLR0124 - NaN
    return bytes(round((value - low) * factor) for value in bounded)


def _png(channels: Sequence[bytes], height: int, width: int) -> bytes:
    """A PNG file of gray or RGB levels."""
    count = len(channels)
    pixels = bytearray(count * height * width)
    for channel, levels in enumerate(channels):
        pixels[channel::count] = levels
    step = count * width
    return encode([bytes(pixels[row * step : (row + 1) * step]) for row in range(height)], 1, count)
