"""Jobs of every kind, good, damaged and senseless, from a seed; and all their answers at once."""

from __future__ import annotations

import json
import random
from typing import Any

from services import Fields, Plain, digits, encoded, image_of, tensor_of

TENSOR, PICTURE = tensor_of(digits()[0]), image_of(digits()[0])


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
