"""Many kill -9s at random moments, and many random jobs: `--kills 1000 --jobs 100000` is the whole of it."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
from collections import Counter
from typing import Any

import pytest

from faults.stage import Fault, Staged, passes
from servers import wait_until
from services import LANES, Fields, Plain, digits, encoded, image_of, tensor_of

TENSOR, PICTURE = tensor_of(digits()[0]), image_of(digits()[0])
DOCUMENTED = {"bad_field", "bad_image", "image_too_large", "bad_tensor", "unknown_version", "unknown_output"}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.fault(3, "random kill -9s during batches", "SIGKILL of a random worker at a random moment, under load")
def test_a_thousand_random_kills_lose_nothing_and_double_nothing(
    on_stage: Staged, fault: Fault, request: pytest.FixtureRequest
) -> None:
    kills = request.config.getoption("--kills", 20)
    chance = random.Random(3)
    with on_stage() as stage:
        with stage.books.load(jobs=20):
            for _ in range(kills):
                passes(chance.uniform(0, 0.15))
                wait_until(lambda: killed(wait_until(stage.service.worker_pids, 20), chance))
                fault.strike()
                fault.recovered_when(stage.books.goes_on, within_s=10)
        stage.check()
        assert {"ok"} == set(stage.books.statuses())
        fault.outcome = f"{kills} kills, {len(stage.books.accepted)} jobs, each answered once"


def killed(workers: list[int], chance: random.Random) -> bool:
    """Whether one of these workers was still there to be killed."""
    try:
        os.kill(chance.choice(workers), signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def picture(chance: random.Random) -> bytes:
    """A picture, most often a good one; else cut off or with wrong bytes in it."""
    body = bytearray(PICTURE)
    for _ in range(chance.choice((0, 0, 1, 5))):
        body[chance.randrange(len(body))] = chance.randrange(256)
    if chance.random() < 0.2:
        del body[chance.randrange(len(body)) :]
    return bytes(body)


def random_job(chance: random.Random, serial: int) -> Fields:
    """A job of some kind, good or bad."""
    kinds: list[Fields] = [
        {"image": picture(chance)},
        {"tensor": TENSOR, "dtype": "uint8", "shape": "1,32,32"},
        {"tensor": TENSOR[: chance.randrange(1024)], "dtype": "uint8", "shape": "1,32,32"},
        {
            "tensor": TENSOR,
            "dtype": chance.choice(("int64", "\xff", "")),
            "shape": chance.choice(("1,32,32", "-1", "9" * 40)),
        },
        {"image": chance.randbytes(chance.randrange(2000))},
        {"neither": b"\0\0\0"},
        {"image": PICTURE, "tensor": TENSOR},
        {"image": encoded_animation()},
    ]
    odd: list[Fields] = [
        {},
        {"id": f"job-{serial}"},
        {"id": chance.choice(("\0", "x" * 10_000, "a b", "\xff"))},
        {"ttl_ms": chance.choice(("abc", "-5", "1e9", "60000", ""))},
        {"top_k": chance.choice(("0", "11", "3", "-1", "\u0663"))},
        {"version": chance.choice(("1", "99", "x"))},
        {"outputs": chance.choice(("logits", "nothing", ",", "logits,logits"))},
        {"reply_to": chance.choice(("convq:{other}:inbox:a", "x", "convq:{lenet}:inbox:random", "convq:{lenet}:jobs"))},
        {"unknown": "field", "traceparent": "00-00"},
    ]
    return {**chance.choice(kinds), **chance.choice(odd)}


def encoded_animation() -> bytes:
    """A GIF of two frames."""
    from PIL import Image  # noqa: PLC0415

    frames = [Image.fromarray(digits()[number]) for number in (0, 2)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.fault(28, "bad inputs", "random good, damaged and senseless jobs, from a seed")
def test_random_jobs_get_exactly_one_documented_answer_each(
    on_stage: Staged, fault: Fault, request: pytest.FixtureRequest
) -> None:
    jobs = request.config.getoption("--jobs", 3000)
    chance = random.Random(28)
    codes: Counter[str] = Counter()
    with on_stage() as stage, Plain(stage.server.url) as plain:
        workers = stage.service.worker_pids()
        serials = iter(range(jobs))
        fault.strike()
        while batch := list(itertools.islice(serials, 500)):
            lane = chance.choice(LANES)
            entries = plain.burst([random_job(chance, serial) for serial in batch], stream=lane)
            wait_until(stage.nothing_left, 30)
            answers = read_all(plain)
            assert sorted(entries) == sorted(answer["entry"] for answer in answers), "one answer each"
            codes.update(answer.get("error", {}).get("code", answer["status"]) for answer in answers)
            fault.recovered_when(lambda: True, within_s=3600)
        stage.check()
        assert workers == stage.service.worker_pids(), "a bad job killed a worker"
        assert jobs == codes.total()
        assert set(codes) <= DOCUMENTED | {"ok", "expired"}
        assert stage.count("convq_worker_resident_memory_bytes") < 1.2e9
        fault.recovery_s = None
        fault.outcome = f"{jobs} jobs, one documented answer each: {dict(codes.most_common())}"


def read_all(plain: Plain) -> list[dict[str, Any]]:
    """Every result that is there, taken away."""
    keys = [key for key in plain.redis.scan_iter(count=1000) if b":result:" in key or b":inbox:" in key]
    pipeline = plain.redis.pipeline()
    for key in keys:
        pipeline.lrange(key, 0, -1)
    found = [json.loads(document) for documents in pipeline.execute() for document in documents]
    if keys:
        plain.redis.delete(*keys)
    return found
