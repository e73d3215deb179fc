"""LeNet as the convolution lesson draws it: two convolutions, three linear layers, 81,194 parameters."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class LeNet(nn.Module):
    """Ten classes from gray images of 32 x 32 pixels.

    Each convolution has a 3 x 3 kernel without padding, so a side shrinks by 2; each pooling halves it, rounding down:
    32 -> 30 -> 15 -> 13 -> 6. That leaves 16 channels of 6 x 6, the 576 inputs of the first linear layer.
    """

    mean = 0.1307
    std = 0.3081
    """Mean and standard deviation of the pixels of MNIST's training images before padding, with 255 taken as 1."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3)
        self.conv2 = nn.Conv2d(6, 16, 3)
        self.fc1 = nn.Linear(576, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits [N, 10] of normalised images, float32 [N, 1, 32, 32]."""
        maps = functional.max_pool2d(functional.relu(self.conv1(image)), 2)
        maps = functional.max_pool2d(functional.relu(self.conv2(maps)), 2)
        features = torch.flatten(maps, 1)
        features = functional.relu(self.fc1(features))
        features = functional.relu(self.fc2(features))
        logits: torch.Tensor = self.fc3(features)
        return logits
