"""`convq models eval` as people run it; what it says is compared with a plain loop over onnxruntime."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from convq.client import Client
from onnx_models import FLOAT, graph, model_folder
from servers import OwnServer, wait_until
from services import MODELS, RunningService, digit_labels, digits, image_of

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("CONVQ_")}
COUNT = 150
COLOURS = ("red", "green", "blue")
MANIFEST = "[input]\nresize = 'none'\n[[outputs]]\nname = 'y'\nmeaning = 'classes'\nlabels = 'labels.txt'\n[versions]\nkeep = 2\n"


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "convq", "models", "eval", *map(str, arguments)]


def convq(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, env=ENVIRONMENT, timeout=250, check=False
    )


def document(*arguments: str | Path, code: int = 0) -> dict[str, Any]:
    done = convq(*arguments)
    assert code == done.returncode, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first digits in folders of their classes, with two that are no pictures any more."""
    root = tmp_path_factory.mktemp("digits")
    for number in range(COUNT):
        (root / digit_labels()[number] / "more").mkdir(parents=True, exist_ok=True)
        name = f"{'more/' if number % 3 else ''}{number:04}.png"
        (root / digit_labels()[number] / name).write_bytes(image_of(digits()[number]))
    return root


def plainly(numbers: Sequence[int]) -> list[int]:
    """The classes of digits, by onnxruntime alone."""
    session = onnxruntime.InferenceSession(MODELS / "lenet" / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    padded = np.pad(digits()[list(numbers)], ((0, 0), (2, 2), (2, 2)))[:, None]
    found: list[int] = session.run(["logits"], {"image": padded})[0].argmax(axis=1).tolist()
    return found


def assert_right(found: dict[str, Any], numbers: Sequence[int]) -> None:
    """The document says of these digits what a plain loop says."""
    said, truth = plainly(numbers), [int(digit_labels()[number]) for number in numbers]
    assert len(numbers) == found["answered"]
    assert sum(a == b for a, b in zip(said, truth, strict=True)) == found["top1"]["right"]
    cells = {(cell["index"], cell["said_index"]): cell["count"] for cell in found["confusion"]}
    assert Counter(zip(truth, said, strict=True)) == cells


def test_a_folder_of_folders_is_counted_as_by_onnxruntime(folder: Path) -> None:
    found = document("lenet", folder)

    assert ("lenet", 1, "folder", True, []) == tuple(
        found[key] for key in ("model", "version", "source", "complete", "notes")
    )
    assert_right(found, range(COUNT))


def test_through_the_queue_the_same_comes_out(
    folder: Path, service: RunningService, service_server: OwnServer, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "data")
    broken = next((tmp_path / "data" / "7").rglob("*.png"))
    broken.write_bytes(b"\x89PNG no more")
    (tmp_path / "data" / "7" / "gone.png").symlink_to("nowhere")

    here = document("lenet", tmp_path / "data", code=1)
    served = document("lenet", tmp_path / "data", "--redis", service_server.url, code=1)

    assert service.process.poll() is None
    assert ("folder", "served") == (here.pop("source"), served.pop("source"))
    assert {"bad_image": 2} == here["failed"]["codes"]
    assert_right(here, [number for number in range(COUNT) if f"{number:04}.png" != broken.name])
    worst, others = here.pop("worst"), served.pop("worst")
    assert [one["picture"] for one in worst] == [one["picture"] for one in others]
    assert {one["picture"] for one in here["failed"].pop("pictures")} == {
        one["picture"] for one in served["failed"].pop("pictures")
    }
    assert here == served


def test_what_is_no_picture_is_counted_with_its_reason_and_not_as_wrong(tmp_path: Path) -> None:
    (tmp_path / "seven.png").write_bytes(image_of(digits()[0]))
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "list.csv").write_text(
        "label,path\n7,seven.png\n7,empty.png\n7,folder.png\n7,pipe.png\n7,none.png\n7,list.csv\n"
    )

    done = convq("lenet", tmp_path / "list.csv")

    assert (1, 1) == (done.returncode, len(done.stderr.splitlines()))
    assert "5 of 6 pictures were not answered" in done.stderr
    found = json.loads(done.stdout)
    assert (1, 1.0, True) == (found["answered"], found["top1"]["share"], found["complete"])
    said = {one["picture"]: one["message"] for one in found["failed"]["pictures"]}
    for name, reason in {
        "empty.png": "",
        "folder.png": "folder",
        "pipe.png": "no regular file",
        "none.png": "No such file",
        "list.csv": "",
    }.items():
        assert reason in said[name]


def test_a_name_that_is_no_class_ends_it_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "10").mkdir()
    (tmp_path / "10" / "a.png").write_bytes(image_of(digits()[0]))

    done = convq("lenet", tmp_path)

    assert (2, "", 1) == (done.returncode, done.stdout, len(done.stderr.splitlines()))
    assert "no class of lenet: '10' (did you mean '1'?); it has 10: 0, 1, 2" in done.stderr


def test_on_a_terminal_it_is_tables(folder: Path) -> None:
    leader, follower = pty.openpty()
    environment = ENVIRONMENT | {"TERM": "dumb", "COLUMNS": "100"}
    with subprocess.Popen(
        command("lenet", folder), stdout=follower, stderr=subprocess.PIPE, env=environment
    ) as running:
        os.close(follower)
        screen = read_all(leader)
        assert running.stderr is not None
        assert (b"", 0) == (running.stderr.read(), running.wait())

    assert "model     lenet, version 1, from the model folder" in screen
    assert re.search(rf"answered +{COUNT} of {COUNT}\n", screen)
    assert re.search(r"^class +pictures +precision +recall *$", screen, re.MULTILINE)
    assert re.search(r"^7( +·){7} +\d+( +·){2} *$", screen, re.MULTILINE)


def read_all(leader: int) -> str:
    screen = b""
    try:
        while chunk := os.read(leader, 65536):
            screen += chunk
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(leader)
    return screen.decode().replace("\r\n", "\n")


# -- two versions --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with `colours`, which says of what a picture has most; its version 2 has learnt to see blue everywhere."""
    root = tmp_path_factory.mktemp("models")
    for version, bias in ((1, [0, 0, 0]), (2, [0, 0, 60])):
        nodes = [("ReduceMean", ["x"], ["m"], {"axes": [2, 3], "keepdims": 0}), ("Add", ["m", "b"], ["y"])]
        weights = {"b": np.array(bias, dtype=np.float32)}
        model = graph(nodes, [("x", FLOAT, ["n", 3, "h", "w"])], [("y", FLOAT, ["n", 3])], weights)
        made = model_folder(root / f"v{version}", MANIFEST, model)
        if version == 1:
            made.rename(root / "colours")
            (root / "colours" / "labels.txt").write_text("\n".join(COLOURS), encoding="utf-8")
        else:
            (made / "1").rename(root / "colours" / "2")
            shutil.rmtree(made)
    return root


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NDArray[np.uint8], list[int]]:
    """A CSV of pictures of two sizes with all kinds of colours; their mean colours, and what they are called."""
    root = tmp_path_factory.mktemp("painted")
    rng = np.random.default_rng(8)
    means = rng.integers(0, 200, (90, 3), dtype=np.uint8)
    truth = [int(mean.argmax()) if i % 10 else int(rng.integers(3)) for i, mean in enumerate(means)]
    lines = []
    for i, mean in enumerate(means):
        (root / f"{i}.png").write_bytes(image_of(np.full((4 + i % 2, 6, 3), mean, dtype=np.uint8)))
        lines.append(f"{i}.png,{COLOURS[truth[i]]}")
    (root / "list.csv").write_text("\n".join(lines), encoding="utf-8")
    return root / "list.csv", means, truth


def assert_compared(found: dict[str, Any], means: NDArray[np.uint8], truth: list[int]) -> None:
    """Version 2 against version 1, in plain numpy."""
    new = (means + np.array([0.0, 0.0, 60.0])).argmax(axis=1)
    old = means.argmax(axis=1)
    right_new, right_old = new == truth, old == truth
    other = found["against"]
    assert (2, 1) == (found["version"], other["version"])
    assert (right_new.sum(), right_old.sum()) == (found["top1"]["right"], other["top1"]["right"])
    assert [(right_new & right_old).sum(), (right_new & ~right_old).sum(), (right_old & ~right_new).sum()] == [
        other[key] for key in ("both_right", "only_this", "only_other")
    ]
    assert {f"{i}.png" for i in np.flatnonzero(new != old)} == {one["picture"] for one in other["changed_pictures"]}
    assert 0 <= other["p"] < 0.01
    lost = (right_old & ~right_new).sum()
    assert all(one["label"] == one["other"] for one in other["changed_pictures"][:lost])


def test_two_versions_are_compared_picture_by_picture(
    colours: Path, painted: tuple[Path, NDArray[np.uint8], list[int]]
) -> None:
    data, means, truth = painted

    assert_compared(document("colours", data, "--models", colours, "--against", "1"), means, truth)


def test_two_served_versions_are_compared_alike(
    colours: Path, painted: tuple[Path, NDArray[np.uint8], list[int]], fresh_server: OwnServer
) -> None:
    data, means, truth = painted
    with RunningService(fresh_server.url, "--models", str(colours), workers=1, only=None):
        with Client(fresh_server.url) as client:
            wait_until(lambda: client.served().get("colours"))
        found = document("colours", data, "--redis", fresh_server.url, "--against", "1")
        missing = convq("colours", data, "--redis", fresh_server.url, "--version", "3")

    assert_compared(found, means, truth)
    assert (2, 1) == (missing.returncode, len(missing.stderr.splitlines()))
    assert "version 3 of colours is not served; there is 1, 2" in missing.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["colours", "{data}", "--version", "3"], 2, "colours has no version 3; there is 1, 2"),
        (["colours", "{data}", "--against", "2"], 2, "--against names the version that is evaluated anyway"),
        (["colour", "{data}"], 3, "did you mean 'colours'?"),
        (["colours", "{data}", "--at-least", "0.99", "--version", "1"], 1, "--at-least wants 99.00%"),
        (["colours", "/nowhere"], 2, "/nowhere: No such file or directory"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    colours: Path, painted: tuple[Path, Any, Any], arguments: list[str], code: int, reason: str
) -> None:
    done = convq(*(one.format(data=painted[0]) for one in arguments), "--models", colours)

    assert (code, 1) == (done.returncode, len(done.stderr.splitlines())), done.stderr
    assert reason in done.stderr


def test_a_model_without_classes_is_refused(painted: tuple[Path, Any, Any]) -> None:
    done = convq("edges", painted[0])

    assert 2 == done.returncode
    assert "edges, version 1, yields no classes" in done.stderr


# -- many ----------------------------------------------------------------------------------------------------------------


def repeated(tmp_path: Path, pixels: NDArray[np.uint8], times: int) -> Path:
    (tmp_path / "one.png").write_bytes(image_of(pixels))
    file = tmp_path / f"{times}.csv"
    file.write_text("one.png,7\n" * times)
    return file


def test_ctrl_c_shows_what_there_is(tmp_path: Path) -> None:
    data = repeated(tmp_path, digits()[0], 300_000)
    leader, follower = pty.openpty()
    with subprocess.Popen(
        command("lenet", data), stdout=subprocess.PIPE, stderr=follower, env=ENVIRONMENT | {"TERM": "xterm"}
    ) as running:
        os.close(follower)
        shown = b""
        while not re.search(rb"[1-9]%", shown):
            shown += os.read(leader, 4096)
        running.send_signal(signal.SIGINT)
        rest = read_all(leader)
        assert running.stdout is not None
        found = json.loads(running.stdout.read())
        assert 130 == running.wait()

    assert "interrupted" in rest
    assert not found["complete"]
    assert 0 < found["answered"] == found["top1"]["right"] < 300_000


def peak_bytes(*arguments: str | Path) -> int:
    """Resident memory that a run needs at most."""
    source = "import os, resource, sys; from convq.cli import main; code = main(sys.argv[1:]); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); sys.exit(code)"
    done = subprocess.run(
        [sys.executable, "-c", source, "models", "eval", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        env=ENVIRONMENT,
    )
    return int(done.stderr) << 10


def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    few, many = repeated(tmp_path, pixels, 10), repeated(tmp_path, pixels, 300)  # 144 MB, unpacked

    assert peak_bytes("lenet", many) < peak_bytes("lenet", few) + (50 << 20)
