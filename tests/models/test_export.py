"""The exporter: from somebody's nn.Module to a served version in one command, or one line that says why not."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from convq import Client
from convq.engine.engine import Engine
from convq.engine.postprocess import rank
from convq.errors import ConvqError, ExportRefused
from convq.host.extras import install
from convq.importer.exporting import ExportRequest, Preparation
from convq.importer.findings import Overrides
from convq.importer.infer_input import _levels
from convq.importer.probing import look
from convq.repository.manifest import Manifest
from convq.repository.model_folders import default_root
from servers import OwnServer, wait_until
from services import Plain, RunningService, image_of, models_served

SCRIPT = Path(__file__).resolve().parents[2] / "models" / "export.py"

NETS = '''
import torch
from torch import nn

class Small(nn.Module):
    """Five classes from 32 x 32."""
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2)
        self.fc = nn.Linear(4, 5)
    def forward(self, x):
        return 20 * self.fc(torch.relu(self.conv(x)).mean((2, 3)))

class Own(Small):
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)

class Halves(nn.Module):
    """Two outputs of half the sides, whatever these are."""
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 2, 3, 2, 1), nn.ReLU())
    def forward(self, x):
        maps = self.body(x)
        return {"maps": maps, "best": maps.flatten(1).argmax(1)}

class Twice(Small):
    def forward(self, x):
        return super().forward(x) + super().forward(-x)

class Branches(Small):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else super().forward(-x)

class Mixes(Small):
    def forward(self, x):
        return super().forward(x - x.mean(0, keepdim=True))

class Folds(Small):
    def forward(self, x):
        return super().forward(x).reshape(5, -1)

class Guesses(Small):
    def forward(self, x):
        return super().forward(x) + torch.rand(1)

class Undecided(Small):
    def forward(self, x):
        return nn.functional.dropout(super().forward(x), 0.5, training=True)

class Strings(Small):
    def forward(self, x):
        return super().forward(x), "class"

def several():
    return nn.Sequential(Small(), nn.Sigmoid())

def saturated():
    class Sure(Small):
        def forward(self, x):
            return torch.sigmoid(1000 * super().forward(x))
    return Sure()

def logarithms():
    return nn.Sequential(Small(), nn.LogSoftmax(1))

def softened():
    return nn.Sequential(Small(), nn.Softmax(1))

class Sees(Small):
    """One row for each cell of strides 8, 16 and 32: two of them are things."""
    def __init__(self):
        super().__init__()
        held = torch.zeros(1, 7, 21)
        held[0, :, 3] = torch.tensor([10.0, 12, 8, 6, 0.9, 0, 0])
        held[0, :, 17] = torch.tensor([24.0, 20, 9, 12, 0, 0, 0.8])
        self.register_buffer("held", held)
    def forward(self, x):
        return self.held + 0 * x.mean((1, 2, 3))[:, None, None]
'''


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """A file of networks, in a folder of its own."""
    (tmp_path / "nets").mkdir()
    file = tmp_path / "nets" / "nets.py"
    file.write_text(NETS)
    return file


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    file = tmp_path / "names.txt"
    file.write_text("ant\nbee\ncow\ndog\neel\n")
    return file


def exported(script: Any, *arguments: object) -> dict[str, Any]:
    """The report of `export.py ARGUMENTS`, run in this process; raises what it would say."""
    made = script("export").command.main(list(map(str, arguments)), standalone_mode=False)
    report: dict[str, Any] = made.report
    return report


def load(script: Any, net: Path, name: str) -> Any:
    return script("convq.exporter.exporting").load(ExportRequest(f"{net}:{name}", ".", weights="none")).net


def noise(height: int = 32, width: int = 32) -> NDArray[np.uint8]:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def ran(folder: Path, image: NDArray[np.uint8], *wanted: str, version: int = 1) -> dict[str, NDArray[Any]]:
    """What the engine makes of one image, by name, without the batch axis."""
    engine = Engine.load(folder, version, device="cpu")
    return {name: values[0] for name, values in engine.run([engine.prepare(image)], wanted).items()}


def by_torch(script: Any, net: Any, image: NDArray[np.uint8], mean: Any = 0.0, std: Any = 1.0) -> Any:
    """What PyTorch makes of it when it is normalised as torchvision does: (pixel / 255 - mean) / std."""
    torch = script("torch")
    values = (image / 255 - np.asarray(mean)) / np.asarray(std)
    with torch.no_grad():
        return net(torch.from_numpy(values.transpose(2, 0, 1)[None].astype(np.float32)))


def test_one_command_leads_from_a_module_to_a_version_that_answers(
    script: Any, net: Path, repository: Path, labels: Path, tmp_path: Path
) -> None:
    torch, small = script("torch"), load(script, net, "Small")
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in small.state_dict().items()}}, tmp_path / "w.pth"
    )
    command = [f"{net}:Small", "--weights", tmp_path / "w.pth", "--models", repository, "--size", 32]
    command += ["--labels", labels, "--mean", "0.5,0.4,0.3", "--std", "0.2,0.3,0.4"]
    picture = noise(48, 40)

    done = subprocess.run(
        [sys.executable, "-m", "convq", "export", *map(str, command)],
        capture_output=True,
        text=True,
        timeout=250,
        check=True,
    )
    with OwnServer(tmp_path / "server") as server:
        with RunningService(server.url, "--models", str(repository), "--only", "small", workers=1):
            with Plain(server.url) as plain, Client(server.url, model="small") as client:
                wait_until(lambda: "small" in models_served(plain))
                result = client.classify(image_of(picture))

    prepared = Engine.load(repository / "small", 1).prepare(picture).data
    with torch.no_grad():
        scores = small(torch.from_numpy(np.asarray(prepared)[None])).softmax(1)[0]
    assert [
        "small: w.pth: weights are called module.… in the file",
        "small: assumed input.color = rgb: 3 channels, and bgr would look the same; --color settles it",
        (
            "small: assumed input.resize = stretch: any image is scaled to both sides; crop and letterbox would keep its "
            "proportions; --resize settles it"
        ),
        "small: assumed input.scale = 0.00392157: most networks take pixels from 0 to 1; --scale settles it",
        (
            "small: assumed input.interpolation = bilinear: as torchvision scales unless told otherwise; "
            "--interpolation settles it"
        ),
        (
            "small: assumed output: activation = softmax: the values are raw; sigmoid, where classes do not exclude each "
            "other; --activation settles it"
        ),
    ] == done.stderr.splitlines()
    made = json.loads(done.stdout)
    assert made["report"]["parameters"] == sum(one.numel() for one in small.parameters())
    assert ("nets.py:Small", "w.pth") == (made["report"]["network"], made["report"]["weights"])
    assert ["ant", "bee", "cow", "dog", "eel"][int(scores.argmax())] == result.label
    assert float(scores.max()) == pytest.approx((result.predictions or ())[0].score, abs=1e-4)


@pytest.mark.parametrize("key", ["model", "net", "ema", "state_dict", None])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "model._orig_mod.", "backbone."])
def test_weights_are_found_in_a_checkpoint_whatever_it_calls_them(
    script: Any, net: Path, tmp_path: Path, key: str | None, prefix: str
) -> None:
    torch, small = script("torch"), load(script, net, "Small")
    weights = {f"{prefix}{name}": value for name, value in small.state_dict().items()}
    if key == "ema":
        weights["n_averaged"] = torch.tensor(7)
    rest = {"epoch": 3, "best": torch.tensor(0.5), "optimizer": {"state": {}, "param_groups": [1]}}
    torch.save(weights if key is None else {**rest, key: weights}, tmp_path / "w.pth")

    weighing, fresh = script("convq.exporter.weights"), type(small)()
    weighing.fit(fresh, weighing.read_weights(tmp_path / "w.pth"), "w.pth")

    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in small.state_dict().items())


@pytest.mark.parametrize(
    ("holds", "reason"),
    [
        ({"epoch": 3, "config": {"lr": 0.1}}, "its keys are config, epoch"),
        ({}, "its keys are none"),
        ({"generator": {"a": 1}, "discriminator": {"b": 1}}, "several state dicts (discriminator, generator)"),
    ],
)
def test_a_checkpoint_without_weights_says_what_it_holds(
    script: Any, tmp_path: Path, holds: dict[str, Any], reason: str
) -> None:
    torch = script("torch")
    if "generator" in holds:
        holds = {key: {name: torch.zeros(1) for name in value} for key, value in holds.items()}
    torch.save(holds, tmp_path / "w.pth")
    with pytest.raises(ConvqError) as refused:
        script("convq.exporter.weights").read_weights(tmp_path / "w.pth")
    assert reason in str(refused.value)


@pytest.mark.parametrize(
    ("flags", "scale"),
    [
        (("--mean", "123.675,116.28,103.53", "--std", "58.395,57.12,57.375"), 1.0),
        (("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"), 1 / 255),
        (("--mean", "127.5"), 1.0),
        (("--std", "255"), 1.0),
        (("--std", "0.5"), 1 / 255),
    ],
)
def test_export_and_add_guess_the_same_scale_of_mean_and_std(
    script: Any, net: Path, flags: tuple[str, ...], scale: float
) -> None:
    given: dict[str, Any] = {
        name.removeprefix("--"): tuple(map(float, value.split(",")))
        for name, value in zip(flags[::2], flags[1::2], strict=True)
    }
    drafts = script("convq.exporter.drafts")
    made = drafts.draft(load(script, net, "Small"), Preparation(size=(32, 32), **given), None, "Small")
    text = made.text
    added = [one for one in _levels("float32", Overrides(**given)) if one.key == "scale"]

    drafted = tomllib.loads(text)["input"]
    assert (scale, scale) == (drafted["scale"], added[0].value)
    said = {key: list(value) if len(value) > 1 else value[0] for key, value in given.items()}
    assert said.items() <= drafted.items()
    assert any(line.startswith("scale = ") and "# assumed" in line for line in text.splitlines())


@pytest.mark.parametrize("command", [(str(SCRIPT),), ("-m", "convq", "export")], ids=["script", "command"])
def test_without_the_extra_one_line_says_what_to_install(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')")
    done = subprocess.run(
        [sys.executable, *command, "net.py:Net", "--weights", "none"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert 0 != done.returncode
    assert "torch is not installed; run: " in done.stderr
    assert install("models") in done.stderr
    assert 1 == len(done.stderr.splitlines())


def test_a_drafted_manifest_says_what_is_known_and_what_was_assumed(
    script: Any, net: Path, repository: Path, labels: Path
) -> None:
    exported(
        script, f"{net}:softened", "--weights", "none", "--models", repository, "--size", "32x40", "--labels", labels
    )

    manifest, text = Manifest.read(repository / "softened"), (repository / "softened" / "manifest.toml").read_text()
    assert ("rgb", "float32", 32, 40) == (
        manifest.input.color,
        manifest.input.dtype,
        manifest.input.height,
        manifest.input.width,
    )
    assert "none" == manifest.outputs[0].activation  # the network ends in a softmax of its own
    assumed = {line.partition(" =")[0] for line in text.splitlines() if "# assumed" in line}
    assert {"color", "resize", "interpolation", "scale", "mean", "std"} == assumed
    assert NETS == (repository / "softened" / "net.py").read_text()


def test_export_guesses_detections_as_models_add_does(script: Any, net: Path, repository: Path) -> None:
    exported(script, f"{net}:Sees", "--weights", "none", "--models", repository, "--size", 32)
    graph = (repository / "sees" / "1" / "model.onnx").read_bytes()

    said = Manifest.read(repository / "sees")
    found = {one["key"]: one["value"] for one in look(graph, "it", Overrides())["findings"]}

    assert said.detections is not None
    assert ("yolo8", ["cx cy w h classes"]) == (said.detections.family, [one.columns for one in said.detections.tables])
    same = ("family", "columns", "resize", "pad_value", "interpolation", "color", "scale")
    assert {key: found[key] for key in same[2:]} == {key: getattr(said.input, key) for key in same[2:]}
    assert ("yolo8", "cx cy w h classes") == (found["family"], found["columns"])
    engine = Engine.load(repository / "sees", 1, device="cpu")
    assert ("class 0", "class 1", "class 2") == engine.detector.labels  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "activation", "remark"),
    [
        ("several", "none", "# assumed: all values lie between 0 and 1, as after a sigmoid in the graph; check"),
        ("saturated", "none", "# assumed: all values lie between 0 and 1, as after a sigmoid in the graph; check"),
        ("softened", "none", "# measured: the values sum to 1: the softmax is in the graph"),
        ("logarithms", "softmax", "# measured: the values are logarithms of a softmax"),
        ("Small", "softmax", "# assumed: the values are raw; sigmoid, where classes do not exclude each other; check"),
        ("Own", "softmax", "# assumed: the values are raw; sigmoid, where classes do not exclude each other; check"),
    ],
)
def test_export_guesses_the_activation_as_models_add_does(
    script: Any, net: Path, repository: Path, labels: Path, name: str, activation: str, remark: str
) -> None:
    command = [
        f"{net}:{name}",
        "--weights",
        "none",
        "--models",
        repository,
        "--size",
        32,
        "--labels",
        labels,
        "--name",
        "it",
    ]
    exported(script, *command)
    graph = (repository / "it" / "1" / "model.onnx").read_bytes()

    text = (repository / "it" / "manifest.toml").read_text()
    found = look(graph, "it", Overrides(labels=5))["findings"]

    assert activation == Manifest.read(repository / "it").outputs[0].activation
    assert re.search(rf'^activation = "{activation}" +{re.escape(remark)}$', text, re.MULTILINE)
    assert [activation] == [one["value"] for one in found if one["key"] == "activation"]


def test_a_multi_label_network_is_as_sure_in_service_as_in_torch(
    script: Any, net: Path, repository: Path, labels: Path
) -> None:
    several, image = load(script, net, "several"), noise()

    exported(script, f"{net}:several", "--weights", "none", "--models", repository, "--size", 32, "--labels", labels)

    engine = Engine.load(repository / "several", 1, device="cpu")
    served = rank(engine.run([engine.prepare(image)])["output"], engine.activation, 1).scores[0, 0]
    assert float(by_torch(script, several, image).max()) == pytest.approx(float(served), abs=1e-4)


def test_a_network_with_mean_and_std_takes_pixels_and_normalises_them_in_the_graph(
    script: Any, net: Path, repository: Path
) -> None:
    own, image = load(script, net, "Own"), noise()

    exported(script, f"{net}:Own", "--weights", "none", "--models", repository, "--size", 32)

    expected = by_torch(script, own, image, own.mean, own.std)[0].numpy()
    assert "uint8" == Manifest.read(repository / "own").input.dtype
    assert 1e-4 > np.abs(expected - ran(repository / "own", image)["output"]).max()


def test_several_outputs_of_free_sides_keep_their_names(script: Any, net: Path, repository: Path) -> None:
    halves, image = load(script, net, "Halves"), noise(45, 70)

    exported(script, f"{net}:Halves", "--weights", "none", "--models", repository, "--size", "any")

    made, expected = ran(repository / "halves", image), by_torch(script, halves, image)
    assert (2, 23, 35) == made["maps"].shape
    assert 1e-4 > np.abs(expected["maps"][0].numpy() - made["maps"]).max()
    assert int(expected["best"][0]) == int(made["best"])


def test_feature_maps_are_what_the_modules_gave(script: Any, net: Path, repository: Path) -> None:
    folder = repository / "halves"
    folder.mkdir(parents=True)
    (folder / "manifest.toml").write_text(
        '[input]\ndtype = "float32"\nresize = "none"\nmultiple_of = 4\nscale = 0.00392156862745098\n'
        '[[outputs]]\nname = "kept"\n[[outputs]]\nname = "best"\n'
        '[feature_maps]\nbefore_relu = "body.0"\n[limits]\nmax_batch = 3\n'
    )
    halves, image, seen = load(script, net, "Halves"), noise(48, 64), []
    halves.body[0].register_forward_hook(lambda _module, _given, made: seen.append(made))

    report = exported(script, f"{net}:Halves", "--weights", "none", "--models", repository, "--name", "halves")
    made = ran(folder, image, "before_relu")
    by_torch(script, halves, image)

    assert ["1", "2", "3", "7"] == list(report["features_max_difference"])
    assert 64 == len(report["features_sha256"])
    assert 0 > seen[0].min()
    assert 1e-4 > np.abs(seen[0][0].numpy() - made["before_relu"]).max()


def test_the_next_export_is_the_next_version_and_force_replaces_one(script: Any, net: Path, repository: Path) -> None:
    order = [f"{net}:Small", "--weights", "none", "--models", repository]
    exported(script, *order, "--size", 32)
    first = repository / "small" / "1" / "model.onnx"
    content, inode = first.read_bytes(), first.stat().st_ino

    exported(script, *order)
    exported(script, *order, "--version", 1, "--force")

    there = sorted(one.name for one in (repository / "small").iterdir())
    assert ["1", "2", "labels.txt", "manifest.toml", "net.py", "versions.json"] == there
    assert content == first.read_bytes()
    assert inode != first.stat().st_ino
    assert ["small"] == [one.name for one in repository.iterdir()]


FLAGS = ("--weights", "none", "--size", "32")
REFUSALS = {
    "no such file": ("missing.py:Net", FLAGS, "there is no such Python file"),
    "no such class": ("nets.py:Smal", FLAGS, "did you mean 'Small'?"),
    "no class named": ("nets.py", FLAGS, "defines Branches, Folds, Guesses, …; expected FILE.py:CLASS"),
    "no weights": ("nets.py:Small", ("--size", "32"), "137 trainable parameters; expected --weights"),
    "no size": (
        "nets.py:Small",
        ("--weights", "none"),
        "says nowhere how large its images are: give --size N, HxW or any",
    ),
    "no name at all": ("nets.py:Small", (*FLAGS, "--name", ""), "'' is no name for a model"),
    "no name for a model": ("nets.py:Small", (*FLAGS, "--name", "My Net"), "'My Net' is no name for a model"),
    "a size that it cannot take": (
        "nets.py:Small",
        ("--weights", "none", "--size", "2"),
        "the network does not run on 3 x 2 x 2 of float32: Calculated padded",
    ),
    "other labels": ("nets.py:Small", (*FLAGS, "--labels", "nets.py"), "nets.py:1: is empty; expected one class name"),
    "a branch on the data": ("nets.py:Branches", FLAGS, "PyTorch cannot export it with a free batch: Could not guard"),
    "answers that depend on neighbours": ("nets.py:Mixes", FLAGS, "an image's answer depends on the other images"),
    "an output without a batch axis": ("nets.py:Folds", FLAGS, "output is [5, 1] for a batch of 1; expected 1 first"),
    "numbers drawn at random": ("nets.py:Guesses", FLAGS, "draws random numbers (RandomUniformLike)"),
    "dropout that eval does not reach": ("nets.py:Undecided", FLAGS, "draws random numbers (Dropout in training mode)"),
    "an output that is no tensor": ("nets.py:Strings", FLAGS, "the network returns Tensor, str; expected a tensor"),
}


@pytest.mark.parametrize(("where", "flags", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_what_cannot_be_exported_is_refused_in_one_line_and_leaves_nothing(
    script: Any, net: Path, repository: Path, where: str, flags: tuple[str, ...], reason: str
) -> None:
    named = [str(net) if flag == net.name else flag for flag in flags]

    with pytest.raises(ConvqError) as refused:
        exported(script, net.parent / where, "--models", repository, *named)

    assert reason in str(refused.value)
    assert 1 == len(str(refused.value).splitlines())
    assert not repository.exists() or [] == list(repository.iterdir())


@pytest.mark.parametrize(
    ("name", "maps", "reason"),
    [
        ("Small", "con", "the network has no such module; did you mean 'conv'?"),
        ("Twice", "conv", "the module runs more than once"),
    ],
)
def test_feature_maps_that_are_not_there_or_ambiguous_are_refused(
    script: Any, net: Path, repository: Path, name: str, maps: str, reason: str
) -> None:
    folder = repository / "small"
    folder.mkdir(parents=True)
    (folder / "manifest.toml").write_text(f'[input]\nheight = 32\nwidth = 32\n[feature_maps]\nmaps = "{maps}"\n')

    with pytest.raises(ConvqError, match=reason):
        exported(script, f"{net}:{name}", "--weights", "none", "--models", repository, "--name", "small")

    assert ["manifest.toml"] == [one.name for one in folder.iterdir()]


def test_what_a_manifest_says_is_not_said_again(script: Any, net: Path, repository: Path) -> None:
    (repository / "small").mkdir(parents=True)
    (repository / "small" / "manifest.toml").write_text("")

    with pytest.raises(ConvqError, match=r"says how images are prepared; .* without --color, --size"):
        exported(script, f"{net}:Small", "--weights", "none", "--models", repository, "--size", "32", "--color", "bgr")


def test_weights_that_could_run_code_are_refused(script: Any, tmp_path: Path) -> None:
    weights, torch = script("convq.exporter.weights"), script("torch")
    torch.save(torch.nn.Sequential(torch.nn.Linear(2, 2)), tmp_path / "whole.pth")

    with pytest.raises(ExportRefused, match="is no plain state dict"):
        weights.read_weights(tmp_path / "whole.pth")


def test_weights_of_another_network_are_refused_by_what_differs(script: Any, net: Path) -> None:
    weights, torch = script("convq.exporter.weights"), script("torch")
    state = {"conv.weight": torch.zeros(4, 3, 3, 3), "conv.bias": torch.zeros(9), "head": torch.zeros(1)}

    with pytest.raises(ExportRefused) as refused:
        weights.fit(load(script, net, "Small"), state, "w.pth")

    assert (
        "w.pth does not fit the network: of its 4 tensors, 2 missing (fc.bias, fc.weight); "
        "1 unknown to the network (head); 1 of another shape (conv.bias); conv.bias is [9] there, [4] here; "
        "--arg sets what the constructor takes, such as num_classes" == str(refused.value)
    )


def test_the_accuracy_on_a_test_set_stands_in_the_report(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lenet = default_root() / "lenet"
    shutil.copytree(lenet, tmp_path / "lenet", ignore=shutil.ignore_patterns("1", "versions.json"))
    seven = np.asarray(Image.open(lenet / "sample" / "seven.png").convert("L"))
    monkeypatch.setattr(script("data"), "load", lambda *_: (np.stack([seven] * 3), np.array([7, 7, 1])))

    order = [f"{lenet / 'net.py'}:LeNet", "--weights", lenet / "weights.safetensors", "--name", "lenet"]
    exported(script, *order, "--models", tmp_path, "--data", tmp_path)

    written = json.loads((tmp_path / "lenet" / "1" / "report.json").read_text())
    assert {"dataset": "mnist", "images": 3, "right": 2, "share": 2 / 3} == written["accuracy"]


def test_lenet_comes_out_as_it_was_committed(script: Any, tmp_path: Path) -> None:
    """Byte for byte, with the versions of torch and onnx that its report names."""
    lenet = default_root() / "lenet"
    graphs, manifest = script("convq.exporter.graphs"), Manifest.read(lenet)
    report = json.loads((lenet / "1" / "report.json").read_text())
    request = ExportRequest(f"{lenet / 'net.py'}:LeNet", ".", weights=str(lenet / "weights.safetensors"))
    net = script("convq.exporter.exporting").load(request).net

    model = graphs.to_onnx(graphs.takes(net, manifest.input), manifest.input, ["logits"])

    installed = [script("torch").__version__.partition("+")[0], script("onnx").__version__]
    (tmp_path / "model.onnx").write_bytes(model)
    if [report["torch"], report["onnx"]] != installed:
        pytest.skip("another version of torch or onnx is installed than the one that exported it")
    assert (lenet / "1" / "model.onnx").read_bytes() == model
