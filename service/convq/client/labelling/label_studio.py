"""Label Studio's tasks with predictions, ready to be imported: https://labelstud.io/guide/predictions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from math import atan2, degrees, hypot
from typing import Any, Final
from urllib.parse import quote

from convq.client.labelling.rings import without_holes
from convq.detected import Detection
from convq.protocol import Result

ROOT: Final = "/data/local-files/?d="
"""Where Label Studio serves the files of a local storage."""
_POINT_SIZE: Final = 0.75
"""Per cent of the width, of a keypoint's dot."""


def label_studio(answers: Iterable[tuple[str, Result]], described: Mapping[str, Any]) -> Iterator[str]:
    """A JSON list of tasks, one a picture, each with one prediction in per cent of it; see `Stream` for the arguments.

    The labelling configuration has an `Image` named `image` of `$image`, and `RectangleLabels` named `label`; for masks as
    polygons `PolygonLabels` named `polygon`, for keypoints `KeyPointLabels` named `keypoint`. Rotated rectangles are rectangles
    with a rotation. Masks in other forms are left out.
    """
    names = tuple(described.get("keypoints", ()))
    yield "["
    for number, (file, result) in enumerate(answers):
        yield ",\n" if number else "\n"
        yield json.dumps(_task(file, result, names))
    yield "\n]\n"


def _task(file: str, result: Result, names: tuple[str, ...]) -> dict[str, Any]:
    if result.image is None:
        raise ValueError(f"job {result.id} does not say how large its picture is")
    width, height = result.image.width, result.image.height
    found = result.detections or ()
    size = {"original_width": width, "original_height": height, "image_rotation": 0, "to_name": "image"}
    regions = [
        {"id": f"{number}-{part}", **size, "score": one.score, **region}
        for number, one in enumerate(found)
        for part, region in enumerate(_regions(one, width, height, names))
    ]
    version = result.model if result.version is None else f"{result.model} {result.version}"
    prediction = {"model_version": version, "score": max((one.score for one in found), default=0.0), "result": regions}
    address = ROOT + quote(file.encode("utf-8", "surrogateescape"))
    return {"data": {"image": address}, "predictions": [prediction]}


def _regions(one: Detection, width: int, height: int, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """What Label Studio shows of a detection: its outline where it is known, else its rectangle; and its keypoints."""
    if one.polygons is not None:
        for ring in without_holes(one.polygons):
            points = [[_share(x, width), _share(y, height)] for x, y in zip(ring[::2], ring[1::2], strict=True)]
            yield _region("polygon", "polygonlabels", one.label, {"points": points, "closed": True})
    else:
        yield _region("label", "rectanglelabels", one.label, _rectangle(one, width, height))
    for number, point in enumerate(one.keypoints or ()):
        name = names[number] if number < len(names) else f"#{number}"
        value = {"x": _share(point[0], width), "y": _share(point[1], height), "width": _POINT_SIZE}
        yield _region("keypoint", "keypointlabels", name, value)


def _region(control: str, kind: str, label: str, value: Mapping[str, Any]) -> dict[str, Any]:
    return {"from_name": control, "type": kind, "value": {**value, kind: [label]}}


def _rectangle(one: Detection, width: int, height: int) -> dict[str, float]:
    """In per cent, and turned clockwise by degrees about its first corner, the top left one of what is not turned."""
    x1, y1, x2, y2 = one.box
    long, high, turn = x2 - x1, y2 - y1, 0.0
    if one.corners is not None:
        (x1, y1), (across_x, across_y), _, (down_x, down_y) = one.corners
        long, high = hypot(across_x - x1, across_y - y1), hypot(down_x - x1, down_y - y1)
        turn = degrees(atan2(across_y - y1, across_x - x1))
    sides = {
        "x": _share(x1, width),
        "y": _share(y1, height),
        "width": _share(long, width),
        "height": _share(high, height),
    }
    return {**sides, "rotation": round(turn, 4)}


def _share(value: float, side: int) -> float:
    return round(100 * value / side, 6)
