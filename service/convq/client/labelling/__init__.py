"""Detections in the words of labelling tools: COCO, YOLO, Label Studio, CSV. Functions of results; no numpy, no Pillow.

All of them mean the picture as people see it, turned by its EXIF orientation. What a tool cannot say is left out, and each
function tells which that is. Text comes in pieces, as soon as there is something to write.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from convq.client.labelling.coco import coco
from convq.client.labelling.label_studio import label_studio
from convq.client.labelling.table import table
from convq.client.labelling.yolo import yolo
from convq.protocol import Result

__all__ = ["NAMES", "STREAMS", "Stream", "coco", "label_studio", "table", "yolo"]


class Stream(Protocol):
    """One file for all pictures, written piece by piece."""

    def __call__(self, answers: Iterable[tuple[str, Result]], described: Mapping[str, Any]) -> Iterator[str]:
        """`answers` are pictures as the tool shall find them, each with its result: status ok, with `detections` and `image`.

        `described` is `answers["detections"]` of what `Client.served()` says of the model.
        """


STREAMS: Final[Mapping[str, Stream]] = {"coco": coco, "labelstudio": label_studio, "csv": table}
"""Name of a format -> what writes it. YOLO has a file for each picture."""
NAMES: Final[Sequence[str]] = ("coco", "yolo", "labelstudio", "csv")
