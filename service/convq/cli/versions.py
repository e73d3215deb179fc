"""`--version N` of the commands: the numbers that folders of versions may have, and no others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from convq.protocol import LAST_VERSION


def version_option(meaning: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option; its value is an integer from 1 to LAST_VERSION, or None."""
    return click.option("--version", metavar="N", type=click.IntRange(1, LAST_VERSION), help=meaning)
