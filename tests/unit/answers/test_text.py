"""Reading of lines, against a plain loop over the steps."""

from __future__ import annotations

from math import exp

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from convq.answers.text import Text, batch_first, characters, text
from convq.errors import ModelFault, NonFinite


def looped(values: list[list[float]], read: list[str], *, collapse: bool) -> tuple[str, float]:
    """Text and score, step by step."""
    found, scores, before = "", [], None
    for step in values:
        best = step.index(max(step))
        if read[best] and not (collapse and best == before):
            found += read[best]
            scores.append(step[best])
        before = best
    return found, round(sum(scores) / len(scores), 6) if scores else 0.0


def probabilities(steps: int, classes: int, seed: int, sharp: float = 8.0) -> NDArray[np.float32]:
    random = np.random.default_rng(seed)
    logits = random.standard_normal((steps, classes))
    path = np.repeat(random.integers(0, classes, steps), random.integers(1, 4, steps))[:steps]
    logits[np.arange(steps), path] += sharp
    odds = np.exp(logits)
    return np.asarray(odds / odds.sum(axis=1, keepdims=True), dtype=np.float32)


@given(
    st.integers(1, 30),
    st.integers(1, 6),
    st.integers(0, 10_000),
    st.sampled_from([True, False]),
    st.sampled_from(["first", "last"]),
)
@settings(max_examples=200, deadline=None)
def test_a_line_reads_as_the_plain_loop_reads_it(
    steps: int, letters: int, seed: int, collapse: bool, blank: str
) -> None:
    read = characters("abcdef"[:letters], blank="first" if blank == "first" else "last")
    values = probabilities(steps, letters + 1, seed)
    expected = looped(values.tolist(), read, collapse=collapse)

    found = text(values, read, collapse=collapse)

    assert expected[0] == found.text
    assert pytest.approx(expected[1], abs=2e-6) == found.score


def one_hot(path: list[int], classes: int) -> NDArray[np.float32]:
    return np.eye(classes, dtype=np.float32)[path]


def test_equal_ones_are_one_unless_a_blank_is_between_them() -> None:
    read = characters("abl")

    assert Text("ball", 1.0) == text(one_hot([0, 2, 2, 0, 1, 3, 3, 0, 3], 4), read)
    assert Text("bballl", 1.0) == text(one_hot([0, 2, 2, 0, 1, 3, 3, 0, 3], 4), read, collapse=False)


@pytest.mark.parametrize(
    ("blank", "space", "expected"),
    [
        ("first", False, ["", "a", "b"]),
        ("last", False, ["a", "b", ""]),
        ("first", True, ["", "a", "b", " "]),
        ("last", True, ["a", "b", " ", ""]),
    ],
)
def test_classes_are_the_alphabet_a_space_if_there_is_one_and_the_blank(
    blank: str, space: bool, expected: list[str]
) -> None:
    assert expected == characters("ab", blank="first" if blank == "first" else "last", space=space)


@pytest.mark.parametrize("made", ["logits", "logarithms"])
def test_scores_of_logits_and_logarithms_are_probabilities(made: str) -> None:
    logits = np.array([[2.0, 0.0, 0.0], [-700.0, 3.0, 2.0], [5.0, 1.0, 1.0], [0.0, 0.0, 900.0]])
    values = (
        logits
        - np.log(np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True))
        - logits.max(axis=1, keepdims=True)
    )
    first = 1 / (1 + exp(-1))

    found = text(logits if made == "logits" else values, characters("ab"))

    assert "ab" == found.text
    assert pytest.approx((first + 1) / 2, abs=1e-6) == found.score


def test_probabilities_in_half_precision_stay_as_they_are() -> None:
    values = probabilities(40, 200, 3).astype(np.float16)
    expected = looped(values.astype(np.float32).tolist(), characters([chr(200 + i) for i in range(199)]), collapse=True)

    assert expected == text(values, characters([chr(200 + i) for i in range(199)]))


@pytest.mark.parametrize("steps", [0, 5])
def test_a_line_of_blanks_is_empty(steps: int) -> None:
    assert Text("", 0.0) == text(one_hot([0] * steps, 3).reshape(steps, 3), characters("ab"))


def test_several_characters_may_be_one_class() -> None:
    assert "ﬁ e\u0301" == text(one_hot([1, 3, 2], 4), characters(["ﬁ", "e\u0301"], space=True)).text


def test_a_batch_that_comes_step_by_step_is_turned_and_not_copied() -> None:
    values = np.zeros((7, 2, 3))

    assert (2, 7, 3) == batch_first(values, time_first=True).shape
    assert np.shares_memory(values, batch_first(values, time_first=True))
    assert batch_first(values, time_first=False) is values
    with pytest.raises(ModelFault, match="three axes"):
        batch_first(values[0], time_first=True)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_line_with_nan_or_infinity_is_not_finite(wrong: float) -> None:
    values = one_hot([1, 2], 3)
    values[0, 0] = wrong

    with pytest.raises(NonFinite):
        text(values, characters("ab"))


def test_the_largest_numbers_have_a_score() -> None:
    values = np.array([[-3e38, 3e38, 3e38], [3e38, 3e38, 3e38]], dtype=np.float32)

    assert Text("a", 0.5) == text(values, characters("ab"))


@pytest.mark.parametrize("shape", [(5, 2), (5, 4), (3,), (1, 5, 3)])
def test_a_line_of_another_shape_is_the_models_fault(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelFault, match="shape"):
        text(np.zeros(shape), characters("ab"))
