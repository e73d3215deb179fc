"""`convq models show`: one model, its network layer by layer, and what its reports prove."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convq.cli.display.output import for_programs, json_option, print_facts, print_json, print_line, print_table
from convq.cli.models.check import within_option
from convq.cli.models.detections import facts_of
from convq.cli.models.folder import (
    MODEL,
    OK,
    SHORT,
    Version,
    accuracy_text,
    document_of,
    extra_text,
    input_text,
    models_option,
    open_model,
    output_text,
    versions_of,
)
from convq.cli.versions import version_option
from convq.errors import ModelBroken
from convq.host.extras import install
from convq.printable import printable

if TYPE_CHECKING:
    from convq.layers import Architecture, Layer, Shape, Weight
    from convq.repository.manifest import Input
    from convq.repository.model_folders import ModelFolder

COLUMNS = (
    *("layer", "kind", ">kernel", ">stride", ">padding", ">dilation", ">groups"),
    *("shape", "weights", ">parameters", ">MACs"),
)
DISPENSABLE = {">dilation": "1", ">groups": "1", ">padding": "0"}
"""Columns that a narrow terminal does without where they say nothing else."""
GAP = 2  # blanks between two columns
LONGEST_WAY = 12  # steps that still read as a line
WEIGHTS_SHOWN = 3
SAID_OF_VERSIONS = ("sha256", "date", "accuracy", "max_difference")


@click.command()
@click.argument("name")
@version_option("Which version (the newest).")
@models_option
@within_option("Longest time that looking into the graph may take.")
@json_option
def show(name: str, version: int | None, root: Path | None, within_s: float, *, as_json: bool) -> None:
    """Show one model: what goes in and comes out, its layers, its versions, its limits.

    The layers come from the version's report, or from its graph, which needs the package onnx. A convolution makes of a
    side of `in` pixels one of floor((in + padding - dilation * (kernel - 1) - 1) / stride) + 1, padding being that of
    both ends together. MACs are the multiplications with an addition that one image takes. A graph is looked into by a
    process of its own with limits on time and memory.

    \b
    convq models show lenet
    convq models show lenet --version 1 --json | jq .totals
    """
    folder = open_model(root, name)
    versions = versions_of(folder)
    chosen = _choose(folder, versions, version)
    table, missing = _table(folder, chosen, within_s)
    document = document_of(folder, chosen) | {"version": chosen.number, "state": chosen.state}
    if for_programs(as_json=as_json):
        print_json([_for_programs(document, versions, table, missing)])
    else:
        _print(document, versions, table, missing)


def _choose(folder: ModelFolder, versions: Sequence[Version], number: int | None) -> Version:
    if number is None:
        return versions[-1]
    found = next((one for one in versions if one.number == number), None)
    if found is None:
        there = ", ".join(map(str, folder.versions))
        raise click.UsageError(f"{folder.name} has no version {number}; there is {there}")
    return found


def _table(folder: ModelFolder, version: Version, within_s: float) -> tuple[Architecture | None, str]:
    """The layers, from the report or else from the graph; or why there are none."""
    from convq.layers import Architecture  # noqa: PLC0415 - brings pydantic's models

    said = version.report.get("layers")
    if said:
        try:
            return Architecture.from_json(said), ""
        except ModelBroken:
            pass  # written by another program, or another time: the graph knows
    from convq.importer.inspection import inspect  # noqa: PLC0415 - brings the engine's parts
    from convq.repository.version_files import VersionFiles  # noqa: PLC0415 - as above

    file = folder.path / str(version.number) / MODEL
    try:
        sides = _sides(VersionFiles.of(folder.path, version.number).manifest.input)
        return inspect(file, folder.path, sides, within_s=within_s), ""
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        return None, f"the report does not hold the layers; to read them from the graph, run: {install('inspect')}"
    except ModelBroken as error:
        return None, f"{MODEL} {str(error).replace(f'{file.absolute()}: ', '')}"


def _sides(spec: Input) -> tuple[int | None, ...]:
    """One image in the layout of the model, as the manifest says it; nothing where there are no images."""
    if spec.color == "none":
        return ()
    sides = (spec.height, spec.width)
    return (spec.channels, *sides) if spec.layout == "NCHW" else (*sides, spec.channels)


def _for_programs(
    document: Mapping[str, Any], versions: Sequence[Version], table: Architecture | None, missing: str
) -> dict[str, Any]:
    said = [
        {"version": one.number, "state": one.state, **{key: one.report.get(key) for key in SAID_OF_VERSIONS}}
        for one in versions
    ]
    whole = {**document, "versions": said, "layers": None, "totals": None}
    if table is None:
        return {**whole, "layers_missing": missing}
    totals = {"parameters": table.parameters, "macs": table.macs}
    return {**whole, "layers": table.to_json(), "totals": totals}


# -- for people ----------------------------------------------------------------------------------------------------------


def _print(document: Mapping[str, Any], versions: Sequence[Version], table: Architecture | None, missing: str) -> None:
    outputs = [output_text(one) for one in document["outputs"]]
    detections = facts_of(document.get("detections"))
    default = "those of the detections" if detections else "every output of the graph, as tensors"
    facts = {
        "model": f"{document['name']}: {document['description']}" if document["description"] else document["name"],
        "version": f"{document['version']}" + (" (the newest)" if document["version"] == document["newest"] else ""),
        "state": document["state"] if document["state"] == OK else f"BROKEN: {document['state']}",
        "input": input_text(document["input"]),
        "extra inputs": extra_text(document["extra_inputs"]),
        "outputs": ", ".join(outputs) or default,
        **detections,
        "feature maps": ", ".join(document["feature_maps"]),
        "labels": "" if detections else str(document["labels"]),
        "parameters": _number(document["parameters"]) if document["parameters"] else "not in the report",
        "accuracy": accuracy_text(document) or "not in the report",
        "sha256": document["sha256"] or "not in the report",
    }
    print_facts({name: value for name, value in facts.items() if value})
    print_line()
    if table is None:
        print_line(f"layers: {missing}")
    else:
        _print_layers(table, document["parameters"])
    print_line()
    columns = ["version", "state", "sha256", "date", ">accuracy", ">differs from torch by"]
    print_table(columns, [_version_row(one) for one in versions])
    print_line()
    limits = document["limits"]
    size = f"{limits['max_bytes']:,} bytes, {limits['max_pixels']:,} pixels"
    print_facts({"an image": size, "a batch": f"{limits['max_batch']} images, {limits['max_batch_s']:g} s"})


def _print_layers(table: Architecture, trained: Any) -> None:
    total = ["total", *[""] * (len(COLUMNS) - 3), f"{table.parameters:,}", _number(table.macs)]
    width = shutil.get_terminal_size().columns
    for brief in (False, True):
        rows = [*(_layer_row(layer, brief=brief) for layer in table.layers), total]
        columns, rows = _fitting(COLUMNS, rows, width)
        if _width(columns, rows) <= width:
            break
    print_table(columns, rows, min_width=_width(columns, rows))
    known = sum(layer.macs or 0 for layer in table.layers)
    macs = f", {'' if table.macs is not None else 'at least '}{known:,} MACs per image" if known else ""
    print_line()
    print_line(f"{table.parameters:,} parameters{macs}")
    if table.macs is None:
        print_line("?: depends on the size of the image, or is not known of this operator")
    if isinstance(trained, int) and trained != table.parameters:
        print_line(f"({trained:,} parameters before the export)")
    ways = {
        "sides": [_sides_text(side) for side in table.sides],
        "linear": [_shape_text((one,)) for one in table.widths],
    }
    print_facts({name: " -> ".join(way) for name, way in ways.items() if 1 < len(way) <= LONGEST_WAY})


def _fitting(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> tuple[list[str], list[list[str]]]:
    """The columns that fit into `width`, as far as leaving out those that say nothing new can do that."""
    kept = list(range(len(columns)))
    for name, usual in DISPENSABLE.items():
        index = columns.index(name)
        says_nothing = {row[index] for row in rows} <= {"", usual}
        if says_nothing and _width([columns[i] for i in kept], [[row[i] for i in kept] for row in rows]) > width:
            kept.remove(index)
    return [columns[i] for i in kept], [[row[i] for i in kept] for row in rows]


def _width(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Characters that a table takes."""
    cells = [[column.removeprefix(">") for column in columns], *rows]
    return sum(max(map(len, column)) for column in zip(*cells, strict=True)) + GAP * (len(columns) - 1)


def _layer_row(layer: Layer, *, brief: bool) -> list[str]:
    """The cells; brief ones leave out what comes in, which is what came out before, and all weights but the first."""
    came_in = "" if brief else f"{_shapes_text(layer.inputs)} -> "
    kind = ", ".join(filter(None, (layer.kind, layer.activation, "rounds up" if layer.ceil else "")))
    return [
        printable(layer.name),
        printable(kind),
        "x".join(map(str, layer.kernel or ())),
        _alike(layer.stride),
        _padding_text(layer),
        _alike(layer.dilation),
        str(layer.groups or ""),
        f"{came_in}{_shapes_text(layer.outputs)}",
        _weights_text(layer.weights[:1] if brief else layer.weights),
        _number(layer.parameters) if layer.weights else "",
        _number(layer.macs) if layer.macs != 0 else "",
    ]


def _version_row(version: Version) -> list[str]:
    sha256, date, difference = (version.report.get(key) for key in ("sha256", "date", "max_difference"))
    differences = difference.values() if isinstance(difference, dict) else [difference]
    numbers = [one for one in differences if isinstance(one, int | float)]
    return [
        str(version.number),
        version.state,
        sha256[:SHORT] if isinstance(sha256, str) else "",
        date if isinstance(date, str) else "",
        accuracy_text(version.report),
        f"{max(numbers):.1g}" if numbers else "",
    ]


def _number(value: Any) -> str:
    """With separators of thousands; ? for what is not known."""
    return f"{value:,}" if isinstance(value, int) else "?"


def _alike(values: Sequence[int | str] | None) -> str:
    """One number where all axes have the same."""
    return "x".join(map(str, values if len({*values}) > 1 else values[:1])) if values else ""


def _padding_text(layer: Layer) -> str:
    """As `_alike` where both ends of every axis have the same, else begin and end of each axis."""
    if layer.padding is None:
        return "?" if layer.kernel else ""
    half = len(layer.padding) // 2
    begins, ends = layer.padding[:half], layer.padding[half:]
    return _alike(begins) if begins == ends else _alike([f"{a}+{b}" for a, b in zip(begins, ends, strict=True)])


def _weights_text(weights: Sequence[Weight]) -> str:
    shown = [
        json.dumps(one.shape) + ("" if one.dtype == "float32" else f" {one.dtype}") for one in weights[:WEIGHTS_SHOWN]
    ]
    return " ".join(shown + ["…"] * (len(weights) > WEIGHTS_SHOWN))


def _shapes_text(shapes: Sequence[Shape | None]) -> str:
    more = [f"({len(shapes)} in all)"] if len(shapes) > WEIGHTS_SHOWN else []
    return " + ".join([*map(_shape_text, shapes[:WEIGHTS_SHOWN]), *more])


def _shape_text(shape: Shape | None) -> str:
    return "?" if shape is None else "x".join("?" if side is None else str(side) for side in shape) or "1"


def _sides_text(side: Shape) -> str:
    """One number for a square."""
    return _shape_text(side[:1] if len({*side}) == 1 else side)
