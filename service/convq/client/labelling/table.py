"""Detections as a table of comma-separated values (RFC 4180)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from convq.protocol import Result

COLUMNS: Final = ("file", "width", "height", "index", "label", "score", "x1", "y1", "x2", "y2")


def table(answers: Iterable[tuple[str, Result]], described: Mapping[str, Any]) -> Iterator[str]:  # noqa: ARG001
    """A header, and a row for each detection: the picture, its size, class, score, and the box in pixels.

    Boxes alone: masks, keypoints and corners are left out, and so is a picture with nothing in it. See `Stream` for the
    arguments.
    """
    yield _line(COLUMNS)
    for file, result in answers:
        size = (None, None) if result.image is None else (result.image.width, result.image.height)
        for one in result.detections or ():
            yield _line((file, *size, one.index, one.label, one.score, *one.box))


def _line(values: Iterable[Any]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(values)
    return text.getvalue()
