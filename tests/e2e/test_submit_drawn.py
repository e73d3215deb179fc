"""`convq submit --save` and `--format`: what people and labelling tools get of a detector's answers, from a running service."""

from __future__ import annotations

import csv
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO, StringIO
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

from convq.cli import Run, commands
from convq.drawing.palette import colour_of
from onnx_models import identity, model_folder
from servers import OwnServer
from services import RunningService, image_of
from spotting import LABELS, blob_folder, spotter_folder

WHITE = np.full((96, 128), 255, dtype=np.uint8)
"""A person at 24 24 56 72 and a dog at 78 32 98 56 are found in it; masks reach down to 48, and begin at 44."""
ENLARGED = 3
PERSON, DOG = (colour_of(index) for index in (0, 1))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a server where `masked` detects, and `mirror` gives a picture back."""
    root = tmp_path_factory.mktemp("models")
    spotter_folder(root / "masked", masks=True)
    model_folder(
        root / "mirror",
        "[input]\nresize = 'none'\n\n[[outputs]]\nname = 'y'\nmeaning = 'image'\n",
        identity(["n", 3, "h", "w"]),
    )
    with OwnServer(tmp_path_factory.mktemp("server")) as server:
        with RunningService(server.url, "--models", str(root), "--only", "masked,mirror", workers=1):
            yield server.url


def submit(served: str, *arguments: str | Path, given: bytes = b"", code: int = 0) -> tuple[str, str]:
    """Standard output and standard error of `convq submit` in a pipe."""
    command = [sys.executable, "-m", "convq", "submit", "--redis", served, *map(str, arguments)]
    done = subprocess.run(command, input=given, capture_output=True, check=False, timeout=120)
    assert code == done.returncode, done.stderr
    return done.stdout.decode("utf-8", "surrogateescape"), done.stderr.decode()


def shown(*arguments: str | Path) -> list[str]:
    """The lines that a command shows on a terminal of 160 columns."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": "160", "TERM": "dumb", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "convq", *map(str, arguments)]
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, env=environment, check=True, timeout=120)
    os.close(theirs)
    text = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert b"" == done.stderr
    return text.replace("\r", "").splitlines()


def turned(pixels: np.ndarray, turn: int = 6) -> bytes:
    """A file whose picture lies on its side, and says so."""
    file, exif = BytesIO(), Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(np.rot90(pixels)).save(file, "PNG", exif=exif)
    return file.getvalue()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with a white, a black, a damaged and a turned picture, of which two are called alike."""
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.png").write_bytes(image_of(WHITE))
    (folder / "b, c.png").write_bytes(image_of(WHITE * 0))
    (folder / "sub" / "a.png").write_bytes(turned(WHITE))
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder


def pixels(file: str | Path) -> np.ndarray:
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"))


def check_drawing(file: str | Path) -> None:
    """The two boxes stand where they belong, on the upright picture that is three times as large."""
    drawn = pixels(file)
    assert (96 * ENLARGED, 128 * ENLARGED, 3) == drawn.shape
    assert PERSON == tuple(drawn[60 * ENLARGED, 24 * ENLARGED].tolist())
    assert DOG == tuple(drawn[40 * ENLARGED, 98 * ENLARGED - 1].tolist())
    halfway = (np.array([255, 255, 255]) * 127 + np.array(PERSON) * 128) / 255
    np.testing.assert_allclose(halfway, drawn[40 * ENLARGED, 40 * ENLARGED], atol=1)
    assert (255, 255, 255) == tuple(drawn[90 * ENLARGED, 120 * ENLARGED].tolist())


# -- --save -------------------------------------------------------------------------------------------------------------


def test_one_picture_is_a_row_for_each_detection_and_a_drawing(served: str, pictures: Path, tmp_path: Path) -> None:
    lines = shown("submit", "--redis", served, "--model", "masked", "--save", tmp_path / "out", pictures / "a.png")

    assert ["person", "67.5%", "24", "24", "56", "72"] == lines[1].split()
    assert lines[3].startswith("2 detections in ")
    assert lines[3].endswith(f" ms · {tmp_path / 'out' / 'a.png'}")
    assert 4 == len(lines)
    check_drawing(tmp_path / "out" / "a.png")


def test_many_pictures_are_drawn_whatever_they_are_called_and_none_is_written_over(served: str, pictures: Path) -> None:
    (pictures / "A.webp").write_bytes(image_of(WHITE, "WEBP", lossless=True))
    before = {path: path.read_bytes() for path in pictures.rglob("*.*")}

    said, told = submit(served, "--model", "masked", "--save", pictures, pictures, code=1)

    documents = {one["file"]: one for one in map(json.loads, said.splitlines())}
    drawn = {Path(name).relative_to(pictures).as_posix(): one.get("drawn") for name, one in documents.items()}
    assert None is drawn.pop("broken.jpg")
    assert {"A.png", "a-2.png", "b, c-2.png", "a-3.png"} == {Path(str(one)).name for one in drawn.values()}
    for name in ("A.webp", "a.png", "sub/a.png"):
        check_drawing(str(drawn[name]))
    assert before == {path: path.read_bytes() for path in before}
    assert "1 of 5 jobs did not end as ok" in told


def test_standard_input_is_drawn_too(served: str, tmp_path: Path) -> None:
    said, _ = submit(served, "--model", "masked", "--save", tmp_path, "-", given=image_of(WHITE))

    assert str(tmp_path / "stdin.png") == json.loads(said)["drawn"]
    check_drawing(tmp_path / "stdin.png")


def test_what_cannot_be_drawn_on_is_answered_and_named(served: str, tmp_path: Path) -> None:
    np.save(tmp_path / "light.npy", np.ones((1, 64, 64), dtype=np.float32))
    np.save(tmp_path / "gray.npy", np.full((1, 64, 64), 255, dtype=np.uint8))

    said, told = submit(served, "--model", "masked", "--save", tmp_path, tmp_path / "light.npy", tmp_path / "gray.npy")

    first, second = map(json.loads, said.splitlines())
    assert ("ok", 2, None) == (first["status"], len(first["detections"]), first.get("drawn"))
    assert "light.npy is not drawn: an array to draw on is of uint8" in told
    assert (320, 320, 3) == pixels(second["drawn"]).shape


def test_an_answer_that_is_a_picture_is_left_to_save_maps(served: str, pictures: Path, tmp_path: Path) -> None:
    _, told = submit(served, "--model", "mirror", "--save", tmp_path, pictures / "a.png")

    assert "a.png is not drawn: there is nothing to draw in this answer: outputs y" in told


def test_a_full_disk_is_said_and_the_answers_are_shown(served: str, pictures: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "convq", "submit", "--redis", served, "--model", "masked", "--save"]
    files = [str(tmp_path / "out"), str(pictures / "a.png"), str(pictures / "b, c.png")]
    limited = [
        "sh",
        "-c",
        'ulimit -f 1; exec "$@"',
        "sh",
        *command,
        *files,
    ]  # files of a block have room, drawings none

    done = subprocess.run(limited, capture_output=True, text=True, check=False, timeout=120)

    assert ["ok", "ok"] == [json.loads(line)["status"] for line in done.stdout.splitlines()]
    assert (1, True) == (done.returncode, f"cannot write {tmp_path / 'out' / 'a.png'}: File too large" in done.stderr)
    assert [] == list((tmp_path / "out").iterdir())


def test_a_drawing_is_written_over_an_older_one_and_over_nothing_else(
    served: str, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(image_of(WHITE))
    line = ("--model", "masked", "--save", tmp_path, pictures / "a.png")

    first, second = (json.loads(submit(served, *line)[0])["drawn"] for _ in range(2))

    assert str(tmp_path / "a-2.png") == first == second
    assert image_of(WHITE) == (tmp_path / "a.png").read_bytes()
    check_drawing(first)


def test_without_pillow_save_says_what_it_needs_and_formats_do_without(served: str, pictures: Path) -> None:
    code = "import sys; sys.modules['PIL'] = None; from convq.cli import main; sys.exit(main())"
    rest = ["submit", "--redis", served, "--model", "masked", str(pictures / "a.png")]
    run = [sys.executable, "-c", code, *rest]

    saved = subprocess.run([*run, "--save", "x"], capture_output=True, text=True, check=False)
    listed = subprocess.run([*run, "--format", "csv"], capture_output=True, text=True, check=True)

    assert 2 == saved.returncode
    assert "--save needs Pillow, as the extra cpu brings it: " in saved.stderr
    assert 3 == len(listed.stdout.splitlines())
    assert "without Pillow, pictures that their EXIF orientation turns are not named" in listed.stderr


# -- --format -----------------------------------------------------------------------------------------------------------


def test_coco_of_a_folder_has_all_that_is_ok_and_names_the_rest(served: str, pictures: Path) -> None:
    said, told = submit(served, "--model", "masked", "--format", "coco", pictures, code=1)

    written = json.loads(said)
    assert {"a.png", "b, c.png", "sub/a.png"} == {one["file_name"] for one in written["images"]}
    assert [(128, 96)] * 3 == [(one["width"], one["height"]) for one in written["images"]]
    assert list(LABELS) == [one["name"] for one in written["categories"]]
    assert [[24, 24, 32, 48], [78, 32, 20, 24]] * 2 == [one["bbox"] for one in written["annotations"]]
    assert [32 * 24, 20 * 12] * 2 == [one["area"] for one in written["annotations"]]
    assert "broken.jpg is not in the output: error: bad_image: " in told
    assert f"{pictures / 'sub' / 'a.png'} is turned by its EXIF orientation" in told
    assert 1 == told.count("EXIF")
    assert "1 of 4 jobs did not end as ok; it is not in the output" in told


def test_yolo_has_a_file_for_each_picture_in_the_same_folders(served: str, pictures: Path, tmp_path: Path) -> None:
    said, told = submit(served, "--model", "masked", "--format", "yolo", "--save", tmp_path / "out", pictures, code=1)

    files = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")}
    assert {"a.txt", "b, c.txt", "sub/a.txt", "classes.txt"} == files
    assert "".join(f"{label}\n" for label in LABELS) == (tmp_path / "out" / "classes.txt").read_text()
    assert "" == (tmp_path / "out" / "b, c.txt").read_text()
    first = (tmp_path / "out" / "sub" / "a.txt").read_text().splitlines()[0].split()
    assert ["0", 40 / 128, 48 / 96, 32 / 128, 48 / 96] == [first[0], *map(float, first[1:5])]
    assert ("", True) == (said, "3 files with labels, and classes.txt, written to" in told)

    _, told = submit(served, "--model", "masked", "--format", "yolo", "--save", tmp_path / "out", pictures, code=2)
    assert "classes.txt and 3 more is there already: no labels are written over" in told


def test_a_table_and_tasks_are_written_to_standard_output(served: str, pictures: Path) -> None:
    good = [pictures / "a.png", pictures / "b, c.png"]

    table, _ = submit(served, "--model", "masked", "--format", "csv", *good)
    tasks, _ = submit(served, "--model", "masked", "--format", "labelstudio", "--masks", "polygon", *good)

    rows = list(csv.DictReader(StringIO(table)))
    assert [str(good[0])] * 2 == [row["file"] for row in rows]
    assert ["person", "dog"] == [row["label"] for row in rows]
    first, second = json.loads(tasks)
    assert ["polygonlabels"] * 2 == [one["type"] for one in first["predictions"][0]["result"]]
    assert [] == second["predictions"][0]["result"]


def test_a_model_that_detects_nothing_has_no_labels_to_write(served: str, pictures: Path) -> None:
    _, told = submit(served, "--model", "mirror", "--format", "coco", pictures / "a.png", code=2)

    assert "--format: mirror is no detector" in told


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--format", "yolo"], "--format yolo writes a file for each picture: give --save DIR"),
        (["--format", "csv", "--masks", "rle"], "--format csv takes no masks as rle; it takes none"),
        (["--format", "coco", "--masks", "png"], "it takes rle, polygon, none"),
        (["--format", "coco", "--json"], "--format and --json are two forms of one output"),
        (["--format", "coco", "--no-wait"], "--format needs the results"),
        (["--save", "x", "--no-wait"], "--save needs the results"),
        (["--font", "a.png"], "--font belongs to --save DIR"),
        (["--save", "x", "--font", "a.png"], "--font: 'a.png' is no font that can be read"),
        (["--save", "a.png/x"], "--save: cannot make a.png/x: Not a directory"),
        (["--save", "a.png"], "is a file"),
        (["--format", "yolo", "--save", "x", "a.jpg"], "more than one file would be called a.txt: a.png, a.jpg"),
        (["--format", "yolo", "--save", "x", "Classes.png"], "more than one file would be called classes.txt"),
    ],
)
def test_flags_that_contradict_each_other_are_refused_before_anything_is_submitted(
    served: str, pictures: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(pictures)
    for name in ("a.jpg", "Classes.png"):
        (pictures / name).write_bytes(image_of(WHITE))

    line = ["submit", "--redis", served, "--model", "masked", "a.png", *arguments]
    with pytest.raises(click.UsageError) as refused:
        commands.main(line, standalone_mode=False, obj=Run())

    assert said in refused.value.format_message()


# -- models check -------------------------------------------------------------------------------------------------------


def test_models_check_draws_the_sample_and_leaves_the_model_s_folder_alone(tmp_path: Path) -> None:
    folder = blob_folder(tmp_path / "models" / "blob")
    red = np.zeros((60, 100, 3), dtype=np.uint8)
    red[12:36, 30:70] = (255, 40, 0)
    (tmp_path / "red.png").write_bytes(image_of(red))
    before = sorted(folder.rglob("*"))
    rest: list[str | Path] = [
        "--models",
        tmp_path / "models",
        "--image",
        tmp_path / "red.png",
        "--save",
        tmp_path / "out",
    ]

    lines = shown("models", "check", "blob", *rest)

    text = "\n".join(lines)
    assert "detections  by their columns, 1 labels, min_score 0.25, iou 0.45, nms none" in text
    assert "rows: x1 y1 x2 y2 classes" in text
    told = {line.split("  ")[0]: line.split("  ")[-1].strip() for line in lines}
    assert "nothing found" == told["a blank picture"]
    assert told["noise"].endswith("where there is nothing")
    assert "scores sum to 0, and to 1 as it is" == told["red and blue swapped"]
    assert "1 of 1 boxes agree" == told["turned by EXIF"] == told["in a wider frame"]
    assert f"drawn: {tmp_path / 'out' / 'check.png'}" == lines[-1]
    assert (240, 400, 3) == pixels(tmp_path / "out" / "check.png").shape
    assert before == sorted(folder.rglob("*"))
