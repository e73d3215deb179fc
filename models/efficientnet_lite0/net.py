"""EfficientNet-Lite0: 16 inverted bottlenecks made for CPUs and accelerators; 4,652,008 parameters, 385 million MACs.

The network is that of Tan and Le, "EfficientNet" (2019), in the Lite variant that its authors published in 2020: no
squeeze-and-excitation, ReLU6 instead of swish, and a stem and a head that are not scaled.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

CLASSES = 1000

STAGES = (
    # expansion, kernel, stride, channels, blocks: 224 pixels a side become 112 in the stem, then as said on the right
    (1, 3, 1, 16, 1),  # 112
    (6, 3, 2, 24, 2),  # 56
    (6, 5, 2, 40, 2),  # 28
    (6, 3, 2, 80, 3),  # 14
    (6, 5, 1, 112, 3),  # 14
    (6, 5, 2, 192, 4),  # 7
    (6, 3, 1, 320, 1),  # 7
)
STEM, HEAD = 32, 1280


class Convolution(nn.Conv2d):
    """A convolution without bias whose output has `ceil(side / stride)` pixels a side, for even sides.

    With stride 2 the padding is the odd one of TensorFlow, where these weights were trained: one pixel less at the top
    and left than at the bottom and right. The usual symmetric padding would shift every map by half a pixel.
    """

    def __init__(self, channels: int, kernels: int, side: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(channels, kernels, side, stride, groups=groups, bias=False)
        around = side - stride
        before, after = around // 2, around - around // 2
        self.border = (before, after, before, after)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """[N, channels, H, W] -> [N, kernels, H / stride, W / stride]."""
        return super().forward(functional.pad(maps, self.border))


def normalisation(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation with TensorFlow's epsilon, with which the weights were trained."""
    return nn.BatchNorm2d(channels, eps=1e-3)


class Block(nn.Module):
    """An inverted bottleneck: 1 x 1 to many channels, a filter on each of them alone, 1 x 1 back to few.

    Where neither side nor channels change, the input is added to the output.
    """

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expands = expansion > 1
        if self.expands:
            self.expand_conv = Convolution(inputs, inner, 1)
            self.bn0 = normalisation(inner)
        self.depthwise_conv = Convolution(inner, inner, kernel, stride, groups=inner)
        self.bn1 = normalisation(inner)
        self.project_conv = Convolution(inner, outputs, 1)
        self.bn2 = normalisation(outputs)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """[N, inputs, H, W] -> [N, outputs, H / stride, W / stride]."""
        inner = functional.relu6(self.bn0(self.expand_conv(maps))) if self.expands else maps
        inner = functional.relu6(self.bn1(self.depthwise_conv(inner)))
        made: torch.Tensor = self.bn2(self.project_conv(inner))
        return made + maps if self.adds else made


class EfficientNetLite0(nn.Module):
    """1000 classes of ImageNet from RGB images of 224 x 224 pixels."""

    mean = 127 / 255
    std = 128 / 255
    """Pixels are taken as (pixel - 127) / 128, which is this for pixels from 0 to 1."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = Convolution(3, STEM, 3, stride=2)
        self.bn0 = normalisation(STEM)
        blocks = []
        inputs = STEM
        for expansion, kernel, stride, outputs, count in STAGES:
            for index in range(count):
                blocks.append(Block(inputs, outputs, expansion, kernel, stride if index == 0 else 1))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.conv_head = Convolution(inputs, HEAD, 1)
        self.bn1 = normalisation(HEAD)
        self.fc = nn.Linear(HEAD, CLASSES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits [N, 1000] of normalised images, float32 [N, 3, 224, 224]."""
        maps = functional.relu6(self.bn0(self.conv_stem(image)))
        maps = functional.relu6(self.bn1(self.conv_head(self.blocks(maps))))
        logits: torch.Tensor = self.fc(maps.mean(dim=(2, 3)))
        return logits
