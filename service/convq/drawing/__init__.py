"""Answers drawn on their pictures, for people: what `Result.draw` and `convq submit --save` show. Needs Pillow, and no numpy.

Functions of a result document and a picture; nothing here knows queues, models or files other than pictures and fonts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from convq.drawing.canvas import Canvas
from convq.drawing.captions import Entry, captioned
from convq.drawing.files import is_drawing, png_of
from convq.drawing.fonts import check_font
from convq.drawing.maps import cut_out, draw_segments, gray_depth, legend
from convq.drawing.objects import draw_detections, draw_keypoints
from convq.drawing.palette import colour_of
from convq.drawing.pictures import is_turned, upright

__all__ = ["check_font", "draw", "is_drawing", "is_turned", "png_of", "upright"]


def draw(
    document: Mapping[str, Any],
    picture: Any,
    described: Mapping[str, Any] | None = None,
    font: str | os.PathLike[str] | None = None,
) -> Image.Image:
    """An answer drawn on the upright picture that it is of.

    Boxes, corners, masks and keypoints in one colour a class; `segments` as an overlay with a legend below; recognised
    `text` and `predictions` below the picture. A matte becomes a cut-out with transparency (mode RGBA), depth is gray (mode
    L, or RGB where something is drawn on it). A picture whose longer side is less than 320 pixels is enlarged by a whole
    factor where something is drawn or written on it.

    Args:
        document: the result document, status ok.
        picture: what was submitted: bytes of a file, a path, a PIL image, or an array of uint8.
        described: what `Client.served()` says of the model: names the lines between keypoints, and which outputs are mattes.
        font: a TrueType or OpenType file for labels that Pillow's own font and those of the system cannot write.

    Raises BadImage where Pillow cannot decode the picture or its size is not the answer's, BadField where the font is none,
    ValueError where there is nothing to draw.
    """
    size = document.get("image")
    image = upright(picture, None if size is None else (size["width"], size["height"]))
    known = described or {}
    base = _base(document, image, known)
    if not _is_drawn_on(document):
        if base is image:
            raise ValueError(f"there is nothing to draw in this answer: {_holds(document)}")
        return base
    labels = len(document.get("detections") or ())
    canvas = Canvas.of(base if base.mode in ("RGB", "RGBA") else base.convert("RGB"), labels, font)
    answers = known.get("answers", {})
    if segments := document.get("segments"):
        draw_segments(canvas, segments)
    if found := document.get("detections"):
        draw_detections(canvas, found, _lines(answers, "detections"))
    if points := document.get("keypoints"):
        draw_keypoints(canvas, points, _lines(answers, "keypoints"), colour_of(0))
    return captioned(canvas, _entries(document))


def _base(document: Mapping[str, Any], picture: Image.Image, known: Mapping[str, Any]) -> Image.Image:
    """The picture, or what the first map among the outputs makes of it."""
    meanings = {one["name"]: one.get("meaning") for one in known.get("outputs", ())}
    for output in document.get("outputs") or ():
        if output.get("format") != "png":
            continue
        if output.get("low") is not None:
            return gray_depth(picture, output)
        # Of the answers that a PNG file belongs to, those without coordinates or maps have no size of a picture.
        meaning = meanings.get(output["name"], "matte" if document.get("image") else "image")
        if meaning == "matte":
            return cut_out(picture, output)
    return picture


_DRAWN_ON = ("segments", "keypoints", "predictions")


def _is_drawn_on(document: Mapping[str, Any]) -> bool:
    known = any(document.get(key) for key in _DRAWN_ON)
    return known or document.get("detections") is not None or document.get("text") is not None


def _holds(document: Mapping[str, Any]) -> str:
    """What the answer has instead, in words."""
    names = [one["name"] for one in document.get("outputs") or ()]
    parts = ["an embedding"] if document.get("embedding") else []
    return " and ".join([*parts, *([f"outputs {', '.join(names)}"] if names else [])]) or "it holds nothing"


def _lines(answers: Mapping[str, Any], meaning: str) -> Sequence[Sequence[int]]:
    found: Sequence[Sequence[int]] = answers.get(meaning, {}).get("skeleton", ())
    return found


def _entries(document: Mapping[str, Any]) -> list[Entry]:
    """What stands below the picture."""
    entries: list[Entry] = []
    if segments := document.get("segments"):
        entries += legend(segments["classes"])
    if (text := document.get("text")) is not None:
        score = document.get("text_score")
        entries.append((None, f"{text or '(nothing read)'}{'' if score is None else f'  {score:.0%}'}"))
    entries += [(None, f"{one['label']}  {one['score']:.1%}") for one in document.get("predictions") or ()]
    return entries
