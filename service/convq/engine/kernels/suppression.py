"""onnxruntime's own NonMaxSuppression, in a session of one node that all models of a process share.

The graph is written here field by field, as ONNX's `onnx.proto3` numbers them; models keep the files that they came with,
and each job has thresholds of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from convq.answers.detections.nms import Suppress
from convq.engine.onnx_session import open_session
from convq.repository.wire import as_field, as_number

_FLOAT: Final = 1
_INT64: Final = 7
_IR_VERSION: Final = 8
_OPSET: Final = 11
_NAME: Final = Path("NonMaxSuppression")
"""What messages call a file that there is not."""


@cache
def fast_suppress() -> Suppress:
    """The `Suppress` of onnxruntime, made once a process; threads may call it at the same time.

    It runs on the CPU, in the thread that calls it: some thousand boxes are not worth a way to a GPU.
    """
    session = open_session(_graph(), _NAME, "cpu", threads=1)

    def suppress(boxes: NDArray[np.float32], scores: NDArray[np.float32], iou: float, most: int) -> NDArray[np.intp]:
        if not len(boxes):
            return np.empty(0, dtype=np.intp)
        given: dict[str, Any] = {
            "boxes": boxes[None],
            "scores": scores[None, None],
            "most": np.array([most], dtype=np.int64),
            "iou": np.array([iou], dtype=np.float32),
        }
        kept = session.run(None, given)[0]
        return np.asarray(kept[:, 2].astype(np.intp, copy=False))

    return suppress


def _graph() -> bytes:
    """A ModelProto: boxes [1, k, 4], scores [1, 1, k], most [1], iou [1] -> kept [m, 3], whose last column is the box."""
    inputs = (
        _value("boxes", _FLOAT, (1, "k", 4)),
        _value("scores", _FLOAT, (1, 1, "k")),
        _value("most", _INT64, (1,)),
        _value("iou", _FLOAT, (1,)),
    )
    node = _message((1, "boxes"), (1, "scores"), (1, "most"), (1, "iou"), (2, "kept"), (4, "NonMaxSuppression"))
    graph = _message(
        (1, node), (2, "suppression"), *((11, one) for one in inputs), (12, _value("kept", _INT64, ("m", 3)))
    )
    opset = as_number(2, _OPSET)
    return as_number(1, _IR_VERSION) + _message((7, graph), (8, opset))


def _value(name: str, element: int, shape: Iterable[int | str]) -> bytes:
    """A ValueInfoProto: sides that are text are free."""
    sides = (_message((2, side)) if isinstance(side, str) else as_number(1, side) for side in shape)
    tensor = as_number(1, element) + _message((2, _message(*((1, side) for side in sides))))
    return _message((1, name), (2, _message((1, tensor))))


def _message(*fields: tuple[int, str | bytes]) -> bytes:
    """Fields of text and of messages, in this order."""
    contents = ((number, value.encode() if isinstance(value, str) else value) for number, value in fields)
    return b"".join(part for number, content in contents for part in as_field(number, content))
