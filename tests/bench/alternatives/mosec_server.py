"""A mosec server that classifies digits in batches, set up as mosec's documentation says.

    python mosec_server.py --address 127.0.0.1 --port PORT

One stage that decodes and runs, as many processes as `ALTERNATIVES_WORKERS` says, batches of up to 64; the wait for a batch is mosec's
default of 10 ms.
"""

from __future__ import annotations

import os
from typing import Any

from mosec import Server, Worker

import digits


class Classifier(Worker):  # type: ignore[misc]
    """PNG in, class out."""

    def __init__(self) -> None:
        self._network = digits.Network()

    def deserialize(self, data: bytes) -> bytes:
        """The body of a request is the PNG."""
        return data

    def forward(self, data: list[bytes]) -> list[dict[str, Any]]:
        """One run for a batch."""
        return [{"label": label} for label in self._network.classify(data)]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Classifier, num=int(os.environ["ALTERNATIVES_WORKERS"]), max_batch_size=64, max_wait_time=10)
    server.run()
