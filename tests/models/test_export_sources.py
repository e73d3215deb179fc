"""Where `convq export` gets networks, weights and presets from; each refusal is one line that says what to do."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import io
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convq.engine.engine import Engine
from convq.errors import ConvqError, ExportRefused, SettingsError
from convq.importer.exporting import ExportRequest, Preparation
from convq.repository.manifest import Manifest

if not os.environ.get("CI"):
    pytest.importorskip("torch")  # skipped at a desk without torch; in CI its absence is a failure

import torch

NETS = '''
import torch
from torch import nn

class Takes(nn.Module):
    """As many classes as are asked for."""
    def __init__(self, num_classes, depth=2):
        super().__init__()
        self.conv = nn.Conv2d(3, depth, 3)
        self.fc = nn.Linear(depth, num_classes)
    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)))

def passes_on(**given):
    return Takes(**given)

def nothing():
    return 3

class Needs(nn.Module):
    def __init__(self):
        import package_that_nobody_has
'''
ODD_SIZES = [(451, 300), (300, 451), (97, 640)]


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    file = tmp_path / "nets.py"
    file.write_text(NETS)
    return file


def loaded(network: str, **given: Any) -> Any:
    exporting = importlib.import_module("convq.exporter.exporting")
    return exporting.load(ExportRequest(network, ".", **{"weights": "none", **given}))


def exported(network: str, root: Path, **given: Any) -> Any:
    return importlib.import_module("convq.exporter.exporting").export(ExportRequest(network, str(root), **given))


def preset(network: str, **given: Any) -> Any:
    return loaded(network, **given).preset


def refusal(call: Callable[..., Any], *given: Any, **named: Any) -> str:
    """The one line that a call ends with."""
    with pytest.raises(ConvqError) as refused:
        call(*given, **named)
    said = str(refused.value)
    assert [said] == said.splitlines()
    return said


def picture(width: int, height: int) -> Image.Image:
    """A smooth one: noise would be gone after scaling."""
    coarse = np.random.default_rng(width).integers(0, 256, (height // 9 + 2, width // 9 + 2, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def served(folder: Path, image: Image.Image) -> Any:
    """What the service would answer for a PNG of the image."""
    out = io.BytesIO()
    image.save(out, "PNG")
    engine = Engine.load(folder, 1, device="cpu")
    return engine.run([engine.prepare(engine.decode(out.getvalue()))])["output"][0]


# -- networks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["resnet18", "timm:", "a/b:Net", ":Net"])
def test_what_names_no_network_says_how_one_is_named(network: str) -> None:
    assert "expected FILE.py:CLASS, MODULE:NAME such as torchvision.models:resnet50, or timm:NAME" in refusal(
        loaded, network
    )


def test_a_package_that_is_not_installed_comes_with_the_command_that_brings_it() -> None:
    said = refusal(loaded, "package_that_nobody_has.models:net")

    assert "no package 'package_that_nobody_has' is installed; run: " in said
    assert said.endswith("install package_that_nobody_has")


def test_a_package_without_that_module_is_not_said_to_be_missing() -> None:
    assert "torch is installed and has no module 'torch.nets'" in refusal(loaded, "torch.nets:Net")


def test_a_name_that_a_package_does_not_have_comes_with_the_nearest() -> None:
    assert "torch.nn has no 'Sequentia'; did you mean 'Sequential'?" in refusal(loaded, "torch.nn:Sequentia")


def test_arguments_reach_the_constructor(nets: Path) -> None:
    made = loaded(f"{nets}:Takes", arguments={"num_classes": 7, "depth": 3})

    assert [7, 3] == list(made.net.fc.weight.shape)
    assert {"network": "nets.py:Takes", "arguments": {"num_classes": 7, "depth": 3}} == made.origin


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("Takes", {"num_clases": 7}, "--arg num_clases: Takes takes no such argument; did you mean 'num_classes'?"),
        ("Takes", {}, "Takes: missing a required argument: 'num_classes'; give it with --arg NAME=VALUE"),
        ("Takes", {"num_classes": "x"}, "Takes(num_classes='x') failed: TypeError: "),
        ("passes_on", {"num_clases": 7}, "passes_on(num_clases=7) failed: TypeError: "),
        ("nothing", {}, "nothing() gave a int; expected an nn.Module"),
        ("Needs", {}, "Needs() failed: ModuleNotFoundError: No module named 'package_that_nobody_has'"),
    ],
)
def test_arguments_that_do_not_fit_are_named(nets: Path, name: str, arguments: dict[str, Any], reason: str) -> None:
    assert reason in refusal(loaded, f"{nets}:{name}", arguments=arguments)


@pytest.mark.parametrize(
    ("words", "status", "reason"),
    [
        (("missing.py:Net",), 2, "missing.py: there is no such Python file"),
        (("torch.nn:Sequentia", "--weights", "none"), 2, "did you mean 'Sequential'?"),
        (("nets.py:Takes", "--arg", "num_classes=4"), 2, "trainable parameters; expected --weights FILE"),
        (("nets.py:Takes", "--arg", "num_classes"), 2, "expected NAME=VALUE, such as num_classes=10"),
        (("nets.py:Takes", "--arg", "num_classes=4", "--weights", "nets.py"), 2, "expected weights as .safetensors"),
    ],
)
def test_the_command_ends_with_one_line_and_writes_nothing(
    nets: Path, words: Sequence[str], status: int, reason: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "convq", "export", *words, "--models", "models"],
        cwd=nets.parent,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )

    assert (status, "", 1) == (done.returncode, done.stdout, len(done.stderr.splitlines())), done.stderr
    assert reason in done.stderr
    assert not (nets.parent / "models").exists()


def test_the_command_itself_does_without_torch() -> None:
    code = "import sys, convq.cli, convq.importer.exporting, convq.cli.models.export; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)

    assert "False\n" == done.stdout


def test_a_network_of_an_installed_package_needs_no_file(tmp_path: Path) -> None:
    package = tmp_path / "site" / "nets_of_ours"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(NETS)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "convq",
            "export",
            "nets_of_ours:Takes",
            "--arg",
            "num_classes=4",
            "--weights",
            "none",
            "--size",
            "24",
            "--models",
            str(tmp_path / "models"),
        ],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
    )

    assert 0 == done.returncode, done.stderr
    labels = (tmp_path / "models" / "takes" / "labels.txt").read_text().splitlines()
    assert ["class 0", "class 1", "class 2", "class 3"] == labels
    assert not (tmp_path / "models" / "takes" / "net.py").exists()


# -- weights ----------------------------------------------------------------------------------------------------------


def fitted(net: Any, state: Any, file: Path) -> list[str]:
    weights = importlib.import_module("convq.exporter.weights")
    torch.save(state, file)
    notes: list[str] = weights.fit(net, weights.read_weights(file), file.name)
    return notes


def test_a_checkpoint_of_lightning_is_taken_and_what_is_not_the_network_is_named(tmp_path: Path) -> None:
    net, other = torch.nn.Conv2d(3, 2, 3), torch.nn.Conv2d(3, 2, 3)
    state = {f"model.{name}": value for name, value in net.state_dict().items()}
    checkpoint = {"epoch": 1, "state_dict": {**state, "loss.weight": torch.ones(2)}, "hyper_parameters": {"lr": 0.1}}

    notes = fitted(other, checkpoint, tmp_path / "last.ckpt")

    assert torch.equal(net.weight, other.weight)
    assert ["weights are called model.… in the file", "left out of it: loss.weight"] == notes


def test_the_checkpoint_of_a_training_script_may_hold_its_command_line_and_an_average(tmp_path: Path) -> None:
    net, other = torch.nn.Conv2d(3, 2, 3), torch.nn.Conv2d(3, 2, 3)
    average = {"n_averaged": torch.tensor(3), **{f"module.{one}": value * 0 for one, value in net.state_dict().items()}}
    checkpoint = {"model": net.state_dict(), "model_ema": average, "args": argparse.Namespace(lr=0.1), "epoch": 5}

    fitted(other, checkpoint, tmp_path / "model_5.pth")

    assert torch.equal(net.weight, other.weight)


def test_names_of_the_network_itself_are_no_wrapper(tmp_path: Path) -> None:
    net = torch.nn.Sequential()
    net.add_module("model", torch.nn.Conv2d(3, 2, 3))

    assert [] == fitted(net, net.state_dict(), tmp_path / "w.pth")


def test_weights_that_fit_under_two_names_are_not_chosen_between(tmp_path: Path) -> None:
    net = torch.nn.Conv2d(3, 2, 3)
    twice = {f"{one}.{name}": value for one in ("student", "teacher") for name, value in net.state_dict().items()}

    said = refusal(fitted, net, twice, tmp_path / "w.pth")

    assert "w.pth does not fit the network: of its 2 tensors, 2 missing (bias, weight); 4 unknown" in said


def test_an_archive_of_torchscript_is_refused_as_code(tmp_path: Path) -> None:
    weights = importlib.import_module("convq.exporter.weights")
    with pytest.warns(DeprecationWarning, match="jit"):
        torch.jit.script(torch.nn.Conv2d(3, 2, 3)).save(str(tmp_path / "net.pt"))

    said = refusal(weights.read_weights, tmp_path / "net.pt")

    assert "is a TorchScript archive, which holds code; save its weights where you trust it: torch.save(" in said


def test_a_pickled_network_is_refused_by_its_class(tmp_path: Path) -> None:
    weights = importlib.import_module("convq.exporter.weights")
    torch.save(torch.nn.Conv2d(3, 2, 3), tmp_path / "net.pt")

    said = refusal(weights.read_weights, tmp_path / "net.pt")

    assert "it holds a pickled torch.nn.modules.conv.Conv2d, which would be run as code; save the weights alone" in said


@pytest.mark.parametrize(("content", "kind"), [(b"", ExportRefused), (b"no weights", ExportRefused)])
def test_other_bytes_are_no_weights(tmp_path: Path, content: bytes, kind: type[ConvqError]) -> None:
    weights = importlib.import_module("convq.exporter.weights")
    for suffix in (".pth", ".safetensors"):
        (tmp_path / f"w{suffix}").write_bytes(content)
        with pytest.raises(kind, match=f"w{suffix}: "):
            weights.read_weights(tmp_path / f"w{suffix}")


def test_an_old_pickle_is_not_called_by_the_number_of_its_first_byte(tmp_path: Path) -> None:
    weights = importlib.import_module("convq.exporter.weights")
    a_dict = b"\x80\x05\x95\x0b\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x01a\x94K\x01s."  # of protocol 5, in a frame
    (tmp_path / "w.pkl.pt").write_bytes(a_dict)

    said = refusal(weights.read_weights, tmp_path / "w.pkl.pt")

    assert said.endswith("w.pkl.pt: is no plain state dict; save one with torch.save(net.state_dict(), FILE)")


def test_a_device_is_no_file_of_weights() -> None:
    weights = importlib.import_module("convq.exporter.weights")

    with pytest.raises(ConvqError, match="/dev/zero: is no regular file"):
        weights.read_weights(Path("/dev/zero"))


def test_weights_that_training_has_broken_are_named(tmp_path: Path) -> None:
    net = torch.nn.Conv2d(3, 2, 3)
    broken = net.state_dict() | {"bias": torch.tensor([0.5, torch.nan])}

    assert "w.pth: 1 of its 2 tensors hold NaN (bias)" in refusal(fitted, net, broken, tmp_path / "w.pth")


# -- presets ----------------------------------------------------------------------------------------------------------


def config(**given: Any) -> dict[str, Any]:
    """As timm resolves it."""
    usual = {"input_size": (3, 224, 224), "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.2,) * 3}
    return {**usual, "crop_pct": 0.875, "crop_mode": "center", **given}


@pytest.mark.parametrize(
    ("given", "values", "doubtful"),
    [
        ({}, {"resize": "crop", "short_side": 256, "interpolation": "bicubic"}, set()),
        ({"crop_pct": 0.95}, {"resize": "crop", "short_side": 235}, set()),
        ({"crop_mode": "squash", "crop_pct": 1.0}, {"resize": "stretch"}, set()),
        ({"crop_mode": "squash", "crop_pct": 0.9}, {"resize": "stretch"}, {"resize"}),
        ({"crop_mode": "border", "crop_pct": 1.0}, {"resize": "letterbox", "pad_value": (128, 128, 128)}, {"resize"}),
        ({"input_size": (3, 224, 320)}, {"height": 224, "width": 320}, {"short_side"}),
        ({"input_size": (1, 28, 28), "mean": (0.5,), "std": (0.2,)}, {"color": "gray", "height": 28}, set()),
    ],
)
def test_what_timm_says_of_images_is_said_in_the_words_of_the_manifest(
    given: dict[str, Any], values: dict[str, Any], doubtful: set[str]
) -> None:
    found, doubts = importlib.import_module("convq.exporter.presets")._of_config(config(**given))

    assert values.items() <= found.items()
    assert doubtful == doubts.keys()


def test_a_preset_is_for_what_has_one(nets: Path) -> None:
    said = refusal(loaded, f"{nets}:Takes", arguments={"num_classes": 2}, preset="V1")

    assert "--preset V1: only networks of torchvision have presets" in said


def test_torchvisions_weights_are_known_by_their_file_or_by_name(tmp_path: Path) -> None:
    vision = pytest.importorskip("torchvision")
    file = tmp_path / vision.models.ResNet50_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    torch.save(vision.models.resnet50().state_dict(), file)

    by_file = preset("torchvision.models:resnet50", weights=str(file))
    by_name = preset("torchvision.models:resnet50", preset="IMAGENET1K_V1")
    by_nothing = preset("torchvision.models:resnet50")

    assert ("preset", "preset", "assumed") == (by_file.source, by_name.source, by_nothing.source)
    assert (256, 256, 232) == tuple(one.values["short_side"] for one in (by_file, by_name, by_nothing))
    assert "as for ResNet50_Weights.IMAGENET1K_V2" in by_nothing.why
    assert "resnet50 has none of that name; did you mean 'IMAGENET1K_V2'?" in refusal(
        loaded, "torchvision.models:resnet50", preset="IMAGENET1K_V3"
    )


def test_a_network_of_torchvision_answers_as_in_torch_under_its_transforms(tmp_path: Path) -> None:
    vision = pytest.importorskip("torchvision")
    torch.manual_seed(3)
    net = vision.models.squeezenet1_1().eval()
    torch.save({"state_dict": {f"model.{one}": value for one, value in net.state_dict().items()}}, tmp_path / "w.ckpt")
    weights = vision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1

    made = exported(
        "torchvision.models:squeezenet1_1", tmp_path / "models", weights=str(tmp_path / "w.ckpt"), preset=weights.name
    )

    assert ["activation"] == [one.key for one in made.assumed]
    assert weights.meta["categories"] == (made.path / "labels.txt").read_text().splitlines()
    for width, height in ODD_SIZES:
        image = picture(width, height)
        with torch.no_grad():
            expected = net(weights.transforms()(image)[None])[0].numpy()
            shifted = net(weights.transforms()(image.crop((1, 0, width, height)))[None])[0].numpy()
        assert 1e-5 > np.abs(served(made.path, image) - expected).max() / np.ptp(expected)
        assert 1e-4 < np.abs(shifted - expected).max() / np.ptp(expected)  # one that sees nothing would prove nothing


def test_other_classes_and_another_size_are_said_and_the_rest_is_the_presets(tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    made = exported(
        "torchvision.models:squeezenet1_1",
        tmp_path,
        weights="none",
        arguments={"num_classes": 4},
        preparation=Preparation(size=(112, 112), mean=(127.5,), max_batch=2),
    )
    manifest = Manifest.read(made.path)

    assert (112, "crop", 128, 1.0, (127.5,), 2) == (
        manifest.input.height,
        manifest.input.resize,
        manifest.input.short_side,
        manifest.input.scale,
        manifest.input.mean,
        manifest.limits.max_batch,
    )
    assert 4 == len((made.path / "labels.txt").read_text().splitlines())


def test_a_network_of_timm_answers_as_in_torch_under_its_transforms(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(3)
    net = timm.create_model("test_resnet.r160_in1k").eval()
    torch.save(net.state_dict(), tmp_path / "w.pth")

    made = exported("timm:test_resnet.r160_in1k", tmp_path / "models", weights=str(tmp_path / "w.pth"))

    assert "test_resnet_r160_in1k" == made.name
    assert ["activation"] == [one.key for one in made.assumed]
    transforms = timm.data.create_transform(**timm.data.resolve_data_config({}, model=net))
    for width, height in ODD_SIZES:
        image = picture(width, height)
        with torch.no_grad():
            expected = net(transforms(image)[None])[0].numpy()
            shifted = net(transforms(image.crop((1, 0, width, height)))[None])[0].numpy()
        assert 1e-5 > np.abs(served(made.path, image) - expected).max() / np.ptp(expected)
        assert 1e-4 < np.abs(shifted - expected).max() / np.ptp(expected)  # one that sees nothing would prove nothing


def test_a_name_that_timm_does_not_have_comes_with_the_nearest() -> None:
    pytest.importorskip("timm")
    assert "has no 'resnet5'; did you mean 'resnet50'?" in refusal(loaded, "timm:resnet5")


def test_a_missing_torchvision_or_timm_comes_with_the_command_that_brings_it() -> None:
    for package in ("torchvision", "timm"):
        if importlib.util.find_spec(package) is None:
            with pytest.raises(SettingsError, match=f"no package '{package}' is installed; run: .* install {package}"):
                loaded("timm:resnet18" if package == "timm" else "torchvision.models:resnet18")
