"""`convq models add` and `check` on graphs of every odd shape: what is inferred serves, what cannot serve leaves no trace."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from convq.detected import Output
from convq.importer.dry_run import dry_run
from convq.repository.model_folders import ModelRepository
from e2e.odd_models import BUILDERS, FLOAT, Desk, Odd, Sketch, Task, conv, endless, mixing
from servers import OwnServer, wait_until
from services import MODELS, SAMPLE, RunningService, children_of

WITHIN = 1e-4
GIB = 1 << 30
PROGRAM = [sys.executable, "-m", "convq"]

ADOPTED: Mapping[str, tuple[Sequence[str], Mapping[str, Any]]] = {
    "fixed_batch": ((), {"layout": "NCHW", "color": "rgb", "max_batch": 1, "meaning": "classes"}),
    "fixed_batch_of_four": ((), {"max_batch": 4, "meaning": "classes"}),
    "time_major": (("--task", "tensor"), {"batch_axis": 1, "max_batch": None}),
    "half_precision": (("--task", "tensor"), {"dtype": "float16"}),
    "free_sides": ((), {"multiple_of": 1, "resize": "none", "height": None, "meaning": "tensor"}),
    "channels_last": (
        ("--color", "bgr"),
        {"layout": "NHWC", "color": "bgr", "height": 6, "width": 8, "meaning": "image"},
    ),
    "gray_28": (("--labels", "labels.txt"), {"color": "gray", "dtype": "uint8", "labels": "labels.txt"}),
    "names_with_colons": ((), {"name": "input:0", "max_batch": None}),
    "opset_9": ((), {"meaning": "classes", "activation": "none"}),
    "tensors_only": ((), {"color": "none", "layout": None, "meaning": "classes"}),
}
"""Model -> flags, and some of what must be found."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    def document(self) -> dict[str, Any]:
        assert 0 == self.code, self.err
        document: dict[str, Any] = json.loads(self.out)
        return document

    def complaint(self, code: int) -> str:
        """The one line that says why."""
        assert code == self.code, (self.out, self.err)
        (line,) = self.err.splitlines()
        assert line.startswith("convq: ")
        return line


def models(*arguments: str | Path, cwd: Path | None = None) -> Ended:
    """Run `convq models …` to its end, its output in a pipe."""
    command = [*PROGRAM, "models", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False, cwd=cwd)
    return Ended(done.returncode, done.stdout, done.stderr)


def file_of(model: Odd, folder: Path) -> Path:
    """The graph alone, as somebody brings it, and its labels."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "labels.txt").write_text(model.labels)
    file = folder / f"{model.name}.onnx"
    file.write_bytes(model.graph)
    return file


@pytest.fixture(scope="module")
def adopted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Ended]]:
    """A repository of models that were added, and how each command ended."""
    repository, brought = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("brought")

    def add(name: str) -> Ended:
        file = file_of(BUILDERS[name](), brought / name)
        flags = [str(file.parent / flag) if flag.endswith(".txt") else flag for flag in ADOPTED[name][0]]
        return models("add", file, "--name", name, "--models", repository, *flags)

    with ThreadPoolExecutor(2) as hands:
        return repository, dict(zip(ADOPTED, hands.map(add, ADOPTED), strict=True))


# -- what is inferred -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ADOPTED)
def test_an_odd_graph_is_added_with_what_it_needs(adopted: tuple[Path, dict[str, Ended]], name: str) -> None:
    document = adopted[1][name].document()
    found = {one["key"]: one["value"] for one in document["findings"]}

    assert (name, 1, True) == (document["name"], document["version"], document["check"]["ok"])
    assert ADOPTED[name][1] == {key: found.get(key) for key in ADOPTED[name][1]}
    report = json.loads((adopted[0] / name / "1" / "report.json").read_text())
    assert (document["check"]["sha256"], "added") == (report["sha256"], report["source"])
    assert report["opset"] == (9 if name == "opset_9" else 17)


def test_models_that_were_added_answer_as_onnxruntime_does(
    adopted: tuple[Path, dict[str, Ended]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    jobs: list[tuple[Odd, Task]] = []
    for model in (BUILDERS[name]() for name in ADOPTED):
        tensors = [task for task in model.tasks if "tensor" in task.fields]
        jobs += [(model, louder(task) if model.name == "channels_last" else task) for task in tensors]

    with OwnServer(tmp_path_factory.mktemp("server")) as server:
        only = ",".join(ADOPTED)
        with RunningService(server.url, "--models", str(adopted[0]), "--only", only), Desk(server.url) as desk:
            names = {model.name: [one.name for one in model.session.get_outputs()] for model, _ in jobs}
            asked = [(model.name, {**task.fields, "outputs": ",".join(names[model.name])}) for model, task in jobs]
            results = list(desk.ask(asked))

    assert len(ADOPTED) - 1 == len({model.name for model, _ in jobs}), "gray_28 has images alone"
    for (model, task), result in zip(jobs, results, strict=True):
        assert result.ok, (model.name, result.explain())
        for name, expected in model.directly(task).items():
            output = result.output(name)
            if model.name == "channels_last":  # blue, green, red; it was inferred that its values are levels
                expected_levels = np.clip(np.rint(expected[..., ::-1].astype(np.float64)), 0, 255)
                assert expected_levels.std() > 20
                assert np.abs(levels_of(output) - expected_levels).max() <= 1
            else:
                np.testing.assert_allclose(output.array(), expected, rtol=WITHIN, atol=WITHIN)


def louder(task: Task) -> Task:
    """The same numbers, a hundred times as large."""
    seen = task.seen * np.float32(100)
    return Task({**task.fields, "tensor": seen.tobytes()}, seen)


def levels_of(output: Output) -> NDArray[np.int64]:
    """[h, w, 3] in RGB."""
    return np.asarray(Image.open(BytesIO(output.png()))).astype(np.int64)


def test_a_graph_that_mixes_its_jobs_is_added_so_that_they_run_one_by_one(tmp_path: Path) -> None:
    document = models("add", file_of(mixing(), tmp_path), "--name", "mixing", "--models", tmp_path / "new").document()

    assert 1 == document["check"]["limits"]["max_batch"]
    limit = next(one for one in document["findings"] if one["key"] == "max_batch")
    assert ("measured", True) == (limit["source"], "depends on the other jobs" in limit["why"])


def test_weights_in_another_file_are_put_into_the_model(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    sketch = conv(Sketch(), "x", "y", (3, 4))
    whole = sketch.bytes([("x", FLOAT, ["n", 3, 8, 8])], [("y", FLOAT, ["n", 4, 8, 8])])
    file = tmp_path / "net.onnx"
    onnx.save(
        onnx.load_from_string(whole), file, save_as_external_data=True, location="net.onnx.data", size_threshold=0
    )

    document = models("add", file, "--name", "net", "--models", tmp_path / "models").document()

    assert ["net.onnx.data"] == document["report"]["weights_from"]
    version = tmp_path / "models" / "net" / "1"
    assert {"labels.txt", "manifest.toml", "model.onnx", "report.json"} == {path.name for path in version.iterdir()}
    made = onnx.load(version / "model.onnx", load_external_data=False).graph.initializer[0]
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(sketch.constants[0]), onnx.numpy_helper.to_array(made))
    (tmp_path / "net.onnx.data").unlink()
    again = models("add", file, "--name", "net2", "--models", tmp_path / "models").complaint(3)
    assert "net.onnx.data: cannot be read: No such file" in again


def test_people_see_what_was_inferred_and_what_they_must_check(tmp_path: Path) -> None:
    file = file_of(BUILDERS["channels_last"](), tmp_path)
    shown = on_a_terminal("models", "add", file, "--name", "mine", "--models", tmp_path / "models")

    assert "input.layout" in shown
    assert "axis 3 is 3" in shown
    assert 1 <= shown.count("CHECK THIS")
    assert "Check in its manifest.toml what was assumed: input.color, input.resize, input.scale" in shown
    assert "mine, version 1: can be served" in shown
    assert "an image alone" in shown
    assert "an answer is the same alone and beside other jobs" in shown


def on_a_terminal(*arguments: str | Path) -> str:
    """What a command prints where somebody looks at it, in one long line."""
    mine, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "200", "TERM": "dumb"}
    with subprocess.Popen([*PROGRAM, *map(str, arguments)], stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # Linux says EIO when the other end is gone
            while part := os.read(mine, 4096):
                shown += part
    os.close(mine)
    assert 0 == process.returncode, shown.decode()
    return " ".join(shown.decode().split())


# -- what is refused --------------------------------------------------------------------------------------------------


def hungry() -> Odd:
    """Asks for 4 TiB."""
    sketch = Sketch()
    sketch.constant("size", [1 << 40], np.int64)
    sketch.node("ConstantOfShape", ["size"], ["c"]).node("ReduceSum", ["c"], ["s"], keepdims=0)
    graph = sketch.node("Add", ["x", "s"], ["y"]).bytes([("x", FLOAT, ["n", 3, 4, 4])], [("y", FLOAT, ["n", 3, 4, 4])])
    return Odd("hungry", graph)


def two_inputs() -> Odd:
    sides: Sequence[int | str] = ["n", 3, 4, 4]
    sketch = Sketch().node("Add", ["a", "b"], ["y"])
    return Odd("two_inputs", sketch.bytes([("a", FLOAT, sides), ("b", FLOAT, sides)], [("y", FLOAT, sides)]))


def summed() -> Odd:
    """A fixed batch of which nothing but its sum goes out."""
    sketch = Sketch().node("ReduceSum", ["x", "axes"], ["y"])
    sketch.constant("axes", [0], np.int64)
    return Odd("summed", sketch.bytes([("x", FLOAT, [3, 3, 4, 4])], [("y", FLOAT, [1, 3, 4, 4])]))


@pytest.mark.parametrize(
    ("build", "flags", "code", "expected"),
    [
        (summed, (), 3, "the batch axis of input x is fixed at 3, and output y is [1, 3, 4, 4]; expected 3 first"),
        (hungry, (), 3, "it needs more than the"),
        (endless, ("--within", "1"), 3, "did not end within 1 s"),
        (
            endless,
            ("--within", "1"),
            3,
            "; --within gives it longer; a smaller --size (where its sides are free) or --max-batch",
        ),
        (two_inputs, (), 3, "the graph has 2 inputs (a, b); expected exactly one"),
        (BUILDERS["gray_28"], ("--mean", "0.5"), 2, "--scale, --mean and --std are for float32"),
        (BUILDERS["fixed_batch"], ("--size", "9"), 2, "'9' is no size; expected HxW"),
        (BUILDERS["fixed_batch"], ("--mean", "1,2"), 2, "expected one number, or three such as"),
        (BUILDERS["opset_17"], ("--labels", "labels.txt"), 2, "--labels has 2 names, which fit no output: y has 5"),
        (BUILDERS["opset_17"], ("--version", "1000000000"), 2, "is not in the range 1<=x<=999999999"),
        (BUILDERS["opset_17"], ("--version", "9" * 22), 2, "is not in the range 1<=x<=999999999"),
        (BUILDERS["gray_28"], ("--name", "Gray"), 2, "'Gray'; expected [a-z0-9]"),
    ],
)
def test_what_cannot_be_added_is_refused_in_one_line_and_leaves_no_trace(
    tmp_path: Path, build: Any, flags: Sequence[str], code: int, expected: str
) -> None:
    file, repository = file_of(build(), tmp_path / "brought"), tmp_path / "models"
    repository.mkdir()
    (file.parent / "labels.txt").write_text("even\nodd\n")
    named = [str(file.parent / flag) if flag.endswith(".txt") else flag for flag in flags]

    line = models("add", file, "--name", "mine", "--models", repository, *named).complaint(code)

    assert expected in line
    assert ".adding" not in line
    assert [] == list(repository.iterdir())


def test_a_next_version_that_contradicts_the_manifest_changes_nothing(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    first, other = (file_of(BUILDERS[name](), tmp_path / "brought") for name in ("fixed_batch", "names_with_colons"))
    models("add", first, "--name", "mine", "--models", repository).document()
    before = {path: path.stat().st_mtime_ns for path in sorted(repository.rglob("*"))}

    line = models("add", other, "--name", "mine", "--models", repository).complaint(3)
    flag = models("add", first, "--name", "mine", "--models", repository, "--color", "bgr").complaint(2)

    assert f"{other}: the graph's input is input:0; the manifest says input.name = x" in line
    assert "its manifest holds for this version too; no --color" in flag
    assert before == {path: path.stat().st_mtime_ns for path in sorted(repository.rglob("*"))}


def test_a_manifest_that_a_kept_version_does_not_fit_is_refused_where_it_has_no_other(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    first, other = (file_of(BUILDERS[name](), tmp_path / "brought") for name in ("fixed_batch", "names_with_colons"))
    models("add", first, "--name", "mine", "--models", repository).document()
    models("add", other, "--name", "other", "--models", repository).document()
    kept, mine = (repository / "mine" / "1" / "manifest.toml"), repository / "mine" / "manifest.toml"
    own = kept.read_bytes()
    mine.write_bytes((repository / "other" / "manifest.toml").read_bytes())
    kept.unlink()  # as an older convq left it
    report = json.loads((kept.parent / "report.json").read_bytes())
    (kept.parent / "report.json").write_text(json.dumps({"sha256": report["sha256"]}))

    line = models("add", other, "--name", "mine", "--models", repository).complaint(3)

    assert f"{mine} does not fit version 1, which has no manifest of its own" in line
    assert f"put the manifest that it was made with at {kept}" in line
    assert not (repository / "mine" / "2").exists()
    kept.write_bytes(own)
    assert 2 == models("add", other, "--name", "mine", "--models", repository).document()["version"]
    assert 0 == models("check", "mine", "--version", "1", "--models", repository).code


def test_a_number_is_not_given_again_after_its_version_was_deleted(tmp_path: Path) -> None:
    repository, file = tmp_path / "models", file_of(BUILDERS["fixed_batch"](), tmp_path / "brought")
    for _ in range(2):
        models("add", file, "--name", "mine", "--models", repository).document()
    shutil.rmtree(repository / "mine" / "2")

    line = models("add", file, "--name", "mine", "--models", repository, "--version", "2").complaint(2)
    document = models("add", file, "--name", "mine", "--models", repository).document()

    assert "mine had a version 2 before, and numbers are never given twice" in line
    assert 3 == document["version"]


@pytest.mark.parametrize("folder", [".", "models", "../here/models"])
def test_a_reason_names_a_file_where_it_would_lie_whatever_the_folder_is_called(folder: str, tmp_path: Path) -> None:
    place = tmp_path / "here"
    place.mkdir()
    first, other = (file_of(BUILDERS[name](), tmp_path / "brought") for name in ("fixed_batch", "names_with_colons"))
    models("add", first, "--name", "mine", "--models", folder, cwd=place).document()

    line = models("add", other, "--name", "mine", "--models", folder, cwd=place).complaint(3)

    assert f"{other}: the graph's input is input:0" in line
    assert line.endswith(f" {Path(folder) / 'mine'}/manifest.toml")


def test_after_the_last_version_that_there_can_be_comes_none(tmp_path: Path) -> None:
    file, repository = file_of(BUILDERS["fixed_batch"](), tmp_path / "brought"), tmp_path / "models"
    models("add", file, "--name", "mine", "--models", repository, "--version", "999999999").document()

    line = models("add", file, "--name", "mine", "--models", repository).complaint(2)

    assert "mine has the last version that there can be, 999999999" in line
    assert (999999999,) == ModelRepository.open(repository)["mine"].versions


def test_of_two_that_add_the_same_name_at_once_one_wins(tmp_path: Path) -> None:
    file, repository = file_of(BUILDERS["fixed_batch"](), tmp_path / "brought"), tmp_path / "models"

    with ThreadPoolExecutor(2) as hands:
        both = list(hands.map(lambda _: models("add", file, "--name", "mine", "--models", repository), range(2)))

    won = [ended for ended in both if ended.code == 0]
    assert 1 <= len(won) <= 2
    versions = sorted(ended.document()["version"] for ended in won)
    assert versions == sorted(int(path.name) for path in (repository / "mine").iterdir() if path.is_dir())
    for ended in both:
        if ended.code:
            assert "somebody else has just added it" in ended.complaint(1)
    assert ["mine"] == [path.name for path in repository.iterdir()]


# -- check ------------------------------------------------------------------------------------------------------------


def test_check_answers_a_tensor_from_a_numpy_file(adopted: tuple[Path, dict[str, Ended]], tmp_path: Path) -> None:
    model = BUILDERS["tensors_only"]()
    np.save(tmp_path / "row.npy", model.tasks[0].seen)

    found = models("check", model.name, "--models", adopted[0], "--image", tmp_path / "row.npy").document()

    (output,) = found["sample"]["outputs"]
    expected = model.directly(model.tasks[0])["y"]
    assert ("row.npy", [3]) == (found["sample"]["name"], output["shape"])
    np.testing.assert_allclose([output["low"], output["high"]], [expected.min(), expected.max()], rtol=WITHIN)


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (("lenet", "--image", "README.md"), 3, "not an image in a format that convq reads"),
        (("lenet", "--version", "99"), 2, "lenet has no version 99; there is 1"),
        (("lenett",), 3, "has no model 'lenett'; did you mean 'lenet'?"),
        (("lenet", "--within", "0.5"), 2, "Invalid value for '--within'"),
    ],
)
def test_check_says_in_one_line_what_is_wrong(arguments: Sequence[str], code: int, expected: str) -> None:
    root = MODELS.parent
    given = [str(root / argument) if argument.endswith(".md") else argument for argument in arguments]

    assert expected in models("check", *given, "--models", MODELS).complaint(code)


def test_check_measures_both_ends_of_the_batch(adopted: tuple[Path, dict[str, Ended]]) -> None:
    batched = models("check", "names_with_colons", "--models", adopted[0]).document()
    alone = models("check", "fixed_batch", "--models", adopted[0]).document()

    assert ({"1", "64"}, {"1"}) == (set(batched["ms_per_image"]), set(alone["ms_per_image"]))
    assert all(ms > 0 for ms in batched["ms_per_image"].values())
    assert batched["largest_difference"] < WITHIN
    assert alone["largest_difference"] is None
    assert 20 << 20 < batched["memory_bytes"] < GIB
    assert "cpu" == batched["provider"]


# -- dry run ----------------------------------------------------------------------------------------------------------


def swelling(folder: Path) -> Path:
    """A model whose network takes half a gigabyte for a moment."""
    sketch = Sketch()
    sketch.constant("size", [GIB // 8], np.int64)
    sketch.node("ConstantOfShape", ["size"], ["c"]).node("ReduceSum", ["c"], ["s"], keepdims=0)
    sketch.node("Add", ["x", "s"], ["y"])
    graph = sketch.bytes([("x", FLOAT, ["n", 3, 4, 4])], [("y", FLOAT, ["n", 3, 4, 4])])
    return Odd("swelling", graph).write(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux alone")
def test_the_memory_of_a_dry_run_is_limited(tmp_path: Path) -> None:
    model = swelling(tmp_path)

    enough, little = (dry_run(model, 1, within_s=240, memory_limit_bytes=size) for size in (3 * GIB, GIB * 7 // 16))

    assert enough.ok, enough.reason
    assert not little.ok
    assert little.reason.startswith("it needs more than the 0.44 GiB of memory that it may take")
    assert 3 == little.exit_code


def test_a_dry_run_says_what_the_model_is() -> None:
    found = dry_run(MODELS / "lenet", 1, examine=True, image=SAMPLE / "seven.png")

    assert (True, "", 0) == (found.ok, found.reason, found.exit_code)
    assert 0 < found.load_s < 30
    assert (10, "cpu") == (found.description["labels"], found.description["provider"])
    assert "7" == found.examination["sample"]["predictions"][0]["label"]


@pytest.fixture
def rehearsing(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that tries a model which never answers."""
    folder = endless().write(tmp_path)
    program = "import sys, pathlib; from convq.importer.dry_run import dry_run; dry_run(pathlib.Path(sys.argv[1]), 1)"
    with subprocess.Popen([sys.executable, "-c", program, str(folder)]) as process:
        yield process
        process.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the child ends by its own alarm")
def test_a_dry_run_dies_with_whoever_asked_for_it(rehearsing: subprocess.Popen[bytes]) -> None:
    (child,) = wait_until(lambda: children_of(rehearsing.pid), 20)
    wait_until(lambda: b"onnxruntime" in Path(f"/proc/{child}/maps").read_bytes(), 20)

    rehearsing.send_signal(signal.SIGKILL)

    wait_until(lambda: not Path(f"/proc/{child}").exists(), 5)
