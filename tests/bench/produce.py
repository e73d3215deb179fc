"""Pushes tensors for `throughput.py`: python produce.py URL JOBS INBOX. Imports nothing that would compete for the cores.

The commands are packed once and sent again and again: the generator shares the cores with what it measures, and what a
client spends on its own language is not the service's.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import redis

PIPELINE = 200
BACKLOG = 5_000
"""The producer keeps about this many jobs ahead: a steady backlog, not a mountain that only tests memory."""


def produce(url: str, jobs: int, inbox: str) -> None:
    """Push `jobs` tensors with pipelined XADDs, staying a bounded way ahead of the answers."""
    stream = "convq:{lenet}:jobs"
    with redis.Redis.from_url(url) as client:
        connection: Any = client.connection_pool.get_connection()
        fields = ("tensor", os.urandom(1024), "dtype", "uint8", "shape", "1,32,32", "reply_to", inbox)
        for first in range(0, jobs, PIPELINE):
            size = min(PIPELINE, jobs - first)
            if first == 0 or size < PIPELINE:
                packed = b"".join(connection.pack_commands([("XADD", stream, "*", *fields)] * size))
            while client.xlen(stream) > BACKLOG:
                time.sleep(0.002)
            connection.send_packed_command([packed])
            for _ in range(size):
                connection.read_response()


if __name__ == "__main__":
    produce(sys.argv[1], int(sys.argv[2]), sys.argv[3])
