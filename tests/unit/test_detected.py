"""What clients make of detections: masks of run lengths, and the options of a job as the wire has them."""

from __future__ import annotations

import base64
import json
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from convq.answers.png import png
from convq.answers.rle import encode
from convq.client.options import options_of
from convq.detected import Detection, RunLengths, gray_levels
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


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32 - 1), st.sampled_from(["uint8", "uint16"]))
def test_levels_come_back_as_they_were_written(height: int, width: int, seed: int, dtype: str) -> None:
    most = np.iinfo(dtype).max
    levels = np.random.default_rng(seed).integers(0, most, (height, width), dtype=dtype, endpoint=True)

    found = gray_levels(png(levels))

    assert levels.dtype == found.dtype
    np.testing.assert_array_equal(levels, found)


def test_a_file_that_no_service_has_written_is_left_to_others() -> None:
    file = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8)).save(file, "PNG")
    colours, mine = png(np.zeros((2, 2, 3), dtype=np.uint8)), png(np.zeros((9, 9), dtype=np.uint8))
    wider = mine.replace(b"IHDR\0\0\0\x09", b"IHDR\0\0\0\x0a")

    for other in (file.getvalue(), colours, b"", b"GIF89a", mine[:40], mine[:-20], wider):
        with pytest.raises(ValueError, match="PNG file of a service"):
            gray_levels(other)


MAP = base64.b64encode(png(np.array([[0, 1, 1], [255, 1, 2]], dtype=np.uint8))).decode()
SEGMENTS = {"format": "png", "width": 3, "height": 2, "data": MAP, "box": [0, 0, 2.5, 4]}
SEGMENTS["classes"] = [{"label": one, "index": i, "share": 0.25} for i, one in ((1, "road"), (0, "sky"), (2, "road"))]


def test_maps_vectors_text_points_and_numbers_go_through_the_types() -> None:
    said = {
        "segments": SEGMENTS,
        "embedding": {"size": 2, "dtype": "float32", "normalized": False, "values": [1, -0.5]},
        "text": "",
        "text_score": 0,
        "keypoints": [[1, 2.5], [3, 4, 0.5]],
        "values": {"age": 31.5},
        "heads": {"a": [{"label": "x", "index": 0, "score": 1}], "b": []},
        "outputs": [{"name": "d", "format": "png", "data": MAP, "low": 1, "high": 2}],
    }

    result = decode_result(json.dumps({**DOCUMENT, **said}))

    assert result.segments is not None
    assert [[True, True, True], [False, True, True]] == (
        result.segments.mask("road") | (result.segments.array() == 0)
    ).tolist()
    assert ([1, -0.5], "", 31.5) == (result.embedding.tolist(), result.text, (result.values or {})["age"])
    assert "'', age 31.5, road 25.0%, sky 25.0%, road 25.0%, 2 points, 2 numbers" == result.explain()
    dumped = result.model_dump(mode="json", exclude_none=True, by_alias=True)
    assert said == {key: dumped[key] for key in said}


def test_an_output_is_its_numbers_where_they_were_asked_for_and_its_picture_otherwise() -> None:
    picture = {"name": "d", "format": "png", "data": MAP}
    numbers = {"name": "d", "dtype": "uint8", "shape": [1], "data": "AA=="}
    both, alone = (decode_result(json.dumps({**DOCUMENT, "outputs": one})) for one in ([picture, numbers], [picture]))

    assert ("uint8", None, None) == (both.output("d").dtype, both.picture("d").dtype, alone.output("d").dtype)
    with pytest.raises(KeyError, match="is an array"):
        decode_result(json.dumps({**DOCUMENT, "outputs": [numbers]})).picture("d")
    with pytest.raises(KeyError, match="has no output"):
        alone.picture("e")
    with pytest.raises(ValueError, match="is no depth"):
        alone.picture("d").depth()


def test_who_asks_for_an_embedding_that_is_none_is_told() -> None:
    with pytest.raises(ValueError, match="job x has no embedding: ok"):
        _ = decode_result(json.dumps(DOCUMENT)).embedding


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
