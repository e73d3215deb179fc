"""What settles a value of a manifest that was assumed: the flag of `convq models add` and `convq export` that says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from convq.importer.infer_input import Finding

FLAGS: Final[Mapping[str, str]] = {
    "color": "--color",
    "height": "--size",
    "width": "--size",
    "multiple_of": "--multiple-of",
    "resize": "--resize",
    "align": "--align",
    "pad_value": "--pad-value",
    "short_side": "--short-side",
    "long_side": "--long-side",
    "interpolation": "--interpolation",
    "scale": "--scale",
    "mean": "--mean",
    "std": "--std",
    "meaning": "--task",
    "offset": "--task",
    "activation": "--activation",
    "labels": "--labels",
    "max_batch": "--max-batch",
    "family": "--like",
    "columns": "--like",
}
"""Keys of the manifest, with the flag that settles what was assumed of them."""


def flag_of(finding: Finding) -> str:
    """The flag for one value; the manifest itself where there is none."""
    if finding.table == "outputs" and finding.key == "scale":
        return "--task"
    return FLAGS.get(finding.key, "the manifest")
