"""One loaded version of one model: decode and prepare its images, admit its tensors, run its batches.

The only module that imports onnxruntime. It knows nothing of jobs, queues or time limits.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

import convq.inference.image as images
from convq.errors import JobError, ModelBroken, ModelFault, SettingsError
from convq.inference.graph import Graph, agree
from convq.inference.manifest import Manifest
from convq.inference.outputs import finite, rank
from convq.inference.tensors import Prepared, admit_slowly

__all__ = ["MODEL", "REPORT", "Engine", "Prepared"]

MODEL: Final = "model.onnx"
REPORT: Final = "report.json"

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_new_tuple = tuple.__new__
_ERRORS_ONLY = 3
_FATAL_ONLY = 4


class Engine:
    """One version of one model on one onnxruntime session. Used by one thread at a time; not fork-safe.

    `load`, then `warm_up`, then any number of batches. The attributes never change after `warm_up`.
    """

    name: str
    version: int
    manifest: Manifest
    labels: tuple[str, ...]
    """The classes in the order of the output; empty for a model without classes."""
    provider: str
    """Where it runs: cpu or cuda."""
    requested_provider: str
    """What was asked for: auto, cpu or cuda."""
    sha256: str
    """Of `model.onnx`, as `report.json` says and as was verified."""
    outputs: tuple[str, ...]
    """Every raw output and feature map that a job may ask for by name."""
    default_outputs: tuple[str, ...]
    """What a job gets besides predictions when it asks for nothing: the declared outputs that are no classes."""
    classes: str | None
    """The output that holds the classes, if any."""
    activation: str
    """What `rank` must apply to `classes`."""
    max_batch: int
    """Jobs in one call of `run`: the manifest's limit, or 1 for a graph whose batch axis is fixed."""
    load_s: float
    """Seconds from `load` to the end of `warm_up`."""

    def __init__(self, name: str, version: int, manifest: Manifest, file: Path, session: Any, graph: Graph) -> None:
        """Not for callers: `load` checks what is assumed here."""
        self.name, self.version, self.manifest = name, version, manifest
        self.labels, self.sha256, self.provider, self.requested_provider = (), "", "", ""
        self.outputs = (*graph.fetched, *graph.feature_maps)
        self.classes = manifest.classes.name if manifest.classes else None
        self.default_outputs = tuple(name for name in graph.fetched if name != self.classes)
        self.activation = (manifest.classes.activation if manifest.classes else None) or "softmax"
        self.max_batch = graph.max_batch
        self.load_s = 0.0
        self._file, self._session, self._graph = file, session, graph
        self._began = time.monotonic()
        self._fetched = {name: name for name in graph.fetched}
        self._everything = {**self._fetched, **graph.feature_maps}
        self._dtype = np.dtype(graph.dtype)
        # What a tensor must say to go to the network without a second look; "" never matches where a side is free.
        fixed = [side for side in graph.shape if side is not None]
        self._shape: tuple[int, ...] = tuple(fixed) if len(fixed) == len(graph.shape) else ()
        self._shape_text = ",".join(map(str, self._shape))
        self._dtype_text = graph.dtype
        self._bytes = self._dtype.itemsize * int(np.prod(self._shape))

    @classmethod
    def load(cls, folder: Path, version: int, *, device: str = "auto") -> Engine:
        """Open version `version` of the model in `folder`, on `device` auto, cpu or cuda.

        `auto` is the manifest's `runtime.device`, and where that is auto too, CUDA if this machine has it.

        Raises:
            ModelBroken: a file is missing or damaged, or manifest and graph contradict each other.
            SettingsError: CUDA was asked for and is not there.
        """
        began = time.monotonic()
        manifest = Manifest.read(folder)
        labels = manifest.read_labels(folder)
        file = folder / str(version) / MODEL
        content, sha256 = _read_verified(file)
        requested = manifest.runtime.device if device == "auto" else device
        session = _open_session(content, file, requested, manifest.runtime.threads)
        graph = agree(manifest, session.get_inputs(), session.get_outputs(), str(file))
        engine = cls(folder.resolve().name, version, manifest, file, session, graph)
        engine.labels, engine.sha256, engine.requested_provider = labels, sha256, requested
        engine.provider = "cuda" if session.get_providers()[0] == _PROVIDERS["cuda"] else "cpu"
        engine._began = began
        return engine

    def warm_up(self) -> None:
        """Run batches of 1 and of `max_batch`, then the manifest's sample. Raises ModelBroken where one fails."""
        shape = self._graph.example_shape()
        blank = Prepared(np.zeros(shape, dtype=self._dtype), shape)
        try:
            for size in sorted({1, self.max_batch}):
                made = self.run([blank] * size)
            if self.classes is not None and made[self.classes][0].size != len(self.labels):
                count = made[self.classes][0].size
                raise ModelBroken(
                    f"{self._file}: {self.classes} has {count} classes; there are {len(self.labels)} labels"
                )
            self._check_sample()
        except JobError as err:
            raise ModelBroken(f"{self._file}: warm-up failed: {err}") from None
        self.load_s = time.monotonic() - self._began

    def decode(self, image: bytes) -> NDArray[np.uint8]:
        """An encoded image as pixels: uint8 [h, w] or [h, w, 3]. Raises BadImage, ImageTooLarge."""
        return images.decode(image, self._graph.input, self.manifest.limits)

    def prepare(self, decoded: NDArray[np.uint8]) -> Prepared:
        """Pixels from `decode`, scaled and placed as the manifest says. Raises BadImage, ImageTooLarge."""
        limit = self.manifest.limits.max_pixels
        data = images.prepare(decoded, self._graph.input, self._dtype_text, max_pixels=limit)
        return Prepared(data, data.shape)

    def admit(self, tensor: bytes, dtype: str, shape: str) -> Prepared:
        """A job's raw tensor: little-endian, C order, in the layout of the model, without the batch axis.

        One of the graph's own dtype goes to the network as it is. uint8 for a float32 graph is a decoded image of the
        input's size and is scaled and normalised as one. Raises BadTensor, which says what was expected.
        """
        if shape == self._shape_text and dtype == self._dtype_text and len(tensor) == self._bytes:
            # Past the named tuple's own constructor, which would be two thirds of the time of this whole method.
            return _new_tuple(Prepared, (tensor, self._shape))
        return admit_slowly(tensor, dtype, shape, self._graph, self.manifest.limits.max_pixels)

    def run(self, inputs: Sequence[Prepared], wanted: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
        """Run one batch: outputs and feature maps by name, each [n, ...] in the order of `inputs`.

        All inputs have one shape, and there are 1 to `max_batch` of them. Of the feature maps only those in `wanted`
        are fetched, where it is given; the declared outputs always are. Raises ModelFault when onnxruntime refuses,
        or when an output does not have one entry for each job.
        """
        size = len(inputs)
        # The one copy of the batch: join takes bytes and arrays alike.
        parts: list[Any] = [item[0] for item in inputs]
        batch = np.frombuffer(b"".join(parts), dtype=self._dtype)
        fetched = self._everything
        if wanted is not None and self._graph.feature_maps:
            fetched = {name: raw for name, raw in fetched.items() if name in self._fetched or name in wanted}
        try:
            made = self._session.run(list(fetched.values()), {self._graph.name: batch.reshape(size, *inputs[0][1])})
        except Exception as err:  # noqa: BLE001
            # onnxruntime's exceptions share no base class, and whichever it is, this batch was refused.
            raise ModelFault(_without_paths(str(err))) from None
        for name, raw in zip(fetched, made, strict=True):
            if raw.ndim < 1 or raw.shape[0] != size:
                raise ModelFault(
                    f"output {name} has shape {list(raw.shape)} for a batch of {size}; expected {size} first"
                )
        return dict(zip(fetched, made, strict=True))

    def describe(self) -> dict[str, object]:
        """What clients may want to know before they submit, as JSON-able values; free sides are None."""
        graph, limits = self._graph, self.manifest.limits
        spec = graph.input
        shown = {"name": graph.name, "dtype": graph.dtype, "shape": list(graph.shape), "layout": spec.layout}
        return {
            "description": self.manifest.description,
            "inputs": [{**shown, "color": spec.color, "multiple_of": spec.multiple_of}],
            "outputs": [{"name": name, **graph.nodes[raw]} for name, raw in self._everything.items()],
            "classes": self.classes,
            "labels": len(self.labels),
            "limits": {**limits.model_dump(), "max_batch": self.max_batch},
            "provider": self.provider,
            "sha256": self.sha256,
        }

    def _check_sample(self) -> None:
        """The manifest's sample must come out finite, and as the label that the manifest says."""
        warmup = self.manifest.warmup
        if warmup is None:
            return
        file = self._file.parent.parent / warmup.sample
        try:
            content = file.read_bytes()
        except OSError as err:
            raise ModelBroken(f"{file}: the warm-up sample cannot be read: {err.strerror}") from None
        made = self.run([self.prepare(self.decode(content))])
        if not finite(made).all():
            raise ModelBroken(f"{self._file}: the warm-up sample {warmup.sample} gives NaN or infinity")
        if warmup.golden is not None and self.classes is not None:
            label = self.labels[rank(made[self.classes], self.activation, 1).indices[0, 0]]
            if label != warmup.golden:
                raise ModelBroken(f"{self._file}: {warmup.sample} is '{label}'; warmup.golden says '{warmup.golden}'")


def _read_verified(file: Path) -> tuple[bytes, str]:
    """The model's bytes and their SHA-256, which must be the one in the report beside it."""
    report = file.with_name(REPORT)
    try:
        expected = json.loads(report.read_bytes())["sha256"]
    except OSError as err:
        raise ModelBroken(f"{report}: cannot be read: {err.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise ModelBroken(f"{report}: is not a JSON object with the sha256 of {MODEL}") from None
    try:
        content = file.read_bytes()
    except OSError as err:
        raise ModelBroken(f"{file}: cannot be read: {err.strerror}") from None
    actual = hashlib.sha256(content).hexdigest()
    if actual != expected:
        raise ModelBroken(f"{file}: its SHA-256 is {actual}; {REPORT} says {expected}")
    return content, actual


def _open_session(content: bytes, file: Path, device: str, threads: int) -> Any:
    """An onnxruntime session of `threads` threads that do not spin: workers share the cores with Redis and each other."""
    if device not in ("auto", *_PROVIDERS):
        raise SettingsError(f"device is {device!r}; expected auto, cpu or cuda")
    there = _PROVIDERS["cuda"] in onnxruntime.get_available_providers()
    if device == "cuda" and not there:
        raise SettingsError(
            "device cuda: this onnxruntime has no CUDA provider; install convq[cuda], or use device cpu"
        )
    cuda = there and device != "cpu"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # What fails is raised and said in our words; only why CUDA does not start stands nowhere but in the log.
    options.log_severity_level = _ERRORS_ONLY if cuda else _FATAL_ONLY
    if cuda:
        onnxruntime.preload_dlls()
    chosen = [_PROVIDERS["cuda"], _PROVIDERS["cpu"]] if cuda else [_PROVIDERS["cpu"]]
    try:
        session = onnxruntime.InferenceSession(content, options, providers=chosen)
    except Exception as err:  # noqa: BLE001
        # As in `run`: no common base class, and the file is what was refused.
        raise ModelBroken(f"{file}: onnxruntime refuses it: {_without_paths(str(err))}") from None
    if device == "cuda" and session.get_providers()[0] != _PROVIDERS["cuda"]:
        raise SettingsError("device cuda: the CUDA provider did not start (is there a GPU and a driver?); see the log")
    return session


def _without_paths(message: str) -> str:
    """The message of onnxruntime in one line, without its error numbers and without anything that looks like a path."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", message)
    text = re.sub(r"\S*[/\\]\S*", "…", text)
    return " ".join(text.split())[:300] or "onnxruntime gave no reason"
