"""What is known of a graph because its exporter wrote it down: the form, whoever the exporter was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Setting = str | int | float | tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Told:
    """What the metadata of a graph say. Empty where they say nothing that convq reads."""

    exporter: str = ""
    """Whose words these are, as `ultralytics`; empty where nobody is known by them."""
    task: str = ""
    """`detect`, `segment`, `pose`, `obb`, `classify`, `text` or nothing."""
    names: Sequence[str] = ()
    """Of the classes, in the order of their numbers; of a recogniser of text its alphabet."""
    size: tuple[int, int] | None = None
    """Height and width of the input, in pixels."""
    channels: int | None = None
    stride: int | None = None
    """Sides of the input are a multiple of it."""
    end_to_end: bool = False
    """The graph gives rows that are objects already."""
    head: str = ""
    """What the exporter calls the last layer."""
    keypoints: tuple[int, int] | None = None
    """How many there are, and how many numbers each has: 2, or 3 with a score."""
    keypoint_names: Sequence[str] = ()
    prepared: Mapping[str, Setting] = field(default_factory=dict)
    """Keys of `[input]` that it names one by one."""
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """`min_score` and `iou`."""
    description: str = ""
    licence: str = ""
    ignored: Sequence[tuple[str, str]] = ()
    """Keys that could not be used, and why."""


NOTHING = Told()
