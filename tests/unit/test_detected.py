"""What clients make of detections: masks of run lengths, and the options of a job as the wire has them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convq.answers.rle import encode
from convq.client.options import options_of
from convq.detected import Detection, RunLengths
from convq.errors import BadField
from convq.protocol import decode_result
from convq.queue import Receiver

FOUND = {"label": "a", "index": 0, "score": 0.5, "box": [0, 1, 2.5, 3]}
DOCUMENT = {"v": 1, "id": "x", "entry": "1-0", "model": "m", "status": "ok", "image": {"width": 4, "height": 3}}


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_a_mask_comes_back_as_it_was_encoded(height: int, width: int, seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < share

    np.testing.assert_array_equal(mask, RunLengths.model_validate(encode(mask)).array())


@pytest.mark.parametrize("counts", ["", "0", "zz", "\u00ff"])
def test_run_lengths_that_are_none_are_refused(counts: str) -> None:
    with pytest.raises(ValueError, match="do not add up to its 12 pixels"):
        RunLengths(size=(3, 4), counts=counts).array()


def test_a_document_goes_through_the_types_and_comes_out_as_it_was() -> None:
    found = [{**FOUND, "mask": {"size": [3, 4], "counts": "<"}}, {**FOUND, "keypoints": [[1, 2], [3, 4.5]]}]
    found.append({**FOUND, "polygons": [[0, 0, 1, 0, 1, 1]]})

    result = decode_result(json.dumps({**DOCUMENT, "detections": found, "truncated": True}))

    assert result.detections is not None
    assert (True, "3 a") == (result.truncated, result.explain())
    assert [12 * [False]] == [result.detections[0].mask.reshape(-1).tolist()]
    dumped = result.model_dump(mode="json", exclude_none=True, by_alias=True)
    assert found == dumped["detections"]


def test_nothing_found_is_said() -> None:
    assert "nothing found" == decode_result(json.dumps({**DOCUMENT, "detections": []})).explain()


def test_who_asks_for_a_mask_that_is_none_is_told_how_to_get_it() -> None:
    with pytest.raises(ValueError, match="format='rle'"):
        _ = Detection.model_validate(FOUND).mask


@pytest.mark.parametrize(
    ("name", "value", "wire"),
    [
        ("min_score", 0, "0"),
        ("min_score", 1.0, "1"),
        ("min_score", 0.25, "0.25"),
        ("iou", 1e-9, "0"),
        ("iou", np.float32(0.5), "0.5"),
        ("min_score", 0.1234567, "0.123457"),
        ("max_detections", 1000, 1000),
        ("labels", ["a", "b c"], "a,b c"),
        ("labels", [], None),
        ("format", ["png", "list"], "png,list"),
    ],
)
def test_an_option_becomes_what_the_service_reads(name: str, value: object, wire: object) -> None:
    fields = options_of("submit", {name: value})

    assert ({} if wire is None else {name: wire}) == fields
    flat = [part for key, given in fields.items() for part in (key.encode(), str(given).encode())]
    assert None is Receiver("convq:{m}:inbox:").receive(b"1-0", (b"image", b"x", *flat), lane=1, attempt=1).problem


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("min_score", -0.1, "min_score: expected a number from 0 to 1, not -0.1"),
        ("iou", "0.5", "iou: expected a number from 0 to 1"),
        ("iou", True, "iou: expected a number"),
        ("min_score", float("nan"), "min_score: expected a number"),
        ("max_detections", 0, "max_detections: expected an integer of at least 1"),
        ("max_detections", 1001, "max_detections: expected an integer from 1 to 1000"),
        ("labels", 3, "labels: expected names of labels"),
        ("format", "rle,png", "format: expected one word of each of rle polygon png none; "),
    ],
)
def test_an_option_that_the_service_would_refuse_is_refused_here(name: str, value: object, said: str) -> None:
    with pytest.raises(BadField, match=said):
        options_of("submit", {name: value})


def test_what_a_job_asks_is_remembered_with_its_header() -> None:
    flat = (b"image", b"x", b"min_score", b"0.5", b"labels", b"a, b", b"format", b"network,png")
    receiver = Receiver("convq:{m}:inbox:")

    first, second = (receiver.receive(entry, flat, lane=1, attempt=1).asked for entry in (b"1-0", b"2-0"))

    assert first is second
    assert (0.5, None, None, ("a", "b")) == first[:4]
    assert ("png", "base64", "network") == tuple(first.form_of(group) for group in ("masks", "embedding", "maps"))
