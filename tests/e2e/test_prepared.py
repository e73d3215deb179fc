"""What the network was given: `prepared` in `outputs`, and the pictures of it that `convq submit --save-input` writes.

The networks here give back their input, so each result holds the proof: what the worker says that it fed, and what came out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from convq.client import Client
from convq.protocol import PREPARED, Result
from onnx_models import FLOAT, UINT8, graph, identity, model_folder
from servers import OwnServer, wait_until
from services import RunningService, image_of

RNG = np.random.default_rng(11)
PHOTO = RNG.integers(0, 256, (30, 44, 3), dtype=np.uint8)
GRAY = RNG.integers(0, 256, (20, 20), dtype=np.uint8)
MEAN_STD = "scale = 0.00392156862745098\nmean = [0.485, 0.456, 0.406]\nstd = [0.229, 0.224, 0.225]\n"
NCHW: list[Any] = ["n", 3, 16, 16]
NHWC: list[Any] = ["n", 16, 16, 3]
MODELS: dict[str, tuple[str, bytes]] = {
    "levels": ("", identity(NCHW, UINT8)),
    "numbers": (f"resize = 'crop'\nshort_side = 20\n{MEAN_STD}", identity(NCHW)),
    "bgr_last": ("color = 'bgr'\nlayout = 'NHWC'\nmean = [104, 117, 123]\n", identity(NHWC)),
    "letterbox": ("resize = 'letterbox'\npad_value = 114\nscale = 0.00392156862745098\n", identity(NCHW)),
    "gray": ("color = 'gray'\n", identity(["n", 1, 16, 16], UINT8)),
    "free": ("resize = 'none'\nscale = 0.5\n", identity(["n", 3, "h", "w"])),
    "rows": ("color = 'none'\n", identity(["n", 5])),
    "own": ("", graph([("Neg", ["x"], [PREPARED])], [("x", FLOAT, NCHW)], [(PREPARED, FLOAT, NCHW)])),
    "first": ("resize = 'none'\n", graph(
        [("ArgMax", ["x"], ["y"], {"axis": 1, "keepdims": 0})], [("x", FLOAT, ["n", 3, 2, 2])], [("y", 7, ["n", 2, 2])]
    )),
}  # fmt: skip


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server where each of these gives back what it gets."""
    root = tmp_path_factory.mktemp("models")
    for name, (lines, model) in MODELS.items():
        model_folder(root / name, f"[input]\n{lines}", model)
    with OwnServer(tmp_path_factory.mktemp("server")) as server:
        with RunningService(server.url, "--models", str(root), workers=1, only=None):
            with Client(server.url) as client:
                wait_until(lambda: set(MODELS) <= set(client.served()))
            yield server.url


def turned(pixels: NDArray[np.uint8], orientation: int) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    return image_of(pixels, exif=exif)


def given(result: Result) -> NDArray[Any]:
    return result.output(PREPARED).array()


@pytest.mark.parametrize("model", ["levels", "numbers", "bgr_last", "letterbox", "free"])
def test_it_is_what_the_network_got_bit_for_bit(url: str, model: str) -> None:
    pictures = [image_of(PHOTO), turned(PHOTO, 6), image_of(PHOTO[:, :, 0]), image_of(PHOTO[:9, :9])]
    with Client(url, model=model) as client:
        results = list(client.map(pictures, outputs=f"y,{PREPARED}"))

    for result in results:
        assert ["y", PREPARED] == [one.name for one in result.outputs or ()]
        assert result.output("y") == result.output(PREPARED).model_copy(update={"name": "y"})
    assert len({given(result).tobytes() for result in results}) == len(pictures)


def test_tensors_come_back_as_they_went_in_and_levels_as_the_numbers_they_became(url: str) -> None:
    numbers = RNG.normal(size=(3, 16, 16)).astype(np.float32)
    levels = PHOTO[:16, :16].transpose(2, 0, 1)
    with Client(url) as client:
        as_it_is = client.classify(numbers, "numbers", outputs=PREPARED)
        scaled = client.classify(np.ascontiguousarray(levels), "numbers", outputs=PREPARED)
        row = client.classify(np.arange(5, dtype=np.float32), "rows", outputs=PREPARED)

    assert np.array_equal(numbers, given(as_it_is))
    mean, std = (np.array(part)[:, None, None] for part in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    np.testing.assert_allclose((levels / 255 - mean) / std, given(scaled), rtol=1e-5, atol=1e-6)
    assert [0, 1, 2, 3, 4] == given(row).tolist()


def test_in_a_batch_only_those_get_it_who_asked_each_its_own(url: str) -> None:
    arrays = [np.full((3, 16, 16), i, dtype=np.float32) for i in range(40)]
    with Client(url, model="numbers") as client:
        ids = [client.submit(one, outputs=PREPARED if i % 3 else None) for i, one in enumerate(arrays)]
        results = [client.result(job) for job in ids]

    for i, result in enumerate(results):
        assert [PREPARED if i % 3 else "y"] == [one.name for one in result.outputs or ()]
        assert result.outputs
        assert np.array_equal(arrays[i], result.outputs[0].array())


def test_an_output_of_the_graph_of_that_name_wins(url: str) -> None:
    array = np.ones((3, 16, 16), dtype=np.float32)
    with Client(url, model="own") as client:
        assert np.array_equal(-array, given(client.classify(array, outputs=PREPARED)))


def test_an_input_that_is_not_finite_may_be_looked_at_where_the_answer_is(url: str) -> None:
    array = np.full((3, 2, 2), np.nan, dtype=np.float32)
    with Client(url, model="first") as client:
        result = client.classify(array, outputs=PREPARED)

    assert np.isnan(given(result)).all()


# -- convq submit --save-input -------------------------------------------------------------------------------------------


def submit(url: str, *arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "convq", "submit", *map(str, arguments), "--redis", url]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=250, **options)


def documents(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def seen(document: dict[str, Any], folder: Path) -> NDArray[np.uint8]:
    """The picture that was written for a job, as RGB or gray."""
    assert str(folder / f"{document['id']}.png") == document["input"]["png"]
    with Image.open(document["input"]["png"]) as picture:
        return np.asarray(picture)


def expected(photo: Image.Image, model: str) -> NDArray[np.uint8]:
    """What the manifest says, done by Pillow alone."""
    filled = Image.Resampling.BILINEAR
    if model == "numbers":
        small = photo.resize((int(20 * 44 / 30), 20), filled)
        return np.asarray(small.crop((round((29 - 16) / 2), 2, round((29 - 16) / 2) + 16, 18)))
    if model == "letterbox":
        inner = np.asarray(photo.resize((16, 11), filled))
        return np.pad(inner, ((2, 3), (0, 0), (0, 0)), constant_values=114)
    return np.asarray(photo if model == "free" else photo.resize((16, 16), filled))


@pytest.mark.parametrize("model", ["levels", "numbers", "bgr_last", "letterbox", "free"])
def test_the_picture_shows_the_levels_that_went_in_as_people_see_them(url: str, model: str, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(image_of(PHOTO))

    done = submit(url, tmp_path / "photo.png", "--model", model, "--save-input", tmp_path / "new" / "seen", "--npy")

    assert 0 == done.returncode, done.stderr
    (document,) = documents(done)
    assert "levels" == document["input"]["drawn"]
    assert ["y"] == [one["name"] for one in document["outputs"]]
    assert np.array_equal(expected(Image.fromarray(PHOTO), model), seen(document, tmp_path / "new" / "seen"))
    network = np.load(document["input"]["npy"])
    y = document["outputs"][0]
    assert (y["dtype"], y["shape"]) == (network.dtype.name, list(network.shape))
    assert Result.model_validate(document | {"outputs": [y]}).output("y").bytes() == network.tobytes()


def test_it_goes_together_with_what_else_is_asked_for(url: str, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(image_of(PHOTO))
    inputs: list[str | Path] = [tmp_path / "photo.png", "--model", "levels", "--save-input", tmp_path / "in"]

    (plain,) = documents(submit(url, *inputs, "--save-maps", tmp_path / "maps"))
    (asked,) = documents(submit(url, *inputs, "--outputs", PREPARED))

    assert [str(tmp_path / "maps" / "photo.y.png")] == plain["saved"]
    assert (["y"], [PREPARED]) == tuple([one["name"] for one in said["outputs"]] for said in (plain, asked))
    assert np.array_equal(seen(plain, tmp_path / "in"), seen(asked, tmp_path / "in"))


def test_sixteen_bits_and_a_turned_photograph_are_seen_as_eight_bits_and_upright(url: str, tmp_path: Path) -> None:
    wide = (GRAY.astype(np.uint16) << 8) + GRAY
    Image.fromarray(wide).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(turned(GRAY[:, :10], 8))

    done = submit(url, tmp_path / "a.png", tmp_path / "b.png", "--model", "gray", "--save-input", tmp_path / "out")

    sixteen, upright = (seen(document, tmp_path / "out") for document in documents(done))
    small = Image.Resampling.BILINEAR
    assert np.array_equal(np.asarray(Image.fromarray(GRAY).resize((16, 16), small)), sixteen)
    assert np.array_equal(np.asarray(Image.fromarray(np.rot90(GRAY[:, :10])).resize((16, 16), small)), upright)


def test_each_of_many_is_named_by_its_job_and_what_fails_leaves_nothing(url: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i in range(70):
        (tmp_path / "in" / f"{i:03}.png").write_bytes(image_of(np.full((4, 4, 3), i, dtype=np.uint8)))
    (tmp_path / "in" / "033.png").write_bytes(b"no picture")

    done = submit(url, tmp_path / "in", "--model", "levels", "--save-input", tmp_path / "out")

    assert 1 == done.returncode
    said = documents(done)
    assert ["033.png"] == [Path(one["file"]).name for one in said if "input" not in one]
    for i, document in enumerate(said):
        assert i == 33 or (i, 16, 16) == (seen(document, tmp_path / "out")[0, 0, 0], *document["input"]["shape"][1:])
    assert 69 == len(list((tmp_path / "out").iterdir()))


def refused(url: str, tmp_path: Path, *arguments: str | Path, **options: Any) -> str:
    (tmp_path / "photo.png").write_bytes(image_of(PHOTO))
    done = submit(url, tmp_path / "photo.png", *arguments, **options)
    assert (2, "", 1) == (done.returncode, done.stdout, len(done.stderr.splitlines())), done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--model", "levels", "--save-input", "{}/photo.png/x"], "cannot make"),
        (["--model", "levels", "--save-input", "/proc/self/fd"], "cannot write into /proc/self/fd"),
        (["--model", "levels", "--save-input", "{}/x", "--no-wait"], "--save-input needs the results"),
        (["--model", "levels", "--npy"], "--npy belongs to --save-input DIR"),
        (["--model", "own", "--save-input", "{}/x"], "this model has an output prepared of its own"),
    ],
)
def test_a_folder_that_cannot_be_used_is_known_before_anything_is_submitted(
    url: str, tmp_path: Path, arguments: Sequence[str], reason: str
) -> None:
    assert reason in refused(url, tmp_path, *(one.format(tmp_path) for one in arguments))


RUN_WITH_SMALL_FILES = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
os.execv(sys.executable, [sys.executable, "-m", "convq", *sys.argv[1:]])
"""
RUN_WITHOUT_ENGINE = """
import sys
sys.modules.update(dict.fromkeys(["numpy", "PIL", "onnxruntime"]))
from convq.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_machine_that_has_the_client_alone_can_do_this_too(url: str, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(image_of(PHOTO))
    command = [sys.executable, "-c", RUN_WITHOUT_ENGINE, "submit", str(tmp_path / "photo.png"), "--redis", url]

    done = subprocess.run(
        [*command, "--model", "levels", "--save-input", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )

    assert 0 == done.returncode, done.stderr
    assert np.array_equal(expected(Image.fromarray(PHOTO), "levels"), seen(documents(done)[0], tmp_path / "out"))


def test_a_folder_that_is_full_does_not_cost_the_answers(url: str, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(image_of(PHOTO))
    (tmp_path / "out").mkdir()
    limited = [sys.executable, "-c", RUN_WITH_SMALL_FILES, "submit", str(tmp_path / "photo.png"), "--redis", url]

    done = subprocess.run(
        [*limited, "--model", "levels", "--save-input", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )

    assert 1 == done.returncode
    assert [("ok", True)] == [(one["status"], "input" not in one) for one in documents(done)]
    assert f"cannot write {tmp_path / 'out'}" in done.stderr
    assert [] == list((tmp_path / "out").iterdir())
