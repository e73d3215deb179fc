"""What a line of text reads: from scores of characters, step by step along the line, to the text.

By the rule of connectionist temporal classification (Graves et al. 2006) for its best path: the best class of each step,
equal ones that follow each other taken together, blanks left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convq.answers.scores import as_float32, require_finite
from convq.errors import ModelFault

_SUM_TOLERANCE: Final = 0.02
"""How far the probabilities of a step may be from 1 together: those of networks in half precision are off by some."""
_SCORE_DECIMALS: Final = 6


class Text(NamedTuple):
    """What a result says under `text` and `text_score`."""

    text: str
    score: float
    """The mean probability of the characters, each where it begins, with six decimals; 0 where there is none."""


def characters(alphabet: Sequence[str], *, blank: Literal["first", "last"] = "first", space: bool = False) -> list[str]:
    """What each class of a recogniser reads, in the order of its output; the empty text for the blank.

    `alphabet` holds what the lines of the labels say. With `space` one more class follows it, which reads a space. The blank
    comes before all of these, or after them.
    """
    read = [*alphabet, " "] if space else list(alphabet)
    return ["", *read] if blank == "first" else [*read, ""]


def batch_first(values: NDArray[Any], *, time_first: bool) -> NDArray[Any]:
    """The output of a batch as [n, T, C], a view of it, where it may be [T, n, C]. Raises ModelFault for other shapes."""
    if values.ndim != 3:  # noqa: PLR2004
        raise ModelFault(f"an output that means text has the shape {list(values.shape)}; expected three axes")
    return values.transpose(1, 0, 2) if time_first else values


def text(values: NDArray[Any], read: Sequence[str], *, collapse: bool = True) -> Text:
    """What one job's output reads, [T, C] of numbers, with what `characters` says of its classes.

    Without `collapse` each step is a character of its own. Where the numbers of every step that begins a character are
    probabilities (none below 0, and 1 together), scores are as they are; else softmax makes some of them, of logits or
    logarithms of probabilities.

    Raises:
        NonFinite: any value is NaN or infinite.
        ModelFault: another number of classes than there are in `read`, or another shape.
    """
    if values.ndim != 2 or values.shape[1] != len(read):  # noqa: PLR2004
        shape = f"{list(values.shape)}; expected [steps, {len(read)}]"
        raise ModelFault(f"an output that means text has the shape {shape}")
    require_finite(values)
    steps = as_float32(values)
    best = steps.argmax(axis=1)
    kept = np.array([bool(read[i]) for i in best.tolist()], dtype=np.bool_)
    if collapse:
        kept[1:] &= best[1:] != best[:-1]
    which = np.flatnonzero(kept)
    if not len(which):
        return Text("", 0.0)
    score = float(_probabilities(steps[which]).mean(dtype=np.float64))
    return Text("".join([read[i] for i in best[which].tolist()]), round(score, _SCORE_DECIMALS))


def _probabilities(steps: NDArray[np.float32]) -> NDArray[np.float32]:
    """[k]: of each of these steps [k, C], the probability of its best class."""
    most = steps.max(axis=1)
    with np.errstate(over="ignore"):  # only of numbers that are no probabilities
        if steps.min() >= 0.0 and np.abs(steps.sum(axis=1) - 1.0).max() <= _SUM_TOLERANCE:
            return np.asarray(most)
        return np.asarray(1.0 / np.exp(steps - most[:, None]).sum(axis=1))
