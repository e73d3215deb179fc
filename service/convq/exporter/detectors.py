"""torchvision's detectors as graphs: one picture in, resized and normalised already; boxes, labels and scores out.

What these networks do with pictures before their first layer, and with boxes after their last, is left out: `[input]` says the
first, and coordinates are mapped back by what that did.
"""

from __future__ import annotations

import importlib
import io
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from convq.errors import ExportRefused
from convq.exporter.graphs import reason, strip
from convq.exporter.parity import open_session

OUTPUTS: Final = ("boxes", "labels", "scores")
"""Of a graph, as the networks themselves call them, in the order in which it has them."""
OPSET: Final = 17
"""The newest that PyTorch's tracing exporter writes well. The other one cannot follow a number of boxes that depends on the picture."""
TRANSFORM: Final = "GeneralizedRCNNTransform"
CLOSE_SCORES: Final = 1e-4
CLOSE_PX: Final = 0.05
"""What float32 sums in another order may move a box by: a regression of sixteen sides of an anchor, to seven digits."""
TIED: Final = 1e-5
SEED: Final = 7
TRIED: Final = ((256, 320), (320, 224), (192, 480))
"""Heights and widths of pictures, where they are free."""


def as_served(net: nn.Module) -> nn.Module:
    """A network without its own resizing, where it is one of torchvision's detectors; any other as it is."""
    return Detecting(net) if type(getattr(net, "transform", None)).__name__ == TRANSFORM else net


def _input_of(net: Any) -> dict[str, Any]:
    """`[input]` for what the transform of a detector does with pictures, whose values are from 0 to 1.

    Its bilinear filter mixes four pixels, however much smaller the picture gets. What it fills with is 0 *after*
    normalisation: the mean.
    """
    transform = net.transform
    mean, std = tuple(map(float, transform.image_mean)), tuple(map(float, transform.image_std))
    found: dict[str, Any] = {
        "color": "rgb",
        "scale": 1 / 255,
        "mean": mean,
        "std": std,
        "interpolation": "opencv-linear",
    }
    if transform.fixed_size is not None:
        width, height = transform.fixed_size
        return found | {"height": height, "width": width, "resize": "stretch"}
    fit = {"resize": "fit", "short_side": int(transform.min_size[-1]), "long_side": int(transform.max_size)}
    filled = {
        "align": "start",
        "multiple_of": int(transform.size_divisible),
        "pad_value": tuple(round(255 * one) for one in mean),
    }
    return found | fit | filled


def _classes(net: Any) -> int:
    """How many kinds of things it tells apart, the background not counted, which is its class 0."""
    if hasattr(net, "roi_heads"):
        return int(net.roi_heads.box_predictor.cls_score.out_features) - 1
    head = net.head.classification_head
    return int(getattr(head, "num_columns", None) or head.num_classes) - 1


class Detecting(nn.Module):
    """A detector of torchvision for [1, 3, H, W] of float32, normalised; gives boxes [k, 4], labels [k] and scores [k].

    It takes the network over, whose own transform is gone then; `input` is what that did, as keys of `[input]`.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.input, self.classes = _input_of(net), _classes(net)
        self.net = net
        net.transform = _AsItIs(importlib.import_module(type(net.transform).__module__).ImageList)

    @property
    def least_score(self) -> float:
        """The score below which the network itself leaves a box out."""
        return float(self._judge.score_thresh)

    @least_score.setter
    def least_score(self, score: float) -> None:
        self._judge.score_thresh = score

    @property
    def _judge(self) -> Any:
        return getattr(self.net, "roi_heads", self.net)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What is found in the one picture: x1, y1, x2, y2 in pixels of the input, int64 from 1 on, 0 to 1; best first."""
        found = self.net(image)
        detected = (found[-1] if isinstance(found, tuple) else found)[0]
        return detected["boxes"], detected["labels"], detected["scores"]


class _AsItIs(nn.Module):
    """In place of the transform: the picture is as large, and its values are as they are."""

    def __init__(self, images: Any) -> None:
        """`images` is torchvision's `ImageList`."""
        super().__init__()
        self._images = images

    def forward(self, images: torch.Tensor, targets: Any = None) -> tuple[Any, Any]:
        return self._images(images, [(images.shape[-2], images.shape[-1])]), targets

    def postprocess(self, found: Any, _sizes: Any, _original: Any) -> Any:
        """Boxes stay in pixels of the input."""
        return found


def to_onnx(net: Detecting, name: str) -> bytes:
    """The ONNX file of a detector, whose batch is 1. Raises ExportRefused, with the first line of PyTorch's reason."""
    held = io.BytesIO()
    axes: dict[str, Any] = {one: {0: "detections"} for one in OUTPUTS}
    axes |= {} if "height" in net.input else {name: {2: "height", 3: "width"}}
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                net,
                (example(net),),
                held,
                dynamo=False,
                input_names=[name],
                output_names=list(OUTPUTS),
                dynamic_axes=axes,
                opset_version=OPSET,
            )
        proto = onnx.load_from_string(held.getvalue())
        strip(proto)
        onnx.checker.check_model(proto, full_check=True)
    except Exception as err:
        # As for every network: tracing runs somebody's code, and there is no base class for what may come out.
        raise ExportRefused(f"PyTorch cannot export it: {reason(err)}") from err
    return bytes(proto.SerializeToString())


def prove(net: Detecting) -> float:
    """The largest difference of a score on random pictures, of several sizes where these are free.

    In noise a trained network finds nothing, which proves nothing. So its graph is made once more, the same but for the least
    score of a box, which is 0. Raises ExportRefused where onnxruntime and PyTorch find other things.
    """
    usual, net.least_score = net.least_score, 0.0
    try:
        return _compared(to_onnx(net, "image"), net)
    finally:
        net.least_score = usual


def _compared(model: bytes, net: Detecting) -> float:
    session = open_session(model)
    torch.manual_seed(SEED)
    worst = 0.0
    for height, width in _sizes(net):
        picture = torch.randn(1, 3, height, width)
        with torch.no_grad():
            expected = [one.numpy() for one in net(picture)]
        made = session.run(list(OUTPUTS), {"image": picture.numpy()})
        worst = max(worst, _difference(expected, made), _difference(made, expected))
    return worst


def example(net: Detecting) -> torch.Tensor:
    """A picture [1, 3, H, W] that it can be traced with."""
    height, width = _sizes(net)[0]
    return torch.rand(1, 3, height, width)


def _sizes(net: Detecting) -> list[tuple[int, int]]:
    """Heights and widths to try."""
    if "height" in net.input:
        return [(net.input["height"], net.input["width"])]
    step = net.input["multiple_of"]
    return [(step * -(-height // step), step * -(-width // step)) for height, width in TRIED]


def _difference(mine: Sequence[NDArray[Any]], other: Sequence[NDArray[Any]]) -> float:
    """The largest gap between the score of one of `mine` and of its like: of the same label, and in the same place.

    Of several with the same score, which come first is accident, and what overlaps with them depends on it. So where most are
    alike, as a network with random weights may have it, only the best score counts. Raises ExportRefused where one has no like.
    """
    boxes, labels, scores = mine
    worst = float(np.abs(scores.max(initial=0) - other[2].max(initial=0)))
    alone = (np.abs(scores[:, None] - scores[None]) < TIED).sum(axis=1) == 1
    if 2 * alone.sum() > len(scores):
        for box, label, score in zip(boxes[alone], labels[alone], scores[alone], strict=True):
            same = (other[1] == label) & (np.abs(other[0] - box).max(axis=1, initial=0) <= CLOSE_PX)
            worst = max(worst, float(np.abs(other[2][same] - score).min(initial=np.inf)))
    if not worst <= CLOSE_SCORES:
        raise ExportRefused(
            f"onnxruntime and PyTorch find other things, or the same by scores that differ by {worst:.2g}"
        )
    return worst
