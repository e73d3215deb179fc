"""COCO's object detection format, which CVAT, FiftyOne and pycocotools read: https://cocodataset.org/#format-data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from convq.client.labelling.rings import area, without_holes
from convq.detected import Detection
from convq.protocol import Result

_SEEN: Final = 0.5
"""Keypoints of at least this score are visible for COCO (2), others are there and hidden (1)."""


def coco(answers: Iterable[tuple[str, Result]], described: Mapping[str, Any]) -> Iterator[str]:
    """One JSON object with `images`, `categories` and `annotations`, each with its `score`; see `Stream` for the arguments.

    The id of a category is the index of the class + 1, those of images and annotations count from 1. `segmentation` is the
    mask as compressed run lengths, or its rings where the job asked for polygons (a mask with holes is one ring that passes
    along the same line into the hole and back), or the corners of a rotated rectangle, or empty. Masks of the form `png` are
    left out. `area` is that of the segmentation, else that of the box. Annotations are written as they come; only what
    `images` says stays in memory.
    """
    images: list[dict[str, Any]] = []
    named = dict(enumerate(described.get("labels", ())))
    count = 0
    yield '{"annotations": ['
    for file, result in answers:
        size = {} if result.image is None else {"width": result.image.width, "height": result.image.height}
        images.append({"id": len(images) + 1, "file_name": file, **size})
        for one in result.detections or ():
            count += 1
            named.setdefault(one.index, one.label)
            yield ",\n" if count > 1 else "\n"
            yield json.dumps({"id": count, "image_id": len(images), **annotation(one)})
    categories = [_category(index, label, described) for index, label in sorted(named.items())]
    yield f'],\n"images": {json.dumps(images)},\n"categories": {json.dumps(categories)}}}\n'


def annotation(one: Detection) -> dict[str, Any]:
    """One detection, without the ids of its own and of its picture."""
    x1, y1, x2, y2 = one.box
    segmentation, covered = _segmentation(one)
    said: dict[str, Any] = {
        "category_id": one.index + 1,
        "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
        "score": one.score,
        "area": round((x2 - x1) * (y2 - y1) if covered is None else covered, 2),
        "iscrowd": 0,
        "segmentation": segmentation,
    }
    if one.keypoints is not None:
        said["keypoints"] = [number for point in one.keypoints for number in (*point[:2], _visibility(point))]
        said["num_keypoints"] = len(one.keypoints)
    return said


def _segmentation(one: Detection) -> tuple[Any, float | None]:
    """What belongs to the object, and how many square pixels that is; None where only the box is known."""
    if one.rle is not None:
        return one.rle.model_dump(mode="json"), sum(one.rle.runs()[1::2])
    if one.polygons is not None:
        return without_holes(one.polygons), abs(sum(map(area, one.polygons)))
    if one.corners is not None:
        ring = [number for corner in one.corners for number in corner]
        return [ring], abs(area(ring))
    return [], None


def _visibility(point: tuple[float, ...]) -> int:
    return 2 if len(point) < 3 or point[2] >= _SEEN else 1  # noqa: PLR2004 - x, y and perhaps a score


def _category(index: int, label: str, described: Mapping[str, Any]) -> dict[str, Any]:
    """With the names of the keypoints, and the lines between them, which COCO counts from 1."""
    said: dict[str, Any] = {"id": index + 1, "name": label, "supercategory": ""}
    if names := described.get("keypoints"):
        skeleton = [[first + 1, second + 1] for first, second in described.get("skeleton", ())]
        said |= {"keypoints": list(names), "skeleton": skeleton}
    return said
