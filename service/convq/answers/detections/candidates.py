"""Which rows are candidates: those whose best class, or every class of which, has the score that a job asks for.

One pass over the scores; everything else is computed for the few rows that are left.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convq.answers.detections.rows import JobRows
from convq.answers.detections.spec import DetectionsSpec
from convq.answers.scores import activated

MOST_CANDIDATES: Final = 10_000
"""Of one job, the best ones: what is compared with each other grows with their number."""
MOST_CLASSES: Final = 65_536
"""A class number from here on is none, and neither is one below 0: such rows are filled up with."""
_SCORES_TOGETHER: Final = 2**20
"""Scores of rows and classes that are looked through at once where every class counts."""


class Candidates(NamedTuple):
    """Rows that may become detections, best first; of equal scores the first row and class is the best."""

    rows: NDArray[np.intp]
    """[k]: their numbers in the tables of the job."""
    classes: NDArray[np.int64]
    """[k]: positions in the model's labels."""
    scores: NDArray[np.float32]
    """[k]."""
    cut: bool = False
    """Whether there were more than `MOST_CANDIDATES`."""

    def picked(self, which: NDArray[np.intp] | NDArray[np.bool_]) -> Candidates:
        """Those of them."""
        return Candidates(self.rows[which], self.classes[which], self.scores[which], self.cut)

    def among(self, allowed: NDArray[np.int64] | None) -> Candidates:
        """Those of the classes in `allowed`; all where it is None."""
        return self if allowed is None else self.picked(np.isin(self.classes, allowed))

    def best(self) -> Candidates:
        """At most `MOST_CANDIDATES`, best first."""
        cut = self.cut or len(self.scores) > MOST_CANDIDATES
        return self.picked(_best_first(self.scores))._replace(cut=cut)


def choose(
    rows: JobRows, spec: DetectionsSpec, min_score: float, allowed: NDArray[np.int64] | None = None
) -> Candidates:
    """The candidates among the rows of one job: scores of at least `min_score`, and classes in `allowed` if given.

    A score that is not a number is below every `min_score`.
    """
    if "classes" not in rows:
        return _by_number(rows, spec, min_score).among(allowed).best()
    if spec.multi_label:
        return _by_every_class(rows, spec, min_score, allowed).best()
    return _by_best_class(rows, spec, min_score).among(allowed).best()


def _by_number(rows: JobRows, spec: DetectionsSpec, min_score: float) -> Candidates:
    """Rows of one score, and perhaps the number of their class."""
    scores = _activated(_as_float(rows.column("score")), spec)
    if "objectness" in rows:
        scores = _combined(scores, _objectness(rows, spec), spec)
    chosen = np.flatnonzero(scores >= min_score)
    classes = np.zeros(len(chosen), dtype=np.int64)
    if "class" in rows:
        numbers = np.rint(rows.column("class")[chosen])
        known = (numbers >= spec.class_base) & (numbers < spec.class_base + MOST_CLASSES)
        chosen = chosen[known]
        classes = numbers[known].astype(np.int64) - spec.class_base
    return Candidates(chosen, classes, scores[chosen])


def _by_best_class(rows: JobRows, spec: DetectionsSpec, min_score: float) -> Candidates:
    values, objectness, likely = _class_values(rows, spec, min_score)
    # sigmoid and the product with an objectness keep the order of the classes: only the best of a row needs them
    best = _activated(values.max(axis=1, initial=-np.inf), spec)
    scores = best if objectness is None else _combined(best, objectness, spec)
    chosen = np.flatnonzero(scores >= min_score)
    classes = values[chosen].argmax(axis=1) if len(chosen) else chosen
    return Candidates(chosen if likely is None else likely[chosen], classes.astype(np.int64), scores[chosen])


def _by_every_class(
    rows: JobRows, spec: DetectionsSpec, min_score: float, allowed: NDArray[np.int64] | None
) -> Candidates:
    values, objectness, likely = _class_values(rows, spec, min_score)
    parts = []
    # part by part, for where the threshold is 0 every score of every row passes
    step = max(1, _SCORES_TOGETHER // max(1, values.shape[1]))
    for start in range(0, max(1, len(values)), step):
        scores = _activated(values[start : start + step], spec)
        if objectness is not None:
            scores = _combined(scores, objectness[start : start + step, None], spec)
        chosen, classes = np.nonzero(scores >= min_score)
        found = Candidates(chosen + start, classes.astype(np.int64), scores[chosen, classes])
        parts.append(found.among(allowed).best())
    chosen, classes, scores = (np.concatenate([part[i] for part in parts]) for i in range(3))
    cut = any(part.cut for part in parts)
    return Candidates(chosen if likely is None else likely[chosen], classes, scores, cut)


def _class_values(
    rows: JobRows, spec: DetectionsSpec, min_score: float
) -> tuple[NDArray[Any], NDArray[Any] | None, NDArray[np.intp] | None]:
    """(values [r, classes] without background, objectness [r], which rows these are); None for all rows.

    A class has a probability of at most 1, so rows whose objectness alone is too small need no look at their classes.
    """
    values, objectness, likely = rows.block("classes"), None, None
    if "objectness" in rows:
        objectness = _objectness(rows, spec)
        least = 0.999 * min_score**2 if spec.combine == "sqrt" else min_score  # roundings of a root are not to matter
        likely = np.flatnonzero(objectness >= least)
        values, objectness = values[likely], objectness[likely]
    values = _as_float(values)
    if spec.activation == "softmax":
        values = np.exp(values - values.max(axis=1, keepdims=True, initial=-np.inf))
        values /= values.sum(axis=1, keepdims=True)
    if spec.background == "first":
        values = values[:, 1:]
    elif spec.background == "last":
        values = values[:, :-1]
    return values, objectness, likely


def _objectness(rows: JobRows, spec: DetectionsSpec) -> NDArray[Any]:
    return _activated(_as_float(rows.column("objectness")), spec)


def _as_float(values: NDArray[Any]) -> NDArray[Any]:
    """In float32, in which scores are compared; cast once where it is anything else."""
    return values.astype(np.float32, copy=False)


def _activated(values: NDArray[Any], spec: DetectionsSpec) -> NDArray[Any]:
    """Scores of raw values; softmax has been applied already, where all classes of a row were at hand."""
    return activated(values, "sigmoid" if spec.activation == "sigmoid" else "none")


def _combined(scores: NDArray[Any], objectness: NDArray[Any], spec: DetectionsSpec) -> NDArray[Any]:
    if spec.combine == "sqrt":
        return np.asarray(np.sqrt(np.clip(scores, 0, 1) * np.clip(objectness, 0, 1)))
    return np.asarray(scores * objectness)


def _best_first(scores: NDArray[np.float32]) -> NDArray[np.intp]:
    """The order of the best `MOST_CANDIDATES`; equal ones by their number, those across the border too."""
    if len(scores) <= MOST_CANDIDATES:
        return np.argsort(-scores, kind="stable")
    falling = -scores
    border = np.partition(falling, MOST_CANDIDATES - 1)[MOST_CANDIDATES - 1]
    better, equal = np.flatnonzero(falling < border), np.flatnonzero(falling == border)
    chosen = np.sort(np.concatenate([better, equal[: MOST_CANDIDATES - len(better)]]))
    return chosen[np.argsort(falling[chosen], kind="stable")]
