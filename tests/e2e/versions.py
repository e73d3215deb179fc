"""Repositories whose versions can be told apart: lenet, and lenet with something done to its logits."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from services import MODELS, digits, tensor_of

FASHION = Path(__file__).parent / "fashion"
TENSOR = tensor_of(digits()[0])
JOB: dict[str, str | bytes] = {"tensor": TENSOR, "dtype": "uint8", "shape": "1,32,32", "outputs": "logits"}


def repository(folder: Path) -> Path:
    """A repository with a copy of lenet, version 1 alone, without its feature maps. The path of the model's folder."""
    model = folder / "lenet"
    shutil.copytree(MODELS / "lenet", model)
    (model / "1" / "features.onnx").unlink()  # another network than those that are made here
    before, _, after = (model / "manifest.toml").read_text().partition("[feature_maps]")
    (model / "manifest.toml").write_text(before + after[after.index("[") :])
    return model


def add(model: Path, version: int, change: Callable[[Any, Any], None] | None = None) -> Path:
    """Another version, moved into place as a whole: version 1 with `change(onnx, model_proto)` made to it."""
    onnx = pytest.importorskip("onnx")
    made = model.parent.parent / f"made-{version}"
    shutil.copytree(model / "1", made)
    proto = onnx.load(made / "model.onnx")
    if change is not None:
        change(onnx, proto)
    write(made, proto.SerializeToString())
    return made.rename(model / str(version))


def fashion(model: Path) -> Path:
    """Beside the repository: version 2, lenet trained on Fashion-MNIST. The manifest no longer asks for a 7."""
    manifest = (model / "manifest.toml").read_text()
    (model / "manifest.toml").write_text(manifest.replace('golden = "7"\n', ""))
    return Path(shutil.copytree(FASHION, model.parent.parent / "made-2", ignore=shutil.ignore_patterns("*.md")))


def write(version: Path, graph: bytes) -> None:
    """The graph of a version, and a report that fits it."""
    (version / "model.onnx").write_bytes(graph)
    report = json.loads((version / "report.json").read_bytes())
    report["sha256"] = hashlib.sha256(graph).hexdigest()
    (version / "report.json").write_text(json.dumps(report))


def shifted(by: float) -> Callable[[Any, Any], None]:
    """Adds a number to every logit: the same classes, and everybody sees which network it was."""
    return _after_logits("Add", by)


def turned() -> Callable[[Any, Any], None]:
    """The smallest logit is the largest now: another class for every image."""
    return _after_logits("Mul", -1.0)


def _after_logits(kind: str, value: float) -> Callable[[Any, Any], None]:
    def change(onnx: Any, proto: Any) -> None:
        name = proto.graph.output[0].name
        _rename_output(proto.graph, name)
        proto.graph.initializer.append(onnx.helper.make_tensor("by", onnx.TensorProto.FLOAT, [], [value]))
        proto.graph.node.append(onnx.helper.make_node(kind, ["before", "by"], [name]))

    return change


def logits_of(version: Path) -> np.ndarray:
    """What onnxruntime says of the one test image, called directly: float32 [10]."""
    session = onnxruntime.InferenceSession(version / "model.onnx", providers=["CPUExecutionProvider"])
    given = np.frombuffer(TENSOR, np.uint8).reshape(1, 1, 32, 32)
    return np.asarray(session.run(["logits"], {session.get_inputs()[0].name: given})[0][0])


def not_fast(onnx: Any, proto: Any) -> None:
    """A loop that turns 2^60 times before the logits are given out."""
    helper, graph, kind = onnx.helper, proto.graph, onnx.TensorProto
    name = graph.output[0].name
    _rename_output(graph, name)
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Cos", ["in"], ["out"])],
        "turn",
        [
            helper.make_tensor_value_info("turn", kind.INT64, []),
            helper.make_tensor_value_info("go", kind.BOOL, []),
            helper.make_tensor_value_info("in", kind.FLOAT, ["n", 10]),
        ],
        [
            helper.make_tensor_value_info("on", kind.BOOL, []),
            helper.make_tensor_value_info("out", kind.FLOAT, ["n", 10]),
        ],
    )
    graph.initializer.append(helper.make_tensor("turns", kind.INT64, [], [1 << 60]))
    graph.initializer.append(helper.make_tensor("yes", kind.BOOL, [], [True]))
    graph.node.append(helper.make_node("Loop", ["turns", "yes", "before"], [name], body=body))


def not_small(onnx: Any, proto: Any) -> None:
    """A constant of 64 GiB whose sum, times nothing, is added to the logits."""
    helper, graph, kind = onnx.helper, proto.graph, onnx.TensorProto
    name = graph.output[0].name
    _rename_output(graph, name)
    graph.initializer.append(helper.make_tensor("elements", kind.INT64, [1], [1 << 34]))
    graph.node.append(helper.make_node("ConstantOfShape", ["elements"], ["large"]))
    graph.node.append(helper.make_node("ReduceMax", ["large"], ["nothing"], keepdims=0))
    graph.node.append(helper.make_node("Add", ["before", "nothing"], [name]))


def _rename_output(graph: Any, name: str) -> None:
    """What was called `name` is called `before`, so that another node can give `name`."""
    for node in graph.node:
        for position, output in enumerate(node.output):
            if output == name:
                node.output[position] = "before"
