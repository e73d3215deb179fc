"""torchvision's segmenters, by one command: what is served is what they see themselves, in the same picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convq.engine.engine import Engine
from convq.exporter.exporting import export
from convq.importer.exporting import ExportRequest

pytest.importorskip("torchvision")
import torch
from torchvision.models import get_model_weights, segmentation

CLOSE = 1e-5
"""Of the range of the logits."""


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large", "fcn_resnet50"])
def test_what_is_served_is_what_the_network_sees(tmp_path: Path, name: str) -> None:
    torch.manual_seed(4)
    net: Any = getattr(segmentation, name)(weights=None, weights_backbone=None).eval()
    torch.save(net.state_dict(), tmp_path / "w.pth")
    request = ExportRequest(
        f"torchvision.models.segmentation:{name}",
        str(tmp_path / "models"),
        str(tmp_path / "w.pth"),
        arguments={"weights_backbone": None},
    )
    made = export(request)
    small = np.random.default_rng(5).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    picture = Image.fromarray(small).resize((451, 300), Image.Resampling.BICUBIC)
    picture.save(tmp_path / "picture.png")
    transforms = get_model_weights(name).DEFAULT.transforms()
    with torch.no_grad():
        expected = net(transforms(picture)[None])["out"].numpy()

    engine = Engine.load(made.path, 1, device="cpu")
    prepared = engine.prepare(engine.decode((tmp_path / "picture.png").read_bytes()))
    found = engine.run([prepared])["out"]

    assert expected.shape == found.shape == (1, 21, 520, 781)
    assert np.abs(expected - found).max() <= CLOSE * np.ptp(expected)
    assert "segments" == next(one.meaning for one in engine.manifest.outputs if one.name == "out")
    assert "__background__" == (made.path / "1" / "labels.txt").read_text().splitlines()[0]
