"""Graphs as exporters make them, that say the same whatever picture they are given: what is written into their outputs.

The outputs are those of `plain_detections`, of an input of 64 x 96, and may be called otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from onnx_models import FLOAT, INT32, INT64, graph
from plain_detections import HEIGHT, WIDTH, Outputs, Thing

KINDS = {"float32": FLOAT, "int64": INT64, "int32": INT32}
NO_BATCH = ("torchvision",)
ALL_JOBS = ("paddle",)


def saying(
    outputs: Outputs,
    family: str = "",
    *,
    names: Mapping[str, str] | None = None,
    sides: Sequence[Any] = (HEIGHT, WIDTH),
    metadata: Mapping[str, str] | None = None,
    batch: Any = "n",
) -> bytes:
    """A graph with these outputs [1, …] for each job; of a family without batch axis, or with rows of all jobs, as it has them."""
    called = {name: (names or {}).get(name, name) for name in outputs}
    nodes: list[tuple[Any, ...]] = [
        ("Shape", ["x"], ["shape"]),
        ("Gather", ["shape", "zero"], ["count"]),
        ("ReduceMean", ["x"], ["light"], {"keepdims": 0}),
        ("Mul", ["light", "nothing"], ["none"]),
    ]
    weights: dict[str, Any] = {"zero": np.array([0]), "nothing": np.float32(0)}
    declared = []
    for name, values in outputs.items():
        held, kind = f"{name}:held", KINDS[values.dtype.name]
        weights |= {held: values.astype(np.float32), f"{name}:rest": np.ones(values.ndim - 1, dtype=np.int64)}
        parts = [f"{name}:{part}" for part in ("sum", "times", "tiled")]
        nodes += [
            ("Add", [held, "none"], [parts[0]]),
            ("Concat", ["count", f"{name}:rest"], [parts[1]], {"axis": 0}),
            ("Tile", [parts[0], parts[1]], [parts[2]])
            if family not in NO_BATCH
            else ("Identity", [parts[0]], [parts[2]]),
            ("Cast", [parts[2]], [called[name]], {"to": kind}),
        ]
        first: Any = "k" if family in (*NO_BATCH, *ALL_JOBS) else batch
        declared.append((called[name], kind, [first, *values.shape[1:]]))
    made = graph(nodes, [("x", FLOAT, [batch, 3, *sides])], declared, weights)
    return with_metadata(made, metadata or {})


def with_metadata(model: bytes, metadata: Mapping[str, str]) -> bytes:
    """The same graph, in whose file these stand beside it."""
    if not metadata:
        return model
    onnx = pytest.importorskip("onnx")
    made = onnx.load_from_string(model)
    onnx.helper.set_model_props(made, dict(metadata))
    return bytes(made.SerializeToString())


def apart(count: int, classes: int, extra: tuple[int, int, int] = (0, 0, 0), seed: int = 0) -> list[Thing]:
    """Things of which none overlaps another, best first; `extra` as `plain_detections.Family` has it."""
    random = np.random.default_rng([seed, count])
    keypoints, each, weights = extra
    made = []
    for place in range(count):
        x, y = 4.0 + 30 * (place % 3), 8.0 + 28 * (place // 3)
        w, h = random.uniform(6, 22), random.uniform(6, 20)
        points = tuple((x + random.uniform(0, w), y + random.uniform(0, h), 0.5)[:each] for _ in range(keypoints))
        kind = int(random.integers(classes)) if place else classes - 1
        made.append(Thing(kind, 0.95 - 0.04 * place, (x, y, x + w, y + h), points, tuple(random.normal(size=weights))))
    return made
