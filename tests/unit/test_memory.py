"""How a worker's memory is divided, and who waits for whom while large pictures are decoded."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import numpy as np
import pytest
from PIL import Image

from convq.engine.formats import estimate
from convq.errors import ImageTooLarge
from convq.ipc.allowance import DEFAULT_BYTES, MIB, Allowance
from convq.worker.admission.memory import Memory
from servers import wait_until
from services import encoded, image_of

BASE_BYTES = 110 * MIB


def memory(planned: int = DEFAULT_BYTES, limit: int | None = None, models: int = 1) -> Memory:
    return Memory(Allowance(planned, limit), models, BASE_BYTES)


def picture(side: int) -> bytes:
    return encoded(Image.new("RGB", (side, side)), "PNG")


@pytest.mark.parametrize("models", [1, 2, 8])
def test_what_is_in_hand_and_the_largest_ordinary_picture_stay_within_the_plan(models: int) -> None:
    made = memory(models=models)
    # A delivery, one job more (the reply is copied out of the reader), inputs that wait, run, and are copied for the run.
    in_hand = models * (made.claim_bytes + 16 * MIB + 3 * made.waiting_bytes)
    twelve_megapixels = 12_000_000 * 8

    assert models > 2 or BASE_BYTES + in_hand + twelve_megapixels < DEFAULT_BYTES
    assert made.claim_bytes >= MIB
    assert not made.too_small


def test_models_that_fill_the_memory_leave_the_least_to_claim() -> None:
    tight = memory(planned=BASE_BYTES + MIB)

    assert tight.too_small
    assert (MIB, MIB) == (tight.claim_bytes, tight.waiting_bytes)


def test_a_picture_that_a_limit_has_no_room_for_is_refused_and_the_setting_named() -> None:
    image = picture(5000)
    need = estimate(image).peak_bytes

    with pytest.raises(ImageTooLarge, match="--worker-memory"), memory(limit=BASE_BYTES + need).decoding(image):
        raise AssertionError
    with memory(limit=BASE_BYTES + need + len(image)).decoding(image):
        pass


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGB"), ("PNG", "RGBA"), ("JPEG", "RGB"), ("JPEG", "L")])
def test_without_a_limit_photographs_of_fifty_megapixels_are_decoded(kind: str, mode: str) -> None:
    image = encoded(Image.new(mode, (7071, 7071)), kind)

    with memory(planned=BASE_BYTES + 32 * MIB).decoding(image + bytes((16 << 20) - len(image))):
        pass


def test_without_a_limit_what_takes_more_to_decode_than_those_is_refused() -> None:
    image = encoded(Image.new("RGB", (7071, 7071)), "WebP")

    with pytest.raises(ImageTooLarge, match="--worker-memory"), memory().decoding(image):
        raise AssertionError


def test_two_large_pictures_wait_for_each_other_and_small_ones_for_nobody() -> None:
    made, image = memory(), picture(5500)
    small = image_of(np.zeros((28, 28), dtype=np.uint8))
    inside = threading.Event()

    def second() -> None:
        with made.decoding(image):
            inside.set()

    with ExitStack() as first:
        first.enter_context(made.decoding(image))
        other = threading.Thread(target=second)
        other.start()
        with made.decoding(small):
            pass
        wait_until(lambda: made._changed._waiters)  # type: ignore[attr-defined]
        assert not inside.is_set()
    other.join(10)
    assert inside.is_set()
