"""How a detector answers the same picture seen otherwise, and pictures in which there is nothing.

What a manifest gets wrong about colours or coordinates shows here, where one sample's answer looks right. For people who
look at a model: nothing that serves uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convq.answers.detections import Wanted
from convq.engine.answering.detector import Answer
from convq.engine.answering.meaning import MasksAsked
from convq.engine.engine import Engine
from convq.engine.tensors import Prepared
from convq.errors import JobError, NonFinite

SURE: Final = 0.5
"""Detections of at least this score must be found in a wider frame as well; where there are none, the best one."""
SAME_PLACE: Final = 0.5
"""Two boxes that overlap at least so much (IoU) are one, where the network saw the object in another size."""
EXACTLY: Final = 0.99
"""The same where it saw the very same pixels: what is left for rounding."""
_CLEARLY: Final = 1.02
"""Scores that are by so much higher are no matter of rounding."""
_SIDEWAYS: Final = 6
"""The EXIF orientation of a picture whose right side was up when it was taken."""
_ORIENTATION: Final = 274
_MOST_BYTES: Final = 2**31 - 1

Pixels = NDArray[np.uint8]
Found = Sequence[Mapping[str, Any]]


def detected(engine: Engine, sample: Prepared, masks: MasksAsked = "none") -> Answer:
    """The detections of one input, as a result has them. Raises JobError: NonFinite, and what `Engine.run` raises."""
    detector = engine.detector
    if detector is None:
        raise ValueError(f"{engine.name} is no detector")
    outputs = engine.run([sample], ())
    frame = engine.frame_of(sample.shape, sample.placement)
    found = detector.detect(outputs, [Wanted(frame.placement)], frame.size)[0]
    if isinstance(found, NonFinite):
        raise found
    return detector.written(found, outputs, 0, *frame, masks)


def variants(engine: Engine, pixels: Pixels, found: Found) -> dict[str, dict[str, Any]]:
    """What a detector finds in variants of `pixels`, [h, w] or [h, w, 3] as `Engine.decode` gives them; JSON-able.

    `found` are the detections of the picture itself. Of `blank` and `noise`: how many `detections`, and the `best` score. Of
    `swapped`, red and blue exchanged: the `sum` of scores, and whether it is clearly `higher` than the `original` one. Of
    `turned` (the same picture lying on its side, with an EXIF orientation) and `framed` (a border around it, so that it is
    scaled otherwise): how many `agree` `of` those that must. Where a variant cannot be answered: `error`.
    """
    noise = np.random.default_rng(7).integers(0, 256, pixels.shape, dtype=np.uint8)
    made: dict[str, Callable[[], dict[str, Any]]] = {
        "blank": lambda: _counted(_look(engine, np.zeros_like(pixels))),
        "noise": lambda: _counted(_look(engine, noise)),
        "turned": lambda: _turned(engine, pixels, found),
        "framed": lambda: _framed(engine, pixels, found),
    }
    if pixels.ndim == 3 and (pixels[..., 0] != pixels[..., 2]).any():  # noqa: PLR2004 - what is gray stays the same
        made["swapped"] = lambda: _swapped(engine, pixels, found)
    return {name: _tried(look) for name, look in made.items()}


def _tried(look: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return look()
    except JobError as error:
        return {"error": f"{error.code}: {error}"}


def _look(engine: Engine, pixels: Pixels) -> Found:
    return detected(engine, engine.prepare(np.ascontiguousarray(pixels))).detections


def _counted(found: Found) -> dict[str, Any]:
    return {"detections": len(found), "best": max((one["score"] for one in found), default=0.0)}


def _swapped(engine: Engine, pixels: Pixels, found: Found) -> dict[str, Any]:
    original, swapped = (sum(one["score"] for one in part) for part in (found, _look(engine, pixels[..., ::-1])))
    sums = {"sum": round(swapped, 6), "original": round(original, 6)}
    return {**sums, "higher": swapped > original * _CLEARLY}


def _turned(engine: Engine, pixels: Pixels, found: Found) -> dict[str, Any]:
    """Through a file, as a camera would have written it: all of its way is walked once more."""
    from convq.engine.decoding import decode  # noqa: PLC0415 - see `Engine.decode`, whose limit of bytes is for strangers

    exif, file = Image.Exif(), BytesIO()
    exif[_ORIENTATION] = _SIDEWAYS
    Image.fromarray(np.ascontiguousarray(np.rot90(pixels))).save(file, "PNG", exif=exif, compress_level=1)
    limits = engine.manifest.limits.model_copy(update={"max_bytes": _MOST_BYTES})
    upright = decode(file.getvalue(), engine.manifest.input, limits)
    return _agreed(found, _look(engine, upright), (0, 0), EXACTLY)


def _framed(engine: Engine, pixels: Pixels, found: Found) -> dict[str, Any]:
    height, width = pixels.shape[:2]
    left, right, top, bottom = width // 8, width // 4, height // 5, height // 16
    border = [(top, bottom), (left, right), *[(0, 0)] * (pixels.ndim - 2)]
    sure = [one for one in found if one["score"] >= SURE] or found[:1]
    framed = _look(engine, np.pad(pixels, border, constant_values=engine.manifest.input.pad_value[0]))
    return _agreed(sure, framed, (left, top), SAME_PLACE)


def _agreed(expected: Found, there: Found, moved: tuple[int, int], least_iou: float) -> dict[str, Any]:
    """How many of the expected ones are there, moved so far to the right and down: of the same class, in the same place."""
    x, y = moved
    places = [
        (one["index"], (one["box"][0] - x, one["box"][1] - y, one["box"][2] - x, one["box"][3] - y)) for one in there
    ]
    agree = sum(
        any(index == one["index"] and _iou(one["box"], box) >= least_iou for index, box in places) for one in expected
    )
    return {"agree": agree, "of": len(expected)}


def _iou(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes x1, y1, x2, y2."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0.0, across) * max(0.0, down)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / (areas - shared) if areas > shared else 0.0
