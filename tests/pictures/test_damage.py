"""Files of every kind, cut off, and with bytes that are wrong: an answer in words or a picture, and nothing else."""

from __future__ import annotations

import random

import numpy as np
import pytest

from convq.engine.formats import estimate
from convq.engine.image import decode
from convq.errors import BadImage, ImageTooLarge
from convq.repository.manifest import Input, Limits
from pictures.cases import BACKGROUND
from pictures.sources import sound

RGB = Input(color="rgb", background=BACKGROUND)
SMALL = Limits(max_pixels=200_000)
"""A wrong byte may claim a picture of any size; that is refused, and the test stays quick."""


def is_picture(data: bytes) -> bool:
    """Whether it was read; whatever else than a refusal is raised fails the test."""
    assert estimate(data).pixels >= 0
    refusal, decoded = "", np.zeros((1, 1, 3), dtype=np.uint8)
    try:
        decoded = decode(data, RGB, SMALL)
    except (BadImage, ImageTooLarge) as caught:
        refusal = str(caught)
    assert "object at" not in refusal
    assert len(refusal) < 250
    assert (3, 3, 1) == (decoded.ndim, decoded.shape[2], decoded.itemsize)
    return not refusal


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "GIF", "BMP", "JPEG", "WebP", "AVIF"])
def test_wrong_bytes_are_survived(kind: str) -> None:
    generator = random.Random(kind)
    read = 0
    for case in sound(kind, 40):
        for _ in range(25):
            data = bytearray(case.data)
            for _ in range(generator.choice([1, 1, 2, 8])):
                # Half of them in the headers, where most depends on each.
                place = generator.randrange(min(len(data), generator.choice([64, len(data)])))
                data[place] = generator.choice([0, 1, 255, generator.randrange(256)])
            read += is_picture(bytes(data))

    assert 0 < read < 1500


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "GIF", "BMP", "JPEG", "WebP", "AVIF"])
def test_what_is_cut_off_is_refused_or_whole(kind: str) -> None:
    """Not one pixel of a picture may come from bytes that are not there."""
    refused = 0
    for case in sound(kind, 25):
        if "behind" in case.name:
            continue  # metadata behind the pixels may be lost without a trace
        whole = decode(case.data, RGB, SMALL)
        for length in sorted(
            {*range(1, len(case.data), max(1, len(case.data) // 40)), *range(len(case.data) - 24, len(case.data))}
        ):
            if length < 1 or not is_picture(case.data[:length]):
                refused += 1
                continue
            np.testing.assert_array_equal(
                whole, decode(case.data[:length], RGB, SMALL), err_msg=f"{case.name}, {length} bytes"
            )

    assert refused > 300


def test_bytes_between_the_pieces_of_files_are_survived() -> None:
    generator = random.Random(9)
    pieces = [case.data for kind in ("TIFF", "PNG", "GIF", "BMP", "JPEG", "WebP", "AVIF") for case in sound(kind, 8)]
    for _ in range(1500):
        first, second = generator.choice(pieces), generator.choice(pieces)
        at, behind = generator.randrange(len(first)), generator.randrange(len(second))
        is_picture(first[:at] + generator.randbytes(generator.choice([0, 0, 1, 7])) + second[behind:])
