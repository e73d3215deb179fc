"""Image in, image out, through the running service and by the command line."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from numpy.typing import NDArray
from PIL import Image

from convq.client import Client
from onnx_models import FLOAT, blur, graph, identity, model_folder
from servers import OwnServer
from services import RunningService, image_of

PHOTO = np.random.default_rng(5).integers(0, 256, (9, 14, 3), dtype=np.uint8)
IMAGE = "[[outputs]]\nname = 'y'\nmeaning = 'image'\n"
SIDE: list[Any] = ["n", 3, "h", "w"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a server where `blur` blurs pictures, and `mirror` gives back numbers as a picture."""
    root = tmp_path_factory.mktemp("models")
    conv = [("Conv", ["x", "w"], ["y"], {"group": 3, "pads": [1, 1, 1, 1]})]
    blurring = graph(conv, [("x", FLOAT, SIDE)], [("y", FLOAT, SIDE)], {"w": blur()})
    model_folder(root / "blur", f"[input]\nresize = 'none'\n{IMAGE}", blurring)
    model_folder(root / "mirror", f"[input]\nresize = 'none'\n{IMAGE}scale = 255\n", identity(SIDE))
    with OwnServer(tmp_path_factory.mktemp("server")) as server:
        with RunningService(server.url, "--models", str(root), "--only", "blur,mirror", workers=1):
            yield server.url


def pixels_of(content: bytes) -> NDArray[np.uint8]:
    with Image.open(BytesIO(content)) as image:
        assert "PNG" == image.format
        return np.asarray(image)


def blurred(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The mean of every 3 x 3 neighbourhood, black beyond the border."""
    height, width, _ = pixels.shape
    padded = np.pad(pixels.astype(np.float64), ((1, 1), (1, 1), (0, 0)))
    nine = [padded[i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return np.asarray(np.mean(nine, axis=0))


def test_two_redis_commands_blur_a_picture(served: str) -> None:
    with redis.Redis.from_url(served) as plain:
        entry: Any = plain.xadd("convq:{blur}:jobs", {"image": image_of(PHOTO)})
        popped: Any = plain.blpop([f"convq:{{blur}}:result:{entry.decode()}"], timeout=15)
    document = json.loads(popped[1])
    (output,) = document["outputs"]

    assert "predictions" not in document
    assert {"name": "y", "format": "png"} == {key: output[key] for key in output if key != "data"}
    assert 1 >= np.abs(pixels_of(base64.b64decode(output["data"])) - blurred(PHOTO)).max()


def test_pictures_of_different_sizes_each_get_their_own(served: str) -> None:
    pictures = [PHOTO[: 3 + i, : 9 + i % 2] for i in range(6)]
    with Client(served, model="blur") as client:
        results = list(client.map([image_of(picture) for picture in pictures]))

    for picture, result in zip(pictures, results, strict=True):
        assert 1 >= np.abs(pixels_of(result.output("y").png()) - blurred(picture)).max()


def test_numbers_become_levels_and_what_is_not_finite_is_an_error_of_its_job(served: str) -> None:
    values = np.array([[[0.0, 0.5]], [[1.0, 2.0]], [[-1.0, 0.1]]], dtype=np.float32)
    with Client(served, model="mirror") as client:
        ids = client.submit_many([values, np.full_like(values, np.nan), np.full_like(values, np.inf)])
        fine, *bad = [client.result(job) for job in ids]

    assert [[[0, 255, 0], [128, 255, 26]]] == pixels_of(fine.output("y").png()).tolist()
    assert ["non_finite", "non_finite"] == [result.error.code if result.error else "" for result in bad]


def test_an_image_output_may_be_asked_for_by_name(served: str) -> None:
    with Client(served, model="blur") as client:
        result = client.classify(image_of(PHOTO), outputs="y")
        refused = next(client.map([image_of(PHOTO)], outputs="z"))

    assert "png" == result.output("y").format
    assert "unknown_output" == (refused.error.code if refused.error else "")


def test_submit_saves_what_the_model_gives_by_itself(served: str, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "photo.png").write_bytes(image_of(PHOTO))
    to = ["--redis", served, "--model", "blur", "--save-maps", str(tmp_path / "out" / "deep")]
    done = subprocess.run(
        [sys.executable, "-m", "convq", "submit", str(tmp_path / "a"), str(tmp_path / "b"), *to],
        capture_output=True,
        text=True,
        check=True,
    )

    said = [json.loads(line) for line in done.stdout.splitlines()]
    saved = [path for one in said for path in one["saved"]]
    assert [str(tmp_path / "out" / "deep" / name) for name in ("photo.y.png", "photo.y-2.png")] == saved
    for one, path in zip(said, saved, strict=True):
        assert base64.b64decode(one["outputs"][0]["data"]) == Path(path).read_bytes()
