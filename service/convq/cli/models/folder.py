"""What the commands of `convq models` share: the option, the repository, and what is known of a model without loading it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

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


def open_repository(root: Path | None) -> ModelRepository:
    """The repository that is meant. Raises ModelBroken."""
    from convq.inference.repository import ModelRepository, default_root  # noqa: PLC0415 - brings numpy and the engine

    return ModelRepository.open(root or default_root())


def document_of(folder: ModelFolder) -> dict[str, Any]:
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


def input_text(spec: dict[str, Any]) -> str:
    """The input of a `document_of`, in a few words."""
    sides = " x ".join(str(spec[side] or "any") for side in ("height", "width"))
    return f"{sides} {spec['color']}" + (f", {spec['dtype']}" if spec["dtype"] else "")


def accuracy_text(document: dict[str, Any]) -> str:
    """What its report says of accuracy; empty where it says nothing."""
    found = document["accuracy"]
    if not isinstance(found, dict) or "share" not in found:
        return ""
    return f"{found['share']:.2%} on {found.get('dataset', 'its test set')}"
