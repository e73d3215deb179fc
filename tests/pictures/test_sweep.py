"""Thousands of small files of every format, against independent decoders: right, or refused in words; never silently wrong."""

from __future__ import annotations

import re
from collections import Counter
from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image

from convq.engine.formats import estimate
from convq.engine.image import decode
from convq.errors import BadImage, ImageTooLarge
from convq.repository.manifest import Input, Limits
from pictures.cases import BACKGROUND, Case
from pictures.sources import SOURCES, cases_of

RGB = Input(color="rgb", background=BACKGROUND)
GRAY = Input(color="gray", background=(87,))
AT_LEAST = {"TIFF": 3000, "PNG": 400, "GIF and BMP": 400, "JPEG, WebP and AVIF": 600}


SEEN_OTHERWISE = re.compile("tRNS|type 4|type 6|clear|fields|orientation|picture at|without a table|skips|16 bits")
"""What other decoders show over another background, do not turn, or round in their own way."""


def outcome(case: Case, spec: Input = RGB) -> str:
    """right, refused, or what is wrong."""
    try:
        decoded = decode(case.data, spec, Limits())
    except (BadImage, ImageTooLarge) as refusal:
        text = str(refusal)
        assert text.isascii(), text
        assert text.count(" ") >= 4, text
        return "refused" if case.expected is None else f"refused though sound: {refusal}"
    if case.expected is None:
        return "read though it cannot be"
    expected = case.expected
    if spec is GRAY:
        expected = (expected * (0.299, 0.587, 0.114)).sum(axis=-1)
    if expected.shape != decoded.shape:
        return f"{decoded.shape} instead of {expected.shape}"
    off = float(np.abs(decoded - expected).max())
    return "right" if off <= case.within + (0.51 if spec is GRAY else 0) else f"off by {off:.1f}"


@pytest.mark.parametrize("source", SOURCES)
def test_every_file_is_right_or_refused_in_words(source: str) -> None:
    counts: dict[str, Counter[str]] = {}
    wrong = []
    for case in cases_of(source):
        found = outcome(case)
        counts.setdefault(case.kind, Counter())[found if found in ("right", "refused") else "wrong"] += 1
        if found not in ("right", "refused"):
            wrong.append(f"{case.kind}, {case.name}: {found}")

    for kind, of_kind in counts.items():
        print(f"{kind:5} {of_kind['right']:5} right {of_kind['refused']:4} refused {of_kind['wrong']:4} wrong")
    assert [] == wrong
    assert sum(of_kind.total() for of_kind in counts.values()) >= AT_LEAST[source]


@pytest.mark.parametrize("source", SOURCES)
def test_a_gray_model_sees_the_same(source: str) -> None:
    cases = [case for index, case in enumerate(cases_of(source)) if source != "TIFF" or index % 7 == 0]

    found = {f"{case.kind}, {case.name}": outcome(case, GRAY) for case in cases}

    assert {} == {name: what for name, what in found.items() if what not in ("right", "refused")}


@pytest.mark.parametrize("source", SOURCES)
def test_the_size_is_known_before_anything_is_decoded(source: str) -> None:
    wrong = [
        case.name
        for case in cases_of(source)
        if case.expected is not None and case.expected.shape[0] * case.expected.shape[1] != estimate(case.data).pixels
    ]

    assert [] == wrong


def test_what_is_written_here_says_the_same_to_other_decoders() -> None:
    """The expected pictures are those that were meant; OpenCV and Pillow see to it that the files say so."""
    agreed: Counter[str] = Counter()
    others = []
    for case in (*cases_of("PNG"), *cases_of("GIF and BMP")):
        if case.expected is None or SEEN_OTHERWISE.search(case.name):
            continue
        other = by_opencv(case.data) if case.kind != "GIF" else by_pillow(case.data)
        if other is not None and other.shape == case.expected.shape:
            same = np.abs(other - case.expected).max() <= 1.01
            agreed[case.kind] += same
            others += [] if same else [case.name]

    assert [] == others
    assert {"PNG": True, "BMP": True, "GIF": True} == {kind: agreed[kind] > 30 for kind in ("PNG", "BMP", "GIF")}


def by_opencv(data: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]] | None:
    read = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR)
    return None if read is None else read[..., ::-1].astype(np.float64)


def by_pillow(data: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.asarray(Image.open(BytesIO(data)).convert("RGB")).astype(np.float64)
