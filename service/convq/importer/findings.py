"""Values of a manifest, each with where it is from; what somebody says of them; and the flag that settles what was assumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, Self

Source = Literal["given", "preset", "graph", "measured", "assumed"]  # preset: its package says so
Value = str | int | float | tuple[Any, ...] | None


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the person who brings the model knows about it; None where nothing was said."""

    labels: int | None = None
    """How many class names there are."""
    color: str | None = None
    height: int | None = None
    width: int | None = None
    scale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    task: str | None = None
    """`classes`: some output holds them; `tensor`: all outputs are numbers, given back as they are; or another of `TASKS`."""
    max_batch: int | None = None
    """Jobs that may share a batch, where that changes no answer."""
    like: str | None = None
    """A family of detectors, by its name in `[detections]`."""
    activation: str | None = None
    """Of scores: `softmax`, `sigmoid` or `none`."""
    resize: str | None = None
    short_side: int | None = None
    long_side: int | None = None
    align: str | None = None
    interpolation: str | None = None
    pad_value: tuple[int, ...] | None = None
    multiple_of: int | None = None


PLACED_BY = ("resize", "short_side", "long_side", "align", "interpolation", "pad_value", "multiple_of")
"""Keys of `[input]`, and of `Overrides`, that say where a picture comes to lie."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One value of the manifest, and how it came about."""

    table: str
    """`input`, `extra_inputs`, `limits`, `detections` or a table in it, or `outputs` of the name in `of`; `metadata` for what
    its exporter wrote and is not used; nothing for keys that stand in no table."""
    key: str
    value: Value
    """None where the key stays out of the manifest; `why` says what that means."""
    source: Source
    why: str
    of: str = ""

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Self:
        """The same on the other side of a pipe: JSON knows no tuples."""
        return cls(**{**said, "value": _tuples(said["value"])})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def placing(wishes: Overrides) -> list[Finding]:
    """What was said of how pictures are made to fit, but for the rule itself; without that, it is one to come that they belong to."""
    given = [(key, getattr(wishes, key)) for key in PLACED_BY[1:]]
    return [Finding("input", key, value, "given", flag_for(key)) for key, value in given if value is not None]


def flag_for(key: str) -> str:
    """The flag that says the value of a key."""
    return f"--{key.replace('_', '-')}"


def as_json(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Findings as JSON objects."""
    return [asdict(finding) for finding in findings]


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
