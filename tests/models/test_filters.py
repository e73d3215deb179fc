"""gaussian_blur and edges, through the queue and back: pictures in, pictures out, equal to what scipy makes of them."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from convq import Client
from convq.repository.model_folders import default_root
from servers import CI, OwnServer, wait_until
from services import Plain, RunningService, models_served

ndimage: Any = importlib.import_module("scipy.ndimage") if CI else pytest.importorskip("scipy.ndimage")

FILTERS = ["edges", "gaussian_blur"]
SOBEL_X = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
ROUNDED = 0.501  # levels: a picture holds whole ones
LAPLACIAN = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server whose service has announced both filters."""
    with OwnServer(tmp_path_factory.mktemp("server")) as server:
        with RunningService(server.url, "--only", ",".join(FILTERS), workers=1), Plain(server.url) as plain:
            wait_until(lambda: FILTERS == sorted(models_served(plain)))
            yield server.url


@pytest.fixture(scope="module", params=[(150, 211), (1, 1), (2, 90)], ids=str)
def picture(request: pytest.FixtureRequest) -> Pixels:
    """Noise on slopes: uint8 [h, w, 3]. The smallest is all border."""
    height, width = request.param
    down, right = np.mgrid[0:height, 0:width]
    slopes = np.stack([down, right, down + right], axis=-1) * 0.6
    return np.clip(slopes + np.random.default_rng(height).normal(40, 30, (height, width, 3)), 0, 255).astype(np.uint8)


def filtered(url: str, model: str, picture: Pixels, folder: Path) -> Pixels:
    """What `convq submit` writes for it."""
    Image.fromarray(picture).save(folder / "picture.png")
    command = [
        "submit",
        folder / "picture.png",
        "--redis",
        url,
        "--model",
        model,
        "--save-maps",
        folder / "maps",
        "--json",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "convq", *map(str, command)], capture_output=True, timeout=250, check=True
    )
    (saved,) = json.loads(done.stdout)["saved"]
    with Image.open(saved) as image:
        assert "RGB" == image.mode
        return np.asarray(image)


def correlated(picture: Pixels, kernel: NDArray[Any]) -> NDArray[Any]:
    """The maps of red, green and blue under one kernel, added."""
    return sum(ndimage.correlate(picture[..., channel].astype(float), kernel, mode="nearest") for channel in range(3))


def levels(values: NDArray[Any]) -> NDArray[Any]:
    return np.clip(values, 0, 255)


def test_a_blurred_picture_is_what_scipy_blurs_to_the_nearest_level(url: str, picture: Pixels, tmp_path: Path) -> None:
    blurred = filtered(url, "gaussian_blur", picture, tmp_path)

    expected = ndimage.gaussian_filter(picture.astype(float), sigma=(2, 2, 0), mode="nearest", truncate=3)
    assert picture.shape == blurred.shape
    assert ROUNDED >= np.abs(expected - blurred).max()


def test_the_edges_of_a_picture_are_those_of_scipy_with_gray_for_none(
    url: str, picture: Pixels, tmp_path: Path
) -> None:
    edges = filtered(url, "edges", picture, tmp_path)

    for channel, kernel in enumerate((SOBEL_X, SOBEL_X.T, LAPLACIAN)):
        expected = levels(128 + correlated(picture, kernel) / 12)
        assert ROUNDED >= np.abs(expected - edges[..., channel]).max()


def test_the_numbers_behind_the_edges_come_as_a_feature_map(url: str, picture: Pixels) -> None:
    with Client(url, model="edges") as client:
        job = client.submit(Image.fromarray(picture), outputs=["maps"])
        outputs = {output.name: output for output in client.result(job, timeout=20).outputs or ()}

    maps = outputs["maps"].array()
    expected = np.stack([correlated(picture, kernel) for kernel in (SOBEL_X, SOBEL_X.T, LAPLACIAN)])
    assert expected.shape == maps.shape
    assert np.array_equal(expected, maps)


def test_an_even_picture_has_no_edges_and_is_not_changed_by_blurring(url: str, tmp_path: Path) -> None:
    even = np.full((30, 20, 3), (200, 90, 3), dtype=np.uint8)

    assert np.array_equal(np.full_like(even, 128), filtered(url, "edges", even, tmp_path))
    assert np.array_equal(even, filtered(url, "gaussian_blur", even, tmp_path))


@pytest.mark.parametrize("model", FILTERS)
def test_reports_of_fixed_networks_say_that_they_are_those_networks(model: str) -> None:
    report = json.loads((default_root() / model / "1" / "report.json").read_text())

    assert 1e-4 > max(report["max_difference"].values())
    assert {"edges": 81, "gaussian_blur": 507}[model] == report["parameters"]
