"""What a version is, by all that its answers come from: the same on every host, whatever copied its files and when."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from convq.errors import ModelBroken
from convq.repository.files import open_inside
from convq.repository.version_files import OF_THE_MODEL, VersionFiles

GRAPHS = ("model.onnx", "features.onnx")
MOST_GRAPH_BYTES = 1 << 40
_STEP_BYTES = 1 << 20


def fingerprint_of(model: Path, version: int) -> str:
    """64 hexadecimal digits for the graphs, manifest, labels and sample of a version. Raises ModelBroken.

    Reads all of it; of the manifest, what holds for all versions alike is left out.
    """
    files = VersionFiles.of(model, version)
    manifest = files.manifest.model_dump(mode="json", exclude=OF_THE_MODEL)
    sample = files.sample()
    parts = [json.dumps([manifest, files.every_label()], sort_keys=True).encode(), sample[1] if sample else b""]
    digests = [hashlib.sha256(part).hexdigest() for part in parts]
    folder = model / str(version)
    digests += [_digest(folder / name, model) if os.path.lexists(folder / name) else "" for name in GRAPHS]
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


def _digest(file: Path, model: Path) -> str:
    """Of the content of a file, whatever its size. Raises ModelBroken."""
    digest = hashlib.sha256()
    try:
        with open_inside(file, model, MOST_GRAPH_BYTES) as content:
            while step := content.read(_STEP_BYTES):
                digest.update(step)
    except OSError as error:
        raise ModelBroken(f"{file}: cannot be read: {error.strerror}") from None
    return digest.hexdigest()
