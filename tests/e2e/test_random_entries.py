"""Whatever a stranger writes into the streams, each entry is answered once and the workers live on."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from convq.protocol import Result, decode_result
from servers import wait_until
from services import LANES, Plain, RunningService, digits, encoded, tensor_of

INBOX = "convq:{lenet}:inbox:"
DIGIT = Image.fromarray(digits()[0])
PICTURES = [encoded(DIGIT.convert("RGB"), form) for form in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")]
NUMBER = itertools.count()

Pairs = list[tuple[bytes, bytes]]


def damaged(picture: bytes, seed: int) -> bytes:
    """A picture with a few bytes changed, or cut off, or cut out."""
    chance = random.Random(seed)
    body = bytearray(picture)
    for _ in range(chance.choice((0, 1, 3, 20))):
        body[chance.randrange(len(body))] = chance.randrange(256)
    if chance.random() < 0.3:
        del body[chance.randrange(len(body)) :]
    if chance.random() < 0.2:
        start = chance.randrange(len(body) + 1)
        del body[start : start + chance.randrange(1, 50)]
    return bytes(body)


def known(name: str, values: st.SearchStrategy[bytes]) -> st.SearchStrategy[tuple[bytes, bytes]]:
    return st.tuples(st.just(name.encode()), values)


BYTES = st.binary(max_size=300)
NUMBERS = st.one_of(st.integers(-5, 20), st.integers(), st.floats()).map(lambda value: str(value).encode()) | BYTES
IMAGES = st.builds(damaged, st.sampled_from(PICTURES), st.integers(0, 2**32)) | st.sampled_from(PICTURES) | BYTES
TENSORS = st.sampled_from([tensor_of(digits()[0]), bytes(1024), bytes(4096), b""]) | BYTES
DTYPES = st.sampled_from([b"uint8", b"float32", b"int64", b"UINT8", b"\xff"]) | BYTES
SHAPES = st.sampled_from([b"1,32,32", b"32,32", b"1,1,32,32", b"0", b"-1,4", b"1,32,32,", b"9" * 30]) | BYTES
# valid ids are all different: two raw entries of one id share one result, which test_bad_input looks at
IDS = st.builds(lambda tail: f"r{next(NUMBER)}.{tail}".encode(), st.integers(0, 9)) | BYTES.map(
    lambda tail: tail + b"\xff"
)
INBOXES = st.one_of(
    st.sampled_from([f"{INBOX}a", f"{INBOX}b", f"{INBOX}text", INBOX, "convq:{other}:inbox:a", LANES[1]]).map(
        str.encode
    ),
    BYTES.map(lambda tail: INBOX.encode() + tail),
    BYTES,
)
FIELDS = st.one_of(
    known("image", IMAGES),
    known("image", IMAGES),
    known("tensor", TENSORS),
    known("dtype", DTYPES),
    known("shape", SHAPES),
    known("id", IDS),
    known("ttl_ms", NUMBERS),
    known("reply_to", INBOXES),
    known("top_k", NUMBERS),
    known("outputs", st.sampled_from([b"logits", b"logits,logits", b"image", b","]) | BYTES),
    known("version", NUMBERS),
    known("traceparent", BYTES),
    st.tuples(st.binary(max_size=20), BYTES),
)
TENSOR_JOB = st.tuples(known("tensor", TENSORS), known("dtype", DTYPES), known("shape", SHAPES)).map(list)
ENTRIES: st.SearchStrategy[Pairs] = st.one_of(
    st.lists(FIELDS, min_size=1, max_size=5),
    st.builds(lambda job, more: [*job, *more], TENSOR_JOB, st.lists(FIELDS, max_size=2)),
    st.builds(lambda image, more: [(b"image", image), *more], IMAGES, st.lists(FIELDS, max_size=3)),
)
BATCHES = st.lists(st.tuples(ENTRIES, st.sampled_from(LANES)), min_size=1, max_size=40)


@pytest.fixture
def strangers_key(plain: Plain) -> Any:
    """An inbox that is no list."""
    plain.redis.set(f"{INBOX}text", "mine")
    yield
    plain.redis.delete(f"{INBOX}text")


def push(plain: Plain, batch: list[tuple[Pairs, str]]) -> list[tuple[str, str]]:
    """XADD all of it at once; stream and entry id of each."""
    pipeline = plain.redis.pipeline(transaction=False)
    for pairs, stream in batch:
        pipeline.execute_command("XADD", stream, "*", *(part for pair in pairs for part in pair))
    streams = [stream for _, stream in batch]
    return [(stream, entry.decode()) for stream, entry in zip(streams, pipeline.execute(), strict=True)]


def take_answers(plain: Plain) -> list[Result]:
    """Every result document on the server, from result keys and inboxes alike; the keys are gone afterwards."""
    answers = []
    for pattern in ("convq:{lenet}:result:*", f"{INBOX}*"):
        for key in list(plain.redis.scan_iter(pattern, count=1000)):
            if plain.redis.type(key) == b"list":
                answers += [decode_result(document) for document in plain.redis.lrange(key, 0, -1)]
                plain.redis.delete(key)
    return answers


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(batch=BATCHES)
def check_each_entry_is_answered_once(plain: Plain, batch: list[tuple[Pairs, str]]) -> None:
    entries = push(plain, batch)
    wait_until(plain.nothing_left, 20)
    answers = take_answers(plain)

    # entries of two streams in one millisecond may share their ids, so they are counted
    assert Counter(entry for _, entry in entries) == Counter(answer.entry for answer in answers)
    for answer in answers:
        assert (answer.error is not None) == (answer.status == "error"), answer
        assert (answer.predictions is not None) == answer.ok, answer
        assert answer.error is None or (answer.error.message and answer.error.code != "internal"), answer
        assert {1} == {answer.attempt}, "a worker died of it"


def test_random_entries_are_answered_once_each_and_no_worker_dies_of_them(
    service: RunningService, plain: Plain, strangers_key: None
) -> None:
    del strangers_key
    wait_until(service.is_ready)
    wait_until(plain.nothing_left)
    take_answers(plain)
    workers = service.worker_pids()

    check_each_entry_is_answered_once(plain)

    assert workers == service.worker_pids()
    assert [] == [line for line in service.log if "could not be prepared" in line["message"] or "traceback" in line]
    assert b"mine" == plain.redis.get(f"{INBOX}text")
