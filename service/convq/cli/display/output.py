"""Tables for people, JSON lines for programs, a progress bar where somebody looks at it.

Everything that a command writes goes through here: a terminal is shown nothing that could move its cursor, whatever
clients and model files hold, while programs get it exactly.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from convq.printable import json_line, printable, printable_lines

if TYPE_CHECKING:
    from rich.console import Console

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
        click.echo(json_line(document, ascii_only=not _writes_unicode()))


def _writes_unicode() -> bool:
    return (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") == "utf8"


def print_line(text: str = "", *, err: bool = False) -> None:
    """A line for people; `err` on standard error."""
    click.echo(printable_lines(text), err=err)


def write_file_text(text: str) -> None:
    """A part of a file for programs: UTF-8 whatever the locale says, names of files as their bytes, lines as they are.

    Where standard output is a terminal, as it may be shown one.
    """
    if sys.stdout.isatty():
        click.echo(printable_lines(text.replace("\r\n", "\n")), nl=False)
    else:
        click.echo(text.encode("utf-8", "surrogateescape"), nl=False)


def write_terminal(text: str) -> None:
    """Text with control sequences of our own, as it is, at once: whoever calls this has made the rest printable."""
    sys.stdout.write(text)
    sys.stdout.flush()


def new_console(**options: Any) -> Console:
    """For people: text is what it says, and neither markup nor a link. `options` are those of rich."""
    from rich.console import Console  # noqa: PLC0415 - not needed in a pipe

    return Console(highlight=False, markup=False, emoji=False, **options)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, min_width: int = 0) -> None:
    """Aligned columns; those whose header begins with > are numbers, and stand to the right.

    Where `min_width` characters are more than the terminal has, it breaks the lines itself: cells are not folded below.
    """
    from rich.table import Table  # noqa: PLC0415 - not needed in a pipe
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        number = column.startswith(">")
        table.add_column(column.removeprefix(">"), justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable_lines(cell)) for cell in row))  # Text: names of files are no markup
    terminal = new_console()
    terminal.width = max(terminal.width, min_width)
    terminal.print(table)


def print_facts(facts: Mapping[str, str]) -> None:
    """Names and values, one pair a line."""
    shown = {printable(name): printable(str(value)) for name, value in facts.items()}
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        click.echo(f"{name:<{width}}  {value}")


def progress(items: Iterable[T], total: int, description: str) -> Iterator[T]:
    """The items, with a bar on standard error where that is a terminal and there is more than one."""
    if total < 2 or not sys.stderr.isatty():  # noqa: PLR2004 - one image needs no bar
        yield from items
        return
    from rich.progress import track  # noqa: PLC0415 - not needed in a pipe

    yield from track(items, printable(description), total=total, console=new_console(stderr=True), transient=True)
