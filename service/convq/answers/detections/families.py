"""Families of detectors by name: `[detections]` tables that are filled in already, as a manifest would have them.

Each function says how its family's numbers become scores and boxes, and whose code or paper says so. A manifest overrides
any key; names of outputs are those that exporters usually give.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

Description = dict[str, Any]
"""`[detections]` of a manifest, as a TOML parser gives it."""

COCO_KEYPOINTS: Final = 17
_YOLO: Final = {"iou": 0.45, "min_score": 0.25}


def _table(output: str, columns: str, **more: Any) -> Description:
    return {"output": output, "columns": columns, **more}


def _levels(name: str, columns: str) -> Description:
    """One output for each of the strides 8, 16 and 32, joined along the rows."""
    return {"outputs": [f"{name}_{stride}" for stride in (8, 16, 32)], "columns": columns, "axis": 2}


def yolo5() -> Description:
    """YOLOv5, v7: [n, 3A, 5 + C], A cells of strides 8, 16 and 32; score = objectness * class, decoded in the graph.

    Source: ultralytics/yolov5, `models/yolo.py` (`Detect.forward`) and `utils/general.py` (`non_max_suppression`).
    """
    return {**_YOLO, "tables": [_table("output0", "cx cy w h objectness classes")]}


def yolo8() -> Description:
    """YOLOv8, v9, 11, 12: [n, 4 + C, A], decoded and sigmoid applied in the graph; score = the best class.

    Source: ultralytics, `nn/modules/head.py` (`Detect`) and `utils/nms.py`.
    """
    return {**_YOLO, "tables": [_table("output0", "cx cy w h classes")]}


def yolo8_seg() -> Description:
    """As yolo8, with 32 weights a box for prototypes [n, 32, h, w]: mask = weights x prototypes > 0, cut to the box.

    Source: ultralytics, `nn/modules/head.py` (`Segment`) and `utils/ops.py` (`process_mask`).
    """
    tables = [_table("output0", "cx cy w h classes masks:32")]
    return {**_YOLO, "tables": tables, "masks": {"prototypes": "output1"}}


def yolo8_pose() -> Description:
    """As yolo8, with keypoints as x, y in pixels and a score of 0 to 1.

    Source: ultralytics, `nn/modules/head.py` (`Pose.kpts_decode`).
    """
    return {**_YOLO, "tables": [_table("output0", f"cx cy w h classes keypoints:{COCO_KEYPOINTS}x3")]}


def yolo10() -> Description:
    """YOLOv10, 26, and exports with their own NMS: [n, k, 6], a row an object, best first.

    Source: ultralytics, `nn/modules/head.py` (`Detect.postprocess`) and `engine/exporter.py` (`NMSModel`).
    """
    tables = [_table("output0", "x1 y1 x2 y2 score class", axis=2)]
    return {"min_score": 0.25, "nms": "none", "tables": tables}


def yolo10_seg() -> Description:
    """As yolo10, with weights and prototypes as of yolo8-seg.

    Source: ultralytics, `engine/exporter.py` (`NMSModel`, task segment).
    """
    tables = [_table("output0", "x1 y1 x2 y2 score class masks:32", axis=2)]
    return {**yolo10(), "tables": tables, "masks": {"prototypes": "output1"}}


def yolo10_pose() -> Description:
    """As yolo10, with keypoints as of yolo8-pose.

    Source: ultralytics, `engine/exporter.py` (`NMSModel`, task pose).
    """
    tables = [_table("output0", f"x1 y1 x2 y2 score class keypoints:{COCO_KEYPOINTS}x3", axis=2)]
    return {**yolo10(), "tables": tables}


def yolox() -> Description:
    """YOLOX, raw: [n, A, 5 + C]; centre = (cell + c) * stride, size = exp * stride, score = objectness * class.

    Sigmoid is in the graph. A graph that decodes its boxes takes `units = "pixels"`, which drops the grid.

    Source: YOLOX, `yolox/utils/demo_utils.py` (`demo_postprocess`) and `yolox/models/yolo_head.py` (`decode_outputs`).
    """
    tables = [_table("output", "cx cy w h objectness classes")]
    return {"iou": 0.45, "min_score": 0.3, "grid": {"decode": "exp", "strides": [8, 16, 32]}, "tables": tables}


def boxes() -> Description:
    """UltraFace and many SSDs: boxes [n, R, 4] as corners of 0 to 1, scores [n, R, C] after softmax, background first.

    Source: Ultra-Light-Fast-Generic-Face-Detector-1MB, `vision/ssd/ssd.py` and `run_video_face_detect_onnx.py`.
    """
    tables = [_table("scores", "classes", axis=2), _table("boxes", "x1 y1 x2 y2", axis=2)]
    return {"min_score": 0.5, "iou": 0.45, "units": "unit", "background": "first", "tables": tables}


def torchvision() -> Description:
    """Faster and Mask R-CNN, RetinaNet, SSD, FCOS of torchvision: boxes [k, 4], labels [k], scores [k] of one picture.

    In pixels of the input, NMS done; class 0 is the background.

    Source: torchvision, `models/detection/roi_heads.py` (`postprocess_detections`).
    """
    tables = [_table("boxes", "x1 y1 x2 y2"), _table("labels", "class"), _table("scores", "score")]
    return {"min_score": 0.25, "nms": "none", "batch": "none", "class_base": 1, "tables": tables}


def tensorflow() -> Description:
    """TensorFlow's Object Detection API: boxes [n, k, 4] as y1 x1 y2 x2 of 0 to 1, classes from 1, scores, a count.

    Source: tensorflow/models, `research/object_detection/exporter_lib_v2.py` and `core/post_processing.py`.
    """
    tables = [
        _table("detection_boxes", "y1 x1 y2 x2", axis=2),
        _table("detection_classes", "class"),
        _table("detection_scores", "score"),
    ]
    counted = {"counts": "num_detections", "class_base": 1}
    return {"min_score": 0.25, "nms": "none", "units": "unit", **counted, "tables": tables}


def paddle() -> Description:
    """PP-YOLOE, PicoDet: rows [N, 6] of all jobs, one after the other, and how many each has, [n]; NMS done.

    A row of class -1 is none. `im_shape` and `scale_factor` must be those of the input, so that boxes are in its pixels.

    Source: PaddleDetection, `deploy/EXPORT_MODEL.md` and `ppdet/modeling/post_process.py` (`BBoxPostProcess`).
    """
    tables = [_table("bbox", "class score x1 y1 x2 y2")]
    return {"min_score": 0.5, "nms": "none", "batch": "counts", "counts": "bbox_num", "tables": tables}


def detr() -> Description:
    """DETR: logits [n, Q, C + 1], softmax, the last is the background; boxes [n, Q, 4] as cx cy w h of 0 to 1; no NMS.

    Source: facebookresearch/detr, `models/detr.py` (`PostProcess`).
    """
    tables = [_table("logits", "classes", axis=2), _table("pred_boxes", "cx cy w h", axis=2)]
    scored = {"min_score": 0.5, "activation": "softmax", "background": "last"}
    return {**scored, "nms": "none", "units": "unit", "tables": tables}


def rtdetr() -> Description:
    """RT-DETR, D-FINE, RF-DETR, DEIM: logits [n, Q, C], sigmoid, boxes as of DETR; the best of all Q x C, no NMS.

    Source: lyuwenyu/RT-DETR, `rtdetrv2_postprocessor.py` (`RTDETRPostProcessor`, with focal loss).
    """
    tables = [_table("logits", "classes", axis=2), _table("pred_boxes", "cx cy w h", axis=2)]
    scored = {"min_score": 0.5, "activation": "sigmoid", "multi_label": True}
    return {**scored, "nms": "none", "units": "unit", "tables": tables}


def scrfd() -> Description:
    """SCRFD faces: for strides 8, 16, 32 scores, distances and five points in strides, two rows a cell.

    x1 = px - l * s and so on, keypoints = p + k * s, with p = cell * s.

    Source: insightface, `python-package/insightface/model_zoo/scrfd.py` (`distance2bbox`, `distance2kps`).
    """
    tables = [_levels("score", "score"), _levels("bbox", "l t r b"), _levels("kps", "keypoints:5x2")]
    grid = {"decode": "distance", "strides": [8, 16, 32], "per_cell": 2, "point": 0.0}
    return {"min_score": 0.5, "iou": 0.4, "grid": grid, "tables": tables}


def yunet() -> Description:
    """YuNet faces: for strides 8, 16, 32 class, objectness, box and five points; score = sqrt(class * objectness).

    Both are cut to 0..1; centre = (cell + c) * s, size = exp * s, keypoints = (cell + k) * s.

    Source: OpenCV, `modules/objdetect/src/face_detect.cpp` (`postProcess`).
    """
    tables = [
        _levels("cls", "score"),
        _levels("obj", "objectness"),
        _levels("bbox", "cx cy w h"),
        _levels("kps", "keypoints:5x2"),
    ]
    grid = {"decode": "exp", "strides": [8, 16, 32]}
    return {"min_score": 0.6, "iou": 0.3, "combine": "sqrt", "grid": grid, "tables": tables}


def blazeface() -> Description:
    """BlazeFace, short range: [n, 896, 16] box and six points in pixels from the middle of the cell, [n, 896, 1] logits.

    Two rows a cell of stride 8, six of stride 16; sigmoid; boxes that overlap are averaged with their scores.

    Source: MediaPipe, `tensors_to_detections_calculator.cc`, `ssd_anchors_calculator.cc` and
    `non_max_suppression_calculator.cc` (weighted); the BlazeFace paper, section 4.3.
    """
    tables = [_table("regressors", "cx cy w h keypoints:6x2", axis=2), _table("classificators", "score", axis=2)]
    grid = {"decode": "offset", "strides": [8, 16, 16, 16], "per_cell": 2, "point": 0.5}
    scored = {"min_score": 0.5, "iou": 0.3, "activation": "sigmoid", "nms": "weighted"}
    return {**scored, "grid": grid, "tables": tables}


def db() -> Description:
    """DB text detectors: a map [n, 1, h, w] of 0 to 1; see `regions`.

    Source: the DB paper (Liao et al., 2020); PaddleOCR, `ppocr/postprocess/db_postprocess.py`.
    """
    return {"min_score": 0.6, "nms": "none", "max_detections": 1000, "regions": {"output": "maps"}}


FAMILIES: Final[Mapping[str, Callable[[], Description]]] = {
    "yolo5": yolo5,
    "yolo8": yolo8,
    "yolo8-seg": yolo8_seg,
    "yolo8-pose": yolo8_pose,
    "yolo10": yolo10,
    "yolo10-seg": yolo10_seg,
    "yolo10-pose": yolo10_pose,
    "yolox": yolox,
    "boxes": boxes,
    "torchvision": torchvision,
    "tensorflow": tensorflow,
    "paddle": paddle,
    "detr": detr,
    "rtdetr": rtdetr,
    "scrfd": scrfd,
    "yunet": yunet,
    "blazeface": blazeface,
    "db": db,
}
"""Name in a manifest -> what makes its description; the docstring says the formula and its source."""


def filled(given: Mapping[str, Any]) -> Description:
    """`given`, completed by the preset of its `family`, which it overrides key by key, the grid's keys too.

    Who says that boxes are in pixels or units gets no grid from the preset. Raises ValueError for an unknown family.
    """
    name = given.get("family")
    if name is None:
        return dict(given)
    if name not in FAMILIES:
        raise ValueError(f"family {name!r} is not known; expected one of {', '.join(FAMILIES)}")
    preset = FAMILIES[name]()
    if "grid" in given:
        preset["grid"] = {**preset.get("grid", {}), **given["grid"]}
    elif given.get("units", "cells") != "cells":
        preset.pop("grid", None)
    return {**preset, **given, **({"grid": preset["grid"]} if "grid" in preset else {})}
