"""What a convolution sees: feature maps through the running service, and as pictures by the command line."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from PIL import Image

from convq.client import Client
from convq.protocol import decode_result
from servers import OwnServer, wait_until
from services import MODELS, Plain, RunningService, digits, tensor_of

SEVEN = MODELS / "lenet" / "sample" / "seven.png"


@pytest.fixture
def url(service: RunningService, service_server: OwnServer) -> str:
    """Where lenet is served and announced."""
    assert service.process.poll() is None
    with Client(service_server.url) as client:
        wait_until(lambda: client.served().get("lenet"))
    return service_server.url


def direct(name: str, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What onnxruntime gives for digits of 28 x 28."""
    file = MODELS / "lenet" / "1" / "features.onnx"
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    batch = np.pad(images, ((0, 0), (2, 2), (2, 2)))[:, None]
    made: NDArray[np.float32] = session.run([name], {"image": batch})[0]
    return made


def fields(digit: NDArray[np.uint8], **more: str) -> dict[str, Any]:
    return {"tensor": tensor_of(digit), "dtype": "uint8", "shape": "1,32,32", **more}


def test_each_job_of_a_batch_gets_the_maps_that_it_asked_for_and_no_others(plain: Plain) -> None:
    wishes = ["", "conv1", "conv2,conv1", "logits", "conv2"]
    asked = [wishes[i % len(wishes)] for i in range(60)]
    jobs = [fields(digit, **({"outputs": wish} if wish else {})) for digit, wish in zip(digits(), asked, strict=False)]

    results = [plain.answer(job) for job in plain.burst(jobs)]

    expected = {name: direct(name, digits()[:60]) for name in ("logits", "conv1", "conv2")}
    assert 1 < max(result.batch or 0 for result in results)
    for i, (wish, result) in enumerate(zip(asked, results, strict=True)):
        names = [name for name in wish.split(",") if name]
        assert names == [output.name for output in result.outputs or ()]
        assert str(expected["logits"][i].argmax()) == result.label
        for name in names:
            np.testing.assert_allclose(expected[name][i], result.output(name).array(), rtol=1e-3, atol=1e-4)


def test_maps_are_announced_with_their_shapes(url: str) -> None:
    with Client(url) as client:
        said = client.served()["lenet"]["outputs"]

    assert [
        ("logits", "classes", [10]),
        ("conv1", "feature_map", [6, 30, 30]),
        ("conv2", "feature_map", [16, 13, 13]),
    ] == [(one["name"], one["meaning"], one["shape"]) for one in said]


# -- convq submit ------------------------------------------------------------------------------------------------------


def submit(url: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "convq", "submit", *map(str, arguments), "--redis", url]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=250)


def on_terminal(url: str, *arguments: str | Path) -> str:
    """What a person sees who stands in the folder of the picture, on a terminal of 80 columns."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "convq", "submit", *map(str, arguments), "--redis", url]
    with subprocess.Popen(command, stdout=follower, cwd=SEVEN.parent, env=os.environ | {"TERM": "dumb"}) as process:
        os.close(follower)
        screen = b""
        try:
            while chunk := os.read(leader, 65536):
                screen += chunk
        except OSError:  # how Linux says that the other end is closed
            pass
    os.close(leader)
    assert 0 == process.returncode
    return screen.decode().replace("\r\n", "\n")


def test_submit_writes_a_grid_for_every_map_that_was_asked_for(url: str, tmp_path: Path) -> None:
    done = submit(url, SEVEN, "--outputs", "conv1,conv2", "--save-maps", tmp_path)

    assert 0 == done.returncode, done.stderr
    (document,) = map(json.loads, done.stdout.splitlines())
    assert [str(tmp_path / f"seven.{name}.png") for name in ("conv1", "conv2")] == document.pop("saved")
    result = decode_result(json.dumps({key: value for key, value in document.items() if key != "file"}))
    for name, count in (("conv1", 6), ("conv2", 16)):
        assert count == len(result.output(name).array())
        with Image.open(tmp_path / f"seven.{name}.png") as grid:
            assert tiles_in(np.asarray(grid), result.output(name).array()) == count


def tiles_in(grid: NDArray[np.uint8], maps: NDArray[np.float32]) -> int:
    """How many of the maps stand in the grid, each as its own levels from black to white, enlarged."""
    factor = 112 // maps.shape[1]
    found = 0
    for one in maps:
        levels = np.rint((one - one.min()) * (255 / (one.max() - one.min())))
        tile = np.kron(levels, np.ones((factor, factor)))
        spots = np.argwhere(np.isclose(grid, tile[0, 0], atol=1))
        found += any(
            (window := grid[y : y + tile.shape[0], x : x + tile.shape[1]]).shape == tile.shape
            and np.abs(window - tile).max() <= 1
            for y, x in spots
        )
    return found


def test_submit_on_a_terminal_says_what_came_and_where_it_went(url: str, tmp_path: Path) -> None:
    screen = on_terminal(url, SEVEN.name, "--outputs", "conv1,logits")

    (document,) = map(json.loads, submit(url, SEVEN, "--outputs", "logits").stdout.splitlines())
    document.pop("file")
    numbers = decode_result(json.dumps(document)).output("logits").array()
    header, row, second, *more = screen.splitlines()
    assert ["file", "class", "score", "outputs", "ms"] == header.split()
    assert ["7", "100.0%", "conv1", "float32", "6x30x30"] == row.split()[-6:-1]
    kind, _, first = " ".join(line.strip() for line in (second, *more)).partition(": ")
    assert ["logits", "float32", "10"] == kind.split()
    shown = [float(word) for word in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", first)]
    assert numbers[: len(shown)].tolist() == pytest.approx(shown, rel=1e-4)
    assert shown

    saved = on_terminal(url, SEVEN.name, "--outputs", "conv1", "--save-maps", tmp_path / "maps")
    assert f"1 file written to {tmp_path / 'maps'}" in saved.replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--outputs", "conv1,logits"], "logits is no map: its shape is 10; expected channels x height x width"),
        ([], "this model gives no image and no map by itself; name some with --outputs: conv1, conv2"),
        (["--outputs", "conv1", "--no-wait"], "--save-maps needs the results: leave --no-wait out"),
    ],
)
def test_submit_refuses_to_save_what_is_no_map(url: str, tmp_path: Path, arguments: list[str], expected: str) -> None:
    done = submit(url, SEVEN, "--save-maps", tmp_path / "maps", *arguments)

    assert (2, 1) == (done.returncode, len(done.stderr.splitlines()))
    assert expected in done.stderr
    assert not (tmp_path / "maps").exists()


def test_submit_says_in_one_line_that_a_folder_cannot_be_made(url: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    done = submit(url, SEVEN, "--outputs", "conv1", "--save-maps", tmp_path / "file" / "maps")

    assert (2, 1) == (done.returncode, len(done.stderr.splitlines()))
    assert f"cannot make {tmp_path / 'file' / 'maps'}: Not a directory" in done.stderr


def test_the_help_of_submit_teaches_what_maps_are(url: str) -> None:
    page = submit(url, "--help").stdout

    assert "convq submit seven.png --outputs conv1,conv2 --save-maps maps/" in page
