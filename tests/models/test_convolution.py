"""What a convolution layer computes: PyTorch, the exported file in onnxruntime, and the sum as it is written, agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from convq.engine.engine import Engine
from convq.repository.model_folders import default_root

PARITY = 1e-4
UNSHRUNK = [Phase.explicit, Phase.reuse, Phase.generate]  # shrinking would export hundreds of networks
Array = NDArray[Any]
Pair = tuple[int, int]


@dataclass(frozen=True)
class Layer:
    """The parameters of one Conv2d."""

    groups: int
    inputs: int
    outputs: int
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    bias: bool

    @property
    def least(self) -> Pair:
        """The smallest sides with an output."""
        rows, columns = (self.dilation[axis] * (self.kernel[axis] - 1) + 1 - 2 * self.padding[axis] for axis in (0, 1))
        return max(1, rows), max(1, columns)

    def out(self, side: int, axis: int) -> int:
        """The shape rule."""
        reach = self.dilation[axis] * (self.kernel[axis] - 1) + 1
        return (side + 2 * self.padding[axis] - reach) // self.stride[axis] + 1


def pairs(low: int, high: int) -> st.SearchStrategy[Pair]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    groups = draw(st.integers(1, 3))
    return Layer(
        groups=groups,
        inputs=groups * draw(st.integers(1, 3)),
        outputs=groups * draw(st.integers(1, 3)),
        kernel=draw(pairs(1, 5)),
        stride=draw(pairs(1, 3)),
        padding=draw(pairs(0, 3)),
        dilation=draw(pairs(1, 3)),
        bias=draw(st.booleans()),
    )


def convolved(image: Array, weight: Array, bias: Array | None, layer: Layer) -> Array:
    """The sum itself, in float64: image [n, inputs, h, w], weight [outputs, inputs / groups, rows, columns]."""
    (rows, columns), (down, right) = layer.padding, layer.stride
    padded = np.pad(image.astype(np.float64), ((0, 0), (0, 0), (rows, rows), (columns, columns)))
    high, wide = layer.out(image.shape[2], 0), layer.out(image.shape[3], 1)
    out = np.zeros((len(image), layer.outputs, high, wide))
    for kernel in range(layer.outputs):
        group = kernel // (layer.outputs // layer.groups)
        for channel, y, x in np.ndindex(weight.shape[1:]):
            top, left = y * layer.dilation[0], x * layer.dilation[1]
            seen = padded[:, group * weight.shape[1] + channel, top::down, left::right][:, :high, :wide]
            out[:, kernel] += float(weight[kernel, channel, y, x]) * seen
    return out if bias is None else out + bias[:, None, None]


@settings(max_examples=8, deadline=None, phases=UNSHRUNK, suppress_health_check=list(HealthCheck))
@given(some=st.lists(layers(), min_size=1, max_size=10), more=pairs(0, 6), seed=st.integers(0, 2**16))
def test_pytorch_the_exported_file_and_the_written_sum_agree_for_any_layer(
    script: Any, some: list[Layer], more: Pair, seed: int
) -> None:
    graphs, parity, torch = script("convq.exporter.graphs"), script("convq.exporter.parity"), script("torch")
    torch.manual_seed(seed)
    height, width = (max(layer.least[axis] for layer in some) + more[axis] for axis in (0, 1))
    net = side_by_side(torch, some).eval()
    starts = np.cumsum([0, *(layer.inputs for layer in some)])
    batch = torch.randn(3, int(starts[-1]), height, width)
    names = [f"out{index}" for index in range(len(some))]
    with torch.no_grad():
        expected = [made.numpy() for made in net(batch)]

    session = parity.open_session(graphs.trace(net, batch[:2], {0: "batch"}, "image", names))
    exported = session.run(names, {"image": batch.numpy()})

    for layer, conv, start, by_torch, by_onnx in zip(some, net.convs, starts[:-1], expected, exported, strict=True):
        bias = conv.bias.detach().numpy() if layer.bias else None
        image = batch[:, start : start + layer.inputs].numpy()
        written = convolved(image, conv.weight.detach().numpy(), bias, layer)
        assert (3, layer.outputs, layer.out(height, 0), layer.out(width, 1)) == by_torch.shape == by_onnx.shape
        assert PARITY > np.abs(written - by_torch).max()
        assert PARITY > np.abs(written - by_onnx).max()


def side_by_side(torch: Any, some: list[Layer]) -> Any:
    """A network that gives each layer its own channels of the input, so that one export proves all of them."""

    class SideBySide(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = torch.nn.ModuleList(
                torch.nn.Conv2d(
                    one.inputs,
                    one.outputs,
                    one.kernel,
                    one.stride,
                    one.padding,
                    one.dilation,
                    one.groups,
                    bias=one.bias,
                )
                for one in some
            )

        def forward(self, image: Any) -> list[Any]:
            made, start = [], 0
            for conv in self.convs:
                made.append(conv(image[:, start : start + conv.in_channels]))
                start += conv.in_channels
            return made

    return SideBySide()


def test_five_kernels_of_5_x_5_make_five_channels_of_28_x_28_from_an_rgb_image_of_32_x_32(script: Any) -> None:
    torch = script("torch")
    image = np.random.default_rng(1).random((1, 3, 32, 32)).astype(np.float32)
    conv = torch.nn.Conv2d(3, 5, 5)

    with torch.no_grad():
        made = conv(torch.from_numpy(image)).numpy()

    lesson = Layer(1, 3, 5, (5, 5), (1, 1), (0, 0), (1, 1), bias=True)
    written = convolved(image, conv.weight.detach().numpy(), conv.bias.detach().numpy(), lesson)
    assert (1, 5, 28, 28) == made.shape
    assert PARITY > np.abs(written - made).max()


@pytest.fixture(scope="module")
def photograph() -> NDArray[np.uint8]:
    """Three channels that have nothing in common: uint8 [3, 24, 40]."""
    return np.random.default_rng(2).integers(0, 256, (3, 24, 40), dtype=np.uint8)


def answer(model: str, image: NDArray[np.uint8]) -> Array:
    """What the shipped model gives for pixels [3, h, w]: [3, h, w]."""
    engine = Engine.load(default_root() / model, 1, device="cpu")
    shape = ",".join(map(str, image.shape))
    (made,) = engine.run([engine.admit(image.tobytes(), "uint8", shape)], ()).values()
    return np.asarray(made[0])


def bordered(image: Array, border: int) -> Array:
    return np.pad(image, ((0, 0), (border, border), (border, border)), mode="edge")[None]


def test_a_kernel_for_all_channels_adds_them_into_one_map(photograph: NDArray[np.uint8]) -> None:
    kernels = np.array(
        [
            [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]],
            [[-1, -2, -1], [0, 0, 0], [1, 2, 1]],
            [[0, 1, 0], [1, -4, 1], [0, 1, 0]],
        ]
    )
    summed = Layer(1, 3, 3, (3, 3), (1, 1), (0, 0), (1, 1), bias=False)

    expected = convolved(bordered(photograph, 1), kernels[:, None].repeat(3, axis=1), None, summed)[0]

    assert np.array_equal(expected, answer("edges", photograph))


def test_a_kernel_for_each_channel_keeps_them_apart(photograph: NDArray[np.uint8]) -> None:
    at = np.arange(-6, 7)
    bell = np.exp(-(at[:, None] ** 2 + at[None] ** 2) / (2 * 2.0**2))
    kernel = (bell / bell.sum())[None, None]
    alone = Layer(1, 1, 1, (13, 13), (1, 1), (0, 0), (1, 1), bias=False)

    expected = [convolved(bordered(one[None], 6), kernel, None, alone)[0, 0] for one in photograph]

    assert 1e-3 > np.abs(np.stack(expected) - answer("gaussian_blur", photograph)).max()


def test_the_kernel_is_not_flipped() -> None:
    """Cross-correlation: light that begins at the right is positive for the kernel with its positive column there."""
    image = np.zeros((3, 5, 6), dtype=np.uint8)
    image[:, :, 3:] = 10

    sobel_x = answer("edges", image)[0]

    assert [0, 0, 120, 120, 0, 0] == sobel_x[2].tolist()
