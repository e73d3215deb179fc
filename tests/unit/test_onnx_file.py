"""What is read from an ONNX file without the package onnx."""

from __future__ import annotations

import numpy as np
import pytest

from convq.repository.model_folders import default_root
from convq.repository.onnx_metadata import precision_of
from onnx_models import FLOAT, graph, identity

ENDS = [("x", FLOAT, [1, 4])], [("y", FLOAT, [1, 4])]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"w": np.zeros(4, np.float32)}, "float32"),
        ({"w": np.zeros(4, np.float16)}, "float16"),
        ({"w": np.zeros(400, np.int8), "scale": np.zeros(4, np.float32)}, "int8"),
        ({"w": np.zeros(4, np.float32), "shape": np.zeros(400, np.int64)}, "float32"),
        ({"shape": np.zeros(2, np.int64)}, "unknown"),
    ],
)
def test_the_precision_is_the_type_of_most_of_the_weights(weights: dict[str, np.ndarray], expected: str) -> None:
    assert expected == precision_of(graph([("Identity", ["x"], ["y"])], *ENDS, weights))


def test_a_model_without_weights_or_a_damaged_one_has_no_precision() -> None:
    assert "unknown" == precision_of(identity([1, 4]))
    assert "unknown" == precision_of(b"\x3a\xff\xff\xff\xff\x0fno model")


def test_lenet_is_of_float32() -> None:
    assert "float32" == precision_of((default_root() / "lenet" / "1" / "model.onnx").read_bytes())
