"""The pictures that models warm up with are drawn, not found: the script that draws them gives these very pixels."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image

MODELS = Path(__file__).resolve().parents[2] / "models"


def test_every_drawn_sample_is_what_the_script_draws() -> None:
    spec = importlib.util.spec_from_file_location("samples", MODELS / "samples.py")
    assert spec is not None
    assert spec.loader is not None
    samples = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(samples)

    assert 3 == len(samples.PICTURES)
    for name, draw in samples.PICTURES.items():
        with Image.open(MODELS / name) as image:
            assert np.array_equal(draw(), np.asarray(image)), name
