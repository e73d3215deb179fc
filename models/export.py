r"""Exports a network to ONNX, proves that it is the same network, and writes the report.

    python models/export.py models/lenet/net.py:LeNet --weights models/lenet/weights.safetensors \
        --name lenet --data DIR

Writes models/<name>/<version>/model.onnx and report.json. The graph takes the manifest's input; when that is uint8 the
normalisation is inside, by the network's own `mean` and `std`. Nothing is written when onnxruntime and PyTorch differ
by more than 1e-4 at a batch of 1, 2, 7 or the manifest's maximum. A version is immutable: an existing one is only
replaced with --force, which is for versions that nobody has served yet.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import data  # type: ignore[import-not-found]
import numpy as np
import onnx
import torch
from PIL import Image
from rich.progress import track
from safetensors.torch import load_file
from torch import nn

from convq.inference.manifest import Manifest
from convq.inference.session import MODEL, REPORT, Engine

HERE = Path(__file__).resolve().parent

OPSET = 20  # read by every onnxruntime from 1.17 on; nothing here needs a newer one
TOLERANCE = 1e-4  # float32 sums in another order differ by about 1e-6; a wrong padding or layer by far more
BATCHES = (1, 2, 7)  # and the maximum: one, even, odd, full
SEED = 7  # of the random images that both run


class FromPixels(nn.Module):
    """A network that takes pixels as they are, uint8 0 to 255, and normalises them itself."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        # (x / 255 - mean) / std as one multiplication and one addition, which is what a graph does fastest.
        self.factor = 1.0 / (255.0 * float(net.std))
        self.offset = -float(net.mean) / float(net.std)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """The network's own output for uint8 [N, C, H, W]."""
        out: torch.Tensor = self.net(image.to(torch.float32) * self.factor + self.offset)
        return out


def main() -> None:
    """Load, export, compare, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("net", metavar="FILE.py:CLASS")
    parser.add_argument("--weights", type=Path, required=True, help=".safetensors")
    parser.add_argument("--name", required=True, help="the model's folder under models/")
    parser.add_argument("--version", type=int, default=1)
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="IDX files: measures the accuracy on the whole test set"
    )
    parser.add_argument("--dataset", choices=["mnist", "fashion"], default="mnist")
    parser.add_argument("--force", action="store_true", help="replace a version that exists")
    args = parser.parse_args()
    folder = HERE / args.name
    target = folder / str(args.version)
    if (target / MODEL).exists() and not args.force:
        parser.error(f"{target} exists, and versions are immutable: choose another --version")

    manifest = Manifest.read(folder)
    net = load_net(args.net, args.weights)
    served = FromPixels(net).eval() if manifest.input.dtype == "uint8" else net
    model = export(served, manifest)
    report: dict[str, Any] = {
        "sha256": hashlib.sha256(model).hexdigest(),
        "date": datetime.now(UTC).date().isoformat(),
        "opset": OPSET,
        "torch": torch.__version__.partition("+")[0],
        "onnx": onnx.__version__,
        "parameters": sum(weights.numel() for weights in net.parameters()),
    }
    with tempfile.TemporaryDirectory() as scratch:
        # The engine only opens whole model folders, so that is what is proven; it moves into place when it has passed.
        trial = Path(scratch) / args.name
        copy_folder(folder, trial)
        write(trial / str(args.version), model, report)
        engine = Engine.load(trial, args.version, device="cpu")
        engine.warm_up()
        report |= {"onnxruntime": version("onnxruntime"), "max_difference": differences(served, engine)}
        if args.data:
            report["accuracy"] = accuracy(engine, args.data, args.dataset)
    write(target, model, report)
    print(json.dumps(report, indent=2))


def load_net(where: str, weights: Path) -> nn.Module:
    """The class of a net.py, loaded by path, with its weights, in evaluation mode."""
    file, _, name = where.rpartition(":")
    spec = importlib.util.spec_from_file_location("net", file)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{where}: expected FILE.py:CLASS")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    net: nn.Module = getattr(module, name)()
    net.load_state_dict(load_file(weights))
    return net.eval()


def export(served: nn.Module, manifest: Manifest) -> bytes:
    """The ONNX file's bytes: one file, a free batch axis, and nothing in it about the machine that made it."""
    spec = manifest.input
    example = torch.zeros((2, spec.channels, spec.height, spec.width), dtype=getattr(torch, spec.dtype or "float32"))
    program = torch.onnx.export(
        served,
        (example,),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        input_names=[spec.name or "image"],
        output_names=[output.name for output in manifest.outputs],
        opset_version=OPSET,
        verbose=False,
    )
    if program is None:
        raise SystemExit("torch.onnx.export gave no program")
    proto = program.model_proto
    onnx.checker.check_model(proto, full_check=True)
    strip(proto)
    return proto.SerializeToString()


def strip(proto: onnx.ModelProto) -> None:
    """Remove doc strings and metadata: the exporter stores stack traces there, with the paths of this machine."""
    graph = proto.graph
    parts = [proto, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]
    parts += [*proto.functions, *(node for function in proto.functions for node in function.node)]
    for part in parts:
        part.ClearField("doc_string")
        if hasattr(part, "metadata_props"):
            part.ClearField("metadata_props")


def differences(served: nn.Module, engine: Engine) -> dict[str, float]:
    """Largest |onnxruntime - PyTorch| of the first output at each batch size; ends the program above TOLERANCE."""
    torch.manual_seed(SEED)
    found = {}
    for size in (*BATCHES, engine.max_batch):
        spec = engine.manifest.input
        pixels = torch.randint(0, 256, (size, spec.channels, spec.height or 64, spec.width or 64), dtype=torch.uint8)
        inputs = [engine.admit(image.numpy().tobytes(), "uint8", ",".join(map(str, image.shape))) for image in pixels]
        given = torch.from_numpy(
            np.stack([np.frombuffer(item.data, spec.dtype).reshape(item.shape) for item in inputs])
        )
        with torch.no_grad():
            expected = served(given).numpy()
        actual = engine.run(inputs)[engine.manifest.outputs[0].name]
        found[str(size)] = float(np.abs(actual - expected).max())
        if not found[str(size)] <= TOLERANCE:  # also when it is NaN
            raise SystemExit(f"refused: at batch {size} onnxruntime and PyTorch differ by {found[str(size)]:.2e}")
    return found


def accuracy(engine: Engine, folder: Path, dataset: str) -> dict[str, Any]:
    """Share of the whole test set that the service would get right: PNG bytes in, decode, prepare, run."""
    images, labels = data.load(folder, "t10k", dataset)
    right = 0
    for start in track(range(0, len(images), engine.max_batch), description="test set"):
        inputs = [engine.prepare(engine.decode(png(image))) for image in images[start : start + engine.max_batch]]
        logits = engine.run(inputs)[str(engine.classes)]
        right += int((logits.argmax(axis=1) == labels[start : start + engine.max_batch]).sum())
    return {"dataset": dataset, "images": len(images), "right": right, "share": right / len(images)}


def png(image: np.ndarray[Any, Any]) -> bytes:
    """One gray image as a PNG file."""
    out = BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


def copy_folder(source: Path, target: Path) -> None:
    """What the engine reads of a model's folder, without its versions."""
    for file in source.rglob("*"):
        if file.is_file() and not file.relative_to(source).parts[0].isdigit():
            (target / file.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (target / file.relative_to(source)).write_bytes(file.read_bytes())


def write(folder: Path, model: bytes, report: dict[str, Any]) -> None:
    """model.onnx and report.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MODEL).write_bytes(model)
    (folder / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
