"""PNG files of 16 bits a level; those of 8 are asked about with the image outputs."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from convq.answers.png import png


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (37, 53)])
def test_a_gray_file_of_16_bits_holds_exactly_these_levels(shape: tuple[int, int]) -> None:
    levels = np.random.default_rng(3).integers(0, 65536, shape, dtype=np.uint16)

    with Image.open(BytesIO(png(levels))) as image:
        assert "I;16" == image.mode
        np.testing.assert_array_equal(levels, np.asarray(image))
