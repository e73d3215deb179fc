"""The grid of maps that people look at, and how its files are called."""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO
from pathlib import Path

import click
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from convq.cli.saving import MapSaver
from convq.detected import Output
from convq.engine.mosaic import mosaic
from convq.protocol import Result, Status


def grid_of(maps: NDArray[np.float32], title: str = "conv1 of seven.png") -> NDArray[np.uint8]:
    with Image.open(BytesIO(mosaic(maps, title))) as image:
        assert "L" == image.mode
        return np.asarray(image)


def ramp(count: int, height: int, width: int) -> NDArray[np.float32]:
    """Maps whose first pixel is the lowest and whose last is the highest."""
    return np.arange(count * height * width, dtype=np.float32).reshape(count, height, width) - 5


def test_each_map_goes_from_black_to_white_by_itself() -> None:
    maps = ramp(6, 2, 2)

    grid = grid_of(maps)

    assert 6 * 56 * 56 <= (grid == 255).sum()
    assert 6 * 56 * 56 <= (grid == 0).sum()
    assert 6 * 56 * 56 <= (grid == 85).sum()


@pytest.mark.parametrize(
    ("shape", "least", "most"),
    [
        ((1, 1, 1), 112, 200),
        ((6, 30, 30), 90 * 2, 700),
        ((1280, 7, 7), 2000, 6000),
        ((3, 2000, 1000), 384, 1200),
        ((4, 1, 300), 300, 800),
        ((400, 300, 300), 3000, 6000),
    ],
)
def test_small_maps_are_enlarged_and_large_ones_shrunk_so_that_the_grid_is_readable(
    shape: tuple[int, int, int], least: int, most: int
) -> None:
    grid = grid_of(np.broadcast_to(ramp(1, *shape[1:]), shape))

    assert least <= max(grid.shape) <= most


def test_every_map_has_its_number_and_the_title_stands_above() -> None:
    flat = np.zeros((3, 4, 4), dtype=np.float32)

    plain, other = grid_of(flat, "conv1"), grid_of(flat, "conv2 öß")

    assert plain[:22].max() > 200
    assert (plain[:22] != other[:22, : plain.shape[1]]).any()
    numbers = [plain[30:44, x : x + 10] for x in (8, 8 + 120, 8 + 240)]
    assert all(number.max() > 150 for number in numbers)
    assert (numbers[0] != numbers[1]).any()
    assert (numbers[1] != numbers[2]).any()


def test_values_at_the_ends_of_their_type_are_shown_too() -> None:
    huge = np.array([[[-3e38, 3e38]]], dtype=np.float32)

    assert {0, 255} <= set(grid_of(huge).ravel().tolist())


@pytest.mark.parametrize("shape", [(10,), (2, 3), (0, 2, 2), (2, 0, 2), (1, 2, 3, 4), (4097, 1, 1)])
def test_what_is_no_set_of_maps_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"no set of maps|more than one picture can show"):
        mosaic(np.zeros(shape, dtype=np.float32), "t")


def result(*outputs: Output) -> Result:
    return Result(id="1-0", entry="1-0", model="m", status=Status.OK, outputs=outputs)


def array(name: str, values: NDArray[np.generic]) -> Output:
    return Output(name=name, data=b64encode(values.tobytes()).decode(), dtype=values.dtype.name, shape=values.shape)


SERVED = {
    "inputs": [{"layout": "NCHW"}],
    "outputs": [{"name": "relu:0", "meaning": "feature_map", "shape": [None, 4, 4]}],
}


def test_files_are_called_after_the_picture_and_the_output_and_none_is_written_twice(tmp_path: Path) -> None:
    saver = MapSaver(tmp_path / "new", ["relu:0"], SERVED)
    maps = array("relu:0", ramp(2, 4, 4))

    names = [Path(path).name for file in ("a/x.png", "b/x.jpg", "-") for path in saver.save(file, result(maps))]

    assert ["x.relu_0.png", "x.relu_0-2.png", "stdin.relu_0.png"] == names
    assert set(names) == {path.name for path in (tmp_path / "new").iterdir()}
    assert 3 == saver.written


def test_a_model_with_channels_last_has_its_maps_last_too(tmp_path: Path) -> None:
    served = {**SERVED, "inputs": [{"layout": "NHWC"}]}
    maps = np.ascontiguousarray(ramp(5, 4, 3).transpose(1, 2, 0))

    (first,) = MapSaver(tmp_path / "last", ["relu:0"], served).save("x.png", result(array("relu:0", maps)))
    (second,) = MapSaver(tmp_path, ["relu:0"], SERVED).save("x.png", result(array("relu:0", ramp(5, 4, 3))))

    assert Path(first).read_bytes() == Path(second).read_bytes()


def test_an_output_that_turns_out_to_be_no_map_is_one_line(tmp_path: Path) -> None:
    saver = MapSaver(tmp_path, ["z"], {})

    with pytest.raises(click.ClickException, match="z is no map: its shape is 7; expected channels x height x width"):
        saver.save("x.png", result(array("z", np.zeros(7, dtype=np.float32))))
    assert [] == MapSaver(tmp_path, [], {}).save("x.png", result(array("z", np.zeros(7, dtype=np.float32))))
