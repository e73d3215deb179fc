"""What a manifest says of detections, filled in: for `convq models show`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from convq.host.extras import install

if TYPE_CHECKING:
    from convq.repository.version_files import VersionFiles


def described(files: VersionFiles) -> dict[str, Any] | None:
    """The `[detections]` of a version as JSON-able values, its family filled in; None where it has none. Raises ModelBroken."""
    table = files.manifest.detections
    if table is None:
        return None
    labels = files.detected_labels()
    said: dict[str, Any] = {"family": table.family or "", "labels": len(labels)}
    try:
        from convq.answers.detections import describe  # noqa: PLC0415 - brings numpy, which the base install has not
    except ModuleNotFoundError as error:
        if error.name != "numpy":
            raise
        return {**said, "trouble": f"to have the columns read, {install('cpu')}"}
    try:
        spec = describe(table.given(), len(labels))
    except ValueError as error:
        return {**said, "trouble": str(error)}
    widths = ({name: _columns(one.columns.text, one.columns.named) for name in one.outputs} for one in spec.tables)
    columns = {name: text for part in widths for name, text in part.items()}
    if spec.regions is not None:
        columns[spec.regions.output] = f"regions above {spec.regions.threshold:g}"
    if spec.prototypes is not None:
        columns[spec.prototypes] = "prototypes of masks"
    if spec.counts is not None:
        columns[spec.counts] = "rows of each job"
    more = {"min_score": spec.min_score, "iou": spec.iou, "max_detections": spec.max_detections, "nms": spec.nms}
    return {**said, "columns": columns, **more, "keypoints": list(spec.keypoints)}


def facts_of(said: Mapping[str, Any] | None) -> dict[str, str]:
    """The same in lines for people; nothing where there are no detections."""
    if said is None:
        return {}
    if "trouble" in said:
        return {"detections": ": ".join(filter(None, (said["family"], said["trouble"])))}
    thresholds = f"min_score {said['min_score']:g}, iou {said['iou']:g}, nms {said['nms']}"
    columns = "; ".join(f"{output}: {text}" for output, text in said["columns"].items())
    return {
        "detections": f"{said['family'] or 'by their columns'}, {said['labels']} labels, {thresholds}",
        "columns": columns,
    }


def _columns(text: str, named: Any) -> str:
    """The words as the manifest has them, and how many columns those are that labels and bins decide."""
    widths = {column.word: column.width for column in named if column.width > 1}
    return " ".join(f"{word}:{widths[word]}" if word in widths else word for word in text.split())
