"""Small networks of the shapes that people bring: built with onnx, served from one repository, and asked directly.

Every `Odd` knows its manifest and its jobs; every `Task` knows the array that the network should see, made here by plain
numpy and not by the service's own code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnxruntime
import pytest
import redis
from numpy.typing import NDArray
from PIL import Image

from convq.protocol import Result, decode_result

FLOAT, UINT8, INT64, BOOL, FLOAT16 = 1, 2, 7, 9, 10
OPSETS = range(9, 23)
IR_OF_OPSET_9 = 4
NEWEST_IR = 8
SLOW_TURNS = 200_000

Array = NDArray[Any]
Fields = dict[str, str | bytes]
Shape = Sequence[int | str]


@dataclass(frozen=True)
class Task:
    """One job, and what the network is to see of it, without the batch axis."""

    fields: Fields
    seen: Array


@dataclass(frozen=True)
class Odd:
    """One model: graph, manifest and jobs."""

    name: str
    graph: bytes
    manifest: str = ""
    tasks: Sequence[Task] = ()
    labels: str = ""
    batched: bool | None = None
    """Whether jobs of a burst share batches: yes, never, or whatever comes."""
    rows: int = 1
    """Of a batch, where the graph takes no other."""
    axis: int = 0
    """Which one of its outputs counts jobs."""
    dtype: type[np.generic] | None = None
    """What the graph takes, where jobs bring another type."""
    more: Mapping[str, Array] = field(default_factory=dict)
    """Its other inputs, for one job."""

    @cached_property
    def session(self) -> Any:
        """onnxruntime itself."""
        return onnxruntime.InferenceSession(self.graph, providers=["CPUExecutionProvider"])

    def directly(self, task: Task) -> dict[str, Array]:
        """Every output for one job, as onnxruntime gives it without any service."""
        names = [output.name for output in self.session.get_outputs()]
        seen = np.stack([task.seen] * self.rows)
        feeds = {self.session.get_inputs()[0].name: seen if self.dtype is None else seen.astype(self.dtype)}
        made = self.session.run(names, {**feeds, **self.more})
        return {name: np.take(rows, 0, axis=self.axis) for name, rows in zip(names, made, strict=True)}

    def write(self, repository: Path) -> Path:
        """The model's folder, as version 1."""
        folder = repository / self.name
        (folder / "1").mkdir(parents=True)
        (folder / "manifest.toml").write_text(self.manifest)
        if self.labels:
            (folder / "labels.txt").write_text(self.labels)
        (folder / "1" / "model.onnx").write_bytes(self.graph)
        digest = hashlib.sha256(self.graph).hexdigest()
        (folder / "1" / "report.json").write_text(json.dumps({"sha256": digest}))
        return folder


# -- building ---------------------------------------------------------------------------------------------------------


@dataclass
class Sketch:
    """A graph in the making."""

    opset: int = 17
    domains: Mapping[str, int] = field(default_factory=dict)
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)
    seed: int = 5

    def __post_init__(self) -> None:
        self._onnx = pytest.importorskip("onnx")
        self._random = np.random.default_rng(self.seed)

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        """An initializer."""
        self.constants.append(self._onnx.numpy_helper.from_array(np.array(value, dtype=dtype), name))
        return name

    def weights(self, name: str, *shape: int) -> str:
        """An initializer of small random numbers."""
        return self.constant(name, self._random.normal(0, 0.3, shape))

    def node(
        self, kind: str, takes: Sequence[str], gives: Sequence[str], domain: str = "", **attributes: Any
    ) -> Sketch:
        """One operator."""
        self.nodes.append(self._onnx.helper.make_node(kind, list(takes), list(gives), domain=domain, **attributes))
        return self

    def value(self, name: str, kind: int, shape: Shape) -> Any:
        """The description of one input or output."""
        return self._onnx.helper.make_tensor_value_info(name, kind, list(shape))

    def body(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
        """What was sketched as a graph inside an operator."""
        return self._onnx.helper.make_graph(self.nodes, "body", list(inputs), list(outputs))

    def bytes(self, inputs: Sequence[tuple[str, int, Shape]], outputs: Sequence[tuple[str, int, Shape]]) -> bytes:
        """The model."""
        helper = self._onnx.helper
        infos = [[self.value(*one) for one in several] for several in (inputs, outputs)]
        graph = helper.make_graph(self.nodes, "odd", *infos, initializer=self.constants)
        imports = [helper.make_opsetid("", self.opset)]
        imports += [helper.make_opsetid(domain, version) for domain, version in self.domains.items()]
        ir_version = IR_OF_OPSET_9 if self.opset <= OPSETS[0] else NEWEST_IR
        model = helper.make_model(graph, opset_imports=imports, ir_version=ir_version)
        return bytes(model.SerializeToString())


def conv(sketch: Sketch, takes: str, gives: str, channels: tuple[int, int], **attributes: Any) -> Sketch:
    """A convolution of 3 x 3 that keeps the sides."""
    weights = sketch.weights(f"w_{gives}", channels[1], channels[0], 3, 3)
    return sketch.node("Conv", [takes, weights], [gives], kernel_shape=[3, 3], pads=[1, 1, 1, 1], **attributes)


# -- jobs -------------------------------------------------------------------------------------------------------------


def numbers(seed: int, *shape: int) -> Task:
    """A job of a float32 tensor."""
    array = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    return Task({"tensor": array.tobytes(), "dtype": "float32", "shape": ",".join(map(str, shape))}, array)


def pixels(seed: int, *shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def picture(image: NDArray[np.uint8], seen: Array) -> Task:
    """A job of a PNG."""
    out = BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return Task({"image": out.getvalue()}, np.ascontiguousarray(seen))


# -- the models -------------------------------------------------------------------------------------------------------


def fixed_batch() -> Odd:
    """A batch axis of 1, as many exporters leave it, with a reshape that only goes with 1."""
    sketch = conv(Sketch(), "x", "c", (3, 4)).node("Reshape", ["c", "flat"], ["y"])
    sketch.constant("flat", [1, 256], np.int64)
    graph = sketch.bytes([("x", FLOAT, [1, 3, 8, 8])], [("y", FLOAT, [1, 256])])
    return Odd("fixed_batch", graph, tasks=[numbers(seed, 3, 8, 8) for seed in range(12)], batched=False)


def fixed_batch_of_four() -> Odd:
    """A batch axis of 4, with a reshape that only goes with 4."""
    sketch = conv(Sketch(), "x", "c", (3, 4)).node("Reshape", ["c", "flat"], ["y"])
    sketch.constant("flat", [4, 256], np.int64)
    graph = sketch.bytes([("x", FLOAT, [4, 3, 8, 8])], [("y", FLOAT, [4, 256])])
    return Odd("fixed_batch_of_four", graph, tasks=[numbers(seed, 3, 8, 8) for seed in range(14)], rows=4)


def time_major() -> Odd:
    """A row of the picture at a time, the batch second."""
    sketch = conv(Sketch(), "x", "c", (3, 4)).node("Transpose", ["c"], ["y"], perm=[2, 0, 1, 3])
    graph = sketch.bytes([("x", FLOAT, ["n", 3, 8, 8])], [("y", FLOAT, [8, "n", 4, 8])])
    tasks = [numbers(seed, 3, 8, 8) for seed in range(9)]
    return Odd("time_major", graph, "[[outputs]]\nname = 'y'\nbatch_axis = 1\n", tasks, axis=1)


def with_sizes() -> Odd:
    """Two more inputs, as detectors have them."""
    sketch = conv(Sketch(), "x", "c", (3, 4)).node("ReduceMean", ["c"], ["m"], axes=[2, 3], keepdims=0)
    sketch.node("MatMul", ["m", "w"], ["p"]).node("Mul", ["p", "im_shape"], ["s"]).node("Div", ["s", "factor"], ["y"])
    sketch.weights("w", 4, 2)
    takes: list[tuple[str, int, Shape]] = [("x", FLOAT, ["n", 3, 8, 6])]
    takes += [("im_shape", FLOAT, ["n", 2]), ("factor", FLOAT, ["n", 2])]
    manifest = "[extra_inputs]\nim_shape = 'size'\nfactor = 'ones'\n"
    more = {"im_shape": np.array([[8, 6]], np.float32), "factor": np.ones((1, 2), np.float32)}
    tasks = [numbers(seed, 3, 8, 6) for seed in range(9)]
    return Odd("with_sizes", sketch.bytes(takes, [("y", FLOAT, ["n", 2])]), manifest, tasks, more=more)


def half_precision() -> Odd:
    """Takes float16, and jobs bring float32."""
    sketch = conv(Sketch().node("Cast", ["x"], ["f"], to=FLOAT), "f", "y", (3, 4))
    graph = sketch.bytes([("x", FLOAT16, ["n", 3, 8, 8])], [("y", FLOAT, ["n", 4, 8, 8])])
    return Odd("half_precision", graph, tasks=[numbers(seed, 3, 8, 8) for seed in range(9)], dtype=np.float16)


def free_sides() -> Odd:
    """Free height and width, in steps of 4."""
    sketch = conv(Sketch(), "x", "c", (3, 2)).node("AveragePool", ["c"], ["y"], kernel_shape=[4, 4], strides=[4, 4])
    graph = sketch.bytes([("x", FLOAT, ["n", 3, "h", "w"])], [("y", FLOAT, ["n", 2, "p", "q"])])
    tasks = [numbers(seed, 3, 4 * (1 + seed % 3), 8) for seed in range(24)]
    for seed in range(6):
        image = pixels(seed, 5, 9, 3)
        seen = np.zeros((3, 8, 12), np.float32)
        seen[:, :5, :9] = image.transpose(2, 0, 1)
        tasks.append(picture(image, seen))
    return Odd("free_sides", graph, "[input]\nresize = 'none'\nmultiple_of = 4\n", tasks, batched=True)


def channels_last() -> Odd:
    """NHWC, as TensorFlow exports it."""
    sketch = conv(Sketch().node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]), "t", "c", (3, 3))
    sketch.node("Transpose", ["c"], ["y"], perm=[0, 2, 3, 1])
    graph = sketch.bytes([("x", FLOAT, ["n", 6, 8, 3])], [("y", FLOAT, ["n", 6, 8, 3])])
    images = [pixels(seed, 6, 8, 3) for seed in range(6)]
    tasks = [picture(image, image.astype(np.float32) / 255) for image in images]
    tasks += [numbers(seed, 6, 8, 3) for seed in range(6)]
    return Odd("channels_last", graph, f"[input]\nlayout = 'NHWC'\nscale = {1 / 255}\n", tasks, batched=True)


def blue_first() -> Odd:
    """BGR, as OpenCV's users train, with one mean per channel in the model's own order."""
    graph = conv(Sketch(), "x", "y", (3, 2)).bytes([("x", FLOAT, ["n", 3, 6, 6])], [("y", FLOAT, ["n", 2, 6, 6])])
    mean = np.array([104, 117, 123], np.float32).reshape(3, 1, 1)
    images = [pixels(seed, 6, 6, 3) for seed in range(6)]
    tasks = [picture(image, image[..., ::-1].transpose(2, 0, 1).astype(np.float32) - mean) for image in images]
    return Odd("blue_first", graph, "[input]\ncolor = 'bgr'\nmean = [104, 117, 123]\n", tasks)


def gray_28() -> Odd:
    """Gray, 28 x 28, uint8 into the graph."""
    sketch = conv(Sketch().node("Cast", ["x"], ["f"], to=FLOAT), "f", "c", (1, 2))
    sketch.node("GlobalMaxPool", ["c"], ["g"]).node("Flatten", ["g"], ["y"])
    graph = sketch.bytes([("x", UINT8, ["n", 1, 28, 28])], [("y", FLOAT, ["n", 2])])
    manifest = "[input]\ncolor = 'gray'\n[[outputs]]\nname = 'y'\nmeaning = 'classes'\nlabels = 'labels.txt'\n"
    tasks = [picture(image, image[None]) for image in (pixels(seed, 28, 28) for seed in range(8))]
    asked = [Task({**task.fields, "outputs": "y"}, task.seen) for task in tasks]
    return Odd("gray_28", graph, manifest, asked, labels="even\nodd\n", batched=True)


def several_outputs() -> Odd:
    """Three outputs of different ranks and types."""
    sketch = conv(Sketch(), "x", "map", (3, 4)).node("GlobalAveragePool", ["map"], ["g"])
    sketch.node("Flatten", ["g"], ["scores"]).node("ArgMax", ["scores"], ["best"], axis=1, keepdims=0)
    outputs: list[tuple[str, int, list[int | str]]] = [
        ("map", FLOAT, ["n", 4, 5, 7]),
        ("scores", FLOAT, ["n", 4]),
        ("best", INT64, ["n"]),
    ]
    graph = sketch.bytes([("x", FLOAT, ["n", 3, 5, 7])], outputs)
    return Odd("several_outputs", graph, tasks=[numbers(seed, 3, 5, 7) for seed in range(10)], batched=True)


def large_output() -> Odd:
    """3 MB a job."""
    sketch = Sketch().node("Resize", ["x", "", "scales"], ["y"], mode="nearest")
    sketch.constant("scales", [1, 1, 32, 32])
    graph = sketch.bytes([("x", FLOAT, ["n", 3, 16, 16])], [("y", FLOAT, ["n", 3, 512, 512])])
    tasks = [numbers(seed, 3, 16, 16) for seed in range(5)]
    return Odd("large_output", graph, "[limits]\nmax_batch = 4\n", tasks)


def names_with_colons() -> Odd:
    """Names as TensorFlow gives them."""
    graph = conv(Sketch(), "input:0", "scope/output:0", (3, 2)).bytes(
        [("input:0", FLOAT, ["n", 3, 4, 4])], [("scope/output:0", FLOAT, ["n", 2, 4, 4])]
    )
    manifest = "[input]\nname = 'input:0'\n[[outputs]]\nname = 'scope/output:0'\n"
    return Odd("names_with_colons", graph, manifest, [numbers(seed, 3, 4, 4) for seed in range(6)])


def of_opset(opset: int) -> Odd:
    """The usual small classifier, without its labels, as that opset writes it."""
    sketch = conv(Sketch(opset=opset, seed=opset), "x", "c", (3, 4)).node("Relu", ["c"], ["r"])
    sketch.node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]).node("Flatten", ["p"], ["f"])
    sketch.node("Gemm", ["f", sketch.weights("w", 5, 64), sketch.weights("b", 5)], ["g"], transB=1)
    sketch.node("Softmax", ["g"], ["y"], axis=1)
    graph = sketch.bytes([("x", FLOAT, ["n", 3, 8, 8])], [("y", FLOAT, ["n", 5])])
    return Odd(f"opset_{opset}", graph, tasks=[numbers(seed, 3, 8, 8) for seed in range(4)])


def foreign_operators() -> Odd:
    """Operators of onnxruntime's own domain."""
    sketch = conv(Sketch(domains={"com.microsoft": 1}), "x", "c", (3, 4), domain="com.microsoft", activation="Relu")
    sketch.nodes[-1].op_type = "FusedConv"
    sketch.node("Gelu", ["c"], ["y"], domain="com.microsoft")
    graph = sketch.bytes([("x", FLOAT, ["n", 3, 6, 6])], [("y", FLOAT, ["n", 4, 6, 6])])
    return Odd("foreign_operators", graph, tasks=[numbers(seed, 3, 6, 6) for seed in range(6)])


def tensors_only() -> Odd:
    """No images at all: a row of numbers."""
    sketch = Sketch()
    sketch.node("Gemm", ["x", sketch.weights("w", 7, 3), sketch.weights("b", 3)], ["y"])
    graph = sketch.bytes([("x", FLOAT, ["n", 7])], [("y", FLOAT, ["n", 3])])
    return Odd(
        "tensors_only", graph, "[input]\ncolor = 'none'\n", [numbers(seed, 7) for seed in range(12)], batched=True
    )


def contradiction() -> Odd:
    """Declares that it takes any width, and inside takes 224 only, which is what it is warmed up with."""
    sketch = Sketch()
    sketch.node("Mul", ["x", sketch.weights("w", 3, 1, 224)], ["y"])
    graph = sketch.bytes([("x", FLOAT, ["n", 3, "h", "w"])], [("y", FLOAT, ["n", 3, "h", "w"])])
    tasks = [numbers(seed, 3, 2, 224) for seed in range(8)]
    return Odd("contradiction", graph, "[input]\nresize = 'none'\n", tasks)


def turned(first: int) -> Odd:
    """The batch is the second axis of its output; `first` is the other one."""
    graph = (
        Sketch()
        .node("Transpose", ["x"], ["y"], perm=[1, 0, 2, 3])
        .bytes([("x", FLOAT, ["n", first, 4, 4])], [("y", FLOAT, [first, "n", 4, 4])])
    )
    manifest = '[input]\ncolor = "gray"\n' if first == 1 else ""
    return Odd("turned", graph, manifest, [numbers(seed, first, 4, 4) for seed in range(6)])


def mixing() -> Odd:
    """A softmax over the batch: what a job gets depends on its neighbours."""
    graph = conv(Sketch(), "x", "c", (3, 2)).node("Softmax", ["c"], ["y"], axis=0)
    made = graph.bytes([("x", FLOAT, ["n", 3, 4, 4])], [("y", FLOAT, ["n", 2, 4, 4])])
    return Odd("mixing", made, tasks=[numbers(seed, 3, 4, 4) for seed in range(6)])


def slow() -> Odd:
    """A loop of some tenths of a second for one job, one job at a time."""
    return turning("slow", SLOW_TURNS)


def endless() -> Odd:
    """The same for some thousand years, on whatever machine."""
    return turning("endless", 1 << 60)


def turning(name: str, turns: int) -> Odd:
    """A loop of so many turns before the answer."""
    turn = Sketch().node("Identity", ["go"], ["on"]).node("Cos", ["in"], ["out"])
    body = turn.body(
        [turn.value("turn", INT64, []), turn.value("go", BOOL, []), turn.value("in", FLOAT, [])],
        [turn.value("on", BOOL, []), turn.value("out", FLOAT, [])],
    )
    sketch = Sketch().node("ReduceMax", ["x"], ["m"], keepdims=0).node("Loop", ["turns", "yes", "m"], ["c"], body=body)
    sketch.constant("turns", turns, np.int64)
    sketch.constant("yes", True, np.bool_)
    graph = sketch.node("Add", ["x", "c"], ["y"]).bytes(
        [("x", FLOAT, [1, 3, 2, 2])],
        [("y", FLOAT, [1, 3, 2, 2])],
    )
    return Odd(name, graph, tasks=[numbers(1, 3, 2, 2)] * 16, batched=False)


BUILDERS: Mapping[str, Callable[[], Odd]] = {
    **{
        build.__name__: build
        for build in (
            fixed_batch,
            fixed_batch_of_four,
            time_major,
            with_sizes,
            half_precision,
            free_sides,
            channels_last,
            blue_first,
            gray_28,
            several_outputs,
            large_output,
            names_with_colons,
            foreign_operators,
            tensors_only,
            contradiction,
            slow,
        )
    },
    **{f"opset_{opset}": partial(of_opset, opset) for opset in OPSETS},
}
"""What one service serves together."""


# -- asking the service -----------------------------------------------------------------------------------------------


class Desk:
    """A client that has read the protocol and owns nothing but a Redis connection; of any model."""

    def __init__(self, url: str) -> None:
        self.redis: Any = redis.Redis.from_url(url, socket_timeout=60)

    def push(self, jobs: Sequence[tuple[str, Fields]]) -> list[str]:
        """XADD jobs (model, fields) in one transaction, so that workers meet them together; their entry ids."""
        pipeline = self.redis.pipeline(transaction=True)
        for model, fields in jobs:
            flat = [part for pair in fields.items() for part in pair]
            pipeline.execute_command("XADD", f"convq:{{{model}}}:jobs", "*", *flat)
        return [entry.decode() for entry in pipeline.execute()]

    def answer(self, model: str, entry: str, timeout_s: float = 20.0) -> Result:
        """BLPOP the result of a job; fails when none comes."""
        popped = self.redis.blpop([f"convq:{{{model}}}:result:{entry}"], timeout=timeout_s)
        assert popped is not None, f"no result of {model} for {entry} within {timeout_s} s"
        return decode_result(popped[1])

    def ask(self, jobs: Sequence[tuple[str, Fields]]) -> Iterator[Result]:
        """Push jobs together, and their results in order."""
        entries = self.push(jobs)
        return (self.answer(model, entry) for (model, _), entry in zip(jobs, entries, strict=True))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.redis.close()
