"""torchvision's detectors, by one command: what is served is what they find themselves, in the same picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from convq.answers.detections import Detections, Wanted
from convq.engine.engine import Engine
from convq.exporter.exporting import export
from convq.importer.exporting import ExportRequest

pytest.importorskip("torchvision")
import torch
from torchvision.models import detection
from torchvision.transforms.functional import to_tensor

DETECTORS: dict[str, dict[str, Any]] = {
    "fasterrcnn_mobilenet_v3_large_320_fpn": {"num_classes": 5},
    "retinanet_resnet50_fpn": {"num_classes": 5, "min_size": 160, "max_size": 240},
    "ssdlite320_mobilenet_v3_large": {"num_classes": 5},
}
IOU, SCORE = 0.95, 0.01


def drawn(width: int, height: int) -> Image.Image:
    """Something that a network with random weights sees differently from place to place."""
    random = np.random.default_rng(8)
    small = Image.fromarray(random.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    image = small.resize((width, height), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    for _ in range(12):
        x, y, side = map(int, random.integers(0, (width, height, 90)))
        pen.rectangle((x, y, x + side, y + side), fill=tuple(map(int, random.integers(0, 256, 3))))
    return image


def unlike(name: str, arguments: dict[str, Any]) -> Any:
    """A network whose answers differ from place to place: its norms have seen noise, and its last layers are not zero."""
    torch.manual_seed(3)
    net: Any = getattr(detection, name)(weights=None, weights_backbone=None, **arguments)
    for part, values in net.named_parameters():
        if any(word in part for word in ("cls", "class", "bbox")):
            torch.nn.init.normal_(values, std=0.03 if values.dim() > 1 else 0.5)
    net.train()
    for part in net.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = None  # an average over all that it sees
    with torch.no_grad():
        for _ in range(4):
            found = list(net.backbone(torch.randn(2, 3, 256, 320)).values())
            if hasattr(net, "head"):
                net.head(found)
    return net.eval()


def iou(one: NDArray[Any], others: NDArray[Any]) -> NDArray[Any]:
    """Of a box [4] and each of [k, 4]."""
    corners = np.minimum(one[2:], others[:, 2:]) - np.maximum(one[:2], others[:, :2])
    common = np.clip(corners, 0, None).prod(axis=1)
    return np.asarray(common / ((one[2:] - one[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1) - common))


@pytest.mark.parametrize("name", DETECTORS)
def test_what_is_served_is_what_the_network_finds(tmp_path: Path, name: str) -> None:
    arguments = DETECTORS[name]
    net = unlike(name, arguments)
    torch.save(net.state_dict(), tmp_path / "w.pth")
    given = {"weights_backbone": None, **arguments}
    request = ExportRequest(
        f"torchvision.models.detection:{name}", str(tmp_path / "models"), str(tmp_path / "w.pth"), arguments=given
    )
    made = export(request)
    picture = drawn(451, 300)
    picture.save(tmp_path / "picture.png")

    engine = Engine.load(made.path, 1, device="cpu")
    prepared = engine.prepare(engine.decode((tmp_path / "picture.png").read_bytes()))
    assert engine.detector is not None
    assert prepared.placement is not None
    size = engine.detector.size_of(prepared.shape)
    (found,) = engine.detector.detect(engine.run([prepared], ()), [Wanted(prepared.placement)], size)
    with torch.no_grad():
        (expected,) = net([to_tensor(picture)])
    expected = {key: value.numpy() for key, value in expected.items()}

    assert isinstance(found, Detections)
    assert ["class 0", "class 1", "class 2", "class 3"] == list(engine.detector.labels)
    assert len(expected["scores"]) >= 20
    # Ours is resized as whole levels, so scores differ a little, and the last of those that fit may be others.
    sure = expected["scores"] > expected["scores"].min() + SCORE
    unmatched = 0
    for box, label, score in zip(
        expected["boxes"][sure], expected["labels"][sure], expected["scores"][sure], strict=True
    ):
        like = (found.classes == label - 1) & (iou(box, found.boxes) >= IOU) & (np.abs(found.scores - score) <= SCORE)
        unmatched += not like.any()
    assert unmatched <= 0.02 * sure.sum(), f"{unmatched} of {sure.sum()}"
