"""`convq models list`: what the repository holds, read from its files; nothing is loaded or served."""

from __future__ import annotations

from pathlib import Path

import click

from convq.cli.models.folder import accuracy_text, document_of, input_text, models_option, open_repository
from convq.cli.output import for_programs, json_option, print_json, print_table


@click.command("list")
@models_option
@json_option
def list_models(root: Path | None, *, as_json: bool) -> None:
    """List every model of the repository.

    \b
    convq models list
    convq models list --models /srv/models --json
    """
    documents = [document_of(folder) for folder in open_repository(root).models.values()]
    if for_programs(as_json=as_json):
        print_json(documents)
        return
    columns = ["name", "versions", "input", ">labels", ">accuracy", "description"]
    rows = []
    for one in documents:
        versions = ", ".join(map(str, one["versions"]))
        rows.append(
            [
                one["name"],
                versions,
                input_text(one["input"]),
                str(one["labels"]),
                accuracy_text(one),
                one["description"],
            ]
        )
    print_table(columns, rows)
