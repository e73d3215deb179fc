"""What a worker writes is what a client reads."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from convq.errors import BadImage
from convq.protocol import Status, decode_result
from convq.queue import Lease, Receiver
from convq.worker.results import ResultEncoder
from convq.worker.ticket import Ticket


def documents() -> ResultEncoder:
    return ResultEncoder("lenet", 1, ['ze"ro', "één"], "host-1")


def ticket(*flat: bytes) -> Ticket:
    job = Receiver("convq:{lenet}:inbox:").receive(b"1763800000000-0", (b"image", b"x", *flat), lane=1, attempt=2)
    return Ticket(job, Lease("host-1-aa"), time.perf_counter(), queue_s=0.00041)


def test_a_computed_document_decodes_to_what_went_in() -> None:
    mine = ticket(b"id", b"mine")
    mine.decode_s, mine.prepare_s, mine.wait_s, mine.infer_s, mine.answer_s = 0.00002, 0.00001, 0.0001, 0.00022, 0.00006
    mine.total_s = 0.00081
    logits = np.array([0.5, -1.5], dtype=np.float32)

    result = decode_result(documents().ok(mine, 12, ([1, 0], [0.75, 0.25]), {"logits": logits}))

    assert result.predictions is not None
    assert ("één", 0.75, 'ze"ro') == (result.label, result.predictions[0].score, result.predictions[1].label)
    assert ("mine", "1763800000000-0", "lenet", 1, "ok", 12, 2, "host-1") == (
        result.id,
        result.entry,
        result.model,
        result.version,
        result.status,
        result.batch,
        result.attempt,
        result.worker,
    )
    assert {"queue": 0.41, "decode": 0.03, "batch": 0.1, "infer": 0.22, "answer": 0.06, "total": 0.81} == pytest.approx(
        result.timing_ms.model_dump(), abs=0.002
    )
    assert logits.tolist() == result.output("logits").array().tolist()


def test_a_refusal_decodes_to_its_code_and_message() -> None:
    mine = ticket()
    problem = BadImage("not an image; the bytes begin with 'He\"llo\\\ud800'")
    mine.refuse(problem)

    result = decode_result(documents().refused(mine, problem))

    assert result.error is not None
    assert ("error", "bad_image") == (result.status, result.error.code)
    assert "'He\"llo\\?'" in result.error.message
    assert (None, None) == (result.predictions, result.version)


def test_a_status_without_an_error_has_none() -> None:
    mine = ticket()
    mine.status = Status.EXPIRED

    result = decode_result(documents().refused(mine, None))

    assert ("expired", None) == (result.status, result.error)


def test_documents_are_one_line_of_plain_json() -> None:
    document = documents().ok(ticket(), 1, ([0], [1.0]))

    assert b"\n" not in document
    assert {
        "v", "id", "entry", "model", "version", "status", "predictions", "timing_ms", "batch", "attempt", "worker"
    } == set(json.loads(document))  # fmt: skip


def test_only_a_job_with_unknown_fields_hears_of_them() -> None:
    plain, odd = ticket(b"top_k", b"1"), ticket(b"repply_to", b"x")

    for one, expected in ((plain, None), (odd, ("repply_to",))):
        ok, refused = documents().ok(one, 1, ([0], [1.0])), documents().refused(one, BadImage("no"))
        assert [expected] * 2 == [decode_result(document).ignored for document in (ok, refused)]
        assert (b"ignored" in ok) == (expected is not None)
