"""All 10,000 MNIST test images through the service as PNG, against onnxruntime called directly on the same images.

    python tests/mnist_full.py [--data DIR] [--workers 2]

DIR holds MNIST's IDX files; without it they are downloaded into a temporary folder (see models/data.py). Prints how
many classes agree and how many are right; ends with 1 unless all agree and at least 99.0 % are right.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from convq import Client
from convq.inference.outputs import rank
from convq.inference.repository import default_root
from convq.inference.session import Engine
from servers import OwnServer
from services import RunningService, image_of

DATA = Path(__file__).resolve().parent.parent / "models" / "data.py"
IMAGES = 10_000
LEAST_ACCURACY = 0.99
WAIT_S = 60.0
BATCH = 100

Bytes = NDArray[np.uint8]


def main() -> int:
    """Get the images, ask both, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="DIR", help="where MNIST's IDX files are; default: download them")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="convq-mnist-") as temporary:
        images, labels = test_set(options.data, Path(temporary))
        with OwnServer(Path(temporary) / "server") as server, RunningService(server.url, workers=options.workers):
            began = time.perf_counter()
            served = np.fromiter(
                tracked(through_the_service(server.url, images), "service", len(images)), dtype=np.int64
            )
            served_s = time.perf_counter() - began
    direct = np.fromiter(tracked(directly(images), "onnxruntime", len(images)), dtype=np.int64)
    return judge(served, direct, labels, served_s)


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


def through_the_service(url: str, images: Bytes) -> Iterator[int]:
    """The class that the service gives each image, pushed as PNG."""
    with Client(url, model="lenet") as client:
        for result in client.map((image_of(image) for image in images), timeout=WAIT_S, top_k=1):
            yield int(result.label)


def directly(images: Bytes) -> Iterator[int]:
    """The class that onnxruntime gives each image, in this process, without a queue."""
    engine = Engine.load(default_root() / "lenet", 1, device="cpu")
    assert engine.classes is not None
    for first in range(0, len(images), BATCH):
        outputs = engine.run([engine.prepare(image) for image in images[first : first + BATCH]])
        yield from rank(outputs[engine.classes], engine.activation, 1).indices[:, 0].tolist()


def tracked(classes: Iterator[int], name: str, total: int) -> Iterator[int]:
    """The same, with a progress bar on standard error."""
    columns = TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield from progress.track(classes, total=total, description=name)


def judge(served: NDArray[np.int64], direct: NDArray[np.int64], labels: Bytes, served_s: float) -> int:
    """Print the comparison; the exit code."""
    agree, right = int((served == direct).sum()), int((served == labels).sum())
    accuracy = right / len(labels)
    print(f"service and onnxruntime agree on {agree:,} of {len(labels):,} images")
    print(f"{right:,} are right: {accuracy:.2%}; {len(served) / served_s:,.0f} images a second as PNG, one client")
    for index in np.flatnonzero(served != direct)[:5]:
        print(f"image {index}: the service says {served[index]}, onnxruntime {direct[index]}, it is {labels[index]}")
    if len(labels) == agree == IMAGES and accuracy >= LEAST_ACCURACY:
        return 0
    print(f"expected: all {IMAGES:,} agree, and at least {LEAST_ACCURACY:.1%} are right", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
