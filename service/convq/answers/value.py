"""What a network measures in a picture: a number as it is, or the expectation over its classes."""

from __future__ import annotations

from math import isfinite
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from convq.answers.scores import activated, as_float32, require_finite
from convq.errors import ModelFault, NonFinite

_DIGITS = 7
"""That a result says of it; float32 holds no more."""


def value(
    values: NDArray[Any],
    *,
    expectation: bool = False,
    activation: Literal["softmax", "sigmoid", "none"] = "none",
    scale: float = 1.0,
    offset: float = 0.0,
) -> float:
    """What a result says of one job's output under `values`: number * scale + offset, with seven digits.

    The number is the only one of `values`, after `activation`. With `expectation` there is one for each of two classes or
    more, `values` are [C], further axes of length 1 allowed, and the number is the sum of index * probability, which softmax
    makes, or with `none` the network has made (DEX: Rothe, Timofte and Van Gool 2015, for ages of 0 to 100; Ruiz, Chong and
    Rehg 2018, for angles in bins of 3 degrees from -99 on: scale 3, offset -99).

    Raises:
        NonFinite: any value is NaN or infinite, or the number is beyond what floating point numbers hold.
        ModelFault: another shape.
    """
    least = 2 if expectation else 1
    if values.size < least or max(values.shape, default=1) != values.size or (values.size > 1 and not expectation):
        expected = "[C] with two classes or more" if expectation else "one number"
        raise ModelFault(f"an output that means value has the shape {list(values.shape)}; expected {expected}")
    require_finite(values)
    if expectation:
        number = _expected(values.reshape(-1).astype(np.float64), softmax=activation == "softmax")
    elif activation == "sigmoid":
        number = float(activated(as_float32(values).reshape(-1), activation)[0])
    else:
        number = float(values.reshape(-1)[0])
    number = number * scale + offset
    if not isfinite(number):
        raise NonFinite("the network produced a value that is too large for a number")
    return float(f"{number:.{_DIGITS}g}")


def _expected(scores: NDArray[np.float64], *, softmax: bool) -> float:
    """The mean index of [C], weighted with probabilities."""
    if softmax:
        scores = np.exp(scores - scores.max())
        scores /= scores.sum()
    return float((scores * np.arange(len(scores))).sum())
