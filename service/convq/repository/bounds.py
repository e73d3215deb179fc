"""How much a model may say of itself, and what all tables of a manifest have in common.

Services repeat names and shapes to Redis every few seconds, for all clients to read: so they are bounded.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

MOST_NAME_CHARACTERS = 256
"""Of the name of an input, an output or a feature map."""
MOST_OUTPUTS = 256
"""Outputs that every batch yields, and feature maps, together."""
MOST_DESCRIBED_BYTES = 64 << 10
"""Of all names and shapes as JSON."""

NodeName = Annotated[str, Field(min_length=1, max_length=MOST_NAME_CHARACTERS)]
"""Of an input, an output or a feature map."""


class Table(BaseModel):
    """One table of a manifest: a key that is not known here, or a value of another type, is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def as_tuple(value: Any) -> Any:
    """A TOML array as a tuple, a single value as a tuple of one: strict validation takes no lists for tuples."""
    return tuple(value) if isinstance(value, list) else value if isinstance(value, tuple) else (value,)


def as_tuples(value: Any) -> Any:
    """TOML arrays in an array as tuples."""
    return tuple(tuple(one) if isinstance(one, list) else one for one in value) if isinstance(value, list) else value


def is_inside(value: str) -> bool:
    """Whether it names a file of the model's own folder; a folder that is copied elsewhere must still be whole."""
    path = PurePosixPath(value)
    return bool(value) and not path.is_absolute() and ".." not in path.parts and "\\" not in value


def _inside(value: str) -> str:
    if not is_inside(value):
        raise ValueError("a path inside the model's folder, such as labels.txt")
    return value


InnerPath = Annotated[str, Field(max_length=200), AfterValidator(_inside)]
"""A file of the model's folder."""
Number = Annotated[float, Field(allow_inf_nan=False)]
PointName = Annotated[str, Field(min_length=1, max_length=64)]
"""Of a keypoint."""
PointNumber = Annotated[int, Field(ge=0, le=999)]
