"""A version of a model: exported, proven, reported, and moved into its folder only when all of that has gone well."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from convq.engine.engine import MODEL, REPORT, Engine
from convq.errors import ExportRefused
from convq.exporter import detectors
from convq.exporter.graphs import WithFeatureMaps, example_shape, takes, tensors, to_onnx
from convq.exporter.parity import batches, prove
from convq.layers import layers_of
from convq.repository.keeping import keep_with, place
from convq.repository.manifest import FILE, Manifest
from convq.repository.operators import operators_of
from convq.repository.version_files import HOLDS

FEATURES = "features.onnx"

Step = Callable[[str], None]
"""Called with what is being done next."""


def make(net: nn.Module, folder: Path, number: int, step: Step) -> dict[str, Any]:
    """Export and prove version `number` of the model in `folder`, whose manifest is there; returns the report.

    Writes model.onnx, features.onnx where the manifest names feature maps, and report.json. Raises ExportRefused where the
    network cannot be exported or is not the same in onnxruntime, ModelBroken where the service could not serve it.
    """
    manifest = Manifest.read(folder)
    served = takes(net, manifest.input)
    names, watched = outputs_of(served, manifest), dict(manifest.feature_maps)
    target = folder / str(number)
    target.mkdir()
    step("tracing")
    model = _traced(served, manifest, names)
    if why := operators_of(model).random_fault():
        raise ExportRefused(
            f"the network {why}; forward itself may leave something in training mode, as F.dropout does"
        )
    (target / MODEL).write_bytes(model)
    report: dict[str, Any] = {
        "sha256": hashlib.sha256(model).hexdigest(),
        "date": datetime.now(UTC).date().isoformat(),
        "opset": onnx.load_from_string(model).opset_import[0].version,
        "torch": torch.__version__.partition("+")[0],
        "onnx": onnx.__version__,
        "onnxruntime": version("onnxruntime"),
        "parameters": sum(weights.numel() for weights in net.parameters()),
        "max_difference": proven(model, served, manifest, names, step),
    }
    if watched:
        step("tracing with feature maps")
        maps = WithFeatureMaps(served, net, list(watched.values())).eval()
        features = to_onnx(maps, manifest.input, [*names, *watched.values()])
        (target / FEATURES).write_bytes(features)
        report["features_sha256"] = hashlib.sha256(features).hexdigest()
        report["features_max_difference"] = proven(features, maps, manifest, [*names, *watched.values()], step)
    report[HOLDS] = keep_with(folder, number)
    report |= layers(model)
    write_report(target, report)
    step("warming up")
    Engine.load(folder, number, device="cpu").warm_up()
    return report


def _traced(served: nn.Module, manifest: Manifest, names: Sequence[str]) -> bytes:
    if isinstance(served, detectors.Detecting):
        return detectors.to_onnx(served, manifest.input.name or "image")
    return to_onnx(served, manifest.input, names)


def steps(folder: Path) -> int:
    """How often `make` calls its `step`. Raises ModelBroken."""
    manifest = Manifest.read(folder)
    graphs = 2 if manifest.feature_maps else 1
    return graphs * (1 + len(batches(manifest.limits.max_batch))) + 1


def outputs_of(served: nn.Module, manifest: Manifest) -> list[str]:
    """The names of the graph's outputs: the manifest's, or the network's own where it names none. Raises ExportRefused."""
    if isinstance(served, detectors.Detecting):
        return list(detectors.OUTPUTS)
    if manifest.outputs:
        return [output.name for output in manifest.outputs]
    shape, dtype = example_shape(manifest.input, 1), manifest.input.dtype or "float32"
    with torch.no_grad():
        return list(tensors(served(torch.zeros(shape, dtype=getattr(torch, dtype)))))


def proven(model: bytes, served: nn.Module, manifest: Manifest, names: list[str], step: Step) -> dict[str, float]:
    """Batch size -> largest difference, for the report. Raises ExportRefused above the tolerance."""
    if isinstance(served, detectors.Detecting):
        step("comparing with PyTorch")
        return {"1": detectors.prove(served)}
    absolute, limit = {head.name for head in manifest.heads}, manifest.limits.max_batch
    sizes, found = batches(limit), {}
    step(f"comparing with PyTorch at batch {sizes[0]}")
    proofs = prove(model, served, manifest.input, names, absolute=absolute, max_batch=limit)
    for (size, difference), following in zip(proofs, [*sizes[1:], None], strict=True):
        found[str(size)] = difference
        if following is not None:
            step(f"comparing with PyTorch at batch {following}")
    return found


def layers(model: bytes) -> dict[str, Any]:
    """The report's table of `layers` and its sum of `macs` (free sides leave that unknown)."""
    table = layers_of(model)
    return {"macs": table.macs, "layers": table.to_json()}


def write_report(target: Path, report: Mapping[str, Any]) -> None:
    """report.json of a version, with one layer a line."""
    brief = json.dumps({**report, "layers": []}, indent=2)
    rows = ",\n".join(f"    {json.dumps(layer)}" for layer in report.get("layers", ()))
    text = brief.replace('"layers": []', f'"layers": [\n{rows}\n  ]' if rows else '"layers": []')
    (target / REPORT).write_text(text + "\n", encoding="utf-8")


def publish(trial: Path, folder: Path, number: int, renewed: Collection[str] = ()) -> None:
    """Move a finished version from `trial`, on the same file system, to where services look for it.

    Its number is recorded. The version appears in one step, an older one of that number leaves in one. Files that the
    model does not have yet, or that are named in `renewed`, follow; the manifest comes last, because a folder is a model
    from then on.
    """
    folder.mkdir(exist_ok=True)
    place(trial / str(number), folder, number, instead=trial / "replaced")
    for file in sorted(trial.iterdir(), key=lambda file: file.name == FILE):
        if file.is_file() and (file.name in renewed or not (folder / file.name).exists()):
            file.replace(folder / file.name)
