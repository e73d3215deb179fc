"""digits_detector: what the service answers is what PyTorch's network means, and it finds what there is to be found."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from convq import Client, Result
from convq.repository.manifest import Manifest
from convq.repository.model_folders import default_root
from servers import OwnServer, wait_until
from services import Plain, RunningService, models_served

FOLDER = default_root() / "digits_detector"
NAME = FOLDER.name
PARITY = 1e-4
SEED = 41
PICTURES = 32
HUNDREDTH = 0.011  # boxes come with two decimals

Levels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with OwnServer(tmp_path_factory.mktemp("server")) as server:
        with RunningService(server.url, only=NAME, workers=1), Plain(server.url) as plain:
            wait_until(lambda: [NAME] == list(models_served(plain)))
            yield server.url


@pytest.fixture(scope="module")
def scattered(script: Any) -> Any:
    return script("scattered")


@pytest.fixture(scope="module")
def canvases(script: Any, scattered: Any) -> list[Any]:
    """Pictures of digits that the network was not trained on, and the truth."""
    scatter = scattered.Scatter(scattered.Digits(*script("data").shipped()), SEED)
    return [scatter.canvas() for _ in range(PICTURES)]


@pytest.fixture(scope="module")
def answers(url: str, canvases: list[Any]) -> list[Result]:
    """What the service says of them."""
    with Client(url, model=NAME) as client:
        return list(client.map([file_of(canvas.image) for canvas in canvases]))


@pytest.fixture(scope="module")
def net(script: Any) -> Any:
    made = script("digits_detector.net").DigitsDetector()
    made.load_state_dict(script("safetensors.torch").load_file(FOLDER / "weights.safetensors"))
    return made.eval()


def file_of(image: Levels) -> bytes:
    file = BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def ran(net: Any, image: Levels) -> dict[str, NDArray[Any]]:
    """The network's outputs for one picture, in PyTorch."""
    import torch  # noqa: PLC0415 - the fixture `net` has skipped where there is none

    with torch.no_grad():
        pixels = (torch.from_numpy(image.copy())[None, None].float() / 255 - net.mean) / net.std
        return {name: made[0].numpy() for name, made in net(pixels).items()}


def decoded(rows: NDArray[Any], cells_wide: int) -> list[tuple[float, int, list[float], NDArray[Any]]]:
    """Score, class, box and weights of what is found, best first, in plain loops: as net.py and the manifest say."""
    spec = Manifest.read(FOLDER).detections
    assert spec is not None
    settings = spec.given()
    assert "agnostic" == settings["nms"]
    candidates = []
    for number, row in enumerate(rows.astype(float)):
        best = int(np.argmax(row[4:14]))
        score = 1 / (1 + math.exp(-row[4 + best]))
        if score >= settings["min_score"]:
            x, y = (number % cells_wide + row[0]) * 8, (number // cells_wide + row[1]) * 8
            w, h = math.exp(row[2]) * 8, math.exp(row[3]) * 8
            candidates.append((score, best, [x - w / 2, y - h / 2, x + w / 2, y + h / 2], row[14:]))
    kept: list[Any] = []
    for one in sorted(candidates, key=lambda candidate: -candidate[0]):
        if all(overlap(one[2], other[2]) <= settings["iou"] for other in kept):
            kept.append(one)
    return kept


def overlap(one: list[float], other: list[float]) -> float:
    """Intersection over union."""
    w = min(one[2], other[2]) - max(one[0], other[0])
    h = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(w, 0.0) * max(h, 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared)


def cut(box: list[float], image: Levels) -> list[float]:
    """To the picture."""
    height, width = image.shape
    limits = (width, height, width, height)
    return [min(max(side, 0.0), most) for side, most in zip(box, limits, strict=True)]


def test_the_network_is_as_large_as_the_page_says_and_takes_any_multiple_of_16(net: Any) -> None:
    made = ran(net, np.zeros((48, 80), np.uint8))

    assert 78_358 == sum(weights.numel() for weights in net.parameters())
    assert {"cells": (6 * 10, 22), "prototypes": (8, 24, 40)} == {name: one.shape for name, one in made.items()}


def test_served_boxes_are_those_of_a_plain_decoder_of_pytorchs_numbers(
    net: Any, canvases: list[Any], answers: list[Result]
) -> None:
    for canvas, answer in zip(canvases, answers, strict=True):
        expected = decoded(ran(net, canvas.image)["cells"], canvas.image.shape[1] // 8)

        assert answer.detections is not None
        assert [best for _, best, _, _ in expected] == [one.index for one in answer.detections]
        for (score, _, box, _), one in zip(expected, answer.detections, strict=True):
            assert PARITY > abs(score - one.score)
            np.testing.assert_allclose(one.box, cut(box, canvas.image), atol=HUNDREDTH)


def test_served_masks_are_those_of_the_weighted_prototypes(
    net: Any, canvases: list[Any], answers: list[Result]
) -> None:
    torch: Any = pytest.importorskip("torch")
    for canvas, answer in zip(canvases, answers, strict=True):
        made = ran(net, canvas.image)
        for (_, _, _, weights), one in zip(
            decoded(made["cells"], canvas.image.shape[1] // 8), answer.detections or (), strict=True
        ):
            sums = torch.from_numpy(np.tensordot(weights, made["prototypes"].astype(float), axes=1))
            sums = torch.nn.functional.interpolate(sums[None, None], scale_factor=2, mode="bilinear")[0, 0].numpy()
            down, across = np.indices(sums.shape) + 0.5
            x1, y1, x2, y2 = one.box
            inside = (across >= x1) & (across < x2) & (down >= y1) & (down < y2)
            settled = np.abs(sums) > PARITY * np.abs(sums).max()  # on which side of 0 the rest lies is rounding

            assert one.mask is not None
            np.testing.assert_array_equal(((sums > 0) & inside)[settled], one.mask[settled])


def test_a_picture_of_odd_sides_is_filled_up_around_it_and_answered_in_its_own_pixels(
    net: Any, url: str, canvases: list[Any]
) -> None:
    busy = max(canvases, key=lambda canvas: len(canvas.labels))
    odd = np.pad(busy.image, ((0, 5), (3, 8)), mode="edge")
    with Client(url, model=NAME) as client:
        answer = client.classify(file_of(odd))

    left, top = (144 - 139) // 2, (144 - 133) // 2
    filled = np.pad(odd, ((top, 144 - 133 - top), (left, 144 - 139 - left)))
    expected = decoded(ran(net, filled)["cells"], 144 // 8)
    assert answer.image is not None
    assert (139, 133) == (answer.image.width, answer.image.height)
    assert answer.detections
    assert [best for _, best, _, _ in expected] == [one.index for one in answer.detections]
    for (_, _, (x1, y1, x2, y2), _), one in zip(expected, answer.detections, strict=True):
        box = [x1 - left, y1 - top, x2 - left, y2 - top]
        np.testing.assert_allclose(one.box, cut(box, odd), atol=HUNDREDTH)


def test_it_finds_most_digits_of_a_fixed_set_and_little_else(
    script: Any, canvases: list[Any], answers: list[Result]
) -> None:
    matching = script("matching")
    digits = found = right = 0
    for canvas, answer in zip(canvases, answers, strict=True):
        things = answer.detections or ()
        said = matching.Found(
            np.array([one.box for one in things]).reshape(-1, 4), np.array([one.index for one in things], int)
        )
        digits, found = digits + len(canvas.labels), found + len(things)
        right += len(matching.matched(said, canvas.boxes, canvas.labels))

    assert digits > 80
    assert right > 0.75 * digits
    assert right > 0.85 * found


def test_an_empty_picture_has_none_of_any_brightness(url: str) -> None:
    with Client(url, model=NAME) as client:
        for level in (0, 128, 255):
            answer = client.classify(file_of(np.full((128, 128), level, np.uint8)))
            assert ((), None) == (answer.detections, answer.truncated)


def test_the_sample_is_what_the_script_draws_and_its_best_is_the_golden_label(url: str, scattered: Any) -> None:
    warmup = Manifest.read(FOLDER).warmup
    assert warmup is not None
    file = FOLDER / str(warmup.sample)
    with Image.open(file) as image:
        assert np.array_equal(scattered.sample(), np.asarray(image))

    with Client(url, model=NAME) as client:
        answer = client.classify(file.read_bytes())

    assert answer.detections
    assert warmup.golden == answer.detections[0].label
    assert sorted("010526") == sorted(one.label for one in answer.detections)


def test_the_report_is_about_this_file_and_these_weights() -> None:
    report = json.loads((FOLDER / "1" / "report.json").read_text())
    model = (FOLDER / "1" / "model.onnx").read_bytes()

    assert hashlib.sha256(model).hexdigest() == report["sha256"]
    assert hashlib.sha256((FOLDER / "weights.safetensors").read_bytes()).hexdigest() == report["weights_sha256"]
    assert 78_358 == report["parameters"]
    assert PARITY > max(report["max_difference"].values())
    for trace in (b"/home/", b"/root/", b"/work/", b"/usr/", b"/tmp/", b"site-packages", b".py"):
        assert trace not in model


# -- what it learned from -----------------------------------------------------------------------------------------------


def test_the_truth_about_a_picture_fits_its_ink(scattered: Any, canvases: list[Any]) -> None:
    for canvas in canvases:
        assert (len(canvas.labels), 4) == canvas.boxes.shape
        for index, box in enumerate(canvas.boxes):
            down, right = np.nonzero(canvas.owners == index + 1)
            x1, y1, x2, y2 = box
            assert (x1, y1) <= (right.min(), down.min())
            assert (right.max(), down.max()) < (x2, y2)
            alone = all(overlap(list(box), list(other)) == 0 for at, other in enumerate(canvas.boxes) if at != index)
            if alone:
                assert [x1, y1, x2, y2] == [right.min(), down.min(), right.max() + 1, down.max() + 1]
    assert any(not len(canvas.labels) for canvas in canvases)
    assert max(len(canvas.labels) for canvas in canvases) > scattered.MOST - 2


def test_the_same_seed_draws_the_same_pictures(script: Any, scattered: Any, canvases: list[Any]) -> None:
    digits = scattered.Digits(*script("data").shipped())
    again, other = scattered.Scatter(digits, SEED), scattered.Scatter(digits, SEED + 1)

    assert all(np.array_equal(again.canvas().image, canvas.image) for canvas in canvases[:3])
    assert not np.array_equal(other.canvas().image, canvases[0].image)


def test_a_cell_that_answers_for_a_digit_can_say_exactly_its_box(script: Any, scattered: Any) -> None:
    training: Any = script("train_detector")
    scatter = scattered.Scatter(scattered.Digits(*script("data").shipped()), 5, training.SIDE_PX)
    canvases = [scatter.canvas() for _ in range(24)]
    batch = training.batched(canvases)
    torch: Any = script("torch")
    wide = training.SIDE_PX // 8
    corner = torch.stack([batch.cell % wide, batch.cell // wide], dim=1) * 8
    middle, size = (batch.box[:, :2] + batch.box[:, 2:]) / 2, batch.box[:, 2:] - batch.box[:, :2]
    said = torch.cat([(middle - corner) / 8, (size / 8).log()], dim=1)

    boxes = training.corners(said, batch.cell)

    assert {(number, index) for number, canvas in enumerate(canvases) for index in range(len(canvas.labels))} >= set(
        zip(batch.picture.tolist(), (batch.owner - 1).tolist(), strict=True)
    )
    torch.testing.assert_close(batch.box, boxes, atol=1e-3, rtol=0)
    iou, generalised = training.alike(boxes, batch.box)
    assert 0.999 < min(iou.min(), generalised.min())
    for number, canvas in enumerate(canvases):
        answering = (batch.picture == number).sum().item()
        assert len(canvas.labels) * 0.9 <= answering <= len(canvas.labels) * 4


def test_training_is_the_same_every_time(script: Any) -> None:
    training: Any = script("train_detector")
    torch: Any = script("torch")
    scattered: Any = script("scattered")

    def trained() -> Any:
        torch.manual_seed(3)
        net = script("digits_detector.net").DigitsDetector()
        training.train(net, scattered.Scatter(scattered.Digits(*script("data").shipped()), 3, training.SIDE_PX), 2)
        return torch.cat([weights.detach().flatten() for weights in net.parameters()])

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        first, second = trained(), trained()
    finally:
        torch.set_num_threads(before)

    assert torch.equal(first, second)
    assert torch.isfinite(first).all()


def test_each_thing_that_was_found_belongs_to_one_digit(script: Any) -> None:
    matching = script("matching")
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 11], [20, 20, 30, 30], [50, 50, 60, 60.0]])
    found = matching.Found(boxes, np.array([1, 1, 2, 1]))
    truth = np.array([[0, 0, 10, 10.0], [20, 20, 30, 30], [50, 54, 60, 64]])

    pairs = matching.matched(found, truth, np.array([1, 3, 1]))

    assert [(0, 0, 1.0)] == pairs  # a second one, another label, too small an overlap
    assert [] == matching.matched(found, np.empty((0, 4)), np.empty(0, int))
    assert [[1.0]] == matching.overlaps(truth[:1], truth[:1]).tolist()
