"""What flags about the preparation of pictures say, refused as wrong usage where no manifest would take it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import click

RESIZE: Final = ["stretch", "crop", "letterbox", "fit", "height", "none"]
FILTERS: Final = ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos", "opencv-linear"]
ACTIVATIONS: Final = ["softmax", "sigmoid", "none"]
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


def as_levels(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """One level from 0 to 255, or three with commas between them."""
    if value is None:
        return None
    try:
        levels = tuple(int(part) for part in value.split(","))
    except ValueError:
        levels = ()
    if len(levels) not in CHANNELS:
        raise click.BadParameter(f"{value!r}; expected one level of 0 to 255, or three such as 114,114,114")
    _must_fit("pad_value", levels, value)
    return levels


def placing_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What says how a picture of any size is laid into the network's input."""
    pixels = click.IntRange(1, 65535)
    for option in (
        click.option("--resize", type=click.Choice(RESIZE), help="How an image of another size is made to fit."),
        click.option(
            "--short-side", metavar="PX", type=pixels, help="With crop or fit: the shorter side is scaled to this."
        ),
        click.option("--long-side", metavar="PX", type=pixels, help="With fit: shrunk until its longer side is that."),
        click.option(
            "--align", type=click.Choice(["centre", "start"]), help="With letterbox and fit: where the image lies."
        ),
        click.option("--pad-value", metavar="N|A,B,C", callback=as_levels, help="Levels of what is filled beside it."),
        click.option("--interpolation", type=click.Choice(FILTERS), help="How it is scaled."),
        click.option(
            "--multiple-of", metavar="PX", type=click.IntRange(1, 4096), help="Sides that are free are filled up to it."
        ),
    )[::-1]:
        command = option(command)
    return command


def _must_fit(key: str, value: Any, said: str) -> None:
    """What no manifest takes is wrong usage, before anything is opened."""
    from convq.repository.manifest import objection  # noqa: PLC0415 - brings pydantic's models

    if why := objection(key, value):
        raise click.BadParameter(f"{said!r}; {why}")
