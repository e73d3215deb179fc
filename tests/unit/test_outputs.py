"""Ranking against plain Python arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convq.engine.postprocess import finite, rank

VALUES = st.floats(-80, 80, width=32)


def plain(row: list[float], k: int) -> tuple[list[int], list[float]]:
    top = max(row)
    total = math.fsum(math.exp(value - top) for value in row)
    order = sorted(range(len(row)), key=lambda i: (-row[i], i))[:k]
    return order, [math.exp(row[i] - top) / total for i in order]


@given(
    rows=st.integers(1, 40).flatmap(
        lambda classes: st.lists(st.lists(VALUES, min_size=classes, max_size=classes), min_size=1, max_size=4)
    ),
    k=st.integers(1, 50),
)
@settings(max_examples=150, deadline=None)
def test_softmax_ranking_is_that_of_plain_arithmetic(rows: list[list[float]], k: int) -> None:
    ranking = rank(np.array(rows, dtype=np.float32), "softmax", k)

    for row, indices, scores in zip(rows, ranking.indices.tolist(), ranking.scores.tolist(), strict=True):
        expected_indices, expected_scores = plain(row, k)
        assert expected_indices == indices
        assert expected_scores == pytest.approx(scores, abs=1e-5)


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=50, max_size=80), st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_ties_go_to_the_lower_index_also_among_many_classes(row: list[float], k: int) -> None:
    expected, _ = plain(row, k)

    assert expected == rank(np.array([row], dtype=np.float32), "softmax", k).indices[0].tolist()


def test_a_thousand_classes_are_ranked_as_by_sorting_them_all() -> None:
    raw = np.random.default_rng(1).normal(size=(16, 1000)).astype(np.float32)

    ranking = rank(raw, "softmax", 5)

    np.testing.assert_array_equal(np.argsort(-raw, axis=1, kind="stable")[:, :5], ranking.indices)
    assert (np.diff(ranking.scores, axis=1) <= 0).all()


def test_softmax_scores_sum_to_one_over_all_classes() -> None:
    raw = np.random.default_rng(2).normal(scale=20, size=(8, 1000)).astype(np.float32)

    np.testing.assert_allclose(np.ones(8), rank(raw, "softmax", 1000).scores.sum(axis=1), atol=1e-5)


def test_huge_values_neither_overflow_nor_warn() -> None:
    raw = np.array([[3e38, -3e38, 3e38]], dtype=np.float32)

    assert [[0.5, 0.5, 0.0]] == rank(raw, "softmax", 3).scores.tolist()
    assert [[1.0, 1.0, 0.0]] == rank(raw, "sigmoid", 3).scores.tolist()


def test_sigmoid_scores_each_class_by_itself() -> None:
    ranking = rank(np.array([[-2.0, 0.0, 3.0]], dtype=np.float32), "sigmoid", 2)

    assert [[2, 1]] == ranking.indices.tolist()
    assert [1 / (1 + math.exp(-3)), 0.5] == pytest.approx(ranking.scores[0].tolist())


def test_without_activation_the_values_are_the_scores() -> None:
    ranking = rank(np.array([[1, 7, 3]], dtype=np.uint8), "none", 2)

    assert [[1, 2]] == ranking.indices.tolist()
    assert [[7.0, 3.0]] == ranking.scores.tolist()
    assert np.float32 == ranking.scores.dtype
    assert np.int64 == ranking.indices.dtype


def test_further_axes_belong_to_the_classes() -> None:
    assert [[1]] == rank(np.array([[[[1.0]], [[2.0]]]], dtype=np.float32), "softmax", 1).indices.tolist()


def test_k_is_clamped_to_the_number_of_classes() -> None:
    assert (2, 3) == rank(np.zeros((2, 3), dtype=np.float32), "softmax", 99).indices.shape
    assert (2, 0) == rank(np.zeros((2, 3), dtype=np.float32), "softmax", 0).indices.shape


def test_a_row_with_nan_does_not_disturb_its_neighbours() -> None:
    raw = np.array([[1.0, 2.0], [math.nan, 0.0], [math.inf, 0.0]], dtype=np.float32)

    alone = rank(raw[:1], "softmax", 2)
    together = rank(raw, "softmax", 2)

    assert alone.scores[0].tolist() == together.scores[0].tolist()


def test_an_unknown_activation_is_an_error() -> None:
    with pytest.raises(ValueError, match="relu"):
        rank(np.zeros((1, 2), dtype=np.float32), "relu", 1)


def test_finite_says_for_each_job_whether_all_its_outputs_are() -> None:
    logits = np.zeros((3, 2), dtype=np.float32)
    maps = np.zeros((3, 1, 2, 2), dtype=np.float16)
    logits[0, 1], maps[2, 0, 1, 1] = math.nan, -math.inf
    counts = np.zeros((3, 4), dtype=np.int64)

    assert [False, True, False] == finite({"logits": logits, "maps": maps, "counts": counts}).tolist()
    assert [True, True, True] == finite({"counts": counts}).tolist()
