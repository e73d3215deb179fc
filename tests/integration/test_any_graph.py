"""Graphs that are not one picture in and [batch, ...] out. The oracle is onnxruntime itself, asked job by job in plain loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from convq.engine.engine import Engine
from convq.engine.postprocess import rank
from convq.engine.tensors import Prepared
from convq.errors import ModelBroken
from convq.importer.findings import Overrides
from convq.importer.probing import look
from convq.protocol import PREPARED
from onnx_models import BOOL, FLOAT, FLOAT16, INT32, INT64, STRING, UINT8, graph, model_folder

Array = NDArray[Any]
SIDE = 8
PIXELS = [3, SIDE, SIDE]
RAW = "[input]\nresize = 'none'\n"


def warm(folder: Path) -> Engine:
    engine = Engine.load(folder, 1)
    engine.warm_up()
    return engine


def session_of(folder: Path) -> Any:
    content = (folder / "1" / "model.onnx").read_bytes()
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def pictures(count: int, *shape: int) -> list[Array]:
    random = np.random.default_rng(3)
    return [random.random(shape or PIXELS, dtype=np.float32) for _ in range(count)]


def prepared(inputs: list[Array]) -> list[Prepared]:
    return [Prepared(one, one.shape) for one in inputs]


def weights(*shape: int, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(5).normal(0, 0.3, shape).astype(dtype)


# -- a batch that is fixed --------------------------------------------------------------------------------------------


def fixed(rows: int, nodes: Any = None, shape: Any = None, more: Any = None) -> bytes:
    """x [rows, 3, 8, 8] -> y, four numbers a job unless said otherwise."""
    nodes = nodes or [("Flatten", ["x"], ["f"]), ("MatMul", ["f", "w"], ["y"])]
    outputs = [("y", FLOAT, shape or [rows, 4])]
    return graph(nodes, [("x", FLOAT, [rows, *PIXELS])], outputs, {"w": weights(192, 4), **(more or {})})


def test_a_fixed_batch_of_several_is_filled_and_its_outputs_are_cut(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", "", fixed(5))
    engine, session, inputs = warm(folder), session_of(folder), pictures(5)
    alone = [session.run(None, {"x": np.stack([one] * 5)})[0][0] for one in inputs]

    assert 5 == engine.max_batch == engine.describe()["limits"]["max_batch"]  # type: ignore[index]
    for jobs in range(1, 6):
        made = engine.run(prepared(inputs[:jobs]))["y"]
        assert (jobs, 4) == made.shape
        np.testing.assert_allclose(made, alone[:jobs], rtol=1e-5, atol=1e-6)


def test_what_fills_a_batch_is_zero(tmp_path: Path) -> None:
    summed = [("ReduceSum", ["x", "axes"], ["s"], {"keepdims": 1}), ("Add", ["x", "s"], ["y"])]
    model = fixed(3, summed, [3, *PIXELS], {"axes": np.array([0])})
    engine = warm(model_folder(tmp_path / "m", "[limits]\nmax_batch = 1\n", model))
    (one,) = pictures(1)

    np.testing.assert_allclose(engine.run(prepared([one]))["y"][0], 2 * one, rtol=1e-6)


def test_a_limit_below_a_fixed_batch_holds(tmp_path: Path) -> None:
    assert 2 == warm(model_folder(tmp_path / "m", "[limits]\nmax_batch = 2\n", fixed(5))).max_batch


def test_feature_maps_of_a_fixed_batch_are_cut_as_well(tmp_path: Path) -> None:
    nodes = [("Relu", ["x"], ["r"]), ("Flatten", ["r"], ["f"]), ("MatMul", ["f", "w"], ["y"])]
    takes: Any = [("x", FLOAT, [4, *PIXELS])]
    wide = graph(nodes, takes, [("y", FLOAT, [4, 4]), ("r", FLOAT, [4, *PIXELS])], {"w": weights(192, 4)})
    plain = graph(nodes, takes, [("y", FLOAT, [4, 4])], {"w": weights(192, 4)})
    engine = warm(model_folder(tmp_path / "m", "[[outputs]]\nname = 'y'\n[feature_maps]\nr = 'r'\n", plain, wide))
    inputs = pictures(2)

    made = engine.run(prepared(inputs), ["r", PREPARED])

    np.testing.assert_array_equal(np.stack(inputs), made["r"])
    np.testing.assert_array_equal(np.stack(inputs), made[PREPARED])


def test_an_output_without_the_fixed_batch_is_refused_with_both_sides(tmp_path: Path) -> None:
    model = fixed(3, [("ReduceSum", ["x", "axes"], ["y"])], [1, *PIXELS], {"axes": np.array([0])})

    said = r"batch axis of input x is fixed at 3, and output y is \[1, 3, 8, 8\]; expected 3 first"
    with pytest.raises(ModelBroken, match=said):
        Engine.load(model_folder(tmp_path / "m", "", model), 1)


def test_an_output_that_only_says_it_has_the_fixed_batch_is_refused_when_it_runs(tmp_path: Path) -> None:
    model = fixed(3, [("Compress", ["x", "kept"], ["y"], {"axis": 0})], ["k", *PIXELS], {"kept": np.array([True])})

    with pytest.raises(ModelBroken, match=r"output y has shape \[1, 3, 8, 8\] for a batch of 3; expected 3 first"):
        warm(model_folder(tmp_path / "m", "", model))


# -- a batch axis elsewhere, or nowhere ---------------------------------------------------------------------------------


def time_major(rows: int | str = "n") -> bytes:
    """x [n, 3, 8, 8] -> y [8, n, 24], a row of the picture at a time."""
    nodes = [
        ("Transpose", ["x"], ["t"], {"perm": [2, 0, 1, 3]}),
        ("Reshape", ["t", "shape"], ["y"], {"allowzero": 0}),
    ]
    return graph(nodes, [("x", FLOAT, [rows, *PIXELS])], [("y", FLOAT, [8, rows, 24])], {"shape": np.array([0, 0, 24])})


def summed(rows: int) -> bytes:
    """Each job gets the sum of all."""
    nodes = [("ReduceSum", ["x", "axes"], ["s"], {"keepdims": 1}), ("Add", ["x", "s"], ["y"])]
    return fixed(rows, nodes, [rows, *PIXELS], {"axes": np.array([0])})


@pytest.mark.parametrize("model", [time_major(8), summed(3)], ids=["as many rows as jobs", "a sum"])
def test_a_fixed_batch_whose_jobs_mix_is_not_added(model: bytes) -> None:
    """What fills the batch up would be a neighbour, too."""
    with pytest.raises(
        ModelBroken, match=r"batch axis is fixed at \d, and output y of a job depends on the other jobs"
    ):
        look(model, "m.onnx", Overrides())


@pytest.mark.parametrize("rows", ["n", 4])
def test_an_output_may_have_its_batch_axis_second(tmp_path: Path, rows: int | str) -> None:
    folder = model_folder(tmp_path / "m", "[[outputs]]\nname = 'y'\nbatch_axis = 1\n", time_major(rows))
    engine, inputs = warm(folder), pictures(3)

    made = engine.run(prepared(inputs))["y"]

    assert (3, 8, 24) == made.shape
    assert [8, 24] == engine.describe()["outputs"][0]["shape"]  # type: ignore[index]
    for one, job in zip(inputs, made, strict=True):
        np.testing.assert_array_equal([one[:, row, :].ravel() for row in range(8)], job)
    assert made.base is not None, "the view is moved, and nothing is copied"
    assert not made.flags.c_contiguous


def test_without_its_batch_axis_said_such_an_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelBroken, match=r"output y has shape \[8, 1, 24\] for a batch of 1; expected 1 first"):
        warm(model_folder(tmp_path / "m", "", time_major()))


def test_an_output_without_a_batch_axis_belongs_to_one_job(tmp_path: Path) -> None:
    """Rows that are there as often as something was found: here the places above a half."""
    nodes = [("Greater", ["x", "half"], ["g"]), ("NonZero", ["g"], ["z"]), ("Transpose", ["z"], ["y"])]
    model = graph(
        nodes, [("x", FLOAT, ["n", *PIXELS])], [("y", INT64, ["k", 4])], {"half": np.array(0.5, dtype=np.float32)}
    )
    engine = warm(model_folder(tmp_path / "m", "[[outputs]]\nname = 'y'\nbatch_axis = 'none'\n", model))
    (one,) = pictures(1)

    made = engine.run(prepared([one]))["y"]

    assert 1 == engine.max_batch
    assert np.argwhere(one[None] > 0.5).tolist() == made[0].tolist()
    assert [None, 4] == engine.describe()["outputs"][0]["shape"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("axis", "rows", "expected"),
    [
        ("3", "n", r"output y is \[8, 'any', 24\]; the manifest says batch_axis = 3"),
        ("2", 4, r"fixed at 4, and output y is \[8, 4, 24\]; expected 4 as axis 2"),
        ("'none'", 4, r"fixed at 4, and output y is \[8, 4, 24\] with batch_axis = 'none'"),
    ],
)
def test_a_batch_axis_that_is_not_there_is_refused(tmp_path: Path, axis: str, rows: int | str, expected: str) -> None:
    with pytest.raises(ModelBroken, match=expected):
        Engine.load(
            model_folder(tmp_path / "m", f"[[outputs]]\nname = 'y'\nbatch_axis = {axis}\n", time_major(rows)), 1
        )


# -- more inputs than the picture -------------------------------------------------------------------------------------


def with_more(kind: int, shape: Any) -> bytes:
    """The sum of each picture, and another input as it comes."""
    nodes = [("ReduceSum", ["x", "axes"], ["y"], {"keepdims": 0}), ("Identity", ["more"], ["seen"])]
    inputs: Any = [("x", FLOAT, ["n", 3, "h", "w"]), ("more", kind, shape)]
    return graph(nodes, inputs, [("y", FLOAT, ["n"]), ("seen", kind, shape)], {"axes": np.array([1, 2, 3])})


GIVEN: dict[str, tuple[str, int, Any, Any]] = {
    "the size": ("'size'", FLOAT, ["n", 2], [6, 10]),
    "the size, width first": ("'size_wh'", INT64, ["n", 2], [10, 6]),
    "the size as float16": ("'size'", FLOAT16, ["n", 2], [6, 10]),
    "the size with free columns": ("'size'", INT32, ["n", "k"], [6, 10]),
    "factors of one": ("'ones'", FLOAT, ["n", 2], [1, 1]),
    "numbers": ("[0.5, 2]", FLOAT, ["m", 2], [0.5, 2]),
    "a number": ("7", INT64, ["n", 1], [7]),
    "a mask": ("'ones'", BOOL, ["n", "h", "w"], np.ones((6, 10), bool).tolist()),
    "numbers named like the batch": ("0.25", FLOAT, ["n"], 0.25),
}


@pytest.mark.parametrize("kind", GIVEN)
def test_an_extra_input_is_that_of_the_network_for_every_job(tmp_path: Path, kind: str) -> None:
    given, dtype, shape, expected = GIVEN[kind]
    model = with_more(dtype, shape)
    folder = model_folder(tmp_path / "m", f"{RAW}[extra_inputs]\nmore = {given}\n", model)
    engine, inputs = warm(folder), pictures(3, 3, 6, 10)
    session, dtypes = session_of(folder), {FLOAT: "f4", FLOAT16: "f2", INT32: "i4", INT64: "i8", BOOL: "?"}

    made = engine.run(prepared(inputs))

    assert [np.array(expected).tolist()] * 3 == made["seen"].tolist()
    for one, total in zip(inputs, made["y"], strict=True):
        feeds = {"x": one[None], "more": np.array([expected], dtype=dtypes[dtype])}
        np.testing.assert_allclose(session.run(["y"], feeds)[0][0], total, rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "shape", "expected"),
    [
        ("'size'", [2], [8, 8]),
        ("'size_wh'", [1, 2], [[8, 8]]),
        ("0.5", [], 0.5),
        ("[0.1, 0.2, 0.3]", ["k"], [0.1, 0.2, 0.3]),
        ("'ones'", [2, 2], [[1, 1], [1, 1]]),
    ],
)
def test_an_extra_input_without_a_batch_axis_is_given_once(
    tmp_path: Path, given: str, shape: Any, expected: Any
) -> None:
    """Of the factor that it is to the sum of a picture: as onnxruntime alone says."""
    nodes = [
        ("ReduceSum", ["x", "axes"], ["y"], {"keepdims": 0}),
        ("ReduceSum", ["more"], ["s"], {"keepdims": 0}),
        ("Mul", ["y", "s"], ["z"]),
    ]
    inputs: Any = [("x", FLOAT, ["n", *PIXELS]), ("more", FLOAT, shape)]
    model = graph(nodes, inputs, [("z", FLOAT, ["n"])], {"axes": np.array([1, 2, 3])})
    folder = model_folder(tmp_path / "m", f"[extra_inputs]\nmore = {given}\n", model)
    engine, session, jobs = warm(folder), session_of(folder), pictures(3)

    made = engine.run(prepared(jobs))["z"]

    more = np.array(expected, dtype=np.float32)
    alone = [session.run(None, {"x": one[None], "more": more})[0][0] for one in jobs]
    np.testing.assert_allclose(alone, made, rtol=1e-5)


def test_a_fixed_batch_has_its_extra_inputs_in_full(tmp_path: Path) -> None:
    nodes = [("ReduceSum", ["x", "axes"], ["s"], {"keepdims": 1}), ("Mul", ["s", "im_shape"], ["y"])]
    inputs: Any = [("im_shape", FLOAT, [4, 2]), ("x", FLOAT, [4, 48])]
    manifest = "[input]\ncolor = 'none'\n[extra_inputs]\nim_shape = [2, 3]\n"
    engine = warm(
        model_folder(tmp_path / "m", manifest, graph(nodes, inputs, [("y", FLOAT, [4, 2])], {"axes": np.array([1])}))
    )
    jobs = pictures(3, 48)

    expected = [[2 * one.sum(), 3 * one.sum()] for one in jobs]
    np.testing.assert_allclose(expected, engine.run(prepared(jobs))["y"], rtol=1e-5)


@pytest.mark.parametrize(
    ("manifest", "kind", "shape", "expected"),
    [
        ("", FLOAT, ["n", 2], r"has 2 inputs \(x, more\); expected exactly one besides those of \[extra_inputs\]"),
        ("other = 'size'", FLOAT, ["n", 2], r"no input other, which extra_inputs names; it has x, more"),
        ("more = 'size'\nx = 1", FLOAT, ["n", 2], r"has 0 inputs \(none\); expected exactly one besides those of"),
        ("more = 'size'", FLOAT, ["n", 3], r"input more is \['any', 3\]; extra_inputs gives it 2 values"),
        ("more = 5", FLOAT, ["n", 2], r"input more is \['any', 2\]; extra_inputs gives it 1 value"),
        ("more = 'size'", STRING, ["n", 2], r"input more is a tensor\(string\); expected a tensor of float32"),
        ("more = 0.5", INT64, ["n", 1], r"input more is int64; extra_inputs gives it 0\.5"),
        ("more = 1e6", FLOAT16, ["n", 1], r"input more is float16; extra_inputs gives it 1e\+06"),
        ("more = 'size'", UINT8, ["n", 2], r"input more is uint8, which holds no 'size'"),
        ("more = 'ones'", FLOAT, ["n", "a", "b", "c"], "input more leaves sides free"),
    ],
)
def test_an_extra_input_that_does_not_fit_is_refused(
    tmp_path: Path, manifest: str, kind: int, shape: Any, expected: str
) -> None:
    model = with_more(kind, shape)

    with pytest.raises(ModelBroken, match=expected):
        Engine.load(model_folder(tmp_path / "m", f"[extra_inputs]\n{manifest}\n", model), 1)


def test_a_model_of_tensors_has_no_size(tmp_path: Path) -> None:
    manifest = "[input]\ncolor = 'none'\n[extra_inputs]\nmore = 'size'\n"

    with pytest.raises(ModelBroken, match="input more is given 'size', and the model takes no images"):
        Engine.load(model_folder(tmp_path / "m", manifest, with_more(FLOAT, ["n", 2])), 1)


# -- numbers of other types -------------------------------------------------------------------------------------------


def half_net() -> bytes:
    nodes = [("Flatten", ["x"], ["f"]), ("MatMul", ["f", "w"], ["y"])]
    takes: Any = [("x", FLOAT16, ["n", *PIXELS])]
    return graph(nodes, takes, [("y", FLOAT16, ["n", 4])], {"w": weights(192, 4, dtype=np.float16)})


def test_an_input_of_float16_is_made_as_float32_and_cast_once(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", "[input]\ndtype = 'float16'\nscale = 0.01\n", half_net())
    engine, session = warm(folder), session_of(folder)
    levels = np.random.default_rng(2).integers(0, 256, (5, SIDE, SIDE, 3), dtype=np.uint8)

    jobs = [engine.prepare(one) for one in levels]
    made = engine.run(jobs, [PREPARED])

    assert ("float32", "float16") == (jobs[0].data.dtype.name, made["y"].dtype.name)  # type: ignore[union-attr]
    assert "float32" == engine.describe()["inputs"][0]["dtype"] == made[PREPARED].dtype.name  # type: ignore[index]
    for one, job in zip(levels, made["y"], strict=True):
        seen = (one.transpose(2, 0, 1) * np.float32(0.01)).astype(np.float16)
        np.testing.assert_allclose(session.run(None, {"x": seen[None]})[0][0], job, atol=0.02)


def test_what_float16_cannot_hold_is_not_the_networks_fault(tmp_path: Path) -> None:
    engine = warm(model_folder(tmp_path / "m", "", half_net()))
    large = np.full(PIXELS, 1e5, dtype=np.float32)

    assert not engine.takes_finite(engine.admit(large.tobytes(), "float32", "3,8,8"))
    assert engine.takes_finite(engine.admit((large / 2).tobytes(), "float32", "3,8,8"))


def test_a_manifest_that_says_another_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelBroken, match=r"input x is float16; the manifest says input\.dtype = float32"):
        Engine.load(model_folder(tmp_path / "m", "[input]\ndtype = 'float32'\n", half_net()), 1)


@pytest.mark.parametrize("kind", [FLOAT16, INT32, INT64])
@pytest.mark.parametrize("meaning", ["classes", "tensor"])
def test_outputs_of_other_types_are_numbers_like_any(tmp_path: Path, kind: int, meaning: str) -> None:
    nodes = [("Flatten", ["x"], ["f"]), ("MatMul", ["f", "w"], ["m"]), ("Cast", ["m"], ["y"], {"to": kind})]
    model = graph(nodes, [("x", FLOAT, ["n", *PIXELS])], [("y", kind, ["n", 4])], {"w": 50 * weights(192, 4)})
    manifest = f"[[outputs]]\nname = 'y'\nmeaning = '{meaning}'\n"
    folder = model_folder(tmp_path / "m", manifest + "labels = 'l.txt'\n" * (meaning == "classes"), model)
    (folder / "l.txt").write_text("a\nb\nc\nd\n")
    engine, session, inputs = warm(folder), session_of(folder), pictures(4)

    made = engine.run(prepared(inputs))["y"]

    for number, one in enumerate(inputs):
        alone = session.run(None, {"x": one[None]})[0][0]
        np.testing.assert_allclose(alone, made[number], rtol=2e-3, atol=1)
        if meaning == "classes":
            values = np.exp(made[number].astype(np.float64) - made[number].max())
            best = rank(made, engine.activation, 1)
            assert values.argmax() == best.indices[number, 0]
            np.testing.assert_allclose(values.max() / values.sum(), best.scores[number, 0], rtol=1e-3)


# -- what a manifest is written with ------------------------------------------------------------------------------------


def added(folder: Path, model: bytes, wishes: Overrides | None = None) -> tuple[Engine, dict[str, Any]]:
    """The model with the manifest that is found, warm; and the findings by their keys."""
    found = look(model, "x.onnx", wishes or Overrides(task="tensor"))
    engine = warm(model_folder(folder, found["manifest"], model))
    return engine, {one["key"]: (one["value"], one["source"]) for one in found["findings"]}


def test_a_fixed_batch_is_found(tmp_path: Path) -> None:
    engine, found = added(tmp_path / "m", fixed(5))
    fewer, said = added(tmp_path / "fewer", fixed(5), Overrides(task="tensor", max_batch=2))

    assert ((5, "graph"), 5) == (found["max_batch"], engine.max_batch)
    assert ((2, "given"), 2) == (said["max_batch"], fewer.max_batch)
    assert engine.manifest.input.normalises


def test_float16_is_found(tmp_path: Path) -> None:
    engine, found = added(tmp_path / "m", half_net())

    assert ("float16", "graph") == found["dtype"]
    assert (4,) == engine.run(prepared(pictures(1)))["y"][0].shape


def test_inputs_that_are_known_by_their_names_are_found(tmp_path: Path) -> None:
    nodes = [
        ("ReduceSum", ["image", "axes"], ["y"], {"keepdims": 0}),
        ("Concat", ["im_shape", "scale_factor"], ["seen"], {"axis": 1}),
        ("Identity", ["orig_target_sizes"], ["sizes"]),
    ]
    inputs: Any = [
        ("im_shape", FLOAT, ["n", 2]),
        ("image", FLOAT, ["n", 3, 6, 10]),
        ("scale_factor", FLOAT, ["n", 2]),
        ("orig_target_sizes", INT64, ["n", 2]),
    ]
    outputs: Any = [("y", FLOAT, ["n"]), ("seen", FLOAT, ["n", 4]), ("sizes", INT64, ["n", 2])]

    engine, found = added(tmp_path / "m", graph(nodes, inputs, outputs, {"axes": np.array([1, 2, 3])}))
    made = engine.run(prepared(pictures(2, 3, 6, 10)))

    assert ("image", "graph") == found["name"]
    assert [("size", "assumed"), ("ones", "assumed"), ("size_wh", "assumed")] == [
        found[name] for name in ("im_shape", "scale_factor", "orig_target_sizes")
    ]
    assert [[6, 10, 1, 1]] * 2 == made["seen"].tolist()
    assert [[10, 6]] * 2 == made["sizes"].tolist()


def test_a_batch_axis_that_is_called_so_is_found(tmp_path: Path) -> None:
    engine, found = added(tmp_path / "m", time_major("n"))

    assert (1, "graph") == found["batch_axis"]
    assert (2, 8, 24) == engine.run(prepared(pictures(2)))["y"].shape


def test_a_number_alone_is_no_batch_axis(tmp_path: Path) -> None:
    """Of three jobs or of three channels: nothing tells which, and whoever brings the graph is asked."""
    summed = fixed(3, [("ReduceSum", ["x", "axes"], ["y"])], [1, *PIXELS], {"axes": np.array([0])})

    with pytest.raises(ModelBroken, match=r"\[1, 3, 8, 8\]; expected 3 first, or its batch_axis in \[\[outputs\]\]"):
        added(tmp_path / "m", summed)


def test_an_output_that_counts_no_jobs_is_found(tmp_path: Path) -> None:
    nodes = [("Greater", ["x", "half"], ["g"]), ("NonZero", ["g"], ["z"]), ("Transpose", ["z"], ["y"])]
    model = graph(
        nodes, [("x", FLOAT, ["n", *PIXELS])], [("y", INT64, ["k", 4])], {"half": np.array(0.5, dtype=np.float32)}
    )

    engine, found = added(tmp_path / "m", model)

    assert (("none", "measured"), 1) == (found["batch_axis"], engine.max_batch)
