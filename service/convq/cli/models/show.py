"""`convq models show`: one model, its network layer by layer, and what its report proves."""

from __future__ import annotations

from pathlib import Path

import click

from convq.cli.models.folder import accuracy_text, document_of, input_text, models_option, open_repository
from convq.cli.output import for_programs, json_option, print_facts, print_json


@click.command()
@click.argument("name")
@models_option
@json_option
def show(name: str, root: Path | None, *, as_json: bool) -> None:
    """Show one model: input, outputs, limits, and what its report proves.

    \b
    convq models show lenet
    convq models show lenet --json | jq .limits
    """
    document = document_of(open_repository(root)[name])
    if for_programs(as_json=as_json):
        print_json([document])
        return
    limits = document["limits"]
    outputs = [f"{one['name']} ({one['meaning']})" for one in document["outputs"]]
    print_facts(
        {
            "model": f"{document['name']}: {document['description']}" if document["description"] else document["name"],
            "versions": f"{', '.join(map(str, document['versions']))} (served: {document['newest']})",
            "input": input_text(document["input"]),
            "outputs": ", ".join(outputs) or "every output of the graph, as tensors",
            "labels": str(document["labels"]),
            "limits": f"{limits['max_bytes']:,} bytes, {limits['max_pixels']:,} pixels, batches of {limits['max_batch']}",
            "parameters": f"{document['parameters']:,}" if document["parameters"] else "not in the report",
            "accuracy": accuracy_text(document) or "not in the report",
            "sha256": document["sha256"] or "not in the report",
        }
    )
