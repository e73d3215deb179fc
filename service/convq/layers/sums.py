"""The arithmetic of a row: the padding that a graph leaves to a rule, the multiplications of an operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from convq.layers.table import Shape


def padding(kind: str, given: Mapping[str, Any], window: Mapping[str, Any], before: Shape, after: Shape) -> Any:
    """What is added at the beginning of every axis, then at the end; None where it depends on sides that are free.

    `given` are the attributes of a convolution or pooling, `window` its kernel, stride and dilation, `before` and
    `after` the sides of its input and output. `SAME` makes ceil(in / stride) of a side, whatever padding that takes; one
    that is odd is longer at the end (`SAME_UPPER`) or at the beginning.
    """
    auto, axes = given.get("auto_pad", b"NOTSET").decode(), len(window["kernel"])
    if auto == "NOTSET" and "output_shape" not in given:
        return tuple(given.get("pads", (0,) * 2 * axes))
    if auto == "VALID":
        return (0,) * 2 * axes
    if {len(before), len(after)} != {axes} or None in (*before, *after):
        return None
    extra = given.get("output_padding", (0,) * axes)
    if kind == "ConvTranspose":  # the way back: a convolution from its output to its input
        before, after = after, before
    begins = []
    totals = []
    for axis, (large, small) in enumerate(zip(before, after, strict=True)):
        reach = window["dilation"][axis] * (window["kernel"][axis] - 1) + 1
        total = max(((small or 0) - 1) * window["stride"][axis] + extra[axis] + reach - (large or 0), 0)
        totals.append(total)
        begins.append(total // 2 if auto == "SAME_UPPER" else total - total // 2)
    return (*begins, *(total - begin for total, begin in zip(totals, begins, strict=True)))


def rounded_up(before: Sequence[int], given: Mapping[str, Any]) -> tuple[Shape, list[int]]:
    """The sides behind a pooling with `ceil_mode`, and the padding with which one without it has the same.

    The side is ceil((in + padding - reach) / stride) + 1, less a last window that would begin in the padding at the end
    or behind it: PyTorch and onnxruntime leave that out. `given` are the pooling's attributes, `before` its sides.
    """
    axes = len(before)
    kernel, pads = given["kernel_shape"], given.get("pads", [0] * 2 * axes)
    strides, dilations = given.get("strides", [1] * axes), given.get("dilations", [1] * axes)
    sides, ends = [], []
    for axis, side in enumerate(before):
        stride, reach = strides[axis], dilations[axis] * (kernel[axis] - 1) + 1
        many = -((reach - side - pads[axis] - pads[axes + axis]) // stride) + 1
        if (many - 1) * stride >= side + pads[axis]:
            many -= 1
        sides.append(many)
        ends.append(max((many - 1) * stride + reach - side - pads[axis], 0))
    return tuple(sides), [*pads[:axes], *ends]


def convolution_macs(kind: str, before: Shape | None, after: Shape | None, kernel: Shape | None) -> int | None:
    """Multiply-accumulates of a Conv or ConvTranspose for one image; None where a side is not known.

    Conv: C_out * H_out * W_out * (C_in / groups) * kH * kW. That is what Howard et al., MobileNets (2017,
    arXiv:1704.04861), section 3.1, give as D_K * D_K * M * N * D_F * D_F, and without the N for depthwise ones.
    ConvTranspose: every number of the input meets the kernel, C_in * H_in * W_in * (C_out / groups) * kH * kW.
    `kernel` is the shape of the weights, whose first axis is C_out, or C_in of a ConvTranspose.
    """
    return product(before if kind == "ConvTranspose" else after, kernel[1:] if kernel else None)


def linear_macs(given: Mapping[str, Any], left: Shape | None, right: Shape | None, after: Shape | None) -> int | None:
    """Multiply-accumulates of a Gemm or MatMul: numbers that come out, times the length of the sum behind each."""
    length = left[0 if given.get("transA") else -1] if left else None
    if length is None and right:
        length = right[-1] if given.get("transB") or len(right) == 1 else right[-2]
    return product(after, (length,))


def product(*shapes: Shape | None) -> int | None:
    """All sides of all shapes multiplied; None where one is not known."""
    sides = [side for shape in shapes if shape is not None for side in shape]
    known = [side for side in sides if side is not None]
    return prod(known) if None not in shapes and len(known) == len(sides) else None
