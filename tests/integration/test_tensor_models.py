"""Models that take no images: tensors of any rank, fixed or free."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convq.engine.engine import Engine
from convq.engine.signature import EXAMPLE_ELEMENTS
from convq.errors import BadField, BadTensor, ModelBroken
from onnx_models import FLOAT, UINT8, graph, identity, model_folder

NONE = "[input]\ncolor = 'none'\n"
DTYPES = {FLOAT: "float32", UINT8: "uint8"}


def loaded(folder: Path) -> Engine:
    engine = Engine.load(folder, 1)
    engine.warm_up()
    return engine


@pytest.mark.parametrize("kind", [FLOAT, UINT8])
@pytest.mark.parametrize(
    ("declared", "given"),
    [
        (["n", 7], (7,)),
        (["n", "length"], (5,)),
        (["n", 4, "length"], (4, 9)),
        (["n", 2, 3, 4], (2, 3, 4)),
        (["n", 2, "a", 3, "b"], (2, 5, 3, 1)),
        (["n", "a", "b", "c", "d", "e"], (1, 2, 3, 2, 1)),
        ([1, 3], (3,)),
    ],
)
def test_a_tensor_of_any_rank_goes_through_as_it_is(
    tmp_path: Path, declared: list[Any], given: tuple[int, ...], kind: int
) -> None:
    engine = loaded(model_folder(tmp_path / "m", NONE, identity(declared, kind)))
    values = np.arange(np.prod(given)).astype(DTYPES[kind]).reshape(given)

    inputs = [engine.admit(values.tobytes(), DTYPES[kind], ",".join(map(str, given)))] * engine.max_batch
    made = engine.run(inputs)["y"]

    np.testing.assert_array_equal(np.stack([values] * engine.max_batch), made)
    described: Any = json.loads(json.dumps(engine.describe()))["inputs"][0]
    sides = [side if isinstance(side, int) else None for side in declared[1:]]
    assert {"name": "x", "dtype": DTYPES[kind], "shape": sides, "color": "none"} == described


def test_a_job_with_an_image_is_told_that_this_model_takes_tensors_only(tmp_path: Path) -> None:
    engine = loaded(model_folder(tmp_path / "m", NONE, identity(["n", 3, 4, 4])))

    with pytest.raises(BadField, match="takes tensors only: give tensor, dtype and shape instead"):
        engine.decode(b"\x89PNG")


@pytest.mark.parametrize(
    ("kind", "dtype", "shape", "expected"),
    [
        (FLOAT, "uint8", "2,3", "dtype is uint8; this model takes float32"),
        (UINT8, "float32", "2,3", "dtype is float32; this model takes uint8"),
        (FLOAT, "int64", "2,3", "dtype is 'int64'; expected float32"),
        (FLOAT, "float32", "3,2", "shape is 3,2; expected 2,any"),
        (FLOAT, "float32", "2,3,1", "shape is 2,3,1; expected 2,any"),
        (FLOAT, "float32", "2,0", "shape is 2,0; expected 2,any"),
        (FLOAT, "float32", "2,7", "shape 2,7 has more than the 12 elements that are accepted"),
        (FLOAT, "float32", "2,3", "the tensor has 0 bytes; float32 of shape 2,3 has 24"),
    ],
)
def test_another_tensor_is_refused_with_what_was_expected(
    tmp_path: Path, kind: int, dtype: str, shape: str, expected: str
) -> None:
    manifest = NONE + "[limits]\nmax_pixels = 12\n"
    engine = loaded(model_folder(tmp_path / "m", manifest, identity(["n", 2, "length"], kind)))

    with pytest.raises(BadTensor) as caught:
        engine.admit(b"", dtype, shape)

    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("declared", "free"),
    [
        (["n", "length"], (224,)),
        (["n", "h", "w", 3], (224, 224, 3)),
        (["n", 64, "h", "w"], (64, 32, 32)),
        (["n", "a", "b", "c", "d", "e"], (8, 8, 8, 8, 8)),
        (["n", 10**6, "a"], (10**6, 1)),
    ],
)
def test_free_sides_are_warmed_up_with_no_more_than_a_photograph(
    tmp_path: Path, declared: list[Any], free: tuple[int, ...]
) -> None:
    engine = Engine.load(model_folder(tmp_path / "m", NONE, identity(declared)), 1)

    assert free == engine._graph.example_shape()
    assert EXAMPLE_ELEMENTS >= np.prod(free) or 1 in free


def test_without_images_a_graph_may_have_two_to_six_axes(tmp_path: Path) -> None:
    for name, declared in (("one", ["n"]), ("seven", ["n", 1, 1, 1, 1, 1, 1])):
        with pytest.raises(ModelBroken, match=rf"input x has {len(declared)} axes; expected 2 to 6"):
            Engine.load(model_folder(tmp_path / name, NONE, identity(declared)), 1)


def test_a_graph_of_another_rank_than_an_image_is_told_what_there_is_instead(tmp_path: Path) -> None:
    with pytest.raises(ModelBroken, match=r"has 3 axes; expected 4 \(NCHW\); or input\.color = 'none'"):
        Engine.load(model_folder(tmp_path / "m", "", identity(["n", 3, 8])), 1)


def halves(folder: Path, sample: str = "") -> Path:
    """A model that cannot run on the sides that one would guess: its length must be 2 times 5."""
    nodes = [("Reshape", ["x", "shape"], ["y"])]
    weights = {"shape": np.array([-1, 2, 5], dtype=np.int64)}
    model = graph(nodes, [("x", FLOAT, ["n", "length"])], [("y", FLOAT, ["n", 2, 5])], weights)
    return model_folder(folder, NONE + (f"[warmup]\nsample = '{sample}'\n" if sample else ""), model)


def test_a_sample_tensor_says_what_free_sides_may_be(tmp_path: Path) -> None:
    with pytest.raises(ModelBroken, match="warm-up failed"):
        Engine.load(halves(tmp_path / "guessed"), 1).warm_up()
    folder = halves(tmp_path / "told", "sample.npy")
    np.save(folder / "sample.npy", np.arange(10, dtype=np.float32))

    Engine.load(folder, 1).warm_up()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\x93NUMPY\x01\x00", "not a NumPy file"),
        (b"hello", "not a NumPy file"),
        (b"", "not a NumPy file"),
        (np.array([object()]), "not a NumPy file"),
        (np.zeros(10, dtype=np.int16), "dtype is 'int16'; expected float32"),
        (np.full(10, np.nan, dtype=np.float32), "gives NaN or infinity"),
    ],
)
def test_a_sample_that_is_no_such_tensor_fails_the_warm_up(tmp_path: Path, content: Any, expected: str) -> None:
    folder = halves(tmp_path / "m", "sample.npy")
    if isinstance(content, bytes):
        (folder / "sample.npy").write_bytes(content)
    else:
        np.save(folder / "sample.npy", content)

    with pytest.raises(ModelBroken, match=expected):
        Engine.load(folder, 1).warm_up()


def test_classes_of_numbers_are_checked_by_a_sample_of_either_byte_order(tmp_path: Path) -> None:
    outputs = "[[outputs]]\nname = 'y'\nmeaning = 'classes'\nlabels = 'labels.txt'\n"
    warmup = "[warmup]\nsample = 'sample.npy'\ngolden = 'two'\n"
    folder = model_folder(tmp_path / "m", NONE + outputs + warmup, identity(["n", 3]))
    (folder / "labels.txt").write_text("zero\none\ntwo\n")
    np.save(folder / "sample.npy", np.array([0, 1, 2], dtype=">f4"))

    assert ("zero", "one", "two") == loaded(folder).labels
