"""Models that give images: from the graph to the picture, and what is refused when."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from convq.engine import postprocess
from convq.engine.engine import Engine
from convq.engine.postprocess import finite
from convq.errors import ModelBroken, ModelFault
from onnx_models import DOUBLE, FLOAT, INT64, UINT8, blur, graph, identity, model_folder

IMAGE = "[[outputs]]\nname = 'y'\nmeaning = 'image'\n"
FREE = "[input]\nresize = 'none'\n"


def loaded(folder: Path) -> Engine:
    engine = Engine.load(folder, 1)
    engine.warm_up()
    return engine


def pixels_of(content: bytes) -> NDArray[np.uint8]:
    with Image.open(BytesIO(content)) as image:
        return np.asarray(image)


def encoded(pixels: NDArray[np.uint8]) -> bytes:
    out = BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def through(engine: Engine, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture in, a picture out."""
    made = engine.run([engine.prepare(engine.decode(encoded(pixels)))])
    return pixels_of(engine.pictures["y"].png(made["y"][0]))


PHOTO = np.random.default_rng(5).integers(0, 256, (9, 14, 3), dtype=np.uint8)


def test_a_blurred_picture_is_the_mean_of_its_neighbours(tmp_path: Path) -> None:
    side = ["n", 3, "h", "w"]
    conv = [("Conv", ["x", "w"], ["y"], {"group": 3, "pads": [1, 1, 1, 1]})]
    model = graph(conv, [("x", FLOAT, side)], [("y", FLOAT, side)], {"w": blur()})
    engine = loaded(model_folder(tmp_path / "m", FREE + IMAGE, model))
    padded = np.pad(PHOTO.astype(np.float64), ((1, 1), (1, 1), (0, 0)))
    sums = sum(padded[i : i + 9, j : j + 14] for i in range(3) for j in range(3))

    made = through(engine, PHOTO)

    assert (("y",), ("y",)) == (engine.outputs, engine.default_outputs)
    assert 1 >= np.abs(made - np.asarray(sums) / 9).max()
    described: Any = engine.describe()["outputs"]
    assert [("y", "image")] == [(one["name"], one["meaning"]) for one in described]


@pytest.mark.parametrize("color", ["rgb", "bgr"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("kind", [UINT8, FLOAT])
def test_what_goes_through_unchanged_comes_out_as_it_was(tmp_path: Path, color: str, layout: str, kind: int) -> None:
    shape = ["n", 3, "h", "w"] if layout == "NCHW" else ["n", "h", "w", 3]
    manifest = f"[input]\nresize = 'none'\ncolor = '{color}'\nlayout = '{layout}'\n{IMAGE}"
    engine = loaded(model_folder(tmp_path / "m", manifest, identity(shape, kind)))

    np.testing.assert_array_equal(PHOTO, through(engine, PHOTO))


def test_one_channel_is_a_gray_picture_with_its_scale_and_offset(tmp_path: Path) -> None:
    manifest = "[input]\ncolor = 'gray'\nresize = 'none'\nscale = 0.00392156862745098\n" + IMAGE
    manifest += "scale = -255\noffset = 255\n"
    engine = loaded(model_folder(tmp_path / "m", manifest, identity(["n", 1, "h", "w"])))
    gray = PHOTO[..., 0]

    np.testing.assert_array_equal(255 - gray, through(engine, gray))


def test_a_network_of_another_number_of_channels_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    many = graph(
        [("Conv", ["x", "w"], ["y"])],
        [("x", FLOAT, ["n", 3, "h", "w"])],
        [("y", FLOAT, ["n", 2, "h", "w"])],
        {"w": np.zeros((2, 3, 3, 3), dtype=np.float32)},
    )
    with pytest.raises(ModelBroken, match=r"model\.onnx: output y has 2 channels; an image has 1 or 3"):
        Engine.load(model_folder(tmp_path / "two", FREE + IMAGE, many), 1)

    flat = graph([("Flatten", ["x"], ["y"])], [("x", FLOAT, ["n", 3, 4, 4])], [("y", FLOAT, ["n", 48])])
    with pytest.raises(ModelBroken, match=r"model\.onnx: output y has 1 axes besides the batch; an image has 3"):
        Engine.load(model_folder(tmp_path / "flat", IMAGE, flat), 1)


def by_width(declared: Any) -> bytes:
    """The last axis becomes the channels. Without `declared`, only a run can tell how many axes there are."""
    turn = [("Transpose", ["x"], ["t"], {"perm": [0, 3, 1, 2]})]
    # The shape of t, from its beginning on: which is computed, so that nobody knows how long the rest of it is.
    ends = [("ReduceMin", ["x"], ["least"], {"keepdims": 0}), ("Mul", ["least", "nothing"], ["zero"])]
    ends += [("Cast", ["zero"], ["start"], {"to": INT64}), ("Reshape", ["start", "one"], ["from"])]
    ends += [
        ("Shape", ["t"], ["sides"]),
        ("Slice", ["sides", "from", "four"], ["same"]),
        ("Reshape", ["t", "same"], ["y"]),
    ]
    weights = {"nothing": np.zeros((), dtype=np.float32), "one": np.array([1]), "four": np.array([4])}
    return graph(turn + ends, [("x", FLOAT, ["n", 3, "h", "w"])], [("y", FLOAT, declared)], weights)


@pytest.mark.parametrize("declared", [["n", "c", "h", "w"], None])
def test_channels_that_only_a_run_can_tell_are_a_fault_of_the_job_alone(tmp_path: Path, declared: Any) -> None:
    engine = Engine.load(model_folder(tmp_path / "m", FREE + IMAGE, by_width(declared)), 1)
    three, five = (engine.admit(bytes(12 * 4 * width), "float32", f"3,4,{width}") for width in (3, 5))
    described: Any = engine.describe()["outputs"]

    assert ([None, None, None] if declared else []) == described[0]["shape"]
    assert (1, 3, 3, 4) == engine.run([three])["y"].shape
    with pytest.raises(ModelFault, match="output y has 5 channels; an image has 1 or 3"):
        engine.run([five])


def test_an_image_that_is_not_finite_is_found_among_its_neighbours(tmp_path: Path) -> None:
    engine = loaded(model_folder(tmp_path / "m", IMAGE, identity(["n", 3, 2, 2])))
    fine, bad = np.zeros((3, 2, 2), dtype="<f4"), np.full((3, 2, 2), np.nan, dtype="<f4")
    inputs = [engine.admit(one.tobytes(), "float32", "3,2,2") for one in (fine, bad, fine)]

    assert [True, False, True] == finite(engine.run(inputs)).tolist()


def test_outputs_that_no_result_can_carry_are_refused_and_an_image_counts_a_byte_a_level(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = ["n", 3, "h", "w"]
    to_double = [("Cast", ["x"], ["y"], {"to": DOUBLE})]
    model = graph(to_double, [("x", FLOAT, side)], [("y", DOUBLE, side)])
    as_image = Engine.load(model_folder(tmp_path / "image", FREE + IMAGE, model), 1)
    as_tensor = Engine.load(model_folder(tmp_path / "tensor", FREE, model), 1)
    small, large = (as_image.admit(bytes(3 * n * n * 4), "float32", f"3,{n},{n}") for n in (4, 12))
    monkeypatch.setattr(postprocess, "MAX_OUTPUT_BYTES", 3 * 4 * 4 * 8)

    assert {"y"} == set(as_tensor.run([small, small]))
    assert {"y"} == set(as_image.run([small, small]))
    with pytest.raises(ModelFault, match="the outputs for this input have 3,456 bytes; a job may have at most 384"):
        as_tensor.run([large])
    with pytest.raises(ModelFault, match="the outputs for this input have 432 bytes"):
        as_image.run([large])
