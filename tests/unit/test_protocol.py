"""The words of the wire: what a worker makes of an entry, what a client makes of a result."""

from __future__ import annotations

import gc
import json
import sys
import weakref
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from convq.errors import JOB_ERRORS, BadField
from convq.protocol import Job, schemas
from convq.queue import Received, Receiver

INBOX = "convq:{lenet}:inbox:"
SCHEMA = Path(__file__).parents[2] / "service" / "schema"


def receive(*flat: bytes, entry: bytes = b"1763800000000-0") -> Received:
    return Receiver(INBOX).receive(entry, flat, lane=1, attempt=1)


def test_a_plain_image_entry_takes_the_entry_id_and_the_defaults() -> None:
    job = receive(b"image", b"png")

    assert (None, b"png", "1763800000000-0", 5, None, None, (), 1763800000000) == (
        job.problem,
        job.image,
        job.id,
        job.top_k,
        job.ttl_ms,
        job.version,
        job.outputs,
        job.submitted_ms,
    )


def test_every_field_is_read() -> None:
    fields = {
        b"tensor": b"\0" * 4,
        b"dtype": b"float32",
        b"shape": b"1",
        b"id": b"a.B_c:d-1",
        b"ttl_ms": b"250",
        b"reply_to": b"convq:{lenet}:inbox:me",
        b"top_k": b"3",
        b"outputs": b"logits, conv1",
        b"version": b"2",
        b"traceparent": b"00-aa-bb-01",
    }

    job = receive(*(part for pair in fields.items() for part in pair))

    assert job.problem is None
    assert ("float32", "1", "a.B_c:d-1", 250, "convq:{lenet}:inbox:me", 3, ("logits", "conv1"), 2, "00-aa-bb-01") == (
        job.dtype,
        job.shape,
        job.id,
        job.ttl_ms,
        job.reply_to,
        job.top_k,
        job.outputs,
        job.version,
        job.traceparent,
    )


@pytest.mark.parametrize(
    ("flat", "said"),
    [
        ((), "exactly one of image and tensor"),
        ((b"top_k", b"3"), "neither is"),
        ((b"image", b"x", b"tensor", b"y", b"dtype", b"uint8", b"shape", b"1"), "both are"),
        ((b"tensor", b"x", b"shape", b"1"), "dtype is missing"),
        ((b"tensor", b"x"), "dtype and shape is missing"),
        ((b"image", b"x", b"image", b"y"), "image must be given once"),
        ((b"image", b"x", b"ttl_ms", b"abc"), "ttl_ms must be an integer of at least 0; got 'abc'"),
        ((b"image", b"x", b"ttl_ms", b"-5"), "ttl_ms must be an integer"),
        ((b"image", b"x", b"ttl_ms", b"1.5"), "ttl_ms must be an integer"),
        ((b"image", b"x", b"ttl_ms", b""), "ttl_ms must be an integer"),
        ((b"image", b"x", b"ttl_ms", b"9" * 16), "ttl_ms must be an integer"),
        ((b"image", b"x", b"top_k", b"-1"), "top_k must be an integer of at least 1"),
        ((b"image", b"x", b"top_k", b"0"), "top_k must be an integer of at least 1"),
        ((b"image", b"x", b"version", b"newest"), "version must be an integer"),
        ((b"image", b"x", b"outputs", b"a,,b"), "outputs must be names"),
        ((b"image", b"x", b"id", b"no spaces"), "id must be 1 to 64 characters"),
        ((b"image", b"x", b"id", b""), "id must be"),
        ((b"image", b"x", b"id", b"a" * 65), "id must be"),
        ((b"image", b"x", b"id", b"a\n"), "id must be"),
        *[
            ((b"image", b"x", name, b"\xff\xfe"), "must be UTF-8")
            for name in (b"id", b"reply_to", b"outputs", b"traceparent")
        ],
        ((b"tensor", b"x", b"dtype", b"\xff", b"shape", b"1"), "dtype must be UTF-8"),
        ((b"image", b"x", b"reply_to", b"convq:{other}:inbox:me"), "reply_to must be an inbox of this model"),
        ((b"image", b"x", b"reply_to", b"convq:{lenet}:inbox:"), "reply_to must be an inbox"),
        ((b"image", b"x", b"reply_to", b"convq:{lenet}:jobs"), "reply_to must be an inbox"),
        ((b"image", b"x", b"reply_to", b""), "reply_to must be an inbox"),
    ],
)
def test_what_is_malformed_is_said_and_what_was_expected_too(flat: tuple[bytes, ...], said: str) -> None:
    problem = receive(*flat).problem

    assert isinstance(problem, BadField)
    assert said in str(problem)


def test_a_malformed_id_is_answered_under_the_entry_id_and_in_the_inbox() -> None:
    job = receive(b"image", b"x", b"id", b"no spaces", b"reply_to", b"convq:{lenet}:inbox:me")

    assert ("1763800000000-0", "convq:{lenet}:inbox:me") == (job.id, job.reply_to)


@pytest.mark.parametrize("ids", [(b"a", b"b"), (b"a", b"a"), (b"a", b"no spaces"), (b"no spaces", b"a"), (b"a",) * 300])
def test_an_id_given_twice_is_answered_under_the_entry_id_and_in_the_inbox(ids: tuple[bytes, ...]) -> None:
    told = [part for one in ids for part in (b"id", one)]
    job = receive(*told, b"image", b"x", b"reply_to", b"convq:{lenet}:inbox:me")

    assert ("1763800000000-0", "convq:{lenet}:inbox:me") == (job.id, job.reply_to)
    assert "id must be given once" in str(job.problem)


@pytest.mark.parametrize("other", [b"convq:{lenet}:inbox:me", b"convq:{lenet}:inbox:you", b"elsewhere"])
@pytest.mark.parametrize("turned", [False, True])
def test_a_reply_to_given_twice_is_answered_under_the_result_key(other: bytes, turned: bool) -> None:
    inboxes = (other, b"convq:{lenet}:inbox:me")[:: -1 if turned else 1]
    job = receive(b"reply_to", inboxes[0], b"image", b"x", b"id", b"mine", b"reply_to", inboxes[1])

    assert ("mine", None) == (job.id, job.reply_to)
    assert "reply_to must be given once" in str(job.problem)


def test_an_unusable_reply_to_is_answered_under_the_result_key_of_the_clients_id() -> None:
    job = receive(b"image", b"x", b"id", b"mine", b"reply_to", b"elsewhere")

    assert ("mine", None) == (job.id, job.reply_to)


def test_another_problem_leaves_id_and_inbox_usable() -> None:
    job = receive(b"image", b"x", b"ttl_ms", b"soon", b"id", b"mine", b"reply_to", b"convq:{lenet}:inbox:me")

    assert ("mine", "convq:{lenet}:inbox:me") == (job.id, job.reply_to)


def test_unknown_fields_are_ignored_whatever_they_hold() -> None:
    assert receive(b"image", b"x", b"\xff\xfe", b"\xff", b"priority", b"-", b"priority", b"-").problem is None


@given(st.lists(st.tuples(st.binary(max_size=12), st.binary(max_size=40)), max_size=12))
def test_no_entry_whatever_makes_the_receiver_raise(pairs: list[tuple[bytes, bytes]]) -> None:
    job = receive(*(part for pair in pairs for part in pair))

    assert job.problem is not None or job.image is not None or job.tensor is not None


def test_layouts_are_remembered_within_bounds() -> None:
    receiver = Receiver(INBOX)

    for i in range(3 * Receiver.MAX_REMEMBERED):
        receiver.receive(b"1-0", (b"image", b"x", b"field-%d" % i, b"y"), lane=1, attempt=1)

    assert len(receiver._layouts) <= Receiver.MAX_REMEMBERED


def test_what_is_long_is_not_remembered() -> None:
    receiver, long = Receiver(INBOX), b"x" * Receiver.MAX_REMEMBERED_BYTES
    for flat in ((b"image", b"x", b"dtype", long + b"y"), (b"image", b"x", long + b"z", b"y")):
        receiver.receive(b"1-0", flat, lane=1, attempt=1)

    (layout,) = receiver._layouts.values()
    assert {} == layout.headers


@pytest.mark.parametrize("flat", [(b"id", b"a b", b"image", b"x"), (b"image", b"x", b"top_k", b"many")])
def test_a_problem_holds_no_job_in_memory(flat: tuple[bytes, ...]) -> None:
    gc.disable()
    try:
        job = receive(*flat)
        assert job.problem is not None
        assert (None, None) == (job.problem.__traceback__, job.problem.__context__)
        gone = weakref.ref(job.problem)
        held = sys.getrefcount(job)
        assert held == 2, "a frame, a circle or a cache still holds the job"
        del job
        assert flat[0] == b"image" or gone() is None, "a problem of the header is remembered, one of the job is not"
    finally:
        gc.enable()


def test_a_job_writes_the_fields_that_it_has_in_a_fixed_order() -> None:
    job = Job(image=b"png", id="x", top_k=2)

    assert ["image", b"png", "id", "x", "top_k", 2] == job.fields()


@pytest.mark.parametrize(
    "wrong",
    [{}, {"image": b"x", "tensor": b"y"}, {"tensor": b"x"}, {"image": b"x", "id": "a b"}, {"image": b"x", "top_k": 0},
     {"image": b"x", "colour": "red"}],
)  # fmt: skip
def test_a_job_that_a_worker_would_refuse_is_not_made(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Job.model_validate(wrong)


def test_there_is_one_error_class_for_each_code_of_the_protocol() -> None:
    assert [
        "bad_field",
        "bad_image",
        "image_too_large",
        "bad_tensor",
        "unknown_version",
        "unknown_output",
        "non_finite",
        "model_error",
        "no_room",
        "internal",
    ] == [one.code for one in JOB_ERRORS]


def test_the_schemas_in_the_repository_are_those_of_the_code() -> None:
    kept = {path.name: json.loads(path.read_text()) for path in SCHEMA.glob("*.json")}

    assert schemas() == kept
