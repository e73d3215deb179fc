"""All 10,000 MNIST test images through the service as PNG, against onnxruntime called directly on the same images.

    PYTHONPATH=tests/support python tests/bench/mnist_full.py [--data DIR] [--workers 2]

DIR holds MNIST's IDX files; without it they are downloaded into a temporary folder (see models/data.py). Writes the images
as `convq models eval` wants them, asks it in both ways, and prints how many classes agree and how many are right; ends with
1 unless all agree and at least 99.0 % are right.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servers import OwnServer
from services import RunningService, image_of

DATA = Path(__file__).resolve().parents[2] / "models" / "data.py"
IMAGES = 10_000
LEAST_ACCURACY = 0.99

Bytes = NDArray[np.uint8]


def main() -> int:
    """Get the images, ask both, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="DIR", help="where MNIST's IDX files are; default: download them")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="convq-mnist-") as temporary:
        folder = write(Path(temporary) / "t10k", *test_set(options.data, Path(temporary)))
        direct = evaluated(folder)
        with OwnServer(Path(temporary) / "server") as server, RunningService(server.url, workers=options.workers):
            began = time.perf_counter()
            served = evaluated(folder, "--redis", server.url)
            served_s = time.perf_counter() - began
    return judge(served, direct, served_s)


def test_set(folder: Path | None, temporary: Path) -> tuple[Bytes, Bytes]:
    """Images [10000, 28, 28] and labels [10000], verified by SHA-256."""
    data = module(DATA)
    return data.load(folder or data.fetch_mnist(temporary), "t10k")  # type: ignore[no-any-return]


def module(file: Path) -> ModuleType:
    """A script of models/, which is a folder of data and no package."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def write(folder: Path, images: Bytes, labels: Bytes) -> Path:
    """A folder for each class."""
    for label in range(10):
        (folder / str(label)).mkdir(parents=True)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        (folder / str(label) / f"{number:05}.png").write_bytes(image_of(image))
    return folder


def evaluated(folder: Path, *options: str) -> dict[str, Any]:
    """What `convq models eval` says, with every mistake by name."""
    command = [sys.executable, "-m", "convq", "models", "eval", "lenet", str(folder), "--json", "--worst", str(IMAGES)]
    found = subprocess.run([*command, *options], stdout=subprocess.PIPE, check=True)
    document: dict[str, Any] = json.loads(found.stdout)
    return document


def mistakes(document: dict[str, Any]) -> dict[str, str]:
    """Name of each image that was taken for another class -> that class."""
    return {one["picture"]: one["said"] for one in document["worst"]}


def judge(served: dict[str, Any], direct: dict[str, Any], served_s: float) -> int:
    """Print the comparison; the exit code."""
    service, onnxruntime = mistakes(served), mistakes(direct)
    differ = sorted(name for name in service | onnxruntime if service.get(name) != onnxruntime.get(name))
    answered, right, accuracy = served["answered"], served["top1"]["right"], served["top1"]["share"]
    print(f"service and onnxruntime agree on {answered - len(differ):,} of {answered:,} images")
    print(f"{right:,} are right: {accuracy:.2%}; {answered / served_s:,.0f} images a second as PNG, one client")
    for name in differ[:5]:
        print(f"{name}: the service says {service.get(name, 'right')}, onnxruntime {onnxruntime.get(name, 'right')}")
    if answered == direct["answered"] == IMAGES and not differ and accuracy >= LEAST_ACCURACY:
        return 0
    print(f"expected: all {IMAGES:,} agree, and at least {LEAST_ACCURACY:.1%} are right", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
