"""`convq doctor`: prints what `checks` finds, with the command that mends it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from convq.cli.checks import Finding, examine
from convq.cli.connection import named_redis_options
from convq.cli.display.output import for_programs, json_option, new_console, print_json
from convq.cli.models.check import within_option
from convq.cli.models.folder import models_option
from convq.client import DEFAULT_URL
from convq.printable import printable
from convq.queue import Address

MARKS = {"ok": "✓", "warning": "!", "problem": "✗"}
COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}


@click.command()
@named_redis_options(f"The server to look at ({DEFAULT_URL}).", by_variable=True)
@models_option
@within_option("Longest time that a version may take to load and warm up; all together may take five times that.")
@json_option
@click.pass_context
def doctor(
    context: click.Context, address: Address | None, root: Path | None, within_s: float, *, as_json: bool
) -> None:
    """Check this machine, the models and Redis; say what is wrong and the command that mends it.

    \b
    ✓ fine    ! works, but look at it    ✗ does not work

    Redis is looked at before the models, each of which is loaded in a process of its own. Ctrl-C ends it at once.
    Ends with 0 when nothing is ✗, with 3 when only models are, with 4 when only Redis is, otherwise with 1.

    \b
    convq doctor
    convq doctor --redis redis://10.0.0.5:6379/0
    convq doctor --json | jq 'select(.level == "problem")'
    """
    programs, codes = for_programs(as_json=as_json), set()
    for finding in examine(address, root, within_s):
        if programs:
            print_json([{key: value for key, value in asdict(finding).items() if key != "exit_code"}])
        else:
            _print(finding)
        if finding.level == "problem":
            codes.add(finding.exit_code)
    context.exit(codes.pop() if len(codes) == 1 else int(bool(codes)))


def _print(finding: Finding) -> None:
    from rich.text import Text  # noqa: PLC0415 - not needed in a pipe

    terminal = new_console()
    mark = Text(MARKS[finding.level], COLOURS[finding.level])
    terminal.print(mark, Text(printable(f"{finding.check:<14} {finding.found}")), soft_wrap=True)
    if finding.remedy:
        terminal.print(Text(printable(f"  {'':<14} → {finding.remedy}"), "bold"), soft_wrap=True)
    if finding.then:
        terminal.print(Text(printable(f"  {'':<14}   {finding.then}")), soft_wrap=True)
