"""Where candidates are: boxes, corners and keypoints of some rows, in pixels of the network's input."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from convq.answers.coordinates import Placement
from convq.answers.detections.candidates import Candidates
from convq.answers.detections.columns import BOX_WORDS
from convq.answers.detections.grid import Cells, boxes_on, cells_of, keypoints_on
from convq.answers.detections.nms import set_apart
from convq.answers.detections.rectangles import around, turned
from convq.answers.detections.rows import JobRows
from convq.answers.detections.spec import DetectionsSpec


class Size(NamedTuple):
    """Of the network's input, in pixels."""

    height: int
    width: int

    @property
    def sides(self) -> NDArray[np.float64]:
        """[2]: along x and along y."""
        return np.array([self.width, self.height], dtype=np.float64)


class Objects(NamedTuple):
    """Candidates, best first, and where they are."""

    found: Candidates
    boxes: NDArray[np.float64]
    """[k, 4]: x1 <= x2 and y1 <= y2, unless they are not finite."""
    corners: NDArray[np.float64] | None
    """[k, 4, 2] of boxes that are turned; `boxes` are the rectangles around them."""
    cells: Cells | None
    """Where a grid decodes them."""

    def picked(self, which: NDArray[np.intp]) -> Objects:
        """Those of them."""
        corners = self.corners[which] if self.corners is not None else None
        cells = Cells(*(part[which] for part in self.cells)) if self.cells is not None else None
        return Objects(self.found.picked(which), self.boxes.T[:, which].T, corners, cells)


def objects_of(rows: JobRows, found: Candidates, spec: DetectionsSpec, size: Size) -> Objects:
    """Where these candidates are."""
    # column after column in memory, for that is how all that follows computes
    columns = np.stack([rows.block(word)[found.rows] for word in spec.box], dtype=np.float64)
    values = columns.swapaxes(0, 1)
    cells = cells_of(spec.grid, found.rows, *size) if spec.grid is not None else None
    if spec.grid is not None and cells is not None:
        boxes = boxes_on(spec.grid, cells, values if spec.grid.decode == "dfl" else values[:, :, 0])
    else:
        boxes = _as_corners(values[:, :, 0], spec.box)
        if spec.units == "unit":
            boxes = boxes * np.tile(size.sides, 2)
    first, second = boxes[:, :2], boxes[:, 2:]
    boxes = np.concatenate([np.minimum(first, second), np.maximum(first, second)], axis=1)
    if "angle" not in rows:
        return Objects(found, boxes, None, cells)
    corners = turned(boxes, rows.column("angle")[found.rows].astype(np.float64))
    return Objects(found, around(corners), corners, cells)


def keypoints_of(rows: JobRows, objects: Objects, spec: DetectionsSpec, size: Size) -> NDArray[np.float64] | None:
    """[k, points, 2 or 3] of these candidates: x and y, and the score that the network gives; None where it has none."""
    if "keypoints" not in rows:
        return None
    values = rows.block("keypoints")[objects.found.rows].astype(np.float64)
    points = values.reshape(len(values), values.shape[1] // rows.each("keypoints"), rows.each("keypoints"))
    if spec.grid is not None and objects.cells is not None:
        points[..., :2] = keypoints_on(spec.grid, objects.cells, points[..., :2])
    elif spec.units == "unit":
        points[..., :2] *= size.sides
    return points


def in_picture(boxes: NDArray[np.float64], placement: Placement) -> NDArray[np.bool_]:
    """[k]: which boxes have an area that lies in the picture. What lies in what was filled in is no object of it."""
    width, height, sx, sy, dx, dy = placement
    across = np.minimum(boxes[:, 2], width * sx + dx) > np.maximum(boxes[:, 0], dx)
    return np.asarray(across & (np.minimum(boxes[:, 3], height * sy + dy) > np.maximum(boxes[:, 1], dy)))


def comparable(objects: Objects, size: Size, *, apart: bool) -> NDArray[np.float32]:
    """[k, 4]: boxes as they are compared, those of different classes `apart`.

    Cut where they are more than a side outside the input, so that one box of 1e38 costs no other its precision.
    """
    sides = np.tile(size.sides, 2)
    boxes = np.clip(objects.boxes, -sides, 2 * sides).astype(np.float32)
    return set_apart(boxes, objects.found.classes) if apart and len(boxes) else boxes


def _as_corners(values: NDArray[np.float64], words: tuple[str, ...]) -> NDArray[np.float64]:
    """[k, 4] as x1, y1, x2, y2 of columns in the order of `words`."""
    first, second = values[:, :2], values[:, 2:]
    if words == BOX_WORDS["centre"]:
        return np.concatenate([first - second / 2, first + second / 2], axis=1)
    if words == BOX_WORDS["top_left"]:
        return np.concatenate([first, first + second], axis=1)
    return values
