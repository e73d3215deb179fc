"""Maps, vectors, text, points and numbers through a running service, asked for by the protocol's page and by the client."""

from __future__ import annotations

import base64
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from convq.client import Client
from meaning_models import (
    ALPHABET,
    FACES,
    GENDERS,
    GRAY,
    LETTERBOX,
    POINTS,
    SIDE,
    depther,
    embedder,
    faces_folder,
    marker,
    matter,
    meaning_folder,
    numbered,
    numberer,
    pointer,
    reader,
    segmenter,
    written,
)
from onnx_models import identity, model_folder
from servers import OwnServer
from services import KEYS, Asking, RunningService, image_of

POINT_NAMES = 'names = ["left", "right"]\nskeleton = [[0, 1]]\n'
COLOURS = '[input]\nscale = 0.00392156862745098\nresize = "letterbox"\ninterpolation = "nearest"\n'
CROP = GRAY + 'resize = "crop"\n'
MOST_PIXELS = 4_194_304
RNG = np.random.default_rng(7)


def make_models(root: Path) -> None:
    for count in (2, 21, 300):
        meaning_folder(root / f"seg{count}", "segments", segmenter(count), start=LETTERBOX, labels=numbered(count))
    meaning_folder(root / "cropped", "segments", segmenter(21), start=CROP, labels=numbered(21))
    void: dict[str, Any] = {"labels": numbered(21), "more": "ignore = 20\n"}
    meaning_folder(root / "whole", "segments", numberer(21), start=LETTERBOX, **void)
    meaning_folder(root / "large", "segments", numberer(5), start=LETTERBOX, labels=numbered(5))
    meaning_folder(root / "matte", "matte", matter(), start=LETTERBOX)
    meaning_folder(root / "stretched", "matte", matter(), start=CROP, more='stretch = true\nactivation = "sigmoid"\n')
    meaning_folder(root / "depth", "depth", depther(), start=LETTERBOX)
    meaning_folder(root / "inverse", "depth", depther(), more="inverse = true\nscale = 2\n")
    meaning_folder(root / "vector", "embedding", embedder())
    meaning_folder(root / "plain", "embedding", embedder(), more="normalize = false\n")
    lines = GRAY + "pad_value = 0\n"
    meaning_folder(root / "text", "text", reader(6), start=lines, labels=ALPHABET)
    more = 'time_first = true\nspace = true\nblank = "last"\ncollapse = false\n'
    meaning_folder(root / "major", "text", reader(7, time_first=True), start=lines, labels=ALPHABET, more=more)
    meaning_folder(root / "heat", "keypoints", pointer(), start=COLOURS, more='names = ["r", "g", "b"]\n')
    more = POINT_NAMES + 'units = "unit"\nactivation = "sigmoid"\n'
    meaning_folder(root / "marks", "keypoints", marker(), start=LETTERBOX, more=more)
    faces_folder(root / "faces")
    one = FACES.partition('[[outputs]]\nname = "age"')[0]
    faces_folder(root / "one", one)
    model_folder(root / "mirror", "[input]\nresize = 'none'\n", identity(["n", 3, "h", "w"]))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    make_models(root)
    return root


@pytest.fixture(scope="module")
def served(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a server where all of them are served."""
    with OwnServer(tmp_path_factory.mktemp("server")) as server:
        names = ",".join(sorted(folder.name for folder in models.iterdir()))
        with RunningService(server.url, "--models", str(models), "--only", names, workers=1):
            yield server.url


@pytest.fixture(scope="module")
def asking(served: str) -> Asking:
    return Asking(served)


def raw_of(document: dict[str, Any], name: str = "y") -> NDArray[Any]:
    """The numbers of an output that the job has named."""
    (found,) = [one for one in document["outputs"] if one["name"] == name and "dtype" in one]
    values = np.frombuffer(base64.b64decode(found["data"]), dtype=found["dtype"])
    return values.reshape(found["shape"])


def levels_of(said: dict[str, Any]) -> NDArray[Any]:
    with Image.open(BytesIO(base64.b64decode(said["data"]))) as drawn:
        assert drawn.mode in ("L", "I;16")
        return np.asarray(drawn)


def resized(plane: NDArray[Any], width: int, height: int, kind: Image.Resampling) -> NDArray[np.float64]:
    """By Pillow, from numbers."""
    drawn = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32)).resize((width, height), kind)
    return np.asarray(drawn, dtype=np.float64)


def blocks(rows: int, columns: int, side: int = 16) -> NDArray[np.uint8]:
    """A picture of squares of random levels."""
    return np.kron(RNG.integers(0, 256, (rows, columns), dtype=np.uint8), np.ones((side, side), dtype=np.uint8))


WIDE = blocks(6, 8)
"""128 x 96: letterboxed to 64 x 48, 8 rows down."""
SHOWN = slice(8, 56)


# -- class maps ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "mode"), [(2, np.uint8), (21, np.uint8), (300, np.uint16)])
def test_a_class_map_has_the_pictures_size_and_the_classes_that_occur(asking: Asking, count: int, mode: Any) -> None:
    document = asking.ask(f"seg{count}", WIDE, outputs="y")
    classes = raw_of(document).argmax(axis=0)[SHOWN]
    expected = resized(classes, 128, 96, Image.Resampling.NEAREST)

    segments = document["segments"]
    assert KEYS | {"image", "segments", "outputs"} == set(document)
    assert {"width": 128, "height": 96} == document["image"]
    assert {"format", "width", "height", "data", "classes"} == set(segments)
    assert ("png", 128, 96) == (segments["format"], segments["width"], segments["height"])
    levels = levels_of(segments)
    assert levels.dtype == mode
    np.testing.assert_array_equal(expected, levels)
    counted = {int(number): int((levels == number).sum()) for number in np.unique(levels)}
    assert {f"c{number}": round(pixels / levels.size, 6) for number, pixels in counted.items()} == {
        one["label"]: one["share"] for one in segments["classes"]
    }
    shares = [one["share"] for one in segments["classes"]]
    assert sorted(shares, reverse=True) == shares


def test_without_naming_them_no_numbers_come(asking: Asking) -> None:
    document = asking.ask("seg21", WIDE)

    assert KEYS | {"image", "segments"} == set(document)


def test_a_map_of_the_networks_size_has_no_padding(asking: Asking) -> None:
    document = asking.ask("seg21", WIDE, outputs="y", format="network")

    assert (64, 48) == (document["segments"]["width"], document["segments"]["height"])
    np.testing.assert_array_equal(raw_of(document).argmax(axis=0)[SHOWN], levels_of(document["segments"]))


def test_whole_numbers_are_classes_and_one_of_them_nothing(asking: Asking) -> None:
    document = asking.ask("whole", WIDE, outputs="y")
    classes = raw_of(document)[SHOWN]
    expected = resized(np.where(classes == 20, 255, classes), 128, 96, Image.Resampling.NEAREST)

    np.testing.assert_array_equal(expected, levels_of(document["segments"]))
    assert 20 not in [one["index"] for one in document["segments"]["classes"]]
    assert sum(one["share"] for one in document["segments"]["classes"]) == pytest.approx(
        (expected != 255).mean(), abs=1e-4
    )


def test_a_map_of_a_crop_says_which_part_it_covers(asking: Asking) -> None:
    document = asking.ask("cropped", blocks(8, 10), outputs="y")

    segments = document["segments"]
    assert [16.0, 0.0, 144.0, 128.0] == segments["box"]
    assert (128, 128) == (segments["width"], segments["height"])
    expected = resized(raw_of(document).argmax(axis=0), 128, 128, Image.Resampling.NEAREST)
    np.testing.assert_array_equal(expected, levels_of(segments))
    assert {"width": 160, "height": 128} == document["image"]


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(2048, 2048, (2048, 2048)), (2048, 2049, (64, 64)), (1400, 3000, (30, 64))]
)
def test_above_four_megapixels_a_map_is_the_networks(
    asking: Asking, height: int, width: int, expected: tuple[int, int]
) -> None:
    document = asking.ask("large", np.full((height, width), 128, dtype=np.uint8))

    assert (height * width > MOST_PIXELS) == (expected[1] == 64)
    assert expected == levels_of(document["segments"]).shape
    assert {"width": width, "height": height} == document["image"]
    assert [{"label": "c2", "index": 2, "share": 1.0}] == document["segments"]["classes"]


def test_a_picture_that_lies_on_its_side_is_answered_as_people_see_it(asking: Asking) -> None:
    file, exif = BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(WIDE)).save(file, "PNG", exif=exif)

    lying, upright = (asking.ask("seg21", picture) for picture in (file.getvalue(), WIDE))

    assert ({"width": 128, "height": 96}, upright["segments"]) == (lying["image"], lying["segments"])


def test_of_a_tensor_the_picture_is_the_input(asking: Asking) -> None:
    light = np.full((1, SIDE, SIDE), 0.5, dtype=np.float32).tobytes()
    fields = {"tensor": light, "dtype": "float32", "shape": f"1,{SIDE},{SIDE}"}

    document = asking.document("seg21", asking.push("seg21", fields)[0])

    assert {"width": SIDE, "height": SIDE} == document["image"]
    assert [{"label": "c10", "index": 10, "share": 1.0}] == document["segments"]["classes"]


# -- mattes and depth ---------------------------------------------------------------------------------------------------


def test_a_matte_is_a_picture_among_the_outputs(asking: Asking) -> None:
    document = asking.ask("matte", WIDE)

    assert KEYS | {"image", "outputs"} == set(document)
    (output,) = document["outputs"]
    assert {"name", "format", "data"} == set(output)
    plane = np.asarray(Image.fromarray(WIDE).resize((64, 48), Image.Resampling.NEAREST), dtype=np.float64)
    expected = resized(plane, 128, 96, Image.Resampling.BILINEAR)
    assert np.abs(expected - levels_of(output)).max() <= 0.51


def test_the_numbers_of_a_matte_come_beside_its_picture(asking: Asking) -> None:
    document = asking.ask("matte", WIDE, outputs="y")

    picture, numbers = document["outputs"]
    assert (("y", "png"), ("y", "float32", [1, 64, 64])) == (
        (picture["name"], picture["format"]),
        (numbers["name"], numbers["dtype"], numbers["shape"]),
    )
    np.testing.assert_array_equal(0, raw_of(document)[0, :8])


def test_a_matte_is_stretched_to_its_own_ends(asking: Asking) -> None:
    picture = np.zeros((64, 96), dtype=np.uint8) + 90
    picture[:, 40:50] = 120
    picture[:, :16] = 255  # cut off

    (output,) = asking.ask("stretched", picture)["outputs"]

    assert [16.0, 0.0, 80.0, 64.0] == output["box"]
    assert {0, 255} == set(np.unique(levels_of(output)).tolist())
    assert 255 == levels_of(output)[10, 30]


@pytest.mark.parametrize(("model", "rows"), [("depth", SHOWN), ("inverse", slice(0, 64))])
def test_depth_is_levels_between_two_ends(asking: Asking, model: str, rows: slice) -> None:
    document = asking.ask(model, WIDE, outputs="y")
    near = raw_of(document)[rows].astype(np.float64)
    far = near if model == "depth" else 2 / near
    expected = resized(far, 128, 96, Image.Resampling.BILINEAR)

    output = document["outputs"][0]
    assert {"name", "format", "data", "low", "high"} == set(output)
    assert (far.min(), far.max()) == pytest.approx((output["low"], output["high"]), rel=1e-6)
    levels = levels_of(output).astype(np.float64)
    found = output["low"] + (output["high"] - output["low"]) * levels / 65535
    np.testing.assert_allclose(found, expected, atol=(output["high"] - output["low"]) * 2e-4)


def test_depth_of_one_level_has_equal_ends(asking: Asking) -> None:
    (output,) = asking.ask("depth", np.full((48, 64), 255, np.uint8))["outputs"]

    assert (10.0, 10.0, {0}) == (output["low"], output["high"], set(levels_of(output).ravel().tolist()))


# -- vectors, text, points, numbers ----------------------------------------------------------------------------------------


def test_an_embedding_is_normalized_float32(asking: Asking) -> None:
    picture = blocks(8, 8, 8)
    document = asking.ask("vector", picture, outputs="y")
    means = picture.reshape(8, 8, 8, 8).mean(axis=(1, 3)).ravel() / 255

    said = document["embedding"]
    assert KEYS | {"embedding", "outputs"} == set(document)
    assert (64, "float32", True) == (said["size"], said["dtype"], said["normalized"])
    found = np.frombuffer(base64.b64decode(said["data"]), dtype="<f4")
    np.testing.assert_allclose(means / np.linalg.norm(means), found, rtol=1e-5)
    np.testing.assert_allclose(means, raw_of(document), rtol=1e-5)


def test_an_embedding_comes_as_a_list_for_those_who_want_one(asking: Asking) -> None:
    picture = blocks(8, 8, 8)
    listed, packed = (asking.ask("plain", picture, format=form)["embedding"] for form in ("list", "base64"))

    assert {"size", "dtype", "normalized", "values"} == set(listed)
    assert listed["normalized"] is False
    np.testing.assert_array_equal(
        np.frombuffer(base64.b64decode(packed["data"]), "<f4"), np.array(listed["values"], np.float32)
    )


def test_a_black_picture_has_no_direction(asking: Asking) -> None:
    jobs = [{"image": image_of(np.full((64, 64), level, np.uint8))} for level in (9, 0, 9)]

    found = [asking.document("vector", entry) for entry in asking.push("vector", *jobs)]

    assert [None, "non_finite", None] == [one.get("error", {}).get("code") for one in found]


def read_slowly(classes: Sequence[int], blank: int, *, collapse: bool) -> list[int]:
    """The rule of CTC's best path, step by step."""
    read, before = [], None
    for number in classes:
        if number != blank and not (collapse and number == before):
            read.append(number)
        before = number
    return read


@pytest.mark.parametrize("model", ["text", "major"])
def test_a_line_reads_as_the_plain_rule_says(asking: Asking, model: str) -> None:
    count, blank, collapse = (6, 0, True) if model == "text" else (7, 6, False)
    read = ("", *ALPHABET) if model == "text" else (*ALPHABET, " ", "")
    for _ in range(4):
        classes = RNG.integers(0, count, 12).tolist()
        document = asking.ask(model, written(classes, count))

        assert KEYS | {"text", "text_score"} == set(document)
        expected = "".join(read[number] for number in read_slowly(classes, blank, collapse=collapse))
        assert expected == document["text"]
        assert 0.9 < document["text_score"] <= 1 or not expected


def test_an_empty_line_is_ok(asking: Asking) -> None:
    document = asking.ask("text", written([], 6))

    assert ("ok", "", 0.0) == (document["status"], document["text"], document["text_score"])


def test_the_peaks_of_maps_are_points_of_the_picture(asking: Asking) -> None:
    picture = np.zeros((96, 128, 3), dtype=np.uint8)
    for channel, (x, y) in enumerate(((20, 10), (100, 90), (2, 50))):
        picture[y : y + 2, x : x + 2, channel] = 255

    document = asking.ask("heat", picture)

    assert KEYS | {"image", "keypoints"} == set(document)
    for (x, y), (found_x, found_y, score) in zip(((21, 11), (101, 91), (3, 51)), document["keypoints"], strict=True):
        assert (x, y) == pytest.approx((found_x, found_y), abs=1.0)
        assert score == pytest.approx(1.0, abs=0.01)


def test_points_in_sides_of_the_input_are_pixels_of_the_picture(asking: Asking) -> None:
    document = asking.ask("marks", WIDE)

    expected = [[x * 64 * 2, (y * 64 - 8) * 2, round(1 / (1 + np.exp(-logit)), 6)] for x, y, logit in POINTS]
    for found, wanted in zip(document["keypoints"], expected, strict=True):
        assert wanted == pytest.approx(found, abs=2e-6)


def test_several_heads_are_told_by_name_and_the_first_as_ever(asking: Asking) -> None:
    fields = {"top_k": "3", "min_score": "0.2"}
    document = asking.ask("faces", np.full((64, 64), 153, np.uint8), **fields)
    (alone,) = [asking.ask("one", np.full((64, 64), 153, np.uint8), **fields)]

    assert KEYS | {"predictions", "heads", "values"} == set(document)
    assert KEYS | {"predictions"} == set(alone)
    assert alone["predictions"] == document["predictions"] == document["heads"]["gender"]
    weights = [np.exp(-((60.0 - age) ** 2)) for age in range(101)]
    ages = [("60", 1 / sum(weights))] + [(age, np.exp(-1) / sum(weights)) for age in ("59", "61")]
    found = document["heads"]["age"]
    assert sorted(age for age, _ in ages) == sorted(one["label"] for one in found)
    assert [score for _, score in ages] == pytest.approx([one["score"] for one in found], abs=1e-3)
    assert {"glow": pytest.approx(20, abs=1e-3), "many": pytest.approx(60, abs=1e-3)} == document["values"]


# -- of all of them -------------------------------------------------------------------------------------------------------


def nan_tensor(side: int = SIDE) -> dict[str, Any]:
    odd = np.zeros((1, side, side), dtype=np.float32)
    odd[0, 3, 5] = np.inf
    return {"tensor": odd.tobytes(), "dtype": "float32", "shape": f"1,{side},{side}"}


@pytest.mark.parametrize("model", ["seg21", "matte", "depth", "vector", "faces"])
def test_what_is_not_finite_is_an_error_of_that_job(asking: Asking, model: str) -> None:
    document = asking.document(model, asking.push(model, nan_tensor())[0])

    assert ("error", "non_finite") == (document["status"], document["error"]["code"])


def test_jobs_that_want_other_forms_share_a_batch(asking: Asking) -> None:
    wishes: list[dict[str, Any]] = [{}, {"format": "network"}, {"outputs": "y"}] * 8
    jobs = [{"image": image_of(WIDE), **wish} for wish in wishes]

    documents = [asking.document("seg2", entry) for entry in asking.push("seg2", *jobs)]

    assert max(document["batch"] for document in documents) > 1
    assert [128, 64, 128] * 8 == [document["segments"]["width"] for document in documents]
    assert [False, False, True] * 8 == ["outputs" in document for document in documents]


def test_what_does_not_concern_a_model_is_ignored(asking: Asking) -> None:
    fields = {"min_score": "0.9", "iou": "0.5", "labels": "horse", "top_k": "1", "format": "png,list,picture"}

    assert asking.ask("seg21", WIDE)["segments"] == asking.ask("seg21", WIDE, **fields)["segments"]
    document = asking.ask("mirror", np.zeros((2, 3, 3), np.uint8), **fields)
    assert KEYS | {"outputs"} == set(document)


def test_documents_fit_the_schema_that_the_protocol_names(asking: Asking) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((Path(__file__).parents[2] / "service" / "schema" / "result.schema.json").read_text())
    pictures = {"text": written([1], 6), "heat": np.zeros((9, 9, 3), np.uint8)}
    for model in ("seg300", "cropped", "matte", "depth", "plain", "text", "heat", "faces"):
        document = asking.ask(model, pictures.get(model, WIDE), format="list")

        jsonschema.validate(document, schema)
        assert set(document) <= set(schema["properties"])


def test_the_list_of_models_says_what_answers_are_made_of(asking: Asking) -> None:
    said = {name.decode(): json.loads(text) for name, text in asking.redis.hgetall("convq:models").items()}
    answers = {name: about.get("answers") for name, about in said.items()}

    assert {"segments": {"output": "y", "labels": numbered(21), "ignore": 20}} == answers["whole"]
    assert {"keypoints": {"output": "y", "names": ["left", "right"], "skeleton": [[0, 1]]}} == answers["marks"]
    assert {"text": {"output": "y", "characters": 5}} == answers["major"]
    assert ({"matte": {"y": {}}}, {"depth": {"y": {"scale": 2.0, "inverse": True}}}) == (
        answers["matte"],
        answers["inverse"],
    )
    assert {"embedding": {"output": "y", "size": 64, "normalized": True}} == answers["vector"]
    assert {"values", "heads"} == set(answers["faces"])
    assert list(GENDERS) == answers["faces"]["heads"]["gender"]["labels"]
    assert (None, None) == (answers["one"], answers["mirror"])
    assert ["classes", "classes", "value", "value"] == [one["meaning"] for one in said["faces"]["outputs"]]


# -- the Python client --------------------------------------------------------------------------------------------------


def test_the_python_client_gives_arrays_and_numbers(served: str) -> None:
    with Client(served) as client:
        segments = client.classify(image_of(WIDE), "seg300").segments
        vector = client.classify(image_of(blocks(8, 8, 8)), "vector")
        listed = client.classify(image_of(blocks(8, 8, 8)), "plain", format="list")
        line = client.classify(image_of(written([1, 2], 6)), "text")
        marks = client.classify(image_of(WIDE), "marks")
        faces = client.classify(image_of(np.full((64, 64), 51, np.uint8)), "faces")

    assert segments is not None
    levels = segments.array()
    assert ((96, 128), "uint16") == (levels.shape, levels.dtype.name)
    best = segments.classes[0]
    assert best.share == pytest.approx(segments.mask(best.label).mean(), abs=1e-5)
    assert not segments.mask("horse").any()
    assert (64, "float32") == (vector.embedding.size, vector.embedding.dtype.name)
    assert 1 == pytest.approx(float(np.linalg.norm(vector.embedding)), abs=1e-5)
    assert 64 == listed.embedding.size
    assert ("ab", "'ab'") == (line.text, line.explain())
    assert line.text_score is not None
    with pytest.raises(ValueError, match="has no embedding: 'ab'"):
        _ = line.embedding
    assert marks.keypoints is not None
    assert (32.0, 48.0, 0.5) == marks.keypoints[0]
    assert faces.values is not None
    assert faces.heads is not None
    assert (("dark", "20"), {"glow", "many"}) == ((faces.label, faces.heads["age"][0].label), set(faces.values))


def test_the_python_client_gives_pictures_and_numbers_of_maps(served: str) -> None:
    with Client(served) as client:
        matte = client.classify(image_of(WIDE), "matte", outputs="y", format="network")
        depth = client.classify(image_of(WIDE), "depth")

    assert (1, 64, 64) == matte.output("y").array().shape
    levels = matte.picture("y").levels()
    np.testing.assert_array_equal(levels, np.rint(matte.output("y").array()[0, SHOWN] * 255))
    far = depth.picture("y").depth()
    assert far.shape == (96, 128)
    assert depth.output("y").low == pytest.approx(far.min(), rel=1e-6)
    with Image.open(BytesIO(depth.output("y").png())) as drawn:
        np.testing.assert_array_equal(np.asarray(drawn), depth.output("y").levels())
    with pytest.raises(ValueError, match="use png"):
        depth.output("y").array()
    with pytest.raises(ValueError, match="is no depth"):
        matte.picture("y").depth()


# -- the command --------------------------------------------------------------------------------------------------------


def on_terminal(*arguments: str | Path) -> str:
    """What a command shows on a terminal of 120 columns."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": "120", "TERM": "dumb", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "convq", *map(str, arguments)]
    shown = b""
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.STDOUT, env=environment) as process:
        os.close(theirs)
        while part := _read(ours):
            shown += part
    os.close(ours)
    assert 0 == process.returncode, shown
    return shown.decode().replace("\r", "")


def _read(ours: int) -> bytes:
    try:
        return os.read(ours, 1 << 16)
    except OSError:  # the other end is closed, and all is read
        return b""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "gray.png").write_bytes(image_of(np.full((96, 128), 128, np.uint8)))
    (folder / "line.png").write_bytes(image_of(written([1, 2], 6)))
    return folder


def test_submit_shows_what_a_network_saw(served: str, pictures: Path) -> None:
    def shown(model: str, name: str = "gray.png", *more: str) -> list[list[str]]:
        text = on_terminal("submit", "--redis", served, "--model", model, *more, pictures / name)
        return [line.split() for line in text.splitlines()]

    assert [
        ["label", "index", "share"],
        ["c10", "10", "100.0%"],
        ["class", "map", "128", "x", "96", "pixels"],
    ] == shown("seg21")[:3]
    assert ["text", "ab"] == shown("text", "line.png")[0]
    assert ["embedding", "64", "numbers,", "of", "length", "1"] == shown("vector")[0]
    assert [["point", "x", "y", "score"], ["0", "32.0", "48.0", "0.5"]] == shown("marks")[:2]
    faces = shown("faces")
    assert [["gender", "index", "score"], ["age", "index", "score"]] == [line for line in faces if "index" in line]
    assert {"glow", "many"} <= {line[0] for line in faces if line}
    assert ["file", "class", "score", "ms"] == shown("one")[0]
    assert "y png 128x96" in " ".join(shown("matte")[1])


def test_submit_shows_a_row_for_each_of_several_pictures(served: str, pictures: Path) -> None:
    text = on_terminal("submit", "--redis", served, "--model", "text", pictures)

    assert "'ab'" in text
    assert "gray.png" in text


def test_submit_writes_documents_into_a_pipe_as_the_protocol_has_them(served: str, pictures: Path) -> None:
    command = [sys.executable, "-m", "convq", "submit", "--redis", served, "--model", "vector", pictures / "gray.png"]
    done = subprocess.run([*map(str, command)], capture_output=True, check=True, timeout=60)
    document = json.loads(done.stdout)

    assert {"size", "dtype", "normalized", "data"} == set(document["embedding"])
    assert "vector" not in document


def test_maps_are_saved_without_being_asked_for(served: str, pictures: Path, tmp_path: Path) -> None:
    on_terminal("submit", "--redis", served, "--model", "depth", pictures / "gray.png", "--save-maps", tmp_path)

    with Image.open(tmp_path / "gray.y.png") as drawn:
        assert ((128, 96), "I;16") == (drawn.size, drawn.mode)


def test_models_show_and_check_say_what_outputs_mean(models: Path) -> None:
    shown = {name: on_terminal("models", "show", name, "--models", models) for name in ("whole", "major", "marks")}

    assert "y (segments: 21 labels, 20 is nothing)" in shown["whole"]
    assert "y (text: 5 characters, blank last, space, batch axis 1)" in shown["major"]
    assert "y (keypoints: left, right)" in shown["marks"]
    checked = on_terminal("models", "check", "faces", "--models", models)
    assert "gender" in checked
    assert "many" in checked
