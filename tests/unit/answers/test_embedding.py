"""Embeddings: of length 1 in float32, as base64 or as a list."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from convq.answers.embedding import embedding
from convq.errors import ModelFault, NonFinite


def vector(said: dict[str, Any]) -> NDArray[np.float32]:
    assert "float32" == said["dtype"]
    found = np.frombuffer(base64.b64decode(said["data"]), dtype="<f4")
    assert said["size"] == len(found)
    return found


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", ">f4"])
@pytest.mark.parametrize("shape", [(512,), (512, 1, 1)])
def test_an_embedding_has_length_1(dtype: str, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).uniform(-100, 100, shape).astype(dtype)
    wide = values.ravel().astype(np.float64)

    said = embedding(values)

    assert said["normalized"] is True
    np.testing.assert_allclose(vector(said), wide / np.linalg.norm(wide), rtol=1e-6)
    assert pytest.approx(1.0, abs=1e-6) == np.linalg.norm(vector(said))


@pytest.mark.parametrize("size", [1e-45, 1e-300, 1e30, 1e300])
def test_the_length_of_no_vector_overflows_or_vanishes(size: float) -> None:
    said = embedding(np.array([3.0, 4.0]) * size)

    np.testing.assert_allclose(vector(said), [0.6, 0.8], rtol=1e-6 if size > 1e-40 else 0.1)


def test_an_embedding_may_stay_as_it_is() -> None:
    said = embedding(np.array([3.0, 4.0, 0.0], dtype=np.float32), normalize=False)

    assert said["normalized"] is False
    assert [3.0, 4.0, 0.0] == vector(said).tolist()


def test_a_list_holds_the_same_numbers() -> None:
    values = np.random.default_rng(0).standard_normal(1280, dtype=np.float32)
    said = embedding(values, form="list")

    assert "data" not in said
    assert said == json.loads(json.dumps(said))
    np.testing.assert_array_equal(vector(embedding(values)), np.array(said["values"], dtype=np.float32))


def test_an_embedding_of_length_0_is_not_finite() -> None:
    with pytest.raises(NonFinite, match="length 0"):
        embedding(np.zeros(4, dtype=np.float32))
    assert [0.0] * 4 == vector(embedding(np.zeros(4), normalize=False)).tolist()


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_an_embedding_with_nan_or_infinity_is_not_finite(wrong: float) -> None:
    with pytest.raises(NonFinite):
        embedding(np.array([1.0, wrong]))


@pytest.mark.parametrize("shape", [(), (0,), (2, 3), (4, 1), (4, 2, 1), (1, 4, 1, 1)])
def test_an_embedding_of_another_shape_is_the_models_fault(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelFault, match="shape"):
        embedding(np.ones(shape))
