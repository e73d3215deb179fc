"""lenet is the network of the lesson, and the exported file computes what PyTorch computes."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from typing import Any

import numpy as np
import pytest

from convq.engine.engine import Engine
from convq.repository.model_folders import default_root

if not os.environ.get("CI"):
    pytest.importorskip("torch")  # skipped at a desk without torch; in CI its absence is a failure

import torch
from safetensors.torch import load_file

LENET = default_root() / "lenet"
PARITY = 1e-4


@pytest.fixture(scope="module")
def net() -> Any:
    spec = importlib.util.spec_from_file_location("lenet_net", LENET / "net.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.LeNet()
    made.load_state_dict(load_file(LENET / "weights.safetensors"))
    return made.eval()


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.load(LENET, 1, device="cpu")


def test_the_layers_are_those_of_the_lesson(net: Any) -> None:
    shapes = {name: list(weights.shape) for name, weights in net.named_parameters()}

    assert [6, 1, 3, 3] == shapes["conv1.weight"]
    assert [16, 6, 3, 3] == shapes["conv2.weight"]
    assert [120, 576] == shapes["fc1.weight"]
    assert [84, 120] == shapes["fc2.weight"]
    assert [10, 84] == shapes["fc3.weight"]
    assert 81_194 == sum(weights.numel() for weights in net.parameters())


def test_the_sides_shrink_as_the_lesson_counts_them(net: Any) -> None:
    seen = []
    hooks = [
        layer.register_forward_hook(lambda _layer, _in, out: seen.append(tuple(out.shape[1:])))
        for layer in net.children()
    ]
    net(torch.zeros(1, 1, 32, 32))
    for hook in hooks:
        hook.remove()

    assert [(6, 30, 30), (16, 13, 13), (120,), (84,), (10,)] == seen


@pytest.mark.parametrize("size", [1, 2, 7, 128])
def test_the_exported_graph_computes_what_pytorch_computes(net: Any, engine: Engine, size: int) -> None:
    pixels = np.random.default_rng(size).integers(0, 256, (size, 1, 32, 32), dtype=np.uint8)
    with torch.no_grad():
        expected = net((torch.from_numpy(pixels).float() / 255 - net.mean) / net.std).numpy()

    actual = engine.run([engine.admit(image.tobytes(), "uint8", "1,32,32") for image in pixels])["logits"]

    assert PARITY > np.abs(expected - actual).max()
    assert engine.max_batch == 128


def test_feature_maps_are_what_the_two_convolutions_gave(net: Any, engine: Engine) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (5, 1, 32, 32), dtype=np.uint8)
    seen: dict[str, Any] = {}
    hooks = [
        getattr(net, name).register_forward_hook(lambda _layer, _in, out, name=name: seen.update({name: out.detach()}))
        for name in ("conv1", "conv2")
    ]
    net((torch.from_numpy(pixels).float() / 255 - net.mean) / net.std)
    for hook in hooks:
        hook.remove()

    made = engine.run([engine.admit(image.tobytes(), "uint8", "1,32,32") for image in pixels], ["conv1", "conv2"])

    assert {"conv1": (5, 6, 30, 30), "conv2": (5, 16, 13, 13), "logits": (5, 10)} == {
        name: values.shape for name, values in made.items()
    }
    for name, expected in seen.items():
        assert PARITY > np.abs(expected.numpy() - made[name]).max()


def test_the_report_is_about_this_file_and_says_what_was_proven() -> None:
    report = json.loads((LENET / "1" / "report.json").read_text())
    model = (LENET / "1" / "model.onnx").read_bytes()

    assert hashlib.sha256(model).hexdigest() == report["sha256"]
    assert ["1", "2", "7", "128"] == list(report["max_difference"])
    assert PARITY > max(report["max_difference"].values())
    assert 81_194 == report["parameters"]
    assert 274_656 == report["macs"] == sum(layer["macs"] for layer in report["layers"])
    assert 10_000 == report["accuracy"]["images"]
    assert 0.99 <= report["accuracy"]["share"]


@pytest.mark.parametrize("name", ["model.onnx", "features.onnx"])
def test_the_exported_file_tells_nothing_about_the_machine_that_made_it(name: str) -> None:
    model = (LENET / "1" / name).read_bytes()

    for trace in (b"/home/", b"/root/", b"/work/", b"/usr/", b"site-packages", b".py"):
        assert trace not in model
