"""What a graph takes and yields, held against what its manifest claims. Knows nothing of onnxruntime but its words.

See `graph_io.nodes` for the words of onnxruntime; this module imports no runtime.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convq.engine.answering.detector import Detector
from convq.engine.answering.meanings import Meanings
from convq.engine.graph_io.adapter import Adapter, adapter_for
from convq.engine.graph_io.extra_inputs import picture_of
from convq.engine.graph_io.nodes import DTYPES, Node, dtype_of, sides_of
from convq.engine.png import Picture
from convq.errors import ModelBroken
from convq.printable import brief, brief_list
from convq.repository.bounds import MOST_DESCRIBED_BYTES, MOST_NAME_CHARACTERS, MOST_OUTPUTS
from convq.repository.manifest import BatchAxis, Input, Manifest

IMAGE_RANK = 4
TENSOR_RANKS = range(2, 7)
"""Axes of an input that is no image, the batch included."""
FREE_SIDES = (224, 128, 64, 32, 16, 8, 4, 2, 1)
"""What a free side of a tensor is warmed up with: the largest that leaves all of them with no more than a photograph."""
EXAMPLE_ELEMENTS = 3 * 224 * 224
NUMERIC = frozenset(
    ["bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
)


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph and its manifest, found to agree."""

    name: str
    """The graph's name of its input."""
    dtype: str
    """What an input is made as, uint8 or float32; a graph of float16 takes float32 here, which `adapter` casts."""
    shape: tuple[int | None, ...]
    """One input in the layout of the model, without the batch axis; None is a free side."""
    input: Input
    """The manifest's input with the graph's sizes filled in."""
    max_batch: int
    fetched: tuple[str, ...]
    """The outputs that every batch yields."""
    feature_maps: Mapping[str, str]
    """Name that jobs use -> this graph's output."""
    adapter: Adapter
    """What lies between a batch of jobs and the graph."""
    nodes: Mapping[str, dict[str, Any]]
    """By the names that jobs use: dtype, and shape without the batch axis; what is no number in it is a free side."""
    pictures: Mapping[str, Picture]
    """Those of `fetched` that are images."""

    @property
    def takes_images(self) -> bool:
        """Whether a job may bring an image; otherwise only a tensor."""
        return self.input.color != "none"

    def describe_input(self) -> dict[str, Any]:
        """What clients may want to know of it, as JSON-able values; free sides are None."""
        shown: dict[str, Any] = {
            "name": self.name,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "color": self.input.color,
        }
        if self.takes_images:
            shown |= self.input.model_dump(include={"layout", "multiple_of", "scale", "mean", "std"})
        return shown

    def example_shape(self, max_elements: int = EXAMPLE_ELEMENTS) -> tuple[int, ...]:
        """A shape to warm up with: 224 or so for every free side, less where the input is no image and has many."""
        if self.takes_images:
            step = self.input.multiple_of
            return tuple(side if side is not None else max(1, 224 // step) * step for side in self.shape)
        fixed = math.prod(side for side in self.shape if side is not None)
        free = self.shape.count(None)
        most = min(max_elements, EXAMPLE_ELEMENTS)
        example = next((side for side in FREE_SIDES if fixed * side**free <= most), 1)
        return tuple(example if side is None else side for side in self.shape)


def agree(
    manifest: Manifest,
    inputs: Sequence[Node],
    outputs: Sequence[Node],
    file: str,
    *,
    detector: Detector | None = None,
    fetched: Sequence[str] | None = None,
    with_maps: bool = True,
) -> Graph:
    """Hold the manifest against the graph. Raises ModelBroken, beginning with `file`, where one contradicts the other.

    `detector` is what the manifest says of detections. `fetched` are the outputs that every batch yields (None: those of the
    manifest, or all there are where it names none); without `with_maps` the feature maps come from another graph, and this one need not have them.
    """
    whole = detector.reads if detector is not None and not detector.is_batched else frozenset[str]()
    try:
        node = picture_of(inputs, manifest.extra_inputs)
        adapter = adapter_for(manifest, inputs, node, whole)
    except ModelBroken as error:
        raise ModelBroken(f"{file}: {error}") from None
    _check_input(manifest.input, node, file)
    batch, *sides = sides_of(node)
    if batch is not None and batch < 1:
        raise ModelBroken(
            f"{file}: input {brief(node.name)}: the batch axis is fixed at {batch}; expected free, or from 1 on"
        )
    spec, shape = _sized(manifest.input, sides, f"{file}: input {brief(node.name)}")
    known = {output.name: output for output in outputs}
    if fetched is None:
        fetched = _fetched(manifest, known, detector, file)
    maps = manifest.feature_maps if with_maps else {}
    if misfit := beyond(node.name, [*fetched, *maps]):
        raise ModelBroken(f"{file}: {misfit}")
    raw = {**{name: name for name in fetched}, **maps}
    for name in raw.values():
        _check_output(known, name, file, _family_of(name, manifest, detector))
    for name, output in raw.items():
        if misfit := adapter.misfit(name, known[output]):
            raise ModelBroken(f"{file}: {misfit}")
    nodes = {name: _describe(known[output], adapter.batch_axes.get(name, 0)) for name, output in raw.items()}
    described_bytes = len(json.dumps([node.name, [str(side) for side in node.shape], nodes]))
    if described_bytes > MOST_DESCRIBED_BYTES:
        raise ModelBroken(
            f"{file}: its names and shapes take {described_bytes} bytes to describe; at most {MOST_DESCRIBED_BYTES}"
        )
    return Graph(
        name=node.name,
        dtype=DTYPES[node.type],
        shape=shape,
        input=spec,
        max_batch=1 if batch == 1 else adapter.most_jobs(manifest.limits.max_batch),
        fetched=tuple(fetched),
        feature_maps=dict(maps),
        adapter=adapter,
        nodes=nodes,
        pictures=_pictures(manifest, nodes, known, file),
    )


def beyond(input_name: str, outputs: Sequence[str]) -> str:
    """Which bound the names go beyond, in words that go on after a file's name; empty where they keep to all of them."""
    if len(outputs) > MOST_OUTPUTS:
        return f"it has {len(outputs)} outputs and feature maps; at most {MOST_OUTPUTS} are served"
    long = next((name for name in (input_name, *outputs) if len(name) > MOST_NAME_CHARACTERS), None)
    if long is not None:
        return f"the name {brief(long)} has {len(long)} characters; at most {MOST_NAME_CHARACTERS}"
    return ""


def check_same_network(plain: Graph, featured: Graph, file: str) -> None:
    """Raise ModelBroken, beginning with `file`, where the graph with the feature maps contradicts the one without.

    Both have been held against the same manifest; what a graph leaves open contradicts nothing.
    """
    ours, theirs = ((brief(one.name), "float16" if one.adapter.half else one.dtype) for one in (plain, featured))
    if ours != theirs:
        raise ModelBroken(f"{file}: its input is {theirs[0]}, {theirs[1]}; model.onnx has {ours[0]}, {ours[1]}")
    if (plain.shape, plain.max_batch) != (featured.shape, featured.max_batch):
        raise ModelBroken(f"{file}: its input is {_sides(featured)}; model.onnx has {_sides(plain)}")
    if plain.adapter != featured.adapter:
        raise ModelBroken(f"{file}: the size of its batch or its extra inputs are not those of model.onnx")
    for name in plain.fetched:
        one, other = plain.nodes[name], featured.nodes[name]
        if one["dtype"] != other["dtype"] or not _compatible(one["shape"], other["shape"]):
            raise ModelBroken(
                f"{file}: output {brief(name)} is {other['dtype']} {other['shape']}; "
                f"model.onnx has {one['dtype']} {one['shape']}"
            )


def check_meanings(meanings: Meanings, graph: Graph, outputs: Sequence[Node], file: str) -> None:
    """Raise ModelBroken, beginning with `file`, where an output cannot mean what the manifest says.

    What has no axes at all is an output whose shape only a run can tell: it is looked at then.
    """
    declared = {node.name for node in outputs if node.shape}
    shapes = {name: (said["shape"], said["dtype"]) for name, said in graph.nodes.items() if name in declared}
    if misfits := meanings.misfits(shapes):
        name, why = next(iter(misfits.items()))
        raise ModelBroken(f"{file}: output {brief(name)} {why}")


def _check_input(spec: Input, node: Node, file: str) -> None:
    where = f"{file}: input {brief(node.name)}"
    if spec.name not in (None, node.name):
        raise ModelBroken(
            f"{file}: the graph's input is {brief(node.name)}; the manifest says input.name = {brief(str(spec.name))}"
        )
    if node.type not in DTYPES:
        raise ModelBroken(f"{where} is a {brief(node.type)}; expected {' or '.join(DTYPES)}")
    dtype = dtype_of(node)
    if spec.dtype not in (None, dtype):
        raise ModelBroken(f"{where} is {dtype}; the manifest says input.dtype = {spec.dtype}")
    if dtype == "uint8" and spec.normalises:
        raise ModelBroken(f"{where} is uint8 and gets pixels as they are; the manifest has a scale, mean or std")
    if spec.color == "none" and len(node.shape) not in TENSOR_RANKS:
        raise ModelBroken(f"{where} has {len(node.shape)} axes; expected {TENSOR_RANKS[0]} to {TENSOR_RANKS[-1]}")
    if spec.color != "none" and len(node.shape) != IMAGE_RANK:
        hint = "; or input.color = 'none', for a model that takes tensors" if len(node.shape) in TENSOR_RANKS else ""
        raise ModelBroken(f"{where} has {len(node.shape)} axes; expected 4 ({spec.layout}){hint}")


def _sized(spec: Input, sides: Sequence[int | None], where: str) -> tuple[Input, tuple[int | None, ...]]:
    """The manifest's input and the shape of one input, once channels and sizes agree."""
    if spec.color == "none":
        return spec, tuple(sides)
    channels, height, width = sides if spec.layout == "NCHW" else (sides[2], sides[0], sides[1])
    if channels not in (None, spec.channels):
        hint = "; is its layout right?" if spec.channels in sides else ""
        raise ModelBroken(
            f"{where} has {channels} channels; the manifest's color {spec.color} has {spec.channels}{hint}"
        )
    for name, claimed, actual in (("height", spec.height, height), ("width", spec.width, width)):
        if claimed is not None and actual is not None and claimed != actual:
            raise ModelBroken(f"{where} has a {name} of {actual}; the manifest says input.{name} = {claimed}")
    try:
        sized = spec.sized(height, width)
    except ValueError:
        raise ModelBroken(
            f"{where}: its {width} x {height} pixels do not go with the manifest's resize and pad"
        ) from None
    if sized.lacks:
        raise ModelBroken(f"{where}: resize = '{spec.resize}' needs input.{sized.lacks}, which the graph leaves free")
    image = (sized.height, sized.width)
    return sized, (spec.channels, *image) if spec.layout == "NCHW" else (*image, spec.channels)


def _pictures(
    manifest: Manifest, nodes: Mapping[str, dict[str, Any]], known: Mapping[str, Node], file: str
) -> dict[str, Picture]:
    """How each output that means an image becomes one."""
    spec, pictures = manifest.input, {}
    for output in manifest.outputs:
        if output.meaning == "image":
            made = Picture(spec.layout, spec.color == "bgr", output.scale, output.offset)
            shape = nodes[output.name]["shape"]
            # No axes at all is how onnxruntime shows an output whose shape only a run can tell.
            if known[output.name].shape and (misfit := made.misfit(tuple(shape))):
                raise ModelBroken(f"{file}: output {brief(output.name)} {misfit}")
            pictures[output.name] = made
    return pictures


def _fetched(manifest: Manifest, known: Mapping[str, Node], detector: Detector | None, file: str) -> tuple[str, ...]:
    """The outputs that every batch yields: the declared ones and those of detections, or else all that are no feature maps."""
    read = () if detector is None else detector.spec.outputs
    fetched = tuple(dict.fromkeys([*(output.name for output in manifest.outputs), *read]))
    if not fetched:
        fetched = tuple(name for name in known if name not in manifest.feature_maps.values())
    if not fetched:
        raise ModelBroken(f"{file}: all outputs of the graph are feature maps; expected one that every job gets")
    if twice := [name for name in fetched if name in manifest.feature_maps]:
        raise ModelBroken(
            f"{file}: {brief(twice[0])} is an output of the graph, and the manifest calls a feature map so"
        )
    return fetched


def _family_of(output: str, manifest: Manifest, detector: Detector | None) -> str | None:
    """The family that has the name of an output from its exporter, where the manifest does not say it."""
    said = manifest.detections
    by_family = detector is not None and said is not None and not said.tables and output in detector.reads
    return said.family if by_family and said is not None else None


def _check_output(known: Mapping[str, Node], name: str, file: str, family: str | None) -> None:
    if name not in known:
        there = brief_list(known)
        who = "the manifest names" if family is None else f"family {family} reads"
        how = "" if family is None else "; name yours in [[detections.tables]], with its columns"
        raise ModelBroken(f"{file}: the graph has no output {brief(name)}, which {who}; it has {there}{how}")
    if dtype_of(known[name]) not in NUMERIC:
        raise ModelBroken(f"{file}: output {brief(name)} is a {brief(known[name].type)}; expected a tensor of numbers")


def _describe(node: Node, batch_axis: BatchAxis) -> dict[str, Any]:
    sides = sides_of(node)
    shape = sides if batch_axis == "none" else [side for axis, side in enumerate(sides) if axis != batch_axis]
    return {"dtype": dtype_of(node), "shape": shape}


def _compatible(ours: Sequence[int | None], theirs: Sequence[int | None]) -> bool:
    """Whether two shapes may be one; none at all may be any."""
    if not ours or not theirs:
        return True
    return len(ours) == len(theirs) and all(a == b or None in (a, b) for a, b in zip(ours, theirs, strict=True))


def _sides(graph: Graph) -> str:
    batch = "1" if graph.max_batch == 1 else str(graph.adapter.fixed_batch or "batch")
    return f"[{', '.join([batch, *('any' if side is None else str(side) for side in graph.shape)])}]"
