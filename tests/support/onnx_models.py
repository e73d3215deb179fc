"""Small ONNX models for tests, built node by node: what they compute is plain from where they are used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

FLOAT, UINT8, INT32, INT64, STRING, BOOL, FLOAT16, DOUBLE = 1, 2, 6, 7, 8, 9, 10, 11
Value = tuple[str, int, Any]
"""Name, element type, shape (None: not declared)."""


def graph(
    nodes: Sequence[tuple[Any, ...]],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    weights: Mapping[str, NDArray[Any]] | None = None,
) -> bytes:
    """A model of nodes (operator, inputs, outputs[, attributes]); a domain is the attribute `domain`."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    ends = [[helper.make_tensor_value_info(*value) for value in values] for values in (inputs, outputs)]
    made = [helper.make_node(*node[:3], **(node[3] if len(node) > 3 else {})) for node in nodes]
    tensors = [onnx.numpy_helper.from_array(values, name) for name, values in (weights or {}).items()]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    model = helper.make_model(helper.make_graph(made, "g", *ends, tensors), opset_imports=opsets, ir_version=8)
    return bytes(model.SerializeToString())


def identity(shape: Sequence[Any], kind: int = FLOAT) -> bytes:
    """x in, y out: the same."""
    return graph([("Identity", ["x"], ["y"])], [("x", kind, shape)], [("y", kind, shape)])


def model_folder(folder: Path, manifest: str, model: bytes, features: bytes | None = None) -> Path:
    """A model's folder with version 1 and its report."""
    (folder / "1").mkdir(parents=True)
    (folder / "manifest.toml").write_text(manifest)
    (folder / "1" / "model.onnx").write_bytes(model)
    if features is not None:
        (folder / "1" / "features.onnx").write_bytes(features)
    return resealed(folder)


def resealed(folder: Path) -> Path:
    """The report fits the files of version 1 again, as if they had been exported."""
    files = {"sha256": "model.onnx", "features_sha256": "features.onnx"}
    there = {key: folder / "1" / name for key, name in files.items() if (folder / "1" / name).exists()}
    report = {key: hashlib.sha256(file.read_bytes()).hexdigest() for key, file in there.items()}
    (folder / "1" / "report.json").write_text(json.dumps(report))
    return folder


def blur(size: int = 3, channels: int = 3) -> NDArray[np.float32]:
    """Weights [channels, 1, size, size] of a box blur that keeps channels apart."""
    return np.full((channels, 1, size, size), 1 / size**2, dtype=np.float32)
