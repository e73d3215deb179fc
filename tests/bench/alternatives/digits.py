"""The job that all do: one PNG digit, decoded and classified by lenet. What a user of onnxruntime would write, without convq.

Knows neither convq nor what it is compared with: it runs in the environment of either.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

LENET = Path(__file__).resolve().parents[3] / "models" / "lenet"
PAD = 2
"""Black pixels on each side of a digit of 28 x 28: the graph takes 32 x 32."""


def pictures() -> list[bytes]:
    """The 1,000 sample digits as PNG files."""
    with gzip.open(LENET / "sample" / "t10k-1000-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    return [_png(digit) for digit in pixels]


def labels() -> list[int]:
    """What the sample digits are, as people read them."""
    with gzip.open(LENET / "sample" / "t10k-1000-labels-idx1-ubyte.gz") as file:
        return list(file.read()[8:])


def _png(digit: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(digit).save(file, "PNG")
    return file.getvalue()


class Network:
    """One onnxruntime session of lenet's version 1 with one thread, as every worker of every system here has it."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        file = str(LENET / "1" / "model.onnx")
        self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self._input: str = self._session.get_inputs()[0].name

    def classify(self, images: Sequence[bytes]) -> list[int]:
        """The class of each PNG, in one run."""
        batch = np.stack([_decode(image) for image in images])
        logits: NDArray[Any] = self._session.run(None, {self._input: batch})[0]
        return [int(best) for best in logits.argmax(axis=1)]


def _decode(image: bytes) -> NDArray[np.uint8]:
    """One channel, padded: uint8 [1, 32, 32]."""
    with Image.open(io.BytesIO(image)) as picture:
        pixels = np.asarray(picture.convert("L"))
    return np.pad(pixels, PAD)[np.newaxis]
