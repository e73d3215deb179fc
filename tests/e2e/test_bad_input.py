"""Every kind of bad job gets its documented answer, every odd but good picture its class, and no neighbour notices."""

from __future__ import annotations

import base64
import json
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from convq import Client
from convq.errors import Answered
from convq.protocol import Result, decode_result
from servers import OwnServer, wait_until
from services import (
    JOBS,
    LANES,
    Fields,
    Plain,
    RunningService,
    digit_labels,
    digits,
    encoded,
    image_of,
    seven,
    tensor_of,
)

INBOX = "convq:{lenet}:inbox:"
SEVEN, ONE = digits()[0], digits()[2]
TENSOR: Fields = {"tensor": tensor_of(SEVEN), "dtype": "uint8", "shape": "1,32,32"}
PIXELS: NDArray[np.uint8] = SEVEN
INK = Image.fromarray(PIXELS)

pytestmark = pytest.mark.usefixtures("odd_keys")


@pytest.fixture
def odd_keys(plain: Plain) -> Iterator[None]:
    """An inbox that is no list."""
    plain.redis.set(f"{INBOX}text", "mine")
    yield
    assert b"mine" == plain.redis.get(f"{INBOX}text"), "a stranger's key was touched"
    plain.redis.delete(f"{INBOX}text")


def between_neighbours(plain: Plain, odd: Fields, job_id: str | None = None) -> Result:
    """Push a job between two good ones, in one burst; check the good ones and return its result."""
    before, entry, after = plain.burst([{"image": seven()}, odd, {"image": image_of(ONE)}])
    answers = plain.answer(before), plain.answer(job_id or entry), plain.answer(after)
    assert ("7", "1") == (answers[0].label, answers[2].label)
    wait_until(plain.nothing_left)
    assert entry == answers[1].entry
    assert (job_id or entry, "lenet", 1, 1) == (answers[1].id, answers[1].model, answers[1].v, answers[1].attempt)
    assert not plain.redis.exists(f"convq:{{lenet}}:result:{job_id or entry}"), "answered twice"
    return answers[1]


def check_error(result: Result, code: str) -> None:
    """It carries that error, in words that tell a stranger what was wrong and nothing about our insides."""
    assert ("error", code) == (str(result.status), result.error and result.error.code), result.explain()
    assert result.error is not None
    assert (None, None, None) == (result.predictions, result.outputs, result.version)
    assert 10 < len(result.error.message) < 400
    inside = re.search(r"(?:/[\w.-]+){2,}|Traceback|\.py\b|0x[0-9a-fA-F]{6,}|\bobject at\b", result.error.message)
    assert inside is None, result.error.message


def bomb() -> bytes:
    """A PNG of 65500 x 65500 pixels in fewer than 60 bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 65500, 65500, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", b"")
    )


def jpeg() -> bytes:
    return encoded(INK.resize((112, 112), Image.Resampling.NEAREST), "JPEG", quality=95)


BAD_IMAGES = {
    "an empty image": (b"", "bad_image"),
    "a truncated PNG": (image_of(np.kron(PIXELS, np.ones((8, 8), np.uint8)))[:300], "bad_image"),
    "a PNG of its signature alone": (seven()[:8], "bad_image"),
    "a truncated JPEG": (jpeg()[: len(jpeg()) // 2], "bad_image"),
    "a JPEG of its header alone": (jpeg()[:20], "bad_image"),
    "text": (b"seven, I swear", "bad_image"),
    "a web page": (b"<!DOCTYPE html><html>404</html>", "bad_image"),
    "a PDF": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "bad_image"),
    "zeros": (bytes(1000), "bad_image"),
    "a PNG with a damaged body": (seven()[:60] + b"\xff" * 40 + seven()[100:], "bad_image"),
    "a GIF without a frame": (b"GIF89a\x10\x00\x10\x00\x00\x00\x00;", "bad_image"),
    "a TIFF that points nowhere": (b"II*\x00\xff\xff\xff\x7f", "bad_image"),
    "a BMP of negative size": (
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, -5, 0, 1, 24, 0, 0, 0, 0, 0, 0),
        "bad_image",
    ),
    "a decompression bomb": (bomb(), "image_too_large"),
    "a GIF bomb": (b"GIF89a\xff\xff\xff\xff\x00\x00\x00;", "image_too_large"),
    "more bytes than allowed": (seven() + bytes(16 << 20), "image_too_large"),
}


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_a_bad_image_is_told_what_is_wrong_with_it(plain: Plain, kind: str) -> None:
    image, code = BAD_IMAGES[kind]
    check_error(between_neighbours(plain, {"image": image}), code)


def palette() -> bytes:
    """Colours whose order is not that of their brightness."""
    shuffled = (PIXELS.astype(np.int32) * 7 + 3) % 256
    image = Image.fromarray(shuffled.astype(np.uint8)).convert("P")
    levels = [0] * 256
    for level in range(256):
        levels[(level * 7 + 3) % 256] = level
    image.putpalette([part for level in levels for part in (level,) * 3])
    return encoded(image)


def alpha() -> bytes:
    """White everywhere; only the transparency shows the digit."""
    white = Image.new("RGBA", INK.size, (255, 255, 255, 255))
    white.putalpha(INK)
    return encoded(white)


def rotated(form: str) -> bytes:
    """Stored lying on its side, with the tag that turns it upright."""
    exif = Image.Exif()
    exif[274] = 6
    return encoded(
        INK.transpose(Image.Transpose.ROTATE_90), form, exif=exif, **({"quality": 95} if form == "JPEG" else {})
    )


def animated(form: str) -> bytes:
    """A seven, then a one."""
    out = BytesIO()
    more: dict[str, Any] = {"lossless": True} if form == "WEBP" else {}
    INK.convert("RGB").save(
        out, form, save_all=True, append_images=[Image.fromarray(ONE).convert("RGB")], duration=50, **more
    )
    return out.getvalue()


GOOD_IMAGES: dict[str, Callable[[], bytes]] = {
    "16-bit PNG": lambda: image_of(PIXELS.astype(np.uint16) * 257),
    "CMYK JPEG": lambda: encoded(INK.convert("RGB").convert("CMYK"), "JPEG", quality=95),
    "palette PNG": palette,
    "PNG with alpha": alpha,
    "gray PNG with alpha": lambda: encoded(Image.merge("LA", (INK, Image.new("L", INK.size, 255)))),
    "one-bit PNG": lambda: encoded(INK.convert("1")),
    "EXIF-rotated JPEG": lambda: rotated("JPEG"),
    "EXIF-rotated PNG": lambda: rotated("PNG"),
    "EXIF-rotated WebP": lambda: rotated("WEBP"),
    "animated GIF": lambda: animated("GIF"),
    "animated WebP": lambda: animated("WEBP"),
    "colour BMP": lambda: encoded(INK.convert("RGB"), "BMP"),
    "TIFF": lambda: encoded(INK, "TIFF"),
    "four times as large": lambda: encoded(INK.resize((112, 112), Image.Resampling.BILINEAR)),
    "wide, with black beside it": lambda: image_of(np.pad(PIXELS, ((0, 0), (4, 4)))),
}


@pytest.mark.parametrize("kind", GOOD_IMAGES)
def test_an_odd_picture_of_a_seven_is_a_seven(plain: Plain, kind: str) -> None:
    result = between_neighbours(plain, {"image": GOOD_IMAGES[kind]()})

    assert ("ok", 1) == (str(result.status), result.version), result.explain()
    assert "7" == result.label


BAD_TENSORS: dict[str, Fields] = {
    "a byte too few": {"tensor": tensor_of(SEVEN)[1:]},
    "a byte too many": {"tensor": tensor_of(SEVEN) + b"\0"},
    "no bytes": {"tensor": b""},
    "an unknown dtype": {"dtype": "float16"},
    "an empty dtype": {"dtype": ""},
    "float32 for a uint8 graph": {"dtype": "float32", "tensor": np.zeros((1, 32, 32), "<f4").tobytes()},
    "a shape of words": {"shape": "one,two"},
    "a shape with spaces": {"shape": "1, 32, 32"},
    "an empty shape": {"shape": ""},
    "a negative shape": {"shape": "1,-32,-32"},
    "another shape of as many bytes": {"shape": "32,32,1"},
    "a batch axis": {"shape": "1,1,32,32"},
    "a monstrous shape": {"shape": "999999999,999999999,999999999"},
    "a shape of ten thousand axes": {"shape": ",".join("1" * 10_000)},
}


@pytest.mark.parametrize("kind", BAD_TENSORS)
def test_a_tensor_that_does_not_fit_is_told_what_was_expected(plain: Plain, kind: str) -> None:
    check_error(between_neighbours(plain, {**TENSOR, **BAD_TENSORS[kind]}), "bad_tensor")


BAD_FIELDS: dict[str, tuple[Fields, str]] = {
    "image and tensor": ({"image": seven(), **TENSOR}, "bad_field"),
    "neither image nor tensor": ({"top_k": 1}, "bad_field"),
    "only unknown fields": ({"picture": seven()}, "bad_field"),
    "a tensor without dtype": ({"tensor": TENSOR["tensor"], "shape": "1,32,32"}, "bad_field"),
    "a tensor without shape": ({"tensor": TENSOR["tensor"], "dtype": "uint8"}, "bad_field"),
    "ttl_ms of letters": ({"image": seven(), "ttl_ms": "abc"}, "bad_field"),
    "ttl_ms below zero": ({"image": seven(), "ttl_ms": -1}, "bad_field"),
    "ttl_ms with a fraction": ({"image": seven(), "ttl_ms": "1.5"}, "bad_field"),
    "ttl_ms empty": ({"image": seven(), "ttl_ms": ""}, "bad_field"),
    "ttl_ms beyond all clocks": ({"image": seven(), "ttl_ms": "9" * 400}, "bad_field"),
    "ttl_ms in other digits": ({"image": seven(), "ttl_ms": "٣٠٠٠"}, "bad_field"),
    "top_k below zero": ({"image": seven(), "top_k": -3}, "bad_field"),
    "top_k of zero": ({"image": seven(), "top_k": 0}, "bad_field"),
    "top_k of letters": ({"image": seven(), "top_k": "x"}, "bad_field"),
    "version of letters": ({"image": seven(), "version": "newest"}, "bad_field"),
    "an unknown version": ({"image": seven(), "version": 99}, "unknown_version"),
    "an unknown output": ({"image": seven(), "outputs": "logits,feelings"}, "unknown_output"),
    "outputs with nothing between commas": ({"image": seven(), "outputs": "logits,,"}, "bad_field"),
    **{
        f"bad UTF-8 in {name}": ({**TENSOR, name: b"\xff\xfe" + b"1"}, "bad_field")
        for name in ("dtype", "shape", "id", "ttl_ms", "reply_to", "top_k", "outputs", "version", "traceparent")
    },
    "an id with spaces": ({"image": seven(), "id": "my job"}, "bad_field"),
    "an empty id": ({"image": seven(), "id": ""}, "bad_field"),
    "an id of ten thousand letters": ({"image": seven(), "id": "x" * 10_000}, "bad_field"),
    "an id with NUL": ({"image": seven(), "id": b"a\0b"}, "bad_field"),
    "an id that ends its line": ({"image": seven(), "id": "mine\n"}, "bad_field"),
    "reply_to of another model": ({"image": seven(), "reply_to": "convq:{other}:inbox:me"}, "bad_field"),
    "reply_to of another shard": ({"image": seven(), "reply_to": "convq:{lenet.1}:inbox:me"}, "bad_field"),
    "reply_to that is no inbox": ({"image": seven(), "reply_to": "convq:{lenet}:leases"}, "bad_field"),
    "reply_to a job stream": ({"image": seven(), "reply_to": JOBS}, "bad_field"),
    "reply_to without a name": ({"image": seven(), "reply_to": INBOX}, "bad_field"),
    "reply_to empty": ({"image": seven(), "reply_to": ""}, "bad_field"),
    "reply_to a key of another type": ({"image": seven(), "reply_to": f"{INBOX}text"}, "bad_field"),
}


@pytest.mark.parametrize("kind", BAD_FIELDS)
def test_a_bad_field_is_told_under_a_key_that_its_client_can_find(plain: Plain, kind: str) -> None:
    fields, code = BAD_FIELDS[kind]
    check_error(between_neighbours(plain, fields), code)


def test_a_field_given_twice_is_refused(plain: Plain) -> None:
    entry = plain.redis.execute_command("XADD", JOBS, "*", "image", seven(), "image", seven()).decode()

    check_error(plain.answer(entry), "bad_field")


def test_a_bad_field_beside_a_good_id_and_inbox_is_answered_there(plain: Plain) -> None:
    plain.push({"image": b"", "id": "mine", "reply_to": f"{INBOX}me"})
    _, document = plain.redis.blpop(f"{INBOX}me", timeout=15)
    result = decode_result(document)

    check_error(result, "bad_image")
    assert "mine" == result.id
    assert not plain.redis.exists("convq:{lenet}:result:mine")


def test_an_unusable_reply_to_is_told_under_the_clients_own_id(plain: Plain) -> None:
    fields: Fields = {"image": seven(), "id": "odd-inbox", "reply_to": f"{INBOX}text"}

    check_error(between_neighbours(plain, fields, "odd-inbox"), "bad_field")


def test_unknown_fields_are_ignored(plain: Plain) -> None:
    fields: Fields = {"image": seven(), b"\xff\xfe": b"\0", "colour": "blue", "traceparent": "00-ab-cd-01"}

    assert "7" == between_neighbours(plain, fields).label


def test_a_job_whose_time_is_over_expires_and_is_not_computed(plain: Plain) -> None:
    result = between_neighbours(plain, {"image": seven(), "ttl_ms": 0})

    assert ("expired", None, None) == (str(result.status), result.predictions, result.error)


def test_a_job_with_time_left_is_computed(plain: Plain) -> None:
    assert "7" == between_neighbours(plain, {"image": seven(), "ttl_ms": 60_000}).label


def test_a_job_that_was_cancelled_before_it_came_is_answered_as_cancelled(plain: Plain) -> None:
    plain.redis.sadd("convq:{lenet}:cancelled", "never-mind")
    result = between_neighbours(plain, {"image": seven(), "id": "never-mind"}, "never-mind")

    assert ("cancelled", None, None) == (str(result.status), result.predictions, result.error)
    assert not plain.redis.sismember("convq:{lenet}:cancelled", "never-mind")


# -- what good jobs may ask for ---------------------------------------------------------------------------------------


def test_it_gives_five_predictions_unless_told_otherwise_and_never_more_than_there_are(plain: Plain) -> None:
    counts = {
        top_k: len(between_neighbours(plain, {"image": seven(), "top_k": top_k}).predictions or ())
        for top_k in (1, 3, 99)
    }

    assert {1: 1, 3: 3, 99: 10} == counts
    assert 5 == len(between_neighbours(plain, {"image": seven()}).predictions or ())


def test_scores_of_all_classes_sum_to_one_and_fall(plain: Plain) -> None:
    predictions = between_neighbours(plain, {"image": seven(), "top_k": 10}).predictions or ()
    scores = [one.score for one in predictions]

    assert pytest.approx(1.0, abs=1e-5) == sum(scores)
    assert sorted(scores, reverse=True) == scores
    assert sorted("0123456789") == sorted(one.label for one in predictions)
    assert all(one.label == str(one.index) for one in predictions)


def test_raw_outputs_come_as_base64_and_agree_with_the_predictions(plain: Plain) -> None:
    result = between_neighbours(plain, {"image": seven(), "outputs": "logits", "top_k": 10})
    output = result.output("logits")
    logits = np.frombuffer(base64.b64decode(output.data), "<f4")

    assert ("float32", (10,)) == (output.dtype, output.shape)
    softmax = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    for one in result.predictions or ():
        assert pytest.approx(softmax[one.index], abs=1e-5) == one.score


def test_a_document_holds_what_the_protocol_says(plain: Plain) -> None:
    entry = plain.push({"image": seven(), "version": 1})
    document = json.loads(plain.document(entry))

    assert {
        "v",
        "id",
        "entry",
        "model",
        "version",
        "status",
        "predictions",
        "timing_ms",
        "batch",
        "attempt",
        "worker",
    } == set(document)
    assert {"queue", "decode", "batch", "infer", "answer", "total"} == set(document["timing_ms"])
    assert all(0 <= value < 60_000 for value in document["timing_ms"].values())
    assert (entry, entry, "lenet", 1, "ok", 1) == tuple(
        document[name] for name in ("id", "entry", "model", "version", "status", "attempt")
    )
    assert 1 <= document["batch"] <= 128


def test_a_result_key_lives_as_long_as_its_ttl_and_an_inbox_an_hour(plain: Plain) -> None:
    entry = plain.push({"image": seven()})
    plain.push({"image": seven(), "reply_to": f"{INBOX}lasting"})
    wait_until(plain.nothing_left)

    assert 290_000 < plain.redis.pttl(f"convq:{{lenet}}:result:{entry}") <= 300_000
    assert 3_590_000 < plain.redis.pttl(f"{INBOX}lasting") <= 3_600_000
    assert (1, 1) == (plain.redis.llen(f"convq:{{lenet}}:result:{entry}"), plain.redis.llen(f"{INBOX}lasting"))


@pytest.mark.parametrize("stream", LANES)
def test_every_priority_is_served(plain: Plain, stream: str) -> None:
    pairs = list(zip(digits()[:8], digit_labels()[:8], strict=True))
    entries = plain.burst([{"image": image_of(digit)} for digit, _ in pairs], stream=stream)

    assert [label for _, label in pairs] == [plain.answer(entry).label for entry in entries]


def test_a_client_may_name_its_job(plain: Plain) -> None:
    result = between_neighbours(plain, {"image": seven(), "id": "A.b_c:d-9"}, "A.b_c:d-9")

    assert "7" == result.label


def test_one_id_submitted_twice_is_one_job_with_one_result(plain: Plain, service_server: OwnServer) -> None:
    with Client(service_server.url, model="lenet") as client:
        first, second = (client.submit(seven(), id="only-once") for _ in range(2))
        wait_until(plain.nothing_left)

        assert ("only-once", "only-once") == (first, second)
        assert 1 == plain.redis.llen("convq:{lenet}:result:only-once")
        assert "7" == client.result("only-once").label
        with pytest.raises(Answered):
            client.submit(seven(), id="only-once")
        assert plain.nothing_left()


def test_one_id_pushed_twice_by_hand_still_has_one_result(plain: Plain) -> None:
    plain.burst([{"image": seven(), "id": "by-hand"}] * 2)
    wait_until(plain.nothing_left)

    assert 1 == plain.redis.llen("convq:{lenet}:result:by-hand")
    assert "7" == plain.answer("by-hand").label


def test_a_burst_of_everything_at_once_is_answered_each_in_its_way(service: RunningService, plain: Plain) -> None:
    pids = service.worker_pids()
    bad: list[tuple[Fields, str]] = [
        ({"image": image}, code) for image, code in BAD_IMAGES.values() if len(image) < 1 << 20
    ]
    bad += [({**TENSOR, **change}, "bad_tensor") for change in BAD_TENSORS.values()]
    bad += list(BAD_FIELDS.values())
    jobs = [job for fields, _ in bad for job in (fields, {"image": image_of(ONE)})]
    answers = [plain.answer(entry) for entry in plain.burst(jobs)]

    assert [code for _, code in bad] == [answer.error.code if answer.error else "" for answer in answers[::2]]
    assert {"1"} == {answer.label for answer in answers[1::2]}
    assert pids == service.worker_pids()
