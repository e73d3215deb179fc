"""What a picture is like: from the vector of a network to one that can be compared and kept."""

from __future__ import annotations

import base64
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from convq.answers.scores import as_float32, require_finite
from convq.errors import ModelFault, NonFinite

EmbeddingFormat = Literal["base64", "list"]


def embedding(values: NDArray[Any], *, normalize: bool = True, form: EmbeddingFormat = "base64") -> dict[str, Any]:
    """What a result says under `embedding`, of one job's output, [d] or [d, 1, 1].

    With `normalize` the vector is divided by its length, the root of the sum of squares, so that the scalar product of two is
    the cosine of their angle. The numbers go out as float32: `data`, little-endian in base64, or `values`, a list of numbers
    with nine digits, which is all that float32 holds.

    Raises:
        NonFinite: any value is NaN or infinite, or all are 0 where they are to be divided by their length.
        ModelFault: another shape.
    """
    if not values.size or not values.ndim or values.shape[1:] not in ((), (1, 1)):
        shape = f"{list(values.shape)}; expected [d] or [d, 1, 1]"
        raise ModelFault(f"an output that means embedding has the shape {shape}")
    require_finite(values)
    vector = values.reshape(-1)
    vector = _unit(vector) if normalize else as_float32(vector)
    said: dict[str, Any] = {"size": len(vector), "dtype": "float32", "normalized": normalize}
    if form == "list":
        return {**said, "values": [float(f"{value:.9g}") for value in vector.tolist()]}
    return {**said, "data": base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")}


def _unit(vector: NDArray[Any]) -> NDArray[np.float32]:
    """[d]: of length 1. The largest value is brought to 1 first, so that no square overflows or vanishes."""
    wide = vector.astype(np.float64)
    most = np.abs(wide).max()
    if not most:
        raise NonFinite("the network produced an embedding of length 0 for this input")
    wide /= most
    return np.asarray(wide / np.sqrt(np.square(wide).sum()), dtype=np.float32)
