"""A Gaussian blur as what it is: one convolution whose kernel nobody trained."""

from __future__ import annotations

import torch
from torch import nn

SIGMA_PX = 2.0
RADIUS_PX = 6  # three sigmas: what is left out beyond is 0.3 % of the bell, and the kernel is scaled to a sum of 1


def gaussian_kernel() -> torch.Tensor:
    """[13, 13], sum 1: exp(-(x^2 + y^2) / (2 sigma^2)), the bell of the normal distribution, at whole pixels.

    The textbook's smoothing filter (Gonzalez and Woods, Digital Image Processing, on spatial filters). It is the outer
    product of two rows, so two one-dimensional passes would give the same; here it is one kernel, to be looked at.
    """
    at = torch.arange(-RADIUS_PX, RADIUS_PX + 1, dtype=torch.float64)
    row = torch.exp(-(at**2) / (2 * SIGMA_PX**2))
    kernel = torch.outer(row, row)
    return (kernel / kernel.sum()).float()


class GaussianBlur(nn.Module):
    """Smooths an image of any size: every pixel becomes the weighted mean of its neighbourhood.

    Red, green and blue are kept apart: with `groups=3` each channel has a kernel of its own (all three are the same
    here), and nothing is added across channels. Beyond its border the image goes on as its outermost pixels.

    PyTorch and ONNX compute the cross-correlation, out(x) = sum of f(x + t) g(t): the kernel is not flipped as in the
    mathematical convolution, the sum of f(x - t) g(t). For a symmetric kernel such as this one, both are the same.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            3, 3, 2 * RADIUS_PX + 1, padding=RADIUS_PX, padding_mode="replicate", groups=3, bias=False
        )
        self.conv.weight.data = gaussian_kernel().repeat(3, 1, 1, 1)
        self.requires_grad_(requires_grad=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Levels 0 to 255, float32 [N, 3, H, W], of pixels, uint8 [N, 3, H, W]."""
        blurred: torch.Tensor = self.conv(image.to(torch.float32))
        return blurred
