"""A job of the client library continues the trace of the program that submits it, where there is one."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan, SpanContext, TraceFlags, use_span

from convq import AsyncClient, Client
from convq.errors import ResultTimeout

WITHOUT_OTEL = Path(__file__).parents[1] / "e2e" / "without_otel"
TRACE, SPAN = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
CURRENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def client(redis_url: str) -> Iterator[Client]:
    with Client(redis_url, model="m") as one:
        yield one


def current(flags: int = TraceFlags.SAMPLED) -> NonRecordingSpan:
    """A span as a program has it while it works."""
    return NonRecordingSpan(SpanContext(TRACE, SPAN, is_remote=False, trace_flags=TraceFlags(flags)))


def traces(url: str) -> list[bytes | None]:
    """What stands in `traceparent` of each job in the queue."""
    with redis.Redis.from_url(url) as connection:
        return [fields.get(b"traceparent") for _, fields in connection.xrange("convq:{m}:jobs")]


def test_a_job_continues_the_current_trace(redis_url: str, client: Client) -> None:
    with use_span(current()):
        client.submit(b"x")
        client.submit_many([b"x", b"x"])

    assert [CURRENT.encode()] * 3 == traces(redis_url)


def test_whether_it_is_sampled_travels_along(redis_url: str, client: Client) -> None:
    with use_span(current(TraceFlags.DEFAULT)):
        client.submit(b"x")

    assert [CURRENT[:-2].encode() + b"00"] == traces(redis_url)


def test_a_traceparent_of_the_callers_own_goes_first(redis_url: str, client: Client) -> None:
    with use_span(current()):
        client.submit(b"x", traceparent="00-mine")

    assert [b"00-mine"] == traces(redis_url)


def test_without_a_current_span_there_is_none(redis_url: str, client: Client) -> None:
    client.submit(b"x")
    with use_span(INVALID_SPAN):
        client.submit(b"x")

    assert [None, None] == traces(redis_url)


def test_map_and_the_asyncio_client_continue_it_too(redis_url: str, client: Client) -> None:
    async def submit() -> None:
        async with AsyncClient(redis_url, model="m") as other:
            await other.submit(b"x")

    with use_span(current()):
        asyncio.run(submit())
        with pytest.raises(ResultTimeout):
            list(client.map([b"x"], timeout=0.05))

    assert [CURRENT.encode()] * 2 == traces(redis_url)


def test_the_client_does_without_opentelemetry(redis_url: str) -> None:
    """Every import of it fails. Where it is installed, redis-py imports parts of it for itself."""
    code = "import sys, convq; convq.Client(sys.argv[1], model='m').submit(b'x'); print(*sys.modules)"
    path = os.pathsep.join([str(WITHOUT_OTEL), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path}
    command = [sys.executable, "-c", code, redis_url]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=250, check=True)

    assert "convq.client.inputs" in ran.stdout.split()
    assert [] == [name for name in ran.stdout.split() if name.startswith("opentelemetry")]
    assert [None] == traces(redis_url)
