"""What a network is made of: its layers as a table of kernels, shapes, weights and work.

The table travels as plain JSON: whoever exports a model can store `to_json()` in the version's report, and `from_json`
needs nothing that serving has not. Only `layers_of`, which reads it from an ONNX file, needs the package onnx.

A convolution or a pooling makes of a side of `in` pixels, with padding on both ends, a side of

    out = floor((in + padding - dilation * (kernel - 1) - 1) / stride) + 1

and a pooling with `ceil` rounds up instead.
"""

from __future__ import annotations

from collections.abc import Sequence

from convq.errors import ModelBroken
from convq.layers.table import Architecture, Layer, Shape, Weight

__all__ = ["Architecture", "Layer", "Shape", "Weight", "layers_of"]


def layers_of(model: bytes, sides: Sequence[int | None] = ()) -> Architecture:
    """Read the table from an ONNX file.

    `sides` is the shape of one image without the batch axis, in the layout of the model, such as (1, 32, 32); it fills
    the axes that the graph leaves free, and None leaves them so. Shapes that no rule of onnx infers are None.

    Raises:
        ModuleNotFoundError: the package onnx is not installed.
        ModelBroken: the bytes are no ONNX graph.
    """
    from convq.layers.reading import read  # noqa: PLC0415 - onnx is not installed where we serve
    from convq.layers.rows import rows_of  # noqa: PLC0415 - needed only with it

    network = read(model, sides)
    try:
        return Architecture(tuple(rows_of(network)))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ModelBroken(f"holds a graph that contradicts itself ({type(error).__name__})") from error
