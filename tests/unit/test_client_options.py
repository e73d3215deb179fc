"""What the clients refuse before anything is sent: the server at the other end of these clients does not exist."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from convq import AsyncClient, Client
from convq.errors import BadField, ConvqError, RedisUnavailable
from services import image_of

URL = "redis://127.0.0.1:1/0"
PNG = image_of(np.zeros((4, 4), np.uint8))
INBOX = "convq:{lenet}:inbox:mine"

Call = Callable[..., Any]


def blocking(call: str, *args: Any, **options: Any) -> Any:
    with Client(URL, model="lenet") as client:
        result = getattr(client, call)(*args, **options)
        return list(result) if call == "map" else result


def suspending(call: str, *args: Any, **options: Any) -> Any:
    async def story() -> Any:
        async with AsyncClient(URL, model="lenet") as client:
            if call == "map":
                return [one async for one in client.map(*args, **options)]
            return await getattr(client, call)(*args, **options)

    return asyncio.run(story())


CLIENTS = pytest.mark.parametrize("client", [blocking, suspending])
OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"priority": "urgent"}, "priority: expected high, normal, low, not 'urgent'"),
    ({"priority": None}, "priority"),
    ({"priority": ["high"]}, "priority"),
    ({"ttl_ms": 10**30}, "ttl_ms: expected an integer of at least 0 and at most 15 digits"),
    ({"ttl_ms": 10**15}, "ttl_ms"),
    ({"ttl_ms": -1}, "ttl_ms"),
    ({"ttl_ms": 1.5}, "ttl_ms"),
    ({"ttl_ms": math.nan}, "ttl_ms"),
    ({"ttl_ms": True}, "ttl_ms"),
    ({"top_k": True}, "top_k"),
    ({"top_k": 0}, "top_k"),
    ({"top_k": "5"}, "top_k"),
    ({"version": 0}, "version"),
    ({"version": np.float32(1)}, "version"),
    ({"outputs": 7}, "outputs"),
    ({"outputs": b"conv1"}, "outputs"),
    ({"outputs": ["conv1", 2]}, "outputs"),
    ({"outputs": "conv1,,conv2"}, "outputs"),
    ({"outputs": "x" * 16_385}, "outputs: expected at most 16384 bytes"),
    ({"outputs": "\ud800"}, "UTF-8"),
    ({"traceparent": 7}, "traceparent"),
    ({"traceparent": "x" * 16_385}, "traceparent"),
    ({"colour": "blue"}, "has no option 'colour'"),
    ({"topk": 5}, "did you mean 'top_k'"),
    ({"model": 7}, "model: expected its name as text"),
    ({"model": ""}, "a model's name"),
    ({"model": "{lenet}"}, "a model's name"),
    ({"model": "x" * 65}, "a model's name"),
    ({"model": b"lenet"}, "model"),
]


@CLIENTS
@pytest.mark.parametrize("call", ["submit", "submit_many", "classify", "map"])
@pytest.mark.parametrize(
    ("options", "why"), OPTIONS, ids=lambda value: str(value)[:40] if isinstance(value, dict) else ""
)
def test_a_wrong_option_is_refused_alike_everywhere(client: Call, call: str, options: dict[str, Any], why: str) -> None:
    images = [PNG] if call in ("submit_many", "map") else PNG
    with pytest.raises(BadField, match=why):
        client(call, images, **options)


@CLIENTS
@pytest.mark.parametrize("bad", [7, "with spaces", "", "x" * 65, b"mine", "ä", ["a"]])
@pytest.mark.parametrize("call", ["submit", "classify"])
def test_a_wrong_id_is_refused(client: Call, call: str, bad: Any) -> None:
    with pytest.raises(BadField, match="id: expected 1 to 64 characters"):
        client(call, PNG, id=bad)


@CLIENTS
@pytest.mark.parametrize(
    ("call", "options", "why"),
    [
        ("submit_many", {"id": "x"}, "one id is one job"),
        ("map", {"id": "x"}, "`map` names its jobs itself"),
        ("map", {"reply_to": INBOX}, "an inbox of its own"),
        ("classify", {"reply_to": INBOX}, "the result would go to the inbox"),
    ],
)
def test_an_option_without_a_meaning_is_refused(client: Call, call: str, options: dict[str, Any], why: str) -> None:
    images = [PNG] if call != "classify" else PNG
    with pytest.raises(BadField, match=why):
        client(call, images, **options)


@CLIENTS
@pytest.mark.parametrize(
    "bad",
    ["mine", "convq:{other}:inbox:x", "convq:{lenet}:inbox:", "convq:{lenet}:result:x", INBOX + "x" * 260, b"x", 7],
)
def test_a_reply_to_that_is_no_inbox_of_the_model_is_refused(client: Call, bad: Any) -> None:
    with pytest.raises(BadField, match="reply_to"):
        client("submit", PNG, reply_to=bad)


@CLIENTS
@pytest.mark.parametrize("bad", [None, -1, -0.001, math.nan, math.inf, "5", True, Decimal(1), [1]])
@pytest.mark.parametrize("call", ["result", "classify", "map"])
def test_a_timeout_is_a_number_of_seconds(client: Call, call: str, bad: Any) -> None:
    argument = {"result": "1-1", "classify": PNG, "map": [PNG]}[call]
    with pytest.raises(BadField, match="timeout: expected a number of seconds, 0 or more"):
        client(call, argument, timeout=bad)


@CLIENTS
@pytest.mark.parametrize("bad", [0, -1, 1.5, True, None, "10"])
def test_in_flight_is_a_count(client: Call, bad: Any) -> None:
    with pytest.raises(BadField, match="in_flight"):
        client("map", [PNG], in_flight=bad)


@CLIENTS
@pytest.mark.parametrize("call", ["submit_many", "map"])
@pytest.mark.parametrize("bad", [PNG, bytearray(PNG), memoryview(PNG), "a.png", 7, None, np.zeros(())])
def test_one_image_is_not_many(client: Call, call: str, bad: Any) -> None:
    with pytest.raises(BadField, match=f"{call} takes many images"):
        client(call, bad)


@CLIENTS
@pytest.mark.parametrize("call", ["result", "status", "cancel"])
@pytest.mark.parametrize("bad", ["", 7, None, b"1-1", "a b", ["1-1"], "x" * 65])
def test_what_is_no_id_is_refused(client: Call, call: str, bad: Any) -> None:
    with pytest.raises(BadField, match="job_id"):
        client(call, bad)


@CLIENTS
@pytest.mark.parametrize(
    "options",
    [
        {"top_k": np.int64(3)}, {"ttl_ms": 0}, {"ttl_ms": 10**15 - 1}, {"id": None, "top_k": None}, {"outputs": ("a", "b")},
        {"outputs": []}, {"priority": "high"}, {"reply_to": INBOX}, {"version": 1}, {"traceparent": "00-x"},
    ],
)  # fmt: skip
def test_what_is_sound_is_sent(client: Call, options: dict[str, Any]) -> None:
    with pytest.raises(RedisUnavailable):
        client("submit", PNG, **options)


@pytest.mark.parametrize("made", [Client, AsyncClient])
@pytest.mark.parametrize("bad", ["No Such", "", "{lenet}", 7, b"lenet"])
def test_a_model_that_cannot_be_is_refused_when_the_client_is_made(made: Any, bad: Any) -> None:
    with pytest.raises(BadField):
        made(URL, model=bad)


@CLIENTS
def test_cancelling_nothing_is_nothing(client: Call) -> None:
    assert client("cancel") is None


def test_what_is_refused_belongs_to_the_tree() -> None:
    assert issubclass(BadField, ConvqError)
