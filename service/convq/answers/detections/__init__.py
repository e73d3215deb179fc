"""Detections: objects with boxes, scores and classes, and perhaps keypoints, mask weights or corners.

`describe` reads `[detections]` of a manifest, `detections_of` makes answers of a batch's raw outputs by it. Between them:
the language of `columns`, presets (`families`), rows of each job (`rows`), `candidates`, boxes (`grid`, `geometry`), and
non-maximum suppression (`nms`). `regions` finds objects in a map instead.
"""

from convq.answers.detections.decoding import detections_of
from convq.answers.detections.found import Detections, Wanted
from convq.answers.detections.geometry import Size
from convq.answers.detections.spec import DetectionsSpec, describe

__all__ = ["Detections", "DetectionsSpec", "Size", "Wanted", "describe", "detections_of"]
