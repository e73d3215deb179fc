"""Three edge detectors as one convolution: two Sobel kernels and a Laplacian."""

from __future__ import annotations

import torch
from torch import nn

KERNELS = {
    # light that grows to the right: the difference of two columns, the middle row counting twice
    "sobel_x": ((-1, 0, 1), (-2, 0, 2), (-1, 0, 1)),
    # light that grows downwards
    "sobel_y": ((-1, -2, -1), (0, 0, 0), (1, 2, 1)),
    # a pixel that is darker than the mean of its four neighbours
    "laplacian": ((0, 1, 0), (1, -4, 1), (0, 1, 0)),
}


class Edges(nn.Module):
    """Edges of an image of any size, one output channel for each kernel.

    The usual convolution of a CNN: a kernel has weights for red, green and blue (the same ones here), and the three
    maps are added into one. So three kernels make three channels of three, and five would make five.

    The numbers are signed, and up to 3 * 4 * 255 = 3060 large. Beyond its border the image goes on as its outermost
    pixels, so that there is no edge around it. PyTorch and ONNX compute the cross-correlation: the kernels slide over
    the image as they are written above. The mathematical convolution would flip them first, and so turn the sign of
    both Sobel maps.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, len(KERNELS), 3, padding=1, padding_mode="replicate", bias=False)
        kernels = torch.tensor(list(KERNELS.values()), dtype=torch.float32)
        self.conv.weight.data = kernels[:, None].repeat(1, 3, 1, 1)
        self.requires_grad_(requires_grad=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Sobel x, Sobel y and Laplacian, float32 [N, 3, H, W], of pixels, uint8 [N, 3, H, W]."""
        maps: torch.Tensor = self.conv(image.to(torch.float32))
        return maps
