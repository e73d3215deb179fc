"""What `convq models check` shows a detector besides its sample: what is wrong in a manifest is seen there."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convq.drawing.palette import colour_of
from convq.engine.answering.variants import detected, variants
from convq.engine.engine import Engine
from convq.errors import NonFinite
from convq.importer.examination import examine
from services import image_of
from spotting import Seen, blob_folder, spotter, spotter_folder

RED = np.zeros((60, 100, 3), dtype=np.uint8)
RED[12:36, 30:70] = (255, 40, 0)
"""A red rectangle on black."""


def loaded(folder: Path) -> Engine:
    engine = Engine.load(folder, 1)
    engine.warm_up()
    return engine


def seen(engine: Engine, pixels: np.ndarray = RED) -> dict[str, dict[str, Any]]:
    return variants(engine, pixels, detected(engine, engine.prepare(pixels)).detections)


def test_a_manifest_that_is_right_stands_all_of_it(tmp_path: Path) -> None:
    engine = loaded(blob_folder(tmp_path / "blob"))

    found = detected(engine, engine.prepare(RED)).detections
    looked = seen(engine)

    assert pytest.approx([30, 12, 70, 36], abs=1.6) == found[0]["box"]
    assert {"detections": 0, "best": 0.0} == looked["blank"]
    assert 1 == looked["noise"]["detections"]
    assert {"sum": 0, "original": 1.0, "higher": False} == looked["swapped"]
    assert {"agree": 1, "of": 1} == looked["turned"]
    assert {"agree": 1, "of": 1} == looked["framed"]


def test_colours_in_the_wrong_order_score_higher_when_they_are_swapped(tmp_path: Path) -> None:
    dim = RED.copy()
    dim[..., 2] = RED[..., 0] * 0.4

    looked = seen(loaded(blob_folder(tmp_path / "blob", color="bgr")), dim)["swapped"]

    assert looked["higher"]
    assert pytest.approx((1.0, 0.4), abs=0.01) == (looked["sum"], looked["original"])


def test_boxes_that_do_not_follow_the_picture_do_not_agree(tmp_path: Path) -> None:
    white = np.full((96, 128), 255, dtype=np.uint8)

    looked = seen(loaded(spotter_folder(tmp_path / "spotter")), white)

    assert {"agree": 2, "of": 2} == looked["turned"]
    assert looked["framed"]["agree"] < looked["framed"]["of"]
    assert "swapped" not in looked


def test_a_variant_that_has_no_answer_says_why(tmp_path: Path) -> None:
    odd = spotter([Seen(0, 0.9, (np.inf, 32, 16, 24)), Seen(1, 0.8, (30, 30, 10, 12))])
    engine = loaded(spotter_folder(tmp_path / "odd", model=odd))
    black = np.zeros((64, 64), dtype=np.uint8)

    looked = variants(engine, black, detected(engine, engine.prepare(black)).detections)

    assert {"detections": 0, "best": 0.0} == looked["blank"]
    assert "non_finite: " in looked["noise"]["error"]
    assert {"agree": 0, "of": 0} == looked["framed"]
    with pytest.raises(NonFinite):
        detected(engine, engine.prepare(black + 255))


def test_the_sample_is_drawn_where_that_is_wanted(tmp_path: Path) -> None:
    folder = blob_folder(tmp_path / "blob")
    (tmp_path / "red.png").write_bytes(image_of(RED))

    plain, drawn = (examine(loaded(folder), folder, tmp_path / "red.png", draw=draw) for draw in (False, True))

    assert "drawing" not in plain
    assert {"blank", "noise", "swapped", "turned", "framed"} == set(plain["variants"])
    with Image.open(BytesIO(base64.b64decode(drawn["drawing"]))) as picture:
        assert (400, 240) == picture.size
        left, top = (round(side * 4) for side in drawn["sample"]["detections"][0]["box"][:2])
        assert colour_of(0) == picture.getpixel((left, top + 40))


def test_of_noise_there_is_nothing_to_draw(tmp_path: Path) -> None:
    folder = blob_folder(tmp_path / "blob")

    assert not {"variants", "drawing"} & set(examine(loaded(folder), folder, None, draw=True))
