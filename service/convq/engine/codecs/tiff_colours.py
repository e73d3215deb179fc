"""From the samples of a TIFF file to gray or RGB of 8 bits, with alpha where there is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from convq.engine.codecs import tiff_tags as names
from convq.engine.codecs.raster import Pixels, narrow
from convq.engine.codecs.tiff_tags import Directory
from convq.errors import BadImage

Samples = NDArray[np.unsignedinteger]

_WHITE_IS_ZERO, _RGB, _PALETTE, _INKS, _YCBCR = 0, 2, 3, 5, 6
_ASSOCIATED = 1
_CMYK = 1
_FULL_RANGE = (0, 255, 128, 255, 128, 255)
_WEIGHTS, _NEAR = (0.299, 0.587, 0.114), 0.01
_BYTE = 8


@dataclass(frozen=True, slots=True)
class Meaning:
    """What the samples of a pixel are."""

    photometric: int
    bits: int
    alpha: int | None
    """Which sample is alpha."""
    premultiplied: bool
    table: Pixels | None
    """Of a palette: [2 ** bits, 3]."""

    @classmethod
    def of(cls, header: Directory, photometric: int, bits: int, extra: Sequence[int]) -> Self:
        """Raises BadImage where a file means what is not read."""
        base = {_RGB: 3, _INKS: 4, _YCBCR: 3}.get(photometric, 1)
        alpha = next((index for index, kind in enumerate(extra) if kind), None)
        premultiplied = alpha is not None and extra[alpha] == _ASSOCIATED
        if premultiplied and photometric in (_WHITE_IS_ZERO, _PALETTE, _INKS):
            raise BadImage("the TIFF image has inks or indices that are multiplied by alpha, which is not read")
        if photometric == _INKS and header.one(names.INK_SET, _CMYK) != _CMYK:
            raise BadImage("the TIFF image has other inks than cyan, magenta, yellow and black")
        if photometric == _YCBCR:
            _check_range(header)
        table = _table(header.tags.get(names.COLOURS, ()), bits) if photometric == _PALETTE else None
        return cls(photometric, bits, None if alpha is None else base + alpha, premultiplied, table)


def converter(meaning: Meaning) -> tuple[Callable[[Samples], Pixels], int]:
    """From samples, [rows, width, samples], to [rows, width, channels], and how many channels these are."""
    colours = 3 if meaning.photometric in (_RGB, _PALETTE, _INKS, _YCBCR) else 1

    def convert(samples: Samples) -> Pixels:
        pixels = _colour(samples, meaning)
        if meaning.alpha is None:
            return pixels
        alpha = _levels(samples[..., meaning.alpha : meaning.alpha + 1], meaning.bits)
        return np.concatenate([pixels, alpha], axis=-1)

    return convert, colours + (meaning.alpha is not None)


def _colour(samples: Samples, meaning: Meaning) -> Pixels:
    if meaning.table is not None:
        colours: Pixels = meaning.table[samples[..., 0]]
        return colours
    if meaning.photometric == _RGB:
        return _levels(samples[..., :3], meaning.bits)
    if meaning.photometric == _YCBCR:
        return _of_luma(samples[..., :3])
    if meaning.photometric == _INKS:
        paper = 255 - _levels(samples[..., :4], meaning.bits).astype(np.uint16)
        return ((paper[..., :3] * paper[..., 3:] + 127) // 255).astype(np.uint8)
    levels = _levels(samples[..., :1], meaning.bits)
    return 255 - levels if meaning.photometric == _WHITE_IS_ZERO else levels


def _levels(samples: Samples, bits: int) -> Pixels:
    if bits > _BYTE:
        return narrow(samples, 2**bits - 1)
    return (samples * np.uint8(255 // (2**bits - 1))).astype(np.uint8, copy=False)


def _of_luma(samples: Samples) -> Pixels:
    """ITU-R BT.601, as JPEG has it."""
    luma, blue, red = (samples[..., index].astype(np.float32) for index in range(3))
    blue, red = blue - 128, red - 128
    colours = (luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue)
    pixels: Pixels = np.clip(np.rint(np.stack(colours, axis=-1)), 0, 255).astype(np.uint8)
    return pixels


def _check_range(header: Directory) -> None:
    """Luma and colour differences must fill the bytes, by the usual weights."""
    given = header.tags.get(names.REFERENCE, ())
    levels = [number / max(1, share) for number, share in zip(given[::2], given[1::2], strict=False)]
    weights = header.tags.get(names.WEIGHTS, ())
    shares = [number / max(1, share) for number, share in zip(weights[::2], weights[1::2], strict=False)]
    usual = all(abs(is_ - wanted) < _NEAR for is_, wanted in zip(shares, _WEIGHTS, strict=False))
    if (levels and any(abs(is_ - wanted) > 1 for is_, wanted in zip(levels, _FULL_RANGE, strict=False))) or not usual:
        raise BadImage(
            "the TIFF image has YCbCr pixels of another range or other weights than JPEG's, which is not read"
        )


def _table(values: Sequence[int], bits: int) -> Pixels:
    """Red, green, blue of every index; written with 16 bits, by some with 8."""
    size = 2**bits
    if len(values) != 3 * size:
        raise BadImage(f"the TIFF image has a palette of {len(values)} values; expected {3 * size}")
    wide = np.array(values, dtype=np.uint16).reshape(3, size).T
    return wide.astype(np.uint8) if wide.max() <= 255 else narrow(wide, 65535)  # noqa: PLR2004
