"""What belongs to one version besides its graphs: the manifest that it was made with, its labels, its sample.

A version's folder may hold them, and what lies there is its own: it wins over what the model's folder holds under the same
name. So a version that was kept can be gone back to, whatever became of the model's manifest since. Of a version's own
manifest `[versions]` and `[rollout]` mean nothing: they are about all versions, and stand in the model's.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from convq.errors import ModelBroken
from convq.repository.files import (
    MOST_BYTES,
    MOST_LABELS_BYTES,
    MOST_SAMPLE_BYTES,
    alphabet_of,
    labels_of,
    read_inside,
    read_sample,
)
from convq.repository.manifest import FILE, Manifest, Output

REPORT = "report.json"
HOLDS = "files"
"""In a report: what the version's folder holds besides graphs. Without all of that it is not whole."""
OF_THE_MODEL = {"versions", "rollout"}
"""Tables of a manifest that hold for all versions alike."""
_ANSWERING = {"input", "outputs", "feature_maps"}
"""Tables that decide what a graph's answers are."""


@dataclass(frozen=True, slots=True)
class VersionFiles:
    """The manifest that holds for one version, and where the files are that it names."""

    model: Path
    version: int
    manifest: Manifest
    is_own: bool
    """The manifest lies in the version's folder."""

    @classmethod
    def of(cls, model: Path, version: int) -> Self:
        """Those of version `version` of the model in the folder `model`. Raises ModelBroken."""
        is_own = has_own_manifest(model, version)
        return cls(model, version, Manifest.read(model, version if is_own else None), is_own)

    def find(self, name: str) -> Path:
        """Where a file is that the manifest names: in the version's folder, or else in the model's."""
        own = self.model / str(self.version) / name
        return own if os.path.lexists(own) else self.model / name

    def labels(self) -> tuple[str, ...]:
        """The class names, one a line of the labels file; empty for a model without classes. Raises ModelBroken.

        Of several outputs that mean classes, those of the first.
        """
        classes = self.manifest.classes
        return () if classes is None else self.labels_of(classes)

    def labels_of(self, output: Output) -> tuple[str, ...]:
        """What the lines of its labels file say: names of classes, or characters; empty without one. Raises ModelBroken."""
        if output.labels is None:
            return ()
        if output.meaning != "text":
            return self._labels_in(output.labels)
        file = self.find(output.labels)
        return alphabet_of(read_inside(file, self.model, MOST_LABELS_BYTES), file)

    def detected_labels(self) -> tuple[str, ...]:
        """What detections may be, one a line of their labels file; empty where there is none. Raises ModelBroken."""
        detections = self.manifest.detections
        return () if detections is None or detections.labels is None else self._labels_in(detections.labels)

    def every_label(self) -> list[tuple[str, ...]]:
        """What all files of labels say that the manifest names: those of its outputs, then of detections. Raises ModelBroken."""
        return [*(self.labels_of(output) for output in self.manifest.outputs if output.labels), self.detected_labels()]

    def _labels_in(self, name: str) -> tuple[str, ...]:
        file = self.find(name)
        return labels_of(read_inside(file, self.model, MOST_LABELS_BYTES), file)

    def sample(self) -> tuple[Path, bytes] | None:
        """The warm-up sample, where the manifest names one. Raises ModelBroken."""
        if self.manifest.warmup is None:
            return None
        file = self.find(self.manifest.warmup.sample)
        return file, read_sample(file, self.model)

    def named(self) -> Iterator[tuple[str, int]]:
        """The files that the manifest names, each with the most bytes that it may have."""
        warmup = self.manifest.warmup
        yield from ((name, MOST_LABELS_BYTES) for name in self.manifest.labels_files)
        if warmup is not None:
            yield warmup.sample, MOST_SAMPLE_BYTES

    def answers(self) -> str:
        """64 hexadecimal digits for what makes answers of what its graphs yield: input, outputs, labels, detections.

        Without detections, and without outputs of later meanings, they are what they were before there were any. Raises
        ModelBroken.
        """
        manifest = self.manifest
        answering = manifest.model_dump(mode="json", include=_ANSWERING)
        answering["outputs"] = [output.lasting() for output in manifest.outputs]
        tables: list[Any] = [answering, self.labels()]
        more = [
            self.labels_of(output) for output in manifest.outputs if output is not manifest.classes and output.labels
        ]
        if more:
            tables.append(more)
        if self.manifest.detections is not None:
            tables += [self.manifest.detections.model_dump(mode="json"), self.detected_labels()]
        said = json.dumps(tables, sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()


def has_own_manifest(model: Path, version: int) -> bool:
    """Whether the version's folder holds a manifest, whatever that is."""
    return os.path.lexists(model / str(version) / FILE)


def differing(own: Manifest, model: Manifest) -> list[str]:
    """The keys in which a version's manifest is not what the model's is now, as `table.key`; without those of all versions."""
    mine, theirs = (one.model_dump(mode="json", exclude=OF_THE_MODEL) for one in (own, model))
    found = []
    for table in mine:
        before, now = mine[table], theirs[table]
        if isinstance(before, dict) and isinstance(now, dict):
            found += [f"{table}.{key}" for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
        elif before != now:
            found.append(table)
    return found


def report_of(model: Path, version: int) -> dict[str, Any]:
    """A version's `report.json`. Raises ModelBroken."""
    file = model / str(version) / REPORT
    try:
        report = json.loads(read_inside(file, model, MOST_BYTES[REPORT]))
    except (ValueError, RecursionError):
        report = None
    if not isinstance(report, dict):
        raise ModelBroken(f"{file}: is not a JSON object")
    return report
