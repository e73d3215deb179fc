"""What flags about the preparation of pictures say, refused as wrong usage where no manifest would take it."""

from __future__ import annotations

import re
from typing import Any

import click

SIZE = re.compile(r"([1-9]\d{0,4})[xX]([1-9]\d{0,4})")
CHANNELS = (1, 3)


def as_size(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """HEIGHTxWIDTH in pixels."""
    if value is None:
        return None
    found = SIZE.fullmatch(value)
    if found is None:
        raise click.BadParameter(f"{value!r} is no size; expected HxW, height first, such as 224x224")
    height, width = int(found[1]), int(found[2])
    _must_fit("height", height, value)
    _must_fit("width", width, value)
    return height, width


def per_channel(_context: click.Context, option: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    """One number, or three with commas between them."""
    if value is None:
        return None
    try:
        numbers = tuple(float(part) for part in value.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in CHANNELS:
        raise click.BadParameter(f"{value!r}; expected one number, or three such as 0.485,0.456,0.406")
    _must_fit(str(option.name), numbers, value)
    return numbers


def as_scale(_context: click.Context, _option: click.Parameter, value: float | None) -> float | None:
    """A factor that a manifest takes."""
    if value is not None:
        _must_fit("scale", value, str(value))
    return value


def _must_fit(key: str, value: Any, said: str) -> None:
    """What no manifest takes is wrong usage, before anything is opened."""
    from convq.repository.manifest import objection  # noqa: PLC0415 - brings pydantic's models

    if why := objection(key, value):
        raise click.BadParameter(f"{said!r}; {why}")
