"""How pictures were prepared when detectors of a family were trained: nothing in a graph says it.

Where a picture lies in the input is part of it, and a box that is off by the filling beside it looks like a poor network. What is
said here is a guess like any other: it is marked, and whoever brings the model may know better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from convq.importer.findings import Finding, Overrides, Source, Value

LEVELS: Final = ("scale", "mean", "std")
PLACING: Final = ("resize", "align", "pad_value", "interpolation", "long_side", "multiple_of")
_YOLO: Final[dict[str, Value]] = {
    "color": "rgb",
    "resize": "letterbox",
    "pad_value": (114,),
    "interpolation": "opencv-linear",
    "scale": 1 / 255,
    "mean": (0.0,),
    "std": (1.0,),
}
_OPENCV: Final[dict[str, Value]] = {"resize": "letterbox", "align": "start", "interpolation": "opencv-linear"}
_AS_THEY_ARE: Final[dict[str, Value]] = {"scale": 1.0, "mean": (0.0,), "std": (1.0,)}
_IMAGENET: Final[dict[str, Value]] = {"scale": 1 / 255, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
RULES: Final[Mapping[str, Mapping[str, Value]]] = {
    "yolo": _YOLO,
    "yolox": {"color": "bgr", **_OPENCV, "pad_value": (114,), **_AS_THEY_ARE},
    "scrfd": {"color": "rgb", **_OPENCV, "scale": 1.0, "mean": (127.5,), "std": (128.0,)},
    "yunet": {"color": "bgr", **_OPENCV, **_AS_THEY_ARE},
    "retinaface": {"color": "bgr", **_OPENCV, "scale": 1.0, "mean": (104.0, 117.0, 123.0), "std": (1.0,)},
    "blazeface": {"color": "rgb", "resize": "letterbox", "scale": 1.0, "mean": (127.5,), "std": (127.5,)},
    "ultraface": {"color": "rgb", "resize": "stretch", "scale": 1.0, "mean": (127.0,), "std": (128.0,)},
    "pixels": {"color": "rgb", "resize": "stretch", "scale": 1 / 255, "mean": (0.0,), "std": (1.0,)},
    "imagenet": {"color": "rgb", "resize": "stretch", **_IMAGENET},
    "inside": {"color": "rgb", "scale": 1 / 255, "mean": (0.0,), "std": (1.0,)},
    "db": {"color": "bgr", "resize": "fit", "long_side": 960, "multiple_of": 32, **_IMAGENET},
    "classifier": {"color": "rgb", "resize": "crop", "scale": 1 / 255, "mean": (0.0,), "std": (1.0,)},
    "text": {"color": "bgr", "scale": 1 / 255, "mean": (0.5,), "std": (0.5,)},
}
"""Name -> keys of `[input]`. Sources: those of the families; torchvision and RT-DETR take pixels of 0 to 1, DETR those that
were normalised by the mean of ImageNet, MediaPipe -1 to 1. `inside`: the graph resizes by itself; `classifier`: ultralytics'
`classify_transforms`; `text`: PaddleOCR's recognisers; `db`: its detectors."""
USUAL_SIDE: Final = 640
"""Pixels of the input of most detectors, where a graph leaves its sides free."""


def prepared(
    found: Sequence[Finding],
    rule: Mapping[str, Value],
    why: str,
    wishes: Overrides,
    source: Source = "assumed",
) -> list[Finding]:
    """What was found of the input, with a rule of training in the place of what was assumed; what was said stays."""
    fixed = {one.key for one in found if one.source == "given" or (one.source == "graph" and one.value is not None)}
    spec = {one.key: one.value for one in found}
    fixed |= {one.key for one in found if one.source == "measured" and one.value == rule.get(one.key)}
    known = {key: value for key, value in rule.items() if key not in fixed}
    by_itself = spec.get("dtype") == "uint8"
    if by_itself or {wishes.scale, wishes.mean, wishes.std} != {None}:  # a part of a rule would be no rule
        known = {key: value for key, value in known.items() if key not in LEVELS}
    is_free = spec.get("height") is None or spec.get("width") is None
    if known.get("resize") in (("stretch", "letterbox", "crop") if is_free else ("fit",)):
        known = {key: value for key, value in known.items() if key not in PLACING}
    if spec.get("color") == "gray":
        known.pop("color", None)
        known = {key: value for key, value in known.items() if not (isinstance(value, tuple) and len(value) > 1)}
    if wishes.resize is not None and wishes.resize != rule.get("resize"):
        known = {key: value for key, value in known.items() if key not in ("align", "pad_value")}
    made = [
        replace(one, value=known.pop(one.key), source=source, why=why) if one.key in known else one for one in found
    ]
    return made + [Finding("input", key, value, source, why) for key, value in known.items()]
