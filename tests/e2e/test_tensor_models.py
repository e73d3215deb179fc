"""A model that takes no images, through the running service."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from convq.client import Client
from onnx_models import FLOAT, graph, model_folder
from servers import OwnServer
from services import RunningService, seven

MANIFEST = "[input]\ncolor = 'none'\n[limits]\nmax_pixels = 1000\nmax_batch = 8\n"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server where `sums` adds up the second axis of [4, length] numbers."""
    root = tmp_path_factory.mktemp("models")
    nodes = [("ReduceSum", ["x", "axes"], ["y"], {"keepdims": 0})]
    axes = {"axes": np.array([2], dtype=np.int64)}
    model = graph(nodes, [("x", FLOAT, ["n", 4, "length"])], [("y", FLOAT, ["n", 4])], axes)
    model_folder(root / "sums", MANIFEST, model)
    with OwnServer(tmp_path_factory.mktemp("server")) as server:
        with RunningService(server.url, "--models", str(root), "--only", "sums", workers=1):
            yield server.url


def test_tensors_of_free_length_are_answered_each_by_its_own(url: str) -> None:
    arrays = [np.random.default_rng(i).normal(size=(4, 1 + i % 3)).astype(np.float32) for i in range(30)]
    with Client(url) as client:
        results = list(client.map(arrays))

    for array, result in zip(arrays, results, strict=True):
        assert [None, 1] == [result.predictions, len(result.outputs or ())]
        np.testing.assert_allclose(array.sum(axis=1), result.output("y").array(), rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        (seven(), "bad_field", "takes tensors only"),
        (np.zeros((4, 2), dtype=np.uint8), "bad_tensor", "dtype is uint8; this model takes float32"),
        (np.zeros((4, 2, 1), dtype=np.float32), "bad_tensor", "shape is 4,2,1; expected 4,any"),
        (np.zeros((4, 251), dtype=np.float32), "bad_tensor", "more than the 1000 elements"),
    ],
)
def test_anything_else_is_refused_with_what_was_expected(url: str, given: object, code: str, message: str) -> None:
    with Client(url) as client:
        (result,) = client.map([given])

    assert result.error is not None
    assert code == result.error.code
    assert message in result.error.message


def test_clients_can_see_that_it_takes_no_images(url: str) -> None:
    with Client(url) as client:
        (said,) = client.served()["sums"]["inputs"]

    assert {"name": "x", "dtype": "float32", "shape": [4, None], "color": "none"} == said
