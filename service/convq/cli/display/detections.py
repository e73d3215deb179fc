"""Detections at the command line: what a job may ask of a detector, and what it found, for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import click

from convq.cli.display.output import print_line, print_table
from convq.protocol import FORMATS, MOST_DETECTIONS, Result

ASKED: Final = {
    "min_score": "min_score",
    "iou": "iou",
    "max_detections": "max_detections",
    "only": "labels",
    "masks": "format",
}
"""Flag of a command -> option of a job."""


def detection_options(command: Any) -> Any:
    """`--min-score`, `--iou`, `--max-detections`, `--only`, `--masks`."""
    share = click.FloatRange(0, 1)
    options = (
        click.option("--min-score", metavar="S", type=share, help="Leave out what scores lower (the model's, or 0)."),
        click.option("--iou", metavar="S", type=share, help="Boxes that overlap by more are one object (the model's)."),
        click.option(
            "--max-detections",
            metavar="N",
            type=click.IntRange(1, MOST_DETECTIONS),
            help="At most so many, best first (the model's).",
        ),
        click.option("--only", metavar="A,B", help="Only detections with these labels."),
        click.option("--masks", type=click.Choice(FORMATS["masks"]), help="How masks are told (rle)."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def print_detections(result: Result, drawn: str = "") -> None:
    """A row for each detection of one picture, and how many there are; `drawn` is the file with the drawing."""
    found = result.detections or ()
    print_boxes((one.label, one.score, one.box) for one in found)
    count = f"{len(found)} detection{'' if len(found) == 1 else 's'}"
    more = ", and there were more" if result.truncated else ""
    print_line(f"{count} in {result.timing_ms.total:.1f} ms{more}{f' · {drawn}' if drawn else ''}")


def print_boxes(found: Iterable[tuple[str, float, Sequence[float]]]) -> None:
    """A row for each: label, score, and x1, y1, x2, y2 in whole pixels; nothing where there is none."""
    rows = [[label, f"{score:.1%}", *(f"{side:.0f}" for side in box)] for label, score, box in found]
    if rows:
        print_table(["label", ">score", ">x1", ">y1", ">x2", ">y2"], rows)
