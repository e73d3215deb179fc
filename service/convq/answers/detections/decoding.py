"""From the outputs of a batch to the detections of each job, in pixels of its picture.

    rows of a job -> candidates -> boxes in pixels of the input -> suppression -> back to the picture

A job's answer depends on its own rows and its own fields alone, never on its neighbours in the batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convq.answers.coordinates import Placement, rounded
from convq.answers.detections.candidates import choose
from convq.answers.detections.found import Detections, Wanted, check_finite, rounded_scores
from convq.answers.detections.geometry import Objects, Size, comparable, in_picture, keypoints_of, objects_of
from convq.answers.detections.grid import rows_expected
from convq.answers.detections.nms import Suppress, averaged, groups, suppress
from convq.answers.detections.rectangles import ordered
from convq.answers.detections.regions import regions_of
from convq.answers.detections.rows import JobRows, rows_of
from convq.answers.detections.spec import DetectionsSpec
from convq.errors import ModelFault, NonFinite


def detections_of(
    spec: DetectionsSpec,
    outputs: Mapping[str, NDArray[Any]],
    jobs: Sequence[Wanted],
    size: Size,
    suppress: Suppress = suppress,
) -> list[Detections | NonFinite]:
    """What was found for each job of a batch, or the error that it is to be answered with.

    Args:
        spec: What the outputs mean; `bound` to the graph, unless its outputs have more rows than columns in any case.
        outputs: The raw outputs of the batch by name, those of `spec.outputs` at least; any numeric dtype.
        jobs: One a row of the batch, in its order. Outputs may have more rows: those are filled in, and nobody's.
        size: Of the input that the batch had.
        suppress: What compares boxes; onnxruntime's is faster than the one of numpy.

    Raises ModelFault where an output has another shape than the description says.
    """
    with np.errstate(all="ignore"):  # what is not finite is looked for where it matters
        if spec.regions is not None:
            return regions_of(spec, spec.regions, outputs, jobs, size)
        every = rows_of(spec, outputs, len(jobs))
        return [_of_job(rows, spec, job, size, suppress) for rows, job in zip(every, jobs, strict=True)]


def _of_job(rows: JobRows, spec: DetectionsSpec, job: Wanted, size: Size, suppress: Suppress) -> Detections | NonFinite:
    if spec.grid is not None and rows.count != (expected := rows_expected(spec.grid, *size)):
        given = f"an input of {size.width} x {size.height} pixels has {expected}"
        raise ModelFault(f"the outputs have {rows.count} rows; by the strides of the grid, {given}")
    min_score = spec.min_score if job.min_score is None else job.min_score
    try:
        objects = objects_of(rows, choose(rows, spec, min_score, job.classes), spec, size)
        check_finite(boxes=objects.boxes, scores=objects.found.scores)
        if not (inside := in_picture(objects.boxes, job.placement)).all():
            objects = objects.picked(np.flatnonzero(inside))
        return _answer(rows, _kept(rows, objects, spec, job, size, suppress), job.placement)
    except NonFinite as err:
        return err.at_rest()


class _Kept(NamedTuple):
    """What is left of the candidates."""

    objects: Objects
    keypoints: NDArray[np.float64] | None
    truncated: bool


def _kept(rows: JobRows, objects: Objects, spec: DetectionsSpec, job: Wanted, size: Size, suppress: Suppress) -> _Kept:
    """The best candidates of those that overlap, as the model or the job says; one more than may be is looked for."""
    rule = "class" if spec.nms == "none" and job.iou is not None else spec.nms
    iou = spec.iou if job.iou is None else job.iou
    most = spec.max_detections if job.max_detections is None else job.max_detections
    if rule == "none":
        best = objects.picked(np.arange(min(len(objects.boxes), most)))
        return _Kept(best, keypoints_of(rows, best, spec, size), len(objects.boxes) > most)
    boxes = comparable(objects, size, apart=rule != "agnostic")
    found = suppress(boxes, objects.found.scores, iou, most + 1)
    kept, truncated = found[:most], len(found) > most
    best = objects.picked(kept)
    if rule != "weighted":
        return _Kept(best, keypoints_of(rows, best, spec, size), truncated)
    owner, scores = groups(boxes, kept, iou), objects.found.scores
    best = best._replace(boxes=averaged(objects.boxes, scores, owner, kept))
    if (points := keypoints_of(rows, objects, spec, size)) is not None:
        flat = averaged(points.reshape(len(points), points.shape[1] * points.shape[2]), scores, owner, kept)
        points = flat.reshape(len(kept), *points.shape[1:])
    return _Kept(best, points, truncated)


def _answer(rows: JobRows, kept: _Kept, placement: Placement) -> Detections:
    """In pixels of the picture. Raises NonFinite where a part of a detection is not finite."""
    objects, points = kept.objects, kept.keypoints
    masks = rows.block("masks")[objects.found.rows].astype(np.float32) if "masks" in rows else None
    check_finite(keypoints=points, masks=masks)
    if points is not None:
        points = np.concatenate(
            [rounded(placement.points_back(points[..., :2])), rounded_scores(points[..., 2:])], axis=2
        )
    corners = None
    if objects.corners is not None:
        corners = ordered(rounded(placement.cut(placement.points_back(objects.corners))))
    return Detections(
        boxes=rounded(placement.cut(placement.boxes_back(objects.boxes))),
        scores=rounded_scores(objects.found.scores),
        classes=objects.found.classes,
        keypoints=points,
        masks=masks,
        corners=corners,
        truncated=kept.truncated or objects.found.cut,
    )
