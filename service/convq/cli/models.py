"""`convq models`: what the model repository holds, read from its files; nothing is loaded or served."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convq.cli.output import for_programs, json_option, print_facts, print_json, print_table
from convq.errors import ModelBroken
from convq.settings import facts

if TYPE_CHECKING:
    from convq.inference.repository import ModelFolder, ModelRepository

_DIR = facts("models")
models_option = click.option(
    _DIR["flag"],
    "root",
    metavar=_DIR["metavar"],
    envvar=_DIR["variable"],
    show_envvar=True,
    type=click.Path(path_type=Path),
    default=None,
    help="The model repository; models of the checkout, or those that come with convq.",
)


@click.group()
def models() -> None:
    """Look into the model repository.

    \b
    convq models list
    convq models show lenet
    """


@models.command("list")
@models_option
@json_option
def list_models(root: Path | None, *, as_json: bool) -> None:
    """List every model of the repository.

    \b
    convq models list
    convq models list --models /srv/models --json
    """
    documents = [_document(folder) for folder in _open(root).models.values()]
    if for_programs(as_json=as_json):
        print_json(documents)
        return
    columns = ["name", "versions", "input", ">labels", ">accuracy", "description"]
    rows = []
    for one in documents:
        versions = ", ".join(map(str, one["versions"]))
        rows.append(
            [one["name"], versions, _input(one["input"]), str(one["labels"]), _accuracy(one), one["description"]]
        )
    print_table(columns, rows)


@models.command()
@click.argument("name")
@models_option
@json_option
def show(name: str, root: Path | None, *, as_json: bool) -> None:
    """Show one model: input, outputs, limits, and what its report proves.

    \b
    convq models show lenet
    convq models show lenet --json | jq .limits
    """
    document = _document(_open(root)[name])
    if for_programs(as_json=as_json):
        print_json([document])
        return
    limits = document["limits"]
    outputs = [f"{one['name']} ({one['meaning']})" for one in document["outputs"]]
    print_facts(
        {
            "model": f"{document['name']}: {document['description']}" if document["description"] else document["name"],
            "versions": f"{', '.join(map(str, document['versions']))} (served: {document['newest']})",
            "input": _input(document["input"]),
            "outputs": ", ".join(outputs) or "every output of the graph, as tensors",
            "labels": str(document["labels"]),
            "limits": f"{limits['max_bytes']:,} bytes, {limits['max_pixels']:,} pixels, batches of {limits['max_batch']}",
            "parameters": f"{document['parameters']:,}" if document["parameters"] else "not in the report",
            "accuracy": _accuracy(document) or "not in the report",
            "sha256": document["sha256"] or "not in the report",
        }
    )


def _open(root: Path | None) -> ModelRepository:
    from convq.inference.repository import ModelRepository, default_root  # noqa: PLC0415 - brings numpy and the engine

    return ModelRepository.open(root or default_root())


def _document(folder: ModelFolder) -> dict[str, Any]:
    """What is known of a model without loading it. Raises ModelBroken where a file that is named is not there."""
    manifest, report = folder.manifest, read_report(folder)
    return {
        "name": folder.name,
        "description": manifest.description,
        "versions": list(folder.versions),
        "newest": folder.newest,
        "input": manifest.input.model_dump(include={"color", "dtype", "height", "width", "layout", "resize"}),
        "outputs": [output.model_dump(exclude_none=True) for output in manifest.outputs],
        "labels": len(manifest.read_labels(folder.path)),
        "limits": manifest.limits.model_dump(),
        "parameters": report.get("parameters"),
        "accuracy": report.get("accuracy"),
        "sha256": report.get("sha256"),
    }


def read_report(folder: ModelFolder) -> dict[str, Any]:
    """`report.json` of the newest version. Raises ModelBroken."""
    file = folder.path / str(folder.newest) / "report.json"
    try:
        report = json.loads(file.read_bytes())
    except OSError as error:
        raise ModelBroken(f"{file}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise ModelBroken(f"{file}: is no JSON document") from None
    if not isinstance(report, dict):
        raise ModelBroken(f"{file}: is no JSON object")
    return report


def _input(spec: dict[str, Any]) -> str:
    sides = " x ".join(str(spec[side] or "any") for side in ("height", "width"))
    return f"{sides} {spec['color']}" + (f", {spec['dtype']}" if spec["dtype"] else "")


def _accuracy(document: dict[str, Any]) -> str:
    found = document["accuracy"]
    if not isinstance(found, dict) or "share" not in found:
        return ""
    return f"{found['share']:.2%} on {found.get('dataset', 'its test set')}"
