"""What is inferred from a graph: layouts, colours, sizes, batches, meanings; and that every guess is marked as one."""

from __future__ import annotations

import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from convq.engine.samples import wild
from convq.errors import ModelBroken, ModelFault, SettingsError
from convq.importer.findings import Finding, Overrides
from convq.importer.guessing import guess
from convq.importer.infer_input import look_at_batch, look_at_input
from convq.importer.infer_outputs import look_at_outputs
from convq.importer.manifest_writer import manifest_text
from convq.importer.open_graph import OpenGraph
from convq.repository.manifest import Input, Manifest

FLOAT, UINT8 = "tensor(float)", "tensor(uint8)"
Array = NDArray[Any]
Axis = int | str | None


@dataclass(frozen=True)
class Node:
    """An input or output as onnxruntime describes it."""

    name: str
    type: str
    shape: Sequence[Axis]


@dataclass(frozen=True)
class Graph:
    """A graph that computes with numpy."""

    inputs: Sequence[Node]
    outputs: Sequence[Node]
    compute: Callable[[Array], Sequence[Any]]
    seen: list[Array] = field(default_factory=list)

    def run(self, batch: Array) -> list[Any]:
        self.seen.append(batch)
        declared = self.inputs[0].shape
        for axis, size in zip(declared, batch.shape, strict=True):
            if isinstance(axis, int) and axis != size:
                raise ModelFault(f"Got: {size} Expected: {axis}")
        return list(self.compute(batch))


def graph(
    shape: Sequence[Axis], compute: Callable[[Array], Any] = lambda batch: batch.mean(axis=(1, 2, 3)), kind: str = FLOAT
) -> Graph:
    """One input x, one output y."""
    return Graph([Node("x", kind, shape)], [Node("y", FLOAT, ["n"])], lambda batch: [compute(batch)])


def adopted(made: OpenGraph, **wishes: Any) -> tuple[list[Finding], int]:
    """Everything that is found, and the number of classes."""
    said = Overrides(**wishes)
    found, trial = look_at_input(made, said)
    meanings, classes = look_at_outputs(made, trial, said)
    return [*found, *meanings, *look_at_batch(made, trial, said)], classes


def values(found: Sequence[Finding], *keys: str) -> tuple[Any, ...]:
    by_key = {one.key: one.value for one in found}
    return tuple(by_key.get(key) for key in keys)


def source(found: Sequence[Finding], key: str) -> str:
    return next(one.source for one in found if one.key == key)


def scores(batch: Array, count: int = 10) -> Array:
    """Raw scores of classes that depend on the job alone."""
    flat = batch.reshape(batch.shape[0], -1).astype(np.float32)
    weights = np.random.default_rng(1).normal(0, 0.2, (flat.shape[1], count)).astype(np.float32)
    return np.asarray(flat @ weights)


def softmax(batch: Array) -> Array:
    raised = np.exp(scores(batch) - scores(batch).max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


# -- the input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "layout", "color", "height", "width"),
    [
        (["n", 3, 8, 9], ("NCHW", "graph"), ("rgb", "assumed"), 8, 9),
        (["n", 8, 9, 3], ("NHWC", "graph"), ("rgb", "assumed"), 8, 9),
        (["n", 1, 8, 9], ("NCHW", "graph"), ("gray", "graph"), 8, 9),
        ([None, 8, 9, 1], ("NHWC", "graph"), ("gray", "graph"), 8, 9),
        (["n", 3, 8, 3], ("NCHW", "assumed"), ("rgb", "assumed"), 8, 3),
        (["n", None, 8, 9], ("NCHW", "assumed"), ("rgb", "assumed"), 8, 9),
        (["n", 8, 9, None], ("NHWC", "assumed"), ("rgb", "assumed"), 8, 9),
        (["n", 3, 8, None], ("NCHW", "graph"), ("rgb", "assumed"), 8, None),
        (["n", None, None, None], ("NCHW", "assumed"), ("rgb", "assumed"), None, None),
    ],
)
def test_layout_and_color_are_told_by_where_one_or_three_stands(
    shape: list[Axis], layout: tuple[str, str], color: tuple[str, str], height: int | None, width: int | None
) -> None:
    found, _ = adopted(graph(shape))

    assert layout == (values(found, "layout")[0], source(found, "layout"))
    assert color == (values(found, "color")[0], source(found, "color"))
    assert (height, width) == values(found, "height", "width")


def test_free_channels_are_gray_where_the_graph_takes_one_but_not_three() -> None:
    def compute(batch: Array) -> Array:
        if batch.shape[1] != 1:
            raise ModelFault("Got: 3 Expected: 1")
        return np.asarray(batch.mean(axis=(1, 2, 3)))

    found, _ = adopted(graph(["n", None, 8, 8], compute))

    assert ("gray", "measured") == (values(found, "color")[0], source(found, "color"))


@pytest.mark.parametrize("shape", [["n", 4, 8, 8], ["n", 7], ["n", 3, 2, 8, 8], ["n", None]])
def test_what_is_no_picture_takes_tensors(shape: list[Axis]) -> None:
    found, _ = adopted(graph(shape, lambda batch: batch.reshape(batch.shape[0], -1).mean(axis=1)))

    assert ("none", None, None, None) == values(found, "color", "layout", "scale", "resize")


@pytest.mark.parametrize(
    ("shape", "resize"),
    [
        (["n", 3, 8, 9], "stretch"),
        (["n", 3, 8, "w"], "height"),
        (["n", 3, "h", 9], "none"),
        (["n", 3, "h", "w"], "none"),
    ],
)
def test_free_sides_decide_what_becomes_of_an_image(shape: list[Axis], resize: str) -> None:
    found, _ = adopted(graph(shape))

    assert (resize,) == values(found, "resize")
    assert "assumed" == source(found, "resize")


@pytest.mark.parametrize("step", [1, 2, 8, 32])
def test_the_step_of_free_sides_is_measured(step: int) -> None:
    def compute(batch: Array) -> Array:
        if batch.shape[2] % step or batch.shape[3] % step:
            raise ModelFault(f"sides must be multiples of {step}")
        return np.asarray(batch.mean(axis=(1, 2, 3)))

    found, _ = adopted(graph(["n", 3, "h", "w"], compute))

    assert (step,) == values(found, "multiple_of")
    assert "measured" == source(found, "multiple_of")


def only(side: int) -> Callable[[Array], Array]:
    def compute(batch: Array) -> Array:
        if batch.shape[2:] != (side, side):
            raise ModelFault("cannot be reshaped")
        return np.asarray(batch.mean(axis=(1, 2, 3)))

    return compute


def test_sides_that_are_declared_free_and_are_not_need_a_size() -> None:
    with pytest.raises(ModelBroken, match="takes 3 x 224 x 224 and nothing near it; give --size HxW"):
        adopted(graph(["n", 3, "h", "w"], only(224)))
    with pytest.raises(ModelBroken, match=r"refuses an input of 3 x 224 x 224: cannot be reshaped; --size HxW may"):
        adopted(graph(["n", 3, "h", "w"], only(100)))

    found, _ = adopted(graph(["n", 3, "h", "w"], only(100)), height=100, width=100)

    assert (100, 100, "stretch", None) == values(found, "height", "width", "resize", "multiple_of")
    assert "given" == source(found, "height")


def test_pixels_are_assumed_to_run_from_0_to_1() -> None:
    found, _ = adopted(graph(["n", 3, 8, 8]))

    assert (1 / 255, (0.0,), (1.0,)) == values(found, "scale", "mean", "std")
    assert ["assumed"] * 3 == [source(found, key) for key in ("scale", "mean", "std")]


def test_a_mean_that_is_given_tells_the_scale() -> None:
    small, large = (0.485, 0.456, 0.406), (123.7, 116.3, 103.5)

    assert (1 / 255, small) == values(adopted(graph(["n", 3, 8, 8]), mean=small)[0], "scale", "mean")
    assert (1.0, large) == values(adopted(graph(["n", 3, 8, 8]), mean=large)[0], "scale", "mean")
    assert (0.5, large) == values(adopted(graph(["n", 3, 8, 8]), mean=large, scale=0.5)[0], "scale", "mean")


def test_the_graph_is_tried_with_pixels_normalised_as_the_manifest_says() -> None:
    made = graph(["n", 3, 8, 8])

    adopted(made, mean=(0.5,), std=(0.25,))

    assert all(batch.dtype == np.float32 for batch in made.seen)
    strangers = [one.tobytes() for one in wild((3, 8, 8), "float32").values()]
    rows = [row for batch in made.seen for row in batch if row.tobytes() not in strangers]
    assert -2.0 == pytest.approx(min(row.min() for row in rows), abs=0.1)
    assert 2.0 == pytest.approx(max(row.max() for row in rows), abs=0.1)


def test_a_graph_of_uint8_gets_pixels_as_they_are() -> None:
    made = graph(["n", 3, 8, 8], kind=UINT8)

    found, _ = adopted(made)

    assert ("uint8", None, None, None) == values(found, "dtype", "scale", "mean", "std")
    assert {np.dtype(np.uint8)} == {batch.dtype for batch in made.seen}


@pytest.mark.parametrize(
    ("shape", "kind", "wishes", "expected"),
    [
        (["n", 3, 8, 8], UINT8, {"mean": (0.5,)}, "this graph takes uint8"),
        (["n", 3, 8, 8], FLOAT, {"color": "gray"}, "--color gray has 1 channels; the graph's input has 3"),
        (["n", 3, 8, 8], FLOAT, {"height": 9, "width": 8}, "--size asks for a height of 9; the graph's input has 8"),
        (["n", 7], FLOAT, {"color": "rgb"}, "--color rgb: an input of shape n x 7 is no picture"),
        (["n", 7], FLOAT, {"scale": 2.0}, "this model takes tensors"),
        (["n", 3, 8, 8], FLOAT, {"color": "none", "std": (2.0,)}, "this model takes tensors"),
        (["n", 3, 8, 8], FLOAT, {"labels": 3}, "--labels has 3 names, which fit no output: no output has classes"),
        (["n", 1, 8, 8], FLOAT, {"mean": (1.0, 2.0, 3.0)}, "--mean: expected one value each for mean, std"),
        (
            ["n", None, 8, 8],
            FLOAT,
            {"color": "gray", "std": (1.0, 2.0, 3.0)},
            "--std, --color: expected one value each",
        ),
    ],
)
def test_a_wish_that_contradicts_the_graph_is_refused(
    shape: list[Axis], kind: str, wishes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        adopted(graph(shape, kind=kind), **wishes)

    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ([], r"has 0 inputs \(none\)"),
        ([Node("a", FLOAT, ["n", 3]), Node("b", FLOAT, ["n", 3])], r"has 2 inputs \(a, b\)"),
        ([Node("x", "tensor(int64)", ["n", 3])], r"input x is a tensor\(int64\); expected"),
        ([Node("x", FLOAT, [])], "input x has no axes"),
        (
            [Node("x", FLOAT, [4, 8, 8])],
            r"the batch axis of input x is fixed at 4 \(it has three axes, expected four: is the batch missing\?\)",
        ),
        ([Node("x", FLOAT, [0, 3, 8, 8])], "the batch axis of input x is fixed at 0; expected free, or 1"),
        ([Node("x", FLOAT, ["n", 3]), Node("im_shape", FLOAT, ["n", 2]), Node("c", FLOAT, [1])], r"2 inputs \(x, c\)"),
        ([Node("im_shape", FLOAT, ["n", 2]), Node("scale_factor", FLOAT, ["n", 2])], r"has 0 inputs \(none\)"),
    ],
)
def test_an_input_that_cannot_be_fed_is_refused(inputs: list[Node], expected: str) -> None:
    with pytest.raises(ModelBroken, match=expected):
        adopted(Graph(inputs, [Node("y", FLOAT, ["n"])], lambda batch: [batch]))


# -- the outputs ------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # at values of 1e6
@pytest.mark.parametrize(
    ("compute", "meaning", "activation"),
    [
        (scores, ("classes", "assumed"), ("softmax", "assumed")),
        (softmax, ("classes", "measured"), ("none", "measured")),
        (lambda batch: np.log(softmax(batch)), ("classes", "assumed"), ("softmax", "measured")),
        (lambda batch: 1 / (1 + np.exp(-scores(batch))), ("classes", "assumed"), ("none", "assumed")),
        (lambda batch: scores(batch)[:, :, None, None], ("classes", "assumed"), ("softmax", "assumed")),
    ],
)
def test_classes_are_told_by_their_shape_and_their_activation_by_their_values(
    compute: Callable[[Array], Array], meaning: tuple[str, str], activation: tuple[str, str]
) -> None:
    found, classes = adopted(graph(["n", 3, 8, 8], compute))

    assert 10 == classes
    assert meaning == (values(found, "meaning")[0], source(found, "meaning"))
    assert activation == (values(found, "activation")[0], source(found, "activation"))
    assert ("labels.txt", "assumed") == (values(found, "labels")[0], source(found, "labels"))


def several(*computes: Callable[[Array], Any], kinds: Sequence[str] = ()) -> Graph:
    """Outputs y0, y1 … of one input."""
    names = [f"y{index}" for index in range(len(computes))]
    nodes = [Node(name, kind, ["n"]) for name, kind in zip(names, kinds or [FLOAT] * len(names), strict=True)]
    return Graph([Node("x", FLOAT, ["n", 3, 8, 8])], nodes, lambda batch: [compute(batch) for compute in computes])


def meanings(found: Sequence[Finding]) -> dict[str, Any]:
    return {one.of: one.value for one in found if one.key == "meaning"}


def test_of_several_outputs_the_one_that_sums_to_1_holds_the_classes() -> None:
    found, classes = adopted(several(lambda batch: scores(batch, 64), softmax))

    assert 10 == classes
    assert {"y0": "tensor", "y1": "classes"} == meanings(found)


def test_the_output_that_fits_the_labels_holds_the_classes() -> None:
    found, classes = adopted(several(softmax, lambda batch: scores(batch, 64)), labels=64)

    assert 64 == classes
    assert {"y0": "tensor", "y1": "classes"} == meanings(found)
    assert {"given"} == {one.source for one in found if one.of == "y1" and one.key in ("meaning", "labels")}


def test_labels_that_fit_no_output_are_refused_with_what_would() -> None:
    with pytest.raises(SettingsError, match="--labels has 3 names, which fit no output: y0 has 10, y1 has 64"):
        adopted(several(softmax, lambda batch: scores(batch, 64)), labels=3)


@pytest.mark.parametrize(
    ("compute", "scale", "offset"),
    [
        (lambda batch: batch, 255.0, None),
        (lambda batch: batch * 2 - 1, 127.5, 127.5),
        (lambda batch: batch * 255, 1.0, None),
        (lambda batch: 255 * batch.mean(axis=1, keepdims=True), 1.0, None),
        (lambda batch: batch[:, :, 1:-1, 1:-1], 255.0, None),
        (lambda batch: np.kron(batch, np.ones((1, 1, 4, 4), np.float32)), 255.0, None),
    ],
)
def test_an_image_is_told_by_its_shape_and_its_scale_by_its_values(
    compute: Callable[[Array], Array], scale: float, offset: float | None
) -> None:
    found, _ = adopted(several(compute))

    assert {"y0": "image"} == meanings(found)
    outputs = [one for one in found if one.table == "outputs"]
    assert (scale, offset) == values(outputs, "scale", "offset")
    assert {"assumed"} == {one.source for one in outputs}


@pytest.mark.parametrize(
    "compute",
    [
        lambda batch: batch[:, :2],
        lambda batch: batch[:, :, :3, :3],
        lambda batch: batch.transpose(0, 2, 3, 1),
        lambda batch: batch.mean(axis=(1, 2, 3)),
        lambda batch: batch.mean(axis=(1, 2, 3))[:, None],
    ],
)
def test_anything_else_is_a_tensor(compute: Callable[[Array], Array]) -> None:
    found, classes = adopted(several(compute))

    assert 0 == classes
    assert {"y0": "tensor"} == meanings(found)


def test_an_output_that_is_no_tensor_of_numbers_is_left_out() -> None:
    both = several(softmax, lambda batch: [{"a": 0.5}] * len(batch), kinds=[FLOAT, "seq(map(string,tensor(float)))"])
    found, _ = adopted(both)

    assert {"y0": "classes"} == meanings(found)
    assert "left out" in next(one.why for one in found if one.of == "y1")
    with pytest.raises(ModelBroken, match="none of its outputs is a tensor of numbers"):
        adopted(several(lambda batch: ["text"] * len(batch), kinds=["tensor(string)"]))


# -- the batch --------------------------------------------------------------------------------------------------------


def refuses_two(batch: Array) -> Array:
    if len(batch) > 1:
        raise ModelFault("cannot be reshaped")
    return scores(batch)


@pytest.mark.parametrize(
    ("axis", "compute", "most", "why"),
    [
        ("n", scores, None, "answers as each job alone does"),
        (1, scores, 1, "its batch axis is fixed at 1"),
        ("n", refuses_two, 1, "it refuses a batch of 2 (cannot be reshaped)"),
        ("n", lambda batch: scores(batch).T, 1, "the first axis of output y is not the batch"),
        (
            "n",
            lambda batch: scores(batch) - scores(batch).mean(axis=0),
            1,
            "output y of a job depends on the other jobs",
        ),
        ("n", lambda batch: scores(batch)[::-1], 1, "output y of a job depends on the other jobs"),
        ("n", lambda batch: scores(batch) * (1 + 1e-6 * len(batch)), None, "answers as each job alone does"),
    ],
)
def test_jobs_may_share_a_batch_only_where_that_changes_no_answer(
    axis: Axis, compute: Callable[[Array], Array], most: int | None, why: str
) -> None:
    found, _ = adopted(graph([axis, 3, 8, 8], compute))

    limit = next(one for one in found if one.table == "limits")
    assert most == limit.value
    assert why in limit.why


def taking(job_s: float) -> Callable[[Array], Array]:
    """Scores that take the processor so long for each job."""

    def compute(batch: Array) -> Array:
        until_s = time.thread_time() + job_s * len(batch)
        while time.thread_time() < until_s:
            pass
        return scores(batch)

    return compute


def test_a_network_that_takes_long_for_one_job_is_tried_with_one_alone() -> None:
    made = graph(["n", 3, 8, 8], taking(0.3))
    found, _ = adopted(made)

    limit = next(one for one in found if one.table == "limits")
    assert (1, "measured") == (limit.value, limit.source)
    assert "--max-batch lets them" in limit.why
    assert {1} == {len(batch) for batch in made.seen}
    assert len(made.seen) <= 5


def test_batches_are_no_larger_than_what_ends_soon_unless_somebody_says_so() -> None:
    found, _ = adopted(graph(["n", 3, 8, 8], taking(0.08)))
    said, _ = adopted(graph(["n", 3, 8, 8], taking(0.08)), max_batch=3)

    (most,) = values(found, "max_batch")
    assert 1 < most <= 25
    assert (3,) == values(said, "max_batch")
    assert "given" == source(said, "max_batch")


# -- families ---------------------------------------------------------------------------------------------------------


def detector(*shapes: tuple[int, ...], side: int | str = 64, kind: str = FLOAT) -> Graph:
    """A graph whose outputs have these shapes, whatever it is given."""
    outputs = [Node(f"y{index}", FLOAT, shape) for index, shape in enumerate(shapes)]
    made = [np.zeros(shape, dtype=np.float32) for shape in shapes]
    return Graph([Node("x", kind, [1, 3, side, side])], outputs, lambda _: made)


CELLS = 8 * 8 + 4 * 4 + 2 * 2
FACES = [(1, 2 * cells, last) for last in (1, 4, 10) for cells in (64, 16, 4)]


@pytest.mark.parametrize(
    ("shapes", "family", "expected"),
    [
        ([(1, CELLS, 85)], "yolox", ("letterbox", "start", (114,), "bgr", 1.0)),
        ([(1, 3 * CELLS, 85)], "yolo5", ("letterbox", None, (114,), "rgb", 1 / 255)),
        ([(1, 25, CELLS)], "yolo8", ("letterbox", None, (114,), "rgb", 1 / 255)),
        ([(1, 5, CELLS)], "yolo8", ("letterbox", None, (114,), "rgb", 1 / 255)),
        (FACES, "scrfd", ("letterbox", "start", None, "rgb", 1.0)),
        (FACES[:6], "scrfd", ("letterbox", "start", None, "rgb", 1.0)),
        (
            [(2 * cells, last) for last in (1, 4) for cells in (64, 16, 4)],
            "scrfd",
            ("letterbox", "start", None, "rgb", 1.0),
        ),
        ([(1, CELLS + 2, 91)], None, ("stretch", None, None, "rgb", 1 / 255)),
        ([(1, 1000)], None, ("stretch", None, None, "rgb", 1 / 255)),
        ([(1, CELLS, 4)], None, ("stretch", None, None, "rgb", 1 / 255)),  # no room for a class
    ],
)
def test_a_detector_is_known_by_its_outputs_and_prepared_as_its_family_is(
    shapes: list[tuple[int, ...]], family: str | None, expected: tuple[Any, ...]
) -> None:
    known = guess(detector(*shapes), Overrides()).findings

    assert (family,) == values(known, "family")
    assert expected == values(known, "resize", "align", "pad_value", "color", "scale")
    assert "assumed" == source(known, "resize")
    spec = {one.key: one.value for one in known if one.table == "input" and one.value is not None}
    Input.model_validate(spec)


def test_what_is_said_of_a_detector_stays_said() -> None:
    known = guess(detector((1, CELLS, 85)), Overrides(color="rgb", scale=1 / 255)).findings

    assert ("letterbox", "start", "rgb", 1 / 255) == values(known, "resize", "align", "color", "scale")
    assert ("given", "given", "assumed") == (source(known, "color"), source(known, "scale"), source(known, "align"))


def test_a_detector_of_levels_gets_no_scale() -> None:
    known = guess(detector((1, CELLS, 85), kind=UINT8), Overrides()).findings

    assert ("start", None) == values(known, "align", "scale")


def test_a_detector_of_free_sides_is_not_boxed_where_it_takes_the_usual_ones_otherwise() -> None:
    known = guess(detector((1, 28 * 28 + 14 * 14 + 7 * 7, 85), side="side"), Overrides()).findings

    assert ("none", None) == values(known, "resize", "align")


def test_a_batch_may_be_wished_for_where_jobs_keep_apart() -> None:
    found, _ = adopted(graph(["n", 3, 8, 8]), max_batch=4)

    assert (4,) == values(found, "max_batch")
    assert "given" == source(found, "max_batch")


# -- the manifest -----------------------------------------------------------------------------------------------------


def test_the_manifest_reads_back_as_it_was_found_and_marks_every_assumption() -> None:
    name = 'in "quoted" \\ \x7f:0'
    made = Graph(
        [Node(name, FLOAT, [1, "h", "w", 3])],
        [Node("y:0", FLOAT, ["n"]), Node("odd\nname", "seq(tensor(float))", [])],
        lambda batch: [softmax(batch[:, :8, :8]), []],
    )
    found, _ = adopted(made, mean=(0.1, 0.2, 0.3))

    text = manifest_text("a net", found)

    manifest = Manifest.model_validate(tomllib.loads(text))
    assert (name, "NHWC", "rgb", None) == (
        manifest.input.name,
        manifest.input.layout,
        manifest.input.color,
        manifest.input.height,
    )
    assert ((0.1, 0.2, 0.3), (1.0,), 1 / 255) == (manifest.input.mean, manifest.input.std, manifest.input.scale)
    assert ("a net", 1, "none") == (manifest.description, manifest.limits.max_batch, manifest.input.resize)
    assert [("y:0", "classes", "none")] == [(one.name, one.meaning, one.activation) for one in manifest.outputs]
    marked = [line for line in text.splitlines() if "# assumed: " in line]
    assert [one.key for one in found if one.source == "assumed"] == [line.split(" ")[0] for line in marked]
    assert all(line.endswith("; check") for line in marked)
