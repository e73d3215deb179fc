"""Numbers that networks measure: as they are, and as the expectation over classes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convq.answers.value import value
from convq.errors import ModelFault, NonFinite


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1)])
def test_a_number_is_scaled_and_moved(shape: tuple[int, ...]) -> None:
    given_ = np.array(0.25, dtype=np.float32).reshape(shape)

    assert 28.0 == value(given_, scale=100, offset=3)
    assert 0.25 == value(given_)


def test_a_number_has_seven_digits() -> None:
    assert 0.1 == value(np.array([0.1], dtype=np.float32))
    assert 123456800.0 == value(np.array([123456789], dtype=np.int64))


def test_a_sigmoid_overflows_nowhere() -> None:
    found = [value(np.array([x], dtype=np.float32), activation="sigmoid") for x in (-1e30, -2.0, 0.0, 1e30)]

    assert [0.0, pytest.approx(1 / (1 + math.exp(2)), rel=1e-6), 0.5, 1.0] == found


@given(st.lists(st.floats(-80, 80, width=32), min_size=2, max_size=101), st.floats(-5, 5), st.floats(-99, 99))
def test_an_expectation_is_what_a_plain_loop_finds(logits: list[float], scale: float, offset: float) -> None:
    most = max(logits)
    weights = [math.exp(one - most) for one in logits]
    mean = sum(i * weight for i, weight in enumerate(weights)) / sum(weights)

    found = value(
        np.array(logits, dtype=np.float32), expectation=True, activation="softmax", scale=scale, offset=offset
    )

    assert found == pytest.approx(mean * scale + offset, rel=1e-5, abs=1e-5)


def test_probabilities_are_taken_as_they_are() -> None:
    assert 1.5 == value(np.array([[0.25], [0.0], [0.75]]), expectation=True)


@pytest.mark.parametrize(
    ("shape", "expectation"), [((2,), False), ((1,), True), ((), True), ((2, 3), True), ((0,), True)]
)
def test_another_shape_is_the_models_fault(shape: tuple[int, ...], expectation: bool) -> None:
    with pytest.raises(ModelFault, match="an output that means value has the shape"):
        value(np.zeros(shape), expectation=expectation)


@pytest.mark.parametrize("odd", [np.nan, np.inf, 1e300])
def test_what_is_no_number_is_not_finite(odd: float) -> None:
    with pytest.raises(NonFinite):
        value(np.array([odd]), scale=1e300)
