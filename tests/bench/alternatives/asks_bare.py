"""No service at all: decode and run in a loop of this process, one image a run or many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import digits
from caller import Event


def connect(name: str, _address: str) -> Bare:
    """`bare_1` runs single images, `bare_64` batches of 64."""
    return Bare(int(name.partition("_")[2]))


class Bare:
    """A loop over one session."""

    def __init__(self, batch: int) -> None:
        self._network = digits.Network()
        self._batch = batch

    def ask(self, image: bytes) -> int:
        """One run of one image."""
        return self._network.classify([image])[0]

    def many(self, images: Sequence[bytes]) -> list[int]:
        """Runs of so many images."""
        starts = range(0, len(images), self._batch)
        return [label for start in starts for label in self._network.classify(images[start : start + self._batch])]

    def watch(self, images: Sequence[bytes]) -> Iterator[list[Event]]:
        """There is no worker that could be killed."""
        raise NotImplementedError
