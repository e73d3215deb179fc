"""What exporters write into ONNX files, each in its own words: ultralytics, YOLOv5 and v7, PaddleOCR, OpenVINO.

| who | keys | source |
|---|---|---|
| ultralytics | `task names stride imgsz channels batch end2end head kpt_shape kpt_names args license` | ultralytics, `engine/exporter.py` |
| YOLOv5, v7 | `stride names` | ultralytics/yolov5, `export.py` (`export_onnx`) |
| PaddleOCR, by RapidOCR | `character`: the alphabet, one sign a line | RapidOCR, `ch_ppocr_rec/main.py` |
| OpenVINO, OTX, Geti | `model_info labels`, `model_info mean_values`, … | openvinotoolkit/model_api, `adapters/utils.py` |

A value that is of another form than its exporter gives it is left out, and why is said: whoever made the file may have written
anything. Nothing here raises.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from convq.importer.metadata.literals import MOST_ENTRIES, literal
from convq.importer.metadata.told import NOTHING, Setting, Told
from convq.printable import excerpt
from convq.repository.files import MOST_LABEL_CHARACTERS

MOST_SIDE: Final = 8192
"""Pixels of a side that metadata may ask for."""
MOST_PIXELS: Final = 4096 * 4096
MOST_STRIDE: Final = 256
MOST_KEYPOINTS: Final = 1000
MOST_CHARACTERS: Final = 60_000
"""Signs of an alphabet."""
MOST_TEXT: Final = 400
"""Characters of a description or a licence."""
TASKS: Final = ("detect", "segment", "pose", "obb", "classify")
_MODEL_INFO: Final = "model_info "
_RESIZE: Final = {
    "standard": {"resize": "stretch"},
    "fit_to_window": {"resize": "letterbox", "align": "start"},
    "fit_to_window_letterbox": {"resize": "letterbox"},
    "crop": {"resize": "crop"},
}
"""OpenVINO's words for how an image is made to fit -> keys of `[input]`."""


def told_by(metadata: Mapping[str, str]) -> Told:
    """What these metadata, key by key as the graph has them, say that a manifest can use."""
    if "task" in metadata and {"names", "stride"} <= metadata.keys():
        return _ultralytics(metadata)
    if {"names", "stride"} <= metadata.keys():
        said = _Reading(metadata)
        return said.told("YOLOv5 or v7", names=said.names("names"), stride=said.stride())
    if "character" in metadata:
        said = _Reading(metadata)
        return said.told("PaddleOCR", task="text", names=said.alphabet("character"))
    if any(key.startswith(_MODEL_INFO) for key in metadata):
        return _openvino({key.removeprefix(_MODEL_INFO): value for key, value in metadata.items()})
    said = _Reading(metadata)
    return said.told("") if said.text("license") else NOTHING


def _ultralytics(metadata: Mapping[str, str]) -> Told:
    said = _Reading(metadata)
    task = metadata["task"].strip()
    if task not in TASKS:
        said.ignore("task", f"is {excerpt(task, 30)!r}; known are {', '.join(TASKS)}")
        task = ""
    keypoints = said.keypoints() if task == "pose" else None
    settings = said.read("args")
    own_nms = settings.get("nms") is True if isinstance(settings, dict) else False
    return said.told(
        "ultralytics",
        task=task,
        names=said.names("names"),
        size=said.size(),
        channels=said.number("channels", 1, 4),
        stride=said.stride(),
        end_to_end=own_nms or metadata.get("end2end", "").strip() == "True",
        head=excerpt(metadata.get("head", ""), 60),
        keypoints=keypoints,
        keypoint_names=said.keypoint_names(keypoints[0]) if keypoints else (),
    )


def _openvino(metadata: Mapping[str, str]) -> Told:
    """`model_info …`: labels with blanks between them, blanks of their own as _; means and scales of levels from 0 to 255."""
    said = _Reading(metadata)
    names = tuple(_name(one.replace("_", " "), i) for i, one in enumerate(metadata.get("labels", "").split()))
    if len(names) > MOST_ENTRIES:
        said.ignore("labels", f"has {len(names):,} names; at most {MOST_ENTRIES:,} are read")
        names = ()
    prepared: dict[str, Setting] = {**_RESIZE.get(metadata.get("resize_type", "").strip(), {})}
    for theirs, ours in (("mean_values", "mean"), ("scale_values", "std")):
        numbers = said.numbers(theirs, least=-1e4 if ours == "mean" else 1e-6)
        if numbers:
            prepared |= {ours: numbers, "scale": 1.0}
    if (level := said.number("pad_value", 0, 255)) is not None and prepared.get("resize") == "letterbox":
        prepared["pad_value"] = (level,)
    if metadata.get("reverse_input_channels", "").strip().lower() in ("true", "yes"):  # of images in OpenCV's order
        prepared["color"] = "rgb"
    found = {"confidence_threshold": "min_score", "iou_threshold": "iou"}
    thresholds = {ours: share for theirs, ours in found.items() if (share := said.share(theirs)) is not None}
    return said.told("OpenVINO", names=names, prepared=prepared, thresholds=thresholds)


class _Reading:
    """Values of one file's metadata, each checked, and what had to be left out."""

    def __init__(self, metadata: Mapping[str, str]) -> None:
        self._metadata = metadata
        self._ignored: list[tuple[str, str]] = []

    def told(self, exporter: str, **found: Any) -> Told:
        """All of it, with what every exporter may say."""
        return Told(
            exporter=exporter,
            description=self.text("description"),
            licence=self.text("license"),
            ignored=tuple(self._ignored),
            **found,
        )

    def ignore(self, key: str, why: str) -> None:
        """This key is not used."""
        self._ignored.append((key, why))

    def text(self, key: str) -> str:
        """On one line, without what cannot be printed."""
        return excerpt(self._metadata.get(key, "").strip(), MOST_TEXT)

    def read(self, key: str) -> Any:
        """A literal; None where there is none, or none that can be read."""
        return self._checked(key, lambda value: value, lambda _: True, "")

    def _checked(self, key: str, change: Callable[[Any], Any], holds: Callable[[Any], bool], expected: str) -> Any:
        if key not in self._metadata:
            return None
        try:
            value = change(literal(self._metadata[key]))
        except ValueError as error:
            self.ignore(key, str(error))
            return None
        except (TypeError, OverflowError, AttributeError, KeyError, IndexError):
            value = None
        if value is None or not holds(value):
            self.ignore(key, f"is {excerpt(self._metadata[key], 40)!r}; expected {expected}")
            return None
        return value

    def number(self, key: str, least: int, most: int) -> int | None:
        """A whole number within bounds."""
        found = self._checked(key, _whole, lambda one: least <= one <= most, f"a whole number of {least} to {most}")
        return found if found is None else int(found)

    def share(self, key: str) -> float | None:
        """A number from 0 to 1."""
        found = self._checked(key, _real, lambda one: 0 <= one <= 1, "a number of 0 to 1")
        return found if found is None else float(found)

    def numbers(self, key: str, least: float) -> tuple[float, ...]:
        """One number or three, with blanks between them."""
        if key not in self._metadata:
            return ()
        parts = self._metadata[key].split()[:4]
        try:
            found = tuple(float(part) for part in parts)
        except ValueError:
            found = ()
        if len(found) not in (1, 3) or not all(math.isfinite(one) and least <= one < 1e4 for one in found):  # noqa: PLR2004
            self.ignore(key, f"is {excerpt(self._metadata[key], 40)!r}; expected one number, or three")
            return ()
        return found

    def stride(self) -> int | None:
        """Pixels. A list of the strides of all levels counts by its largest."""

        def largest(value: Any) -> Any:
            return max(map(_whole, value)) if isinstance(value, list) else _whole(value)

        expected = f"a whole number of 1 to {MOST_STRIDE}"
        found = self._checked("stride", largest, lambda one: 1 <= one <= MOST_STRIDE, expected)
        return found if found is None else int(found)

    def size(self) -> tuple[int, int] | None:
        """Height and width in pixels: two numbers, or one for both."""

        def sides(value: Any) -> Any:
            both = value if isinstance(value, list) else [value, value]
            return tuple(map(_whole, both)) if len(both) == 2 else None  # noqa: PLR2004

        def fits(both: tuple[int, int]) -> bool:
            return all(1 <= side <= MOST_SIDE for side in both) and both[0] * both[1] <= MOST_PIXELS

        expected = f"height and width of 1 to {MOST_SIDE} pixels, at most {MOST_PIXELS:,} together"
        found = self._checked("imgsz", sides, fits, expected)
        return found if found is None else (found[0], found[1])

    def names(self, key: str) -> tuple[str, ...]:
        """Names by the numbers of their classes: a dictionary, or a list in their order."""

        def ordered(value: Any) -> Any:
            if isinstance(value, list):
                return value
            return [value[number] if number in value else value[str(number)] for number in range(len(value))]

        def fits(names: list[Any]) -> bool:
            return 0 < len(names) <= MOST_ENTRIES and all(isinstance(one, str | int | float) for one in names)

        found = self._checked(key, ordered, fits, f"a name for each of the numbers from 0 on, at most {MOST_ENTRIES:,}")
        return tuple(_name(str(one), number) for number, one in enumerate(found or ()))

    def keypoints(self) -> tuple[int, int] | None:
        """How many, and how many numbers each."""

        def fits(two: tuple[int, ...]) -> bool:
            return len(two) == 2 and 1 <= two[0] <= MOST_KEYPOINTS and two[1] in (2, 3)  # noqa: PLR2004

        expected = f"[1 to {MOST_KEYPOINTS} keypoints, 2 or 3 numbers each]"
        found = self._checked("kpt_shape", lambda value: tuple(map(_whole, value)), fits, expected)
        return found if found is None else (found[0], found[1])

    def keypoint_names(self, count: int) -> tuple[str, ...]:
        """Of the first class, which are those of all where there is one: {0: ['nose', …]}."""

        def first(value: Any) -> Any:
            return value[0]

        def fits(names: Any) -> bool:
            return isinstance(names, list) and len(names) == count and all(isinstance(one, str) for one in names)

        found = self._checked("kpt_names", first, fits, f"{count} names for the class 0")
        return tuple(_name(one, number)[:64] for number, one in enumerate(found or ()))

    def alphabet(self, key: str) -> tuple[str, ...]:
        """One sign a line."""
        lines = self._metadata[key].split("\n")
        while lines and not lines[-1]:
            lines.pop()
        if len(lines) > MOST_CHARACTERS:
            self.ignore(key, f"has {len(lines):,} lines; at most {MOST_CHARACTERS:,} are read")
            return ()
        return tuple(line.rstrip("\r") for line in lines)


def _whole(value: Any) -> int:
    """Raises TypeError for anything but a whole number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise TypeError
    return int(value)


def _real(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    return float(value)


def _name(text: str, number: int) -> str:
    """One line that a file of labels can hold; its number where nothing of it is left."""
    return excerpt(text.strip(), MOST_LABEL_CHARACTERS).strip().strip("\ufeff").strip() or f"#{number}"
