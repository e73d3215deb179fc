"""Detections through a running service, asked for by a client that knows Redis and the protocol's page and nothing else."""

from __future__ import annotations

import base64
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from convq.client import Client
from convq.errors import BadField
from onnx_models import identity, model_folder
from servers import OwnServer
from services import KEYS, Asking, RunningService, image_of
from spotting import LABELS, SIDE, Seen, spotter, spotter_folder

WHITE = np.full((96, 128), 255, dtype=np.uint8)
"""Letterboxed to 64 x 48 of 64 x 64 pixels, at half its size and 8 rows down: 0.75 of the input is light."""
PERSON = {"label": "person", "index": 0, "score": 0.675, "box": [24.0, 24.0, 56.0, 72.0]}
DOG = {"label": "dog", "index": 1, "score": 0.525, "box": [78.0, 32.0, 98.0, 56.0]}
TIMES = {"queue", "decode", "batch", "infer", "answer", "total"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a server where `spotter` detects, `masked` with masks, `odd` finds what has no box, and `mirror` detects nothing."""
    root = tmp_path_factory.mktemp("models")
    spotter_folder(root / "spotter")
    spotter_folder(root / "masked", masks=True)
    odd = spotter([Seen(0, 0.9, (np.inf, 32, 16, 24)), Seen(1, 0.5, (44, 30, 10, 12))])
    spotter_folder(root / "odd", model=odd)
    model_folder(root / "mirror", "[input]\nresize = 'none'\n", identity(["n", 3, "h", "w"]))
    with OwnServer(tmp_path_factory.mktemp("server")) as server:
        with RunningService(server.url, "--models", str(root), "--only", "spotter,masked,odd,mirror", workers=1):
            yield server.url


@pytest.fixture(scope="module")
def asking(served: str) -> Asking:
    return Asking(served)


def rounded(detections: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With scores of four decimals: the network computes them in float32."""
    return [{**one, "score": round(one["score"], 4)} for one in detections]


def mask_of(rle: dict[str, Any]) -> NDArray[np.bool_]:
    """COCO's compressed run lengths, read as pycocotools' `rleFrString` and `rleDecode` are written."""
    height, width = rle["size"]
    counts: list[int] = []
    text, i = rle["counts"], 0
    while i < len(text):
        value, k, more = 0, 0, True
        while more:
            c = ord(text[i]) - 48
            value |= (c & 0x1F) << 5 * k
            more = bool(c & 0x20)
            i, k = i + 1, k + 1
            if not more and c & 0x10:
                value |= -1 << 5 * k
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    flat = np.concatenate([np.full(count, number % 2 == 1) for number, count in enumerate(counts)])
    return flat.reshape(width, height).T


def block(left: int, top: int, right: int, bottom: int) -> NDArray[np.bool_]:
    mask = np.zeros(WHITE.shape, dtype=np.bool_)
    mask[top:bottom, left:right] = True
    return mask


def test_the_document_of_a_detector_has_the_keys_of_the_protocol_and_no_others(asking: Asking) -> None:
    document = asking.ask("spotter", WHITE)

    assert KEYS | {"image", "detections"} == set(document)
    assert TIMES == set(document["timing_ms"])
    assert {"width": 128, "height": 96} == document["image"]
    assert [PERSON, DOG] == rounded(document["detections"])
    assert (1, "spotter", "ok", 1) == tuple(document[key] for key in ("v", "model", "status", "version"))


@pytest.mark.parametrize("fields", [{}, {"format": "polygon"}, {"format": "png"}, {"outputs": "output1"}, {"iou": "x"}])
def test_documents_fit_the_schema_that_the_protocol_names(asking: Asking, fields: dict[str, str]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((Path(__file__).parents[2] / "service" / "schema" / "result.schema.json").read_text())
    document = asking.ask("masked", WHITE, **fields)

    jsonschema.validate(document, schema)
    assert set(document) <= set(schema["properties"])


def test_the_times_of_a_job_add_up_to_its_total(asking: Asking) -> None:
    times = asking.ask("masked", WHITE)["timing_ms"]

    assert times["answer"] > 0
    assert times["total"] >= sum(times[name] for name in TIMES - {"total"}) - 0.01
    assert times["total"] == pytest.approx(sum(times[name] for name in TIMES - {"total"}), rel=0.5, abs=50)


def test_a_model_without_detections_has_documents_as_before_but_for_a_time(asking: Asking) -> None:
    fields = {"min_score": "0.5", "iou": "0.5", "max_detections": "3", "labels": "a,b", "format": "png,list,network"}

    document = asking.ask("mirror", image_of(np.zeros((2, 3, 3), np.uint8)), **fields)

    assert KEYS | {"outputs"} == set(document)
    assert TIMES == set(document["timing_ms"])
    assert ["y"] == [output["name"] for output in document["outputs"]]


def test_nothing_found_is_ok(asking: Asking) -> None:
    document = asking.ask("spotter", image_of(WHITE * 0))

    assert ("ok", []) == (document["status"], document["detections"])
    assert KEYS | {"image", "detections"} == set(document)


@pytest.mark.parametrize(
    ("fields", "expected", "truncated"),
    [
        ({"min_score": "0.6"}, [("person", 0.675)], None),
        ({"min_score": "0.1"}, [("person", 0.675), ("dog", 0.525), ("person", 0.15)], None),
        ({"min_score": "1"}, [], None),
        ({"iou": "0.95"}, [("person", 0.675), ("person", 0.6), ("dog", 0.525)], None),
        ({"max_detections": "1"}, [("person", 0.675)], True),
        ({"max_detections": "2"}, [("person", 0.675), ("dog", 0.525)], None),
        ({"labels": "dog, cat"}, [("dog", 0.525)], None),
        ({"labels": "dog", "min_score": "0", "max_detections": "1000"}, [("dog", 0.525)], None),
        ({"top_k": "1", "format": "none"}, [("person", 0.675), ("dog", 0.525)], None),
    ],
)
def test_each_job_says_what_it_wants(
    asking: Asking, fields: dict[str, str], expected: list[tuple[str, float]], truncated: bool | None
) -> None:
    document = asking.ask("spotter", WHITE, **fields)

    assert expected == [(one["label"], one["score"]) for one in rounded(document["detections"])]
    assert truncated == document.get("truncated")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            "min_score",
            "1.5",
            "min_score must be a decimal from 0 to 1, 0.25 for example, of at most 6 digits; got '1.5'",
        ),
        ("min_score", ".5", "min_score must be a decimal"),
        ("min_score", "0.1234567", "min_score must be a decimal"),
        ("min_score", "1.0", "min_score must be a decimal"),
        ("iou", "-0", "iou must be a decimal"),
        ("iou", "nan", "iou must be a decimal"),
        ("max_detections", "0", "max_detections must be an integer of at least 1"),
        ("max_detections", "1001", "max_detections must be an integer from 1 to 1000; got '1001'"),
        ("labels", "person,,dog", "labels must be names with commas between them"),
        ("labels", "horse", "labels: this model detects no 'horse'; it has person, dog, cat"),
        ("format", "jpeg", "format must be words with commas between them, one of each of rle polygon png none; "),
        ("format", "rle,png", "format must be words"),
    ],
)
def test_what_is_malformed_is_a_bad_field_that_says_what_was_expected(
    asking: Asking, name: str, value: str, said: str
) -> None:
    document = asking.ask("spotter", WHITE, **{name: value})

    assert ("error", "bad_field") == (document["status"], document["error"]["code"])
    assert said in document["error"]["message"]


def test_jobs_that_ask_for_different_things_share_a_batch(asking: Asking) -> None:
    wishes: list[dict[str, Any]] = [{}, {"min_score": "0.6"}, {"labels": "dog"}, {"max_detections": "1"}] * 8
    jobs = [{"image": image_of(WHITE), **wish} for wish in wishes]

    documents = [asking.document("spotter", entry) for entry in asking.push("spotter", *jobs)]

    assert max(document["batch"] for document in documents) > 1
    found = [[one["label"] for one in document["detections"]] for document in documents]
    assert [["person", "dog"], ["person"], ["dog"], ["person"]] * 8 == found


def test_raw_outputs_come_to_those_who_name_them(asking: Asking) -> None:
    document = asking.ask("spotter", WHITE, outputs="output0")

    assert KEYS | {"image", "detections", "outputs"} == set(document)
    (output,) = document["outputs"]
    assert ("output0", "float32", [7, 5]) == (output["name"], output["dtype"], output["shape"])
    raw = np.frombuffer(base64.b64decode(output["data"]), dtype="<f4").reshape(7, 5)
    np.testing.assert_allclose([20, 32, 16, 24, 0.675], raw[:5, 0], rtol=1e-5)
    assert np.isnan(raw[0, 4])


def test_a_picture_that_lies_on_its_side_is_answered_as_people_see_it(asking: Asking) -> None:
    file, exif = BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(WHITE)).save(file, "PNG", exif=exif)

    document = asking.ask("spotter", file.getvalue())

    assert {"width": 128, "height": 96} == document["image"]
    assert [PERSON, DOG] == rounded(document["detections"])


def test_of_a_tensor_the_picture_is_the_input(asking: Asking) -> None:
    light = np.ones((1, SIDE, SIDE), dtype=np.float32).tobytes()
    fields = {"tensor": light, "dtype": "float32", "shape": f"1,{SIDE},{SIDE}"}

    document = asking.document("spotter", asking.push("spotter", fields)[0])

    assert {"width": SIDE, "height": SIDE} == document["image"]
    assert [[12.0, 20.0, 28.0, 44.0], [39.0, 24.0, 49.0, 36.0]] == [one["box"] for one in document["detections"]]


def test_masks_are_run_lengths_of_the_whole_picture(asking: Asking) -> None:
    person, dog = asking.ask("masked", WHITE)["detections"]

    assert {"label", "index", "score", "box", "mask"} == set(person)
    assert [96, 128] == person["mask"]["size"]
    np.testing.assert_array_equal(block(24, 24, 56, 48), mask_of(person["mask"]))
    np.testing.assert_array_equal(block(78, 44, 98, 56), mask_of(dog["mask"]))


def test_masks_come_as_rings_as_pictures_or_not_at_all(asking: Asking) -> None:
    (rings, _), (picture, _), (bare, _) = (
        asking.ask("masked", WHITE, format=form)["detections"] for form in ("polygon", "png", "none")
    )

    assert [{(24, 24), (56, 24), (56, 48), (24, 48)}] == [
        set(zip(ring[::2], ring[1::2], strict=True)) for ring in rings["polygons"]
    ]
    assert {"x", "y", "data"} == set(picture["mask_png"])
    with Image.open(BytesIO(base64.b64decode(picture["mask_png"]["data"]))) as drawn:
        levels = np.asarray(drawn)
    assert ((48, 32), {0, 255}) == (levels.shape, set(levels.reshape(-1).tolist()))
    assert (24, 24) == (picture["mask_png"]["x"], picture["mask_png"]["y"])
    assert [{"label", "index", "score", "box"} for _ in range(1)] == [set(bare)]


def test_what_has_no_box_is_not_finite_and_alone_in_that(asking: Asking) -> None:
    jobs: list[dict[str, Any]] = [{"image": image_of(WHITE)}, {"image": image_of(WHITE), "labels": "dog"}] * 4

    documents = [asking.document("odd", entry) for entry in asking.push("odd", *jobs)]

    assert ["error", "ok"] * 4 == [document["status"] for document in documents]
    assert "non_finite" == documents[0]["error"]["code"]
    assert "boxes that are not finite" in documents[0]["error"]["message"]


def test_the_list_of_models_says_what_detections_are(asking: Asking) -> None:
    listed = {name.decode(): json.loads(said) for name, said in asking.redis.hgetall("convq:models").items()}

    assert {"detections": {
        "family": "yolo8-seg", "labels": list(LABELS), "keypoints": [], "skeleton": [],
        "min_score": 0.25, "iou": 0.45, "nms": "class", "masks": True,
    }} == listed["masked"]["answers"]  # fmt: skip
    assert "answers" not in listed["mirror"]


def test_the_python_client_gives_boxes_masks_and_labels(served: str) -> None:
    with Client(served, model="masked") as client:
        result = client.classify(image_of(WHITE), min_score=0.1, max_detections=2, labels=["person", "dog"])
        rings = client.classify(image_of(WHITE), format="polygon")
        with pytest.raises(BadField, match="min_score: expected a number from 0 to 1, not 2"):
            client.submit(image_of(WHITE), min_score=2)

    assert result.detections is not None
    assert rings.detections is not None
    assert result.image is not None
    person, dog = result.detections
    assert ("person", 0, (24.0, 24.0, 56.0, 72.0), None) == (person.label, person.index, person.box, person.keypoints)
    np.testing.assert_array_equal(block(24, 24, 56, 48), person.mask)
    np.testing.assert_array_equal(block(78, 44, 98, 56), dog.mask)
    assert (True, 128, "1 person, 1 dog") == (result.truncated, result.image.width, result.explain())
    assert 8 == len((rings.detections[0].polygons or ((),))[0])
    with pytest.raises(ValueError, match="format='rle'"):
        _ = rings.detections[0].mask


# -- the command --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a white and a black picture."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "a.png").write_bytes(image_of(WHITE))
    (folder / "b.png").write_bytes(image_of(WHITE * 0))
    return folder


def submitted(served: str, *arguments: str | Path) -> list[dict[str, Any]]:
    """What `convq submit` writes into a pipe."""
    command = [sys.executable, "-m", "convq", "submit", "--redis", served, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    return [json.loads(line) for line in done.stdout.splitlines()]


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


def test_submit_writes_documents_into_a_pipe_as_the_protocol_has_them(served: str, pictures: Path) -> None:
    options = ("--min-score", "0.1", "--iou", "0.9", "--max-detections", "1", "--only", "dog,person", "--masks", "rle")

    (document,) = submitted(served, "--model", "masked", *options, pictures / "a.png")

    assert ["person"] == [one["label"] for one in document["detections"]]
    assert {"label", "index", "score", "box", "mask"} == set(document["detections"][0])
    assert ({"width": 128, "height": 96}, True) == (document["image"], document["truncated"])


def test_submit_shows_a_row_for_each_detection_of_one_picture(served: str, pictures: Path) -> None:
    lines = on_terminal("submit", "--redis", served, "--model", "spotter", pictures / "a.png").splitlines()

    assert ["label", "score", "x1", "y1", "x2", "y2"] == lines[0].split()
    assert [["person", "67.5%", "24", "24", "56", "72"], ["dog", "52.5%", "78", "32", "98", "56"]] == [
        line.split() for line in lines[1:3]
    ]
    assert lines[3].startswith("2 detections in ")


def test_submit_shows_a_row_for_each_of_several_pictures(served: str, pictures: Path) -> None:
    shown = on_terminal("submit", "--redis", served, "--model", "spotter", "--min-score", "0.1", pictures)

    assert "2 person, 1 dog" in shown
    assert "nothing found" in shown


def test_models_show_prints_what_the_columns_are(tmp_path: Path) -> None:
    spotter_folder(tmp_path / "spotter", masks=True)

    shown = on_terminal("models", "show", "spotter", "--models", tmp_path)

    assert "yolo8-seg, 3 labels, min_score 0.25, iou 0.45, nms class" in shown
    assert "output0: cx cy w h classes:3 masks:2" in shown
    assert "output1: prototypes of masks" in shown
