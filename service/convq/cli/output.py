"""Tables for people, JSON lines for programs, a progress bar where somebody looks at it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import click

T = TypeVar("T")


def json_option(command: Any) -> Any:
    """`--json`."""
    text = "JSON lines, as in a pipe, instead of a table."
    return click.option("--json", "as_json", is_flag=True, help=text)(command)


def for_programs(*, as_json: bool) -> bool:
    """Whether a program reads our output: it was asked for, or standard output is no terminal."""
    return as_json or not sys.stdout.isatty()


def print_json(documents: Iterable[Mapping[str, Any]]) -> None:
    """One document a line, each as soon as it is there."""
    for document in documents:
        click.echo(json.dumps(document, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, min_width: int = 0) -> None:
    """Aligned columns; those whose header begins with > are numbers, and stand to the right.

    Where `min_width` characters are more than the terminal has, it breaks the lines itself: cells are not folded below.
    """
    from rich.console import Console  # noqa: PLC0415 - not needed in a pipe
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        number = column.startswith(">")
        table.add_column(column.removeprefix(">"), justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: names of files are no markup
    console = Console(highlight=False)
    console.width = max(console.width, min_width)
    console.print(table)


def print_facts(facts: Mapping[str, str]) -> None:
    """Names and values, one pair a line."""
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        click.echo(f"{name:<{width}}  {value}")


def progress(items: Iterable[T], total: int, description: str) -> Iterator[T]:
    """The items, with a bar on standard error where that is a terminal and there is more than one."""
    if total < 2 or not sys.stderr.isatty():  # noqa: PLR2004 - one image needs no bar
        yield from items
        return
    from rich.console import Console  # noqa: PLC0415 - not needed in a pipe
    from rich.progress import track  # noqa: PLC0415

    yield from track(items, description, total=total, console=Console(stderr=True), transient=True)
