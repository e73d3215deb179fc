"""How much a model may say of itself: services repeat it to Redis every few seconds, for all clients to read."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

MOST_NAME_CHARACTERS = 256
"""Of the name of an input, an output or a feature map."""
MOST_OUTPUTS = 256
"""Outputs that every batch yields, and feature maps, together."""
MOST_DESCRIBED_BYTES = 64 << 10
"""Of all names and shapes as JSON."""

NodeName = Annotated[str, Field(min_length=1, max_length=MOST_NAME_CHARACTERS)]
