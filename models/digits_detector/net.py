"""A detector that is small enough to read: boxes, classes and masks from one grid of cells, 8 pixels each.

It has no anchors: a cell near the middle of a digit says where that middle is and how large the digit is, as YOLOX does
(Ge et al., 2021), and with which weights a few maps of the whole picture add up to its mask, as YOLACT does (Bolya et
al., 2019).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

CLASSES = 10
STRIDE = 8
PROTOTYPES = 8
RARE = -4.0  # logits of all classes at first: nearly all cells are ground
SIZE_LOGS = (-4.0, 4.0)  # logarithms of sides in cells, half a pixel to 437: no input whatever makes a side infinite


class Block(nn.Sequential):
    """A convolution of 3 x 3 with batch normalisation and ReLU: [N, inputs, H, W] -> [N, outputs, H / stride, W / stride]."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
        )


class DigitsDetector(nn.Module):
    """Handwritten digits in gray pictures whose sides are multiples of 16."""

    mean = 0.5
    std = 0.25
    """Of pixels, with 255 taken as 1: all levels are about as likely."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(Block(1, 8, 2), Block(8, 12))
        self.quarter = nn.Sequential(Block(12, 24, 2), Block(24, 24))
        self.eighth = nn.Sequential(Block(24, 36, 2), Block(36, 36))
        self.context = nn.Sequential(Block(36, 36, 2), Block(36, 36))
        self.merge = nn.Sequential(Block(36, 36), Block(36, 36))
        self.head = nn.Conv2d(36, 4 + CLASSES + PROTOTYPES, 1)
        self.coarse = nn.Conv2d(36, 12, 1)
        self.fine = nn.Conv2d(24, 12, 1)
        self.prototypes = nn.Sequential(Block(12, 12), nn.Conv2d(12, PROTOTYPES, 1))
        nn.init.constant_(self.head.bias[4 : 4 + CLASSES], RARE)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the cells say, and what masks are mixed of, for normalised images, float32 [N, 1, H, W].

        `cells` is [N, H / 8 * W / 8, 4 + 10 + 8], row by row of the grid: the middle in cells from the cell's top left
        corner, the logarithms of width and height in cells, logits of the classes, weights.
        `prototypes` is [N, 8, H / 2, W / 2]: a pixel is the digit's where the sum of these maps, so weighted, is above 0.
        """
        half, quarter, eighth = self.seen(image)
        return {"cells": self.said(eighth), "prototypes": self.mixed(half, quarter, eighth)}

    def seen(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Maps of a half, a quarter and an eighth of the sides: [N, 12, H / 2, W / 2], [N, 24, …], [N, 36, …]."""
        half = self.stem(image)
        quarter = self.quarter(half)
        eighth = self.eighth(quarter)
        wide = functional.interpolate(self.context(eighth), scale_factor=2.0, mode="nearest")
        return half, quarter, self.merge(eighth + wide)

    def said(self, eighth: torch.Tensor) -> torch.Tensor:
        """`cells`, see `forward`."""
        rows = self.head(eighth).flatten(2).transpose(1, 2)
        sides = rows[..., 2:4].clamp(*SIZE_LOGS)
        return torch.cat([rows[..., :2], sides, rows[..., 4:]], dim=2)

    def mixed(self, half: torch.Tensor, quarter: torch.Tensor, eighth: torch.Tensor) -> torch.Tensor:
        """`prototypes`, see `forward`."""
        maps = self.fine(quarter) + functional.interpolate(self.coarse(eighth), scale_factor=2.0, mode="nearest")
        made: torch.Tensor = self.prototypes(half + functional.interpolate(maps, scale_factor=2.0, mode="nearest"))
        return made
