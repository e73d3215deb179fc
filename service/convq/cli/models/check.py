"""`convq models check`: load a version as the service would, in a process of its own, and show what it answers."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from convq.cli.display.detections import print_boxes
from convq.cli.display.output import for_programs, json_option, print_facts, print_json, print_line, print_table
from convq.cli.display.seen import KEYS, print_seen
from convq.cli.models.detections import described, facts_of
from convq.cli.models.folder import models_option, newest_whole
from convq.cli.saving import make_folder, write_whole
from convq.cli.versions import version_option

MIB = 1 << 20
DRAWING = "check.png"
VARIANTS = {
    "blank": "a blank picture",
    "noise": "noise",
    "swapped": "red and blue swapped",
    "turned": "turned by EXIF",
    "framed": "in a wider frame",
}
"""What a detector is shown besides its sample, in the order in which it is told."""
ROUNDING = 1e-3
"""Relative difference of answers that is no matter of the order of sums any more."""


def within_option(
    text: str = "Longest time that the graph may take to load, warm up and answer.",
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--within`."""
    kind = click.FloatRange(min=1)
    return click.option("--within", "within_s", metavar="S", type=kind, default=60.0, show_default=True, help=text)


@click.command()
@click.argument("name")
@version_option("Which version (the newest that is whole).")
@click.option(
    "--image",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Answer this image, or NumPy file for a model of tensors, instead of the model's own sample.",
)
@click.option(
    "--save",
    "drawn_into",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Draw what a detector finds in the sample as DIR/check.png.",
)
@models_option
@within_option()
@json_option
def check(
    name: str,
    version: int | None,
    image: Path | None,
    drawn_into: Path | None,
    root: Path | None,
    within_s: float,
    *,
    as_json: bool,
) -> None:
    """Load a model as the service would, run it, and show what it answers and how fast.

    It happens in a process of its own with limits on time and memory, so that a graph that crashes, hangs or swells ends
    as one line and exit code 3.

    A detector is shown more: a blank picture and noise, in which there is nothing; the sample with red and blue exchanged,
    which should not score higher; the sample lying on its side with an EXIF orientation, and in a wider frame: its boxes
    must be the same. Look at --save DIR, too: nothing is as quick to see as boxes that are shifted.

    \b
    convq models check lenet
    convq models check lenet --image seven.png --version 1
    convq models check yolo --image street.jpg --save .
    """
    from convq.importer.dry_run import examined  # noqa: PLC0415 - brings the child's parts
    from convq.repository.model_folders import ModelRepository, default_root  # noqa: PLC0415 - brings the engine's parts
    from convq.repository.version_files import VersionFiles  # noqa: PLC0415 - as above

    if drawn_into is not None:
        make_folder(drawn_into, "--save")
    folder = ModelRepository.open(root or default_root(), [name])[name]
    if version is not None and version not in folder.versions:
        there = ", ".join(map(str, folder.versions))
        raise click.UsageError(f"{name} has no version {version}; there is {there}")
    chosen, broken = (version, {}) if version is not None else newest_whole(folder)
    for number, reason in broken.items():
        print_line(f"version {number} is passed over: {reason}", err=True)
    document = examined(folder.path, chosen, image=image, within_s=within_s, draw=drawn_into is not None)
    drawing = document.pop("drawing", None)
    if drawn_into is not None:
        document["drawn"] = _write(drawn_into, drawing)
    if for_programs(as_json=as_json):
        print_json([document])
        return
    show_examination(document, facts_of(described(VersionFiles.of(folder.path, chosen))))
    if drawn_into is not None:
        print_line(f"\ndrawn: {document['drawn']}" if drawing else "\nnothing is drawn: no detections of a picture")


def _write(folder: Path, drawing: str | None) -> str | None:
    """The name of the file with the drawing, where there is one. Raises ClickException."""
    if drawing is None:
        return None
    target = folder / DRAWING
    try:
        write_whole(target, base64.b64decode(drawing))
    except OSError as error:
        raise click.ClickException(f"cannot write {target}: {error.strerror}") from None
    return str(target)


def show_examination(document: Mapping[str, Any], more: Mapping[str, str] | None = None) -> None:
    """A document of `examined`, for people, and `more` facts of its version."""
    sample = document["sample"]
    print_facts(
        {
            "model": f"{document['name']}, version {document['version']}: can be served",
            "runs on": document["provider"],
            "loaded in": f"{document['load_s'] * 1e3:.0f} ms, warm-up included",
            "memory": f"{document['memory_bytes'] / MIB:.0f} MiB at most, the whole process",
            "network": _speed(document["ms_per_image"]),
            "batches": _batches(document["largest_difference"]),
            **({"remark": document["remark"]} if document["remark"] else {}),
            **(more or {}),
            "sample": sample["name"] + ("" if sample["finite"] else ": the answer has NaN or infinity"),
        }
    )
    print_line()
    if (predictions := sample.get("predictions")) and "heads" not in sample:  # which have them, too
        print_table(["label", ">index", ">score"], [_row(one) for one in predictions])
        print_line()
    if (detections := sample.get("detections")) is not None:
        print_boxes((one["label"], one["score"], one["box"]) for one in detections)
        print_line("" if detections else "nothing is detected in the sample\n")
    if seen := {key: sample[key] for key in (*KEYS, "text_score") if key in sample}:
        print_seen(seen)
        print_line()
    if variants := document.get("variants"):
        print_facts({words: _told(name, variants[name]) for name, words in VARIANTS.items() if name in variants})
        print_line()
    columns = ["output", "dtype", "shape of one job", ">lowest", ">highest"]
    print_table(
        columns,
        [
            [one["name"], one["dtype"], _shape(one["shape"]), _number(one["low"]), _number(one["high"])]
            for one in sample["outputs"]
        ],
    )


def _told(name: str, seen: Mapping[str, Any]) -> str:
    """What a variant of the sample says of the model."""
    if "error" in seen:
        return f"cannot be answered: {seen['error']}"
    if "best" in seen:
        found = seen["detections"]
        return f"{found} found, the best at {seen['best']:.1%}, where there is nothing" if found else "nothing found"
    if name == "swapped":
        scores = f"scores sum to {seen['sum']:.3g}, and to {seen['original']:.3g} as it is"
        return f"HIGHER: {scores}: is input.color of the manifest right?" if seen["higher"] else scores
    if not seen["of"]:
        return "nothing to compare"
    agreed = f"{seen['agree']} of {seen['of']} boxes agree"
    return agreed if seen["agree"] == seen["of"] else f"{agreed}: see input.resize and the units of the columns"


def _speed(per_image: Mapping[str, float]) -> str:
    parts = [
        f"{ms:.3g} ms {'an image alone' if size == '1' else f'in batches of {size}'}" for size, ms in per_image.items()
    ]
    return ", ".join(parts)


def _batches(difference: float | None) -> str:
    if difference is None:
        return "never: jobs run one by one"
    if difference > ROUNDING:
        return f"an answer changes by {difference:.1%} beside other jobs; limits.max_batch = 1 would keep them apart"
    return "an answer is the same alone and beside other jobs"


def _row(prediction: Mapping[str, Any]) -> list[str]:
    return [prediction["label"], str(prediction["index"]), f"{prediction['score']:.4f}"]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _shape(sides: list[int]) -> str:
    return " x ".join(map(str, sides)) or "one value"
