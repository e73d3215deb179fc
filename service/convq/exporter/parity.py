"""Proof that an ONNX file computes what its network computes in PyTorch, image by image and batch by batch.

The measure is the largest difference of any single number. For class scores it is absolute: a logit is worth the same
wherever it stands. Any other output may be pixels up to 255 or maps of any size, and float32 keeps seven digits of a
number however large it is: there the difference is divided by the largest number of the output, if that is above 1.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from convq.engine.image import normalise
from convq.errors import ExportRefused
from convq.exporter.graphs import example_shape, tensors
from convq.repository.manifest import Input

TOLERANCE = 1e-4  # float32 sums in another order differ by about 1e-6; a wrong padding or layer by far more
BATCHES = (1, 2, 7)  # and the maximum: one, even, odd, full
SEED = 7  # of the random images that both run
ERRORS_ONLY = 3

Arrays = Mapping[str, NDArray[Any]]


def prove(
    model: bytes, net: nn.Module, spec: Input, names: Sequence[str], *, absolute: Collection[str], max_batch: int
) -> Iterator[tuple[int, float]]:
    """Yield each batch size with the largest difference found there, over all outputs `names` of the file.

    `net` is the network that was exported; `absolute` are the outputs whose differences count as they are. Free sides
    have another length at every size. Raises ExportRefused above TOLERANCE, for NaN, for an output whose first axis is not
    the batch, and where an image's answer depends on its neighbours.
    """
    session = open_session(model)
    torch.manual_seed(SEED)
    for step, size in enumerate(batches(max_batch)):
        batch = random_batch(spec, size, step)
        expected = answer(net, batch, names)
        if size == BATCHES[-1]:
            _alone_as_together(net, batch, expected)
        try:
            made = session.run(list(names), {session.get_inputs()[0].name: batch})
        except Exception as err:
            # onnxruntime's exceptions share no base class.
            raise ExportRefused(f"onnxruntime refuses a batch of {size}: {str(err).splitlines()[0]}") from err
        found = [
            _compare(name, expected[name], one, name in absolute, size) for name, one in zip(names, made, strict=True)
        ]
        yield size, max(found)


def batches(max_batch: int) -> list[int]:
    """The sizes at which a network is proven, ascending."""
    return sorted({*BATCHES, max_batch})


def random_batch(spec: Input, size: int, step: int) -> NDArray[Any]:
    """Random pixels as the graph gets them: uint8, or float32 as the manifest normalises; one of its possible sizes."""
    pixels = torch.randint(0, 256, example_shape(spec, size, step), dtype=torch.uint8).numpy()
    if spec.dtype == "uint8":
        return pixels
    return np.stack([normalise(image, spec) for image in pixels])


def answer(net: nn.Module, batch: NDArray[Any], names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """What PyTorch says, by name. Raises ExportRefused where it returns another number of tensors than there are names."""
    with torch.no_grad():
        made = [one.numpy() for one in tensors(net(torch.from_numpy(batch))).values()]
    if len(made) != len(names):
        raise ExportRefused(
            f"the network returns {len(made)} tensors; the manifest names {len(names)}: {', '.join(names)}"
        )
    return dict(zip(names, made, strict=True))


def open_session(model: bytes) -> Any:
    """The file in onnxruntime, on the CPU. Raises ExportRefused."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as err:
        # As in `prove`: onnxruntime's exceptions share no base class.
        raise ExportRefused(f"onnxruntime refuses the file: {str(err).splitlines()[0]}") from err


def _compare(name: str, expected: NDArray[Any], actual: NDArray[Any], absolute: bool, size: int) -> float:
    """The difference of one output. Raises ExportRefused where it is no proof."""
    if expected.shape != actual.shape:
        raise ExportRefused(f"{name}: onnxruntime gives {list(actual.shape)}, PyTorch {list(expected.shape)}")
    if expected.shape[:1] != (size,):
        raise ExportRefused(f"{name} is {list(expected.shape)} for a batch of {size}; expected {size} first")
    wide, other = expected.astype(np.float64), actual.astype(np.float64)
    scale = 1.0 if absolute else max(1.0, float(np.abs(wide).max(initial=0.0)))
    found = float(np.abs(other - wide).max(initial=0.0)) / scale
    if not found <= TOLERANCE:  # also when it is NaN
        raise ExportRefused(
            f"{name}: at batch {size} onnxruntime and PyTorch differ by {found:.2e}; at most {TOLERANCE:g}"
        )
    return found


def _alone_as_together(net: nn.Module, batch: NDArray[Any], together: Arrays) -> None:
    """An image must get the same answer in any company; one that does not would depend on who else submits."""
    alone = answer(net, batch[-1:], list(together))
    for name, all_rows in together.items():
        row, single = all_rows[-1:].astype(np.float64), alone[name].astype(np.float64)
        scale = max(1.0, float(np.abs(row).max(initial=0.0)))
        if row.shape != single.shape or not np.abs(row - single).max(initial=0.0) <= TOLERANCE * scale:
            raise ExportRefused(f"{name}: an image's answer depends on the other images of its batch")
