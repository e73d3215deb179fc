"""The shard that tests of the queue work on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from guarded import Guarded
from shards import Bench, open_bench


@pytest.fixture
def bench(any_guarded: Guarded) -> Iterator[Bench]:
    """A shard of each server program in turn."""
    with open_bench(any_guarded) as opened:
        yield opened
