"""One loaded version of one model: decode and prepare its images, admit its tensors, run its batches.

It knows nothing of jobs, queues or time limits. onnxruntime is imported by `onnx_session` alone.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import convq.engine.image as images
from convq.answers.coordinates import Placement
from convq.engine.answering.detector import Detector
from convq.engine.answering.frame import NOWHERE, Frame, frame_of
from convq.engine.answering.meanings import Meanings, fitting
from convq.engine.kernels.suppression import fast_suppress
from convq.engine.onnx_session import FEATURES, MODEL, REPORT, OpenedVersion, open_version, shrink, without_paths
from convq.engine.png import Picture
from convq.engine.postprocess import Head, check_outputs
from convq.engine.room import TOGETHER_BYTES, Sizes
from convq.engine.tensors import Prepared, admit_slowly, is_finite, largest_bytes, read_npy
from convq.engine.warm_up import WarmUp
from convq.errors import BadField, JobError, ModelFault, NetworkFaulty
from convq.protocol import PREPARED
from convq.repository.bounds import MOST_DESCRIBED_BYTES
from convq.repository.manifest import Manifest
from convq.repository.version_files import VersionFiles

__all__ = ["FEATURES", "MODEL", "REPORT", "Engine", "Prepared"]

_TENSOR_SAMPLE = ".npy"
_SEED = 7
SPARE_S: Final = 0.015
"""Of the processor, at the start of a worker, for batches of sizes that are not always tried: a small part of what the start takes."""
_new_tuple = tuple.__new__


class Engine:
    """One version of one model in onnxruntime. Used by one thread at a time; not fork-safe.

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
    precision: str
    """The type of most of its weights, as float32; what the kernels compute with is theirs."""
    sha256: str
    """Of `model.onnx`, as `report.json` says and as was verified."""
    seal: str  # the checksums of what was opened
    outputs: tuple[str, ...]
    """Every raw output and feature map that a job may ask for by name."""
    feature_maps: frozenset[str]
    """Those of `outputs` that are computed or fetched only for batches in which a job asks."""
    default_outputs: tuple[str, ...]
    """What a job gets besides its answer when it asks for nothing: the declared outputs that no answer is made of."""
    pictures: Mapping[str, Picture]
    """Those of `outputs` that are images, and how each becomes one."""
    classes: str | None
    """The output that holds the classes, if any; of several the first."""
    activation: str
    """What `rank` must apply to `classes`."""
    heads: tuple[Head, ...]
    """All outputs that hold classes."""
    detector: Detector | None
    """What makes detections of the outputs, if anything does."""
    meanings: Meanings
    """What other outputs mean."""
    is_placed: bool
    """Whether an answer says something of places in the picture."""
    max_batch: int
    """Jobs in one call of `run`: the manifest's limit, or what ends in time and has room, or the graph's own
    where its batch axis is fixed."""
    largest_tensor_bytes: int
    """`admit` refuses anything above."""
    remark: str
    """What whoever runs it should know, in a line; empty as a rule."""
    load_s: float
    """Seconds from `load` to the end of `warm_up`."""

    def __init__(self, opened: OpenedVersion) -> None:
        """Around what `open_version` has found to be in order."""
        manifest, graph, maps = opened.manifest, opened.plain.graph, opened.featured.graph.feature_maps
        self.name, self.version, self.manifest, self.labels = opened.name, opened.version, manifest, opened.labels
        self.provider, self.requested_provider, self.precision = opened.provider, opened.requested, opened.precision
        self.sha256, self.seal = opened.sha256, opened.seal
        self.outputs, self.feature_maps = (*graph.fetched, *maps), frozenset(maps)
        self.heads, self.meanings, self.pictures = opened.heads, opened.meanings, graph.pictures
        self.classes, _, self.activation = self.heads[0] if self.heads else (None, (), "softmax")
        self.detector = None if opened.detector is None else replace(opened.detector, suppress=fast_suppress())
        self.is_placed = self.detector is not None or self.meanings.is_placed
        self._detected = frozenset[str]() if opened.detector is None else opened.detector.reads
        told = self._detected | self.meanings.reads | {head.output for head in self.heads}
        self.default_outputs = tuple(name for name in graph.fetched if name not in told)
        self.max_batch, self.remark, self.load_s = graph.max_batch, "", 0.0
        self.largest_tensor_bytes = largest_bytes(graph, manifest.limits.max_pixels)
        self._opened, self._file, self._graph = opened, opened.file, graph
        self._plain, self._featured = opened.plain, opened.featured
        self._example: tuple[int, ...] = ()
        self._sizes = Sizes()
        self._dtype, self._adapter = np.dtype(graph.dtype), graph.adapter.or_none()
        # What a tensor must say to go to the network without a second look; "" never matches where a side is free.
        fixed = [side for side in graph.shape if side is not None]
        self._shape: tuple[int, ...] = tuple(fixed) if len(fixed) == len(graph.shape) else ()
        self._shape_text = ",".join(map(str, self._shape))
        self._dtype_text = graph.dtype
        self._bytes = self._dtype.itemsize * int(np.prod(self._shape))

    @classmethod
    def load(cls, folder: Path, version: int, *, device: str = "auto", seal: str = "") -> Engine:
        """Open version `version` of the model in `folder`, on `device` auto, cpu or cuda.

        `auto` is the manifest's `runtime.device`, and where that is auto too, CUDA if this machine has it. Where the
        manifest names feature maps and the version has a `features.onnx`, they come from that, in a session of its own.
        Where a `seal` is given, no other files than those are opened.

        Raises:
            ModelBroken: a file is missing or damaged, or manifest and graphs contradict each other.
            SettingsError: CUDA was asked for and is not there.
        """
        return cls(open_version(folder, version, device=device, seal=seal))

    def warm_up(self, spare_s: float = SPARE_S, together_bytes: int = TOGETHER_BYTES) -> None:
        """Run batches of 1 and of `max_batch`, then the manifest's sample. Raises ModelBroken where one fails.

        A `features.onnx` runs too, and must say the same as `model.onnx`. Where the largest batch comes near `max_batch_s`,
        `max_batch` becomes smaller, and `remark` says so; and where the outputs of so many jobs, and what is written of
        them, take more than `together_bytes`. In the end each job must be answered in batches as it is alone:
        see `independence`, which may take `spare_s` seconds of the processor for sizes that it does not always try.
        """
        try:
            proven = WarmUp(self._opened, self, self._read_sample(), together_bytes)
            proven.run(spare_s)
        except JobError as err:
            raise NetworkFaulty(f"{self._file}: warm-up failed: {err}") from None
        self._example, self.max_batch, self.remark = proven.example, proven.max_batch, proven.remark
        self.load_s = time.monotonic() - self._opened.began_s

    def decode(self, image: bytes) -> NDArray[np.uint8]:
        """An encoded image as pixels: uint8 [h, w] or [h, w, 3]. Raises BadField, BadImage, ImageTooLarge."""
        if not self._graph.takes_images:
            raise BadField(
                "image is not for this model, which takes tensors only: give tensor, dtype and shape instead"
            )
        return images.decode(image, self._graph.input, self.manifest.limits)

    def prepare(self, decoded: NDArray[np.uint8]) -> Prepared:
        """Pixels from `decode`, scaled and placed as the manifest says. Raises BadImage, ImageTooLarge."""
        limit = self.manifest.limits.max_pixels
        data, placement = images.prepare_placed(decoded, self._graph.input, self._dtype_text, max_pixels=limit)
        return _new_tuple(Prepared, (data, data.shape, placement))

    def admit(self, tensor: bytes, dtype: str, shape: str) -> Prepared:
        """A job's raw tensor: little-endian, C order, in the layout of the model, without the batch axis.

        One of the graph's own dtype goes to the network as it is. uint8 for a float32 graph is a decoded image of the
        input's size and is scaled and normalised as one; a model that takes no images refuses it. Raises BadTensor,
        which says what was expected.
        """
        if shape == self._shape_text and dtype == self._dtype_text and len(tensor) == self._bytes:
            # Past the named tuple's own constructor, which would be two thirds of the time of this whole method.
            return _new_tuple(Prepared, (tensor, self._shape, None))
        return admit_slowly(tensor, dtype, shape, self._graph, self.manifest.limits.max_pixels)

    def takes_finite(self, prepared: Prepared) -> bool:
        """Whether this input holds no NaN and no infinity: what comes of one that does is no fault of the network."""
        return is_finite(prepared.data, self._dtype, "float16" if self._graph.adapter.half else None)

    def run(self, inputs: Sequence[Prepared], wanted: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
        """Run one batch: outputs and feature maps by name, each [n, ...] in the order of `inputs`.

        All inputs have one shape, and there are 1 to `max_batch` of them. The declared outputs are always there; of the
        feature maps only those in `wanted`, or all of them where that is not given; the batch as `prepared` if wanted. All come from one run: that of
        `features.onnx` where a map is among them and the version has one. Raises ModelFault when onnxruntime refuses, or
        when an output is not what it was declared to be: one entry for each job, an image where it means one.
        """
        size = len(inputs)
        # The one copy of the batch: join takes bytes and arrays alike.
        parts: list[Any] = [item[0] for item in inputs]
        batch = np.frombuffer(b"".join(parts), dtype=self._dtype).reshape(size, *inputs[0][1])
        network, fetched = self._plain, self._plain.fetched
        if self.feature_maps and (wanted is None or not self.feature_maps.isdisjoint(wanted)):
            network = self._featured
            maps = network.graph.feature_maps.items()
            fetched = {**fetched, **{name: raw for name, raw in maps if wanted is None or name in wanted}}
        try:
            feeds = {self._graph.name: batch} if self._adapter is None else self._adapter.feeds(batch)
            made = network.session.run(list(fetched.values()), feeds)
        except Exception as err:  # noqa: BLE001
            # onnxruntime's exceptions share no base class, and whichever it is, this batch was refused.
            raise ModelFault(without_paths(str(err))) from None
        outputs = dict(zip(fetched, made, strict=True))
        if self._adapter is not None:
            outputs = self._adapter.jobs_first(outputs, size)
        if wanted is not None and PREPARED in wanted and PREPARED not in outputs:
            outputs[PREPARED] = batch
        check_outputs(outputs, size, self.pictures)
        self._sizes.note(inputs[0][1], outputs, size)
        return outputs

    def output_bytes(self, shape: tuple[int, ...], wanted: Collection[str] | None) -> tuple[int, bool]:
        """What `run` yields for one input of that shape, in bytes, and whether that was seen or is a guess. After `warm_up`."""
        names = [*self._plain.fetched, *(one for one in self.feature_maps if wanted is None or one in wanted)]
        return self._sizes.job_bytes(shape, names)

    def told_bytes(self, shape: tuple[int, ...], wanted: Collection[str] | None) -> int:
        """What of that goes into the document of a job that wants these outputs, counted alike, and about what is told besides."""
        names = [one for one in self.outputs if one in self.default_outputs or wanted is None or one in wanted]
        named_bytes = self._sizes.job_bytes(shape, names)[0]
        if self.detector is not None:
            named_bytes += self.detector.most_bytes(None, "none")
        return named_bytes + (self.meanings.usual_bytes(shape) if self.meanings.is_drawn else 0)

    def frame_of(self, shape: tuple[int, ...], placement: Placement | None) -> Frame:
        """Where a picture lies in an input of that shape; without a `placement` it is the input itself."""
        return frame_of(shape, self._graph.input.layout, placement) if self.is_placed else NOWHERE

    def let_go(self) -> None:
        """Give back what onnxruntime keeps for the next run, which may be as much as the largest needed. After `warm_up`."""
        shrink(self._plain.session, self._graph.adapter.feeds(np.zeros((1, *self._example), dtype=self._dtype)))

    def describe(self) -> dict[str, object]:
        """What clients may want to know before they submit, as JSON-able values; free sides are None."""
        answers = self._describe_answers()
        return {
            "description": self.manifest.description,
            "inputs": [self._graph.describe_input()],
            "outputs": [
                {"name": name, "meaning": self._meaning(name), **self._featured.graph.nodes[name]}
                for name in self.outputs
            ],
            "classes": self.classes,
            "labels": len(self.labels),
            **({"answers": answers} if answers else {}),
            "limits": {**self.manifest.limits.model_dump(), "max_batch": self.max_batch},
            "provider": self.provider,
            "sha256": self.sha256,
        }

    def _describe_answers(self) -> dict[str, object]:
        """By key of a result: what it takes to make use of it."""
        shapes = {name: node["shape"] for name, node in self._graph.nodes.items()}
        answers: dict[str, object] = {} if self.detector is None else {"detections": self.detector.describe()}
        answers |= self.meanings.describe(shapes)
        if len(self.heads) > 1:
            room = MOST_DESCRIBED_BYTES // len(self.heads)
            answers["heads"] = {head.output: {"labels": fitting(head.labels, room)} for head in self.heads}
        return answers

    def _meaning(self, name: str) -> str:
        if name in self.feature_maps:
            return "feature_map"
        if any(name == head.output for head in self.heads):
            return "classes"
        if meant := self.meanings.named(name):
            return meant
        return "detections" if name in self._detected else "image" if name in self.pictures else "tensor"

    def noise(self, seed: int = _SEED) -> Prepared:
        """An input that is not the same everywhere, and always the same one for a seed. After `warm_up`."""
        shape = self._example
        levels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
        if self._graph.dtype == "uint8":
            return Prepared(levels, shape)
        if self._graph.takes_images:
            return Prepared(images.normalise(levels, self._graph.input), shape)
        return Prepared((levels / 256).astype(np.float32), shape)

    def _read_sample(self) -> Prepared | None:
        """The manifest's warm-up sample, an image or a tensor in NumPy's file format. Raises ModelBroken, JobError."""
        found = VersionFiles(self._file.parent.parent, self.version, self.manifest, is_own=True).sample()
        if found is None:
            return None
        file, content = found
        if file.suffix == _TENSOR_SAMPLE:
            return self.admit(*read_npy(content))
        return self.prepare(self.decode(content))
