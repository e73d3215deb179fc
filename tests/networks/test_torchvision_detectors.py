"""torchvision's detectors, by one command: what is served is what they find themselves, in the same picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from convq.answers.detections import Detections, Wanted
from convq.engine.engine import Engine
from convq.exporter.detectors import as_served
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
CLOSE_PX, CLOSE_SCORES = 0.05, 1e-4
LEVEL = 1.01 / 255
"""A pixel is a whole level here, and a number between two in torchvision: rounding, and a filter in another precision."""


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


@pytest.mark.parametrize("name", DETECTORS)
def test_what_is_served_is_what_the_network_finds(tmp_path: Path, name: str) -> None:
    """Its input is what the network's own transform makes, to a level; of that input the network finds the same itself.

    Random weights make much of a level, so the two are compared one after the other.
    """
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
    detector, placement = engine.detector, prepared.placement
    assert detector is not None
    assert placement is not None
    pixels = np.asarray(prepared.data)
    (found,) = detector.detect(engine.run([prepared], ()), [Wanted(placement)], detector.size_of(prepared.shape))
    own, _ = net.transform([to_tensor(picture)])
    largest = LEVEL / min(net.transform.image_std)
    with torch.no_grad():
        boxes, labels, scores = (one.numpy() for one in as_served(net)(torch.from_numpy(pixels)[None]))

    assert own.tensors.shape[1:] == prepared.shape
    assert np.abs(own.tensors[0].numpy() - pixels).max() <= largest
    assert isinstance(found, Detections)
    assert ["class 0", "class 1", "class 2", "class 3"] == list(detector.labels)
    assert len(scores) == len(found.scores) >= 20
    moved = np.array([placement.dx, placement.dy] * 2), np.array([placement.sx, placement.sy] * 2)
    for box, label, score in zip((boxes - moved[0]) / moved[1], labels, scores, strict=True):
        inside = np.clip(box, 0, [451, 300, 451, 300])
        near = np.abs(found.boxes - inside).max(axis=1) <= CLOSE_PX
        assert (near & (found.classes == label - 1) & (np.abs(found.scores - score) <= CLOSE_SCORES)).any()
