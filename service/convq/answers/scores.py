"""What every answer asks of the numbers of a network: that they are finite, and what an activation makes of them."""

from __future__ import annotations

from math import isfinite
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from convq.errors import NonFinite

Activation = Literal["none", "sigmoid"]


def require_finite(values: NDArray[Any]) -> None:
    """Raise NonFinite where an array of any shape holds NaN or infinity; whole numbers are always finite."""
    if values.dtype.kind != "f":
        return
    with np.errstate(all="ignore"):
        # NaN and infinity stay in a sum, so that one pass without any memory is enough for nearly all arrays.
        total = float(np.add.reduce(values, axis=None, dtype=np.float32 if values.itemsize == 2 else None))  # noqa: PLR2004
    if not isfinite(total) and not np.isfinite(values).all():
        raise NonFinite("the network produced NaN or infinity for this input")


def as_float32(values: NDArray[Any]) -> NDArray[np.float32]:
    """Numbers of any type and shape in float32, cut to what that holds; the same array where it is of that type."""
    if values.dtype == np.float64:
        most = np.finfo(np.float32).max
        values = np.clip(values, -most, most)
    return values.astype(np.float32, copy=False)


def activated(values: NDArray[np.float32], activation: Activation) -> NDArray[np.float32]:
    """The same for `none`; 1 / (1 + exp(-x)) for `sigmoid`."""
    if activation == "none":
        return values
    if activation != "sigmoid":
        raise ValueError(f"unknown activation {activation!r}: sigmoid or none")
    # for negative x as exp(x) / (1 + exp(x)), so that exp never overflows
    small = np.exp(-np.abs(values))
    return np.asarray(np.where(values >= 0, np.float32(1), small) / (1 + small))
