"""`convq models show` and `list` as people run them: what is printed, also for models that are broken."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from convq.host.extras import install
from onnx_models import FLOAT, blur, graph, model_folder
from servers import PATIENCE, OwnServer, wait_until
from services import MODELS, RunningService

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("CONVQ_")}


def convq(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "convq", "models", *map(str, arguments)]
    environment = ENVIRONMENT | variables
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=250, check=False)


def documents(*arguments: str | Path, **variables: str) -> list[dict[str, Any]]:
    """What the command prints into a pipe; it must end well."""
    done = convq(*arguments, **variables)
    assert 0 == done.returncode, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def screen(*arguments: str | Path, **variables: str) -> str:
    """What stands on a wide terminal, without its colours; the command must end well."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "convq", "models", *map(str, arguments)]
    environment = ENVIRONMENT | {"COLUMNS": "200", "TERM": "xterm", "NO_COLOR": "1"} | variables
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 4096):
            shown += piece
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode()).replace("\r\n", "\n")
    assert 0 == process.wait(30 * PATIENCE), text
    return text


def row(text: str, first: str) -> list[str]:
    """The cells of the line that begins with this one."""
    (line,) = [line for line in text.splitlines() if line.split()[:1] == [first]]
    return re.split(r"  +", line.strip())


def report_of(folder: Path, version: int = 1) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / str(version) / "report.json").read_text())
    return report


def write_report(folder: Path, report: Mapping[str, Any], version: int = 1) -> None:
    (folder / str(version) / "report.json").write_text(json.dumps(report))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A repository of this test's own, with lenet."""
    root = tmp_path / "models"
    shutil.copytree(MODELS / "lenet", root / "lenet", ignore=shutil.ignore_patterns("t10k*", "__pycache__"))
    return root


@pytest.fixture
def lenet(models: Path) -> Path:
    return models / "lenet"


@pytest.fixture
def without_layers(lenet: Path) -> Path:
    """A lenet whose report holds no table, as reports did before, so that only the graph can tell."""
    report = report_of(lenet)
    write_report(lenet, {key: value for key, value in report.items() if key not in {"layers", "macs"}})
    return lenet


@pytest.fixture
def no_onnx(tmp_path: Path) -> dict[str, str]:
    """Variables with which onnx seems not to be installed."""
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "onnx.py").write_text('raise ModuleNotFoundError("No module named onnx", name="onnx")\n')
    path = [str(tmp_path / "hidden"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(path)}


def needs_onnx() -> None:
    if not os.environ.get("CI"):
        pytest.importorskip("onnx")


# -- show ----------------------------------------------------------------------------------------------------------------


def is_the_network_of_the_lesson(text: str) -> None:
    assert "[6, 1, 3, 3]" in row(text, "conv1")[-3]
    assert "1x32x32 -> 6x30x30" in row(text, "conv1")
    assert "[16, 6, 3, 3]" in row(text, "conv2")[-3]
    assert "6x15x15 -> 16x13x13" in row(text, "conv2")
    assert ["3x3", "1", "0", "1", "1"] == row(text, "conv1")[2:7]
    assert "16x13x13 -> 16x6x6" in text
    assert "32 -> 30 -> 15 -> 13 -> 6\n" in text
    assert "576 -> 120 -> 84 -> 10\n" in text
    assert ["81,194", "274,656"] == row(text, "total")[-2:]
    assert "81,194 parameters, 274,656 MACs per image\n" in text


def test_show_prints_the_network_of_the_lesson_layer_by_layer(without_layers: Path) -> None:
    needs_onnx()

    is_the_network_of_the_lesson(screen("show", "lenet", "--models", without_layers.parent))


def test_what_the_report_knows_needs_no_onnx(without_layers: Path, no_onnx: dict[str, str]) -> None:
    needs_onnx()
    (known,) = documents("show", "lenet", "--models", without_layers.parent)
    write_report(
        without_layers, report_of(without_layers) | {"layers": known["layers"], "macs": known["totals"]["macs"]}
    )

    is_the_network_of_the_lesson(screen("show", "lenet", "--models", without_layers.parent, **no_onnx))


def test_without_onnx_everything_else_is_shown_and_how_to_get_it(without_layers: Path, no_onnx: dict[str, str]) -> None:
    text = screen("show", "lenet", "--models", without_layers.parent, **no_onnx)
    (document,) = documents("show", "lenet", "--models", without_layers.parent, **no_onnx)

    assert "32 x 32 gray, uint8" in text
    assert report_of(without_layers)["sha256"] in text
    (hint,) = [line for line in text.splitlines() if install("inspect") in line]
    assert hint.startswith("layers: ")
    assert (None, None) == (document["layers"], document["totals"])
    assert "run: " + install("inspect") in document["layers_missing"]


def test_a_table_in_the_report_that_is_none_is_read_from_the_graph(without_layers: Path) -> None:
    needs_onnx()
    write_report(without_layers, report_of(without_layers) | {"layers": [{"name": "conv1"}]})

    is_the_network_of_the_lesson(screen("show", "lenet", "--models", without_layers.parent))


def test_show_in_a_pipe_is_one_document_with_layers_and_totals(without_layers: Path) -> None:
    needs_onnx()
    (document,) = documents("show", "lenet", "--models", without_layers.parent)

    layers = {layer["name"]: layer for layer in document["layers"]}
    assert [6, 1, 3, 3] == layers["conv1"]["weights"][0]["shape"]
    assert ([[1, 32, 32]], [[6, 30, 30]]) == (layers["conv1"]["inputs"], layers["conv1"]["outputs"])
    assert {"parameters": 81194, "macs": 274656} == document["totals"]
    (version,) = document["versions"]
    assert (1, "ok", report_of(without_layers)["sha256"]) == (version["version"], version["state"], version["sha256"])
    assert ("ok", 1, 128) == (document["state"], document["version"], document["limits"]["max_batch"])


def test_show_says_what_else_a_graph_is_given_and_where_its_batch_is(without_layers: Path) -> None:
    needs_onnx()
    manifest = (
        "[input]\nresize = 'fit'\nlong_side = 960\nmultiple_of = 32\n[extra_inputs]\nim_shape = 'size'\ncut = [0.5, 2]\n"
        "[[outputs]]\nname = 'y'\nbatch_axis = 1\n[[outputs]]\nname = 'z'\nbatch_axis = 'none'\n"
    )
    side = ["n", 3, "h", "w"]
    takes: Any = [("x", FLOAT, side), ("im_shape", FLOAT, ["n", 2]), ("cut", FLOAT, [2])]
    nodes: Any = [("Transpose", ["x"], ["y"], {"perm": [1, 0, 2, 3]}), ("Add", ["im_shape", "cut"], ["z"])]
    model = graph(nodes, takes, [("y", FLOAT, [3, "n", "h", "w"]), ("z", FLOAT, ["n", 2])])
    folder = model_folder(without_layers.parent / "text", manifest, model)

    text = screen("show", "text", "--models", folder.parent)
    (document,) = documents("show", "text", "--models", folder.parent)

    assert "at most 960 a side, a multiple of 32, rgb" in text
    assert "im_shape = size; cut = 0.5, 2" in text
    assert "y (tensor, batch axis 1), z (tensor, no batch axis)" in text
    assert {"im_shape": "size", "cut": [0.5, 2.0]} == document["extra_inputs"]
    assert ("fit", 960, 32) == tuple(document["input"][key] for key in ("resize", "long_side", "multiple_of"))
    assert document["layers"], document.get("layers_missing")


def test_a_narrow_terminal_never_breaks_a_number(without_layers: Path) -> None:
    needs_onnx()
    text = screen("show", "lenet", "--models", without_layers.parent, COLUMNS="60")

    assert ["81,194", "274,656"] == row(text, "total")[-2:]
    assert "dilation" not in text
    assert "[6, 1, 3, 3]" in row(text, "conv1")


def test_show_tells_versions_apart(without_layers: Path) -> None:
    needs_onnx()
    smaller = graph(
        [("Cast", ["image"], ["a"], {"to": FLOAT}), ("Conv", ["a", "w"], ["maps"])],
        [("image", 2, ["n", 1, 32, 32])],
        [("maps", FLOAT, None)],
        {"w": blur(channels=1)},
    )
    (without_layers / "2").mkdir()
    (without_layers / "2" / "model.onnx").write_bytes(smaller)
    sha256 = hashlib.sha256(smaller).hexdigest()
    write_report(without_layers, {"sha256": sha256, "date": "2026-01-31", "max_difference": {"1": 3e-6}}, version=2)

    text = screen("show", "lenet", "--models", without_layers.parent)
    older = screen("show", "lenet", "--models", without_layers.parent, "--version", "1")
    done = convq("show", "lenet", "--models", without_layers.parent, "--version", "9")

    assert "9 parameters, 8,100 MACs per image" in text
    assert ["2", "ok", sha256[:12], "2026-01-31", "3e-06"] == row(text, "2")
    assert "81,194 parameters" in older
    assert (2, "convq: lenet has no version 9; there is 1, 2") == (done.returncode, done.stderr.partition("; see")[0])


def test_free_sides_are_question_marks_and_those_of_the_manifest_are_used(models: Path) -> None:
    needs_onnx()
    nodes = [("Conv", ["x", "blur.weight"], ["y"], {"group": 3})]
    model = graph(nodes, [("x", FLOAT, ["n", 3, "h", "w"])], [("y", FLOAT, None)], {"blur.weight": blur(5)})
    for name, manifest in {"free": '[input]\nresize = "none"\n', "fixed": "[input]\nheight = 24\nwidth = 16\n"}.items():
        (models / name / "1").mkdir(parents=True)
        (models / name / "manifest.toml").write_text(manifest)
        (models / name / "1" / "model.onnx").write_bytes(model)
        write_report(models / name, {"sha256": hashlib.sha256(model).hexdigest()})

    free, fixed = (row(screen("show", name, "--models", models), "blur") for name in ("free", "fixed"))
    assert ["depthwise Conv", "3x?x? -> 3x?x?", "?"] == [free[i] for i in (1, 7, -1)]
    assert ["3x24x16 -> 3x20x12", f"{3 * 20 * 12 * 25:,}"] == [fixed[i] for i in (7, -1)]
    assert None is documents("show", "free", "--models", models)[0]["totals"]["macs"]


def test_a_network_without_images_is_shown_too(models: Path) -> None:
    needs_onnx()
    weights = {"fc.weight": blur(1, 7).reshape(1, 7)}
    model = graph(
        [("Gemm", ["x", "fc.weight"], ["y"], {"transB": 1})], [("x", FLOAT, ["n", 7])], [("y", FLOAT, None)], weights
    )
    (models / "flat" / "1").mkdir(parents=True)
    (models / "flat" / "manifest.toml").write_text('[input]\ncolor = "none"\ndtype = "float32"\n')
    (models / "flat" / "1" / "model.onnx").write_bytes(model)
    write_report(models / "flat", {"sha256": hashlib.sha256(model).hexdigest()})

    text = screen("show", "flat", "--models", models)

    assert ["input", "tensors of float32"] == row(text, "input")
    assert ["fc", "Linear", "7 -> 1", "[1, 7]", "7", "7"] == row(text, "fc")


def test_a_damaged_version_is_shown_with_what_is_wrong(lenet: Path) -> None:
    (lenet / "1" / "model.onnx").write_bytes(b"no graph")
    report = report_of(lenet)
    write_report(lenet, {key: value for key, value in report.items() if key != "layers"})

    text = screen("show", "lenet", "--models", lenet.parent)

    assert "BROKEN: model.onnx has the SHA-256" in text
    assert "layers: " in text


# -- list ----------------------------------------------------------------------------------------------------------------


def test_list_says_of_every_version_whether_its_files_are_whole(models: Path) -> None:
    shutil.copytree(models / "lenet" / "1", models / "lenet" / "2")
    shutil.copytree(models / "lenet" / "1", models / "lenet" / "3")
    with (models / "lenet" / "2" / "model.onnx").open("ab") as file:
        file.write(b"\0")

    (lenet,) = documents("list", "--models", models)

    assert "ok" == lenet["state"]
    assert [1, 2, 3] == [one["version"] for one in lenet["versions"]]
    assert ["ok", "ok"] == [lenet["versions"][i]["state"] for i in (0, 2)]
    assert re.fullmatch(
        r"model\.onnx has the SHA-256 \w{12}…; report\.json says \w{12}…", lenet["versions"][1]["state"]
    )
    assert "ok; 2: model.onnx has the SHA-256" in screen("list", "--models", models)


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        (None, "report.json cannot be read: No such file or directory"),
        ("hello", "report.json is no JSON document"),
        ("[" * 100_000, "report.json is no JSON document"),
        ("[]", "report.json is no JSON object"),
        ('{"sha256": 7}', "report.json has no sha256"),
    ],
)
def test_a_broken_newest_version_is_seen_at_a_glance_and_never_ends_the_list(
    models: Path, report: str | None, reason: str
) -> None:
    shutil.copytree(models / "lenet" / "1", models / "lenet" / "2")
    (models / "lenet" / "2" / "report.json").unlink()
    if report is not None:
        (models / "lenet" / "2" / "report.json").write_text(report)

    (lenet,) = documents("list", "--models", models)

    assert reason == lenet["state"]
    assert [{"version": 1, "state": "ok"}, {"version": 2, "state": reason}] == lenet["versions"]
    assert f"BROKEN 2: {reason}" in screen("list", "--models", models)


def test_a_missing_graph_and_damaged_feature_maps_are_reasons(lenet: Path) -> None:
    (lenet / "1" / "features.onnx").write_bytes(b"changed")
    with (lenet / "manifest.toml").open("a") as manifest:
        manifest.write(
            "" if "[feature_maps]" in (lenet / "manifest.toml").read_text() else '\n[feature_maps]\na = "a"\n'
        )
    write_report(lenet, report_of(lenet) | {"features_sha256": "0" * 64})

    assert "features.onnx has the SHA-256" in documents("list", "--models", lenet.parent)[0]["state"]
    (lenet / "1" / "model.onnx").unlink()
    assert documents("list", "--models", lenet.parent)[0]["state"].startswith("model.onnx cannot be read")


def test_a_model_that_cannot_be_served_at_all_is_listed_with_the_others(models: Path) -> None:
    for name in ("empty", "odd"):
        (models / name).mkdir()
    (models / "empty" / "manifest.toml").write_text("")
    (models / "odd" / "manifest.toml").write_text('[input]\nlayuot = "NHWC"\n')
    (models / "odd" / "1").mkdir()

    listed = {one["name"]: one for one in documents("list", "--models", models)}
    text = screen("list", "--models", models)

    assert "ok" == listed["lenet"]["state"]
    assert listed["empty"]["state"].startswith("holds no version")
    assert listed["odd"]["state"].startswith("manifest.toml:2")
    assert ([], []) == (listed["empty"]["versions"], listed["odd"]["versions"])
    assert "BROKEN manifest.toml:2" in text


def test_a_model_without_its_labels_is_listed_with_the_reason(lenet: Path) -> None:
    (lenet / "labels.txt").unlink()

    (listed,) = documents("list", "--models", lenet.parent)

    reason = "labels.txt: cannot be read: No such file or directory"
    assert reason == listed["state"]
    assert [{"version": 1, "state": reason}] == listed["versions"], "a version that keeps its own would be whole"
    assert "BROKEN 1: labels.txt" in screen("list", "--models", lenet.parent)


def test_a_folder_without_models_is_still_an_error(tmp_path: Path) -> None:
    done = convq("list", "--models", tmp_path)

    assert 3 == done.returncode
    assert "holds no models" in done.stderr


# -- list, with what is served ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a server on which a service serves lenet."""
    with OwnServer(tmp_path_factory.mktemp("served")) as server:
        with RunningService(server.url, workers=1) as service:
            wait_until(service.is_ready)
            yield server.url


def test_list_shows_what_live_services_serve(models: Path, served: str) -> None:
    shutil.copytree(models / "lenet", models / "spare")

    listed = {one["name"]: one for one in documents("list", "--models", models, "--redis", served)}
    text = screen("list", "--models", models, "--redis", served)

    assert [1] == listed["lenet"]["served"]["versions"]
    assert None is listed["spare"]["served"]
    assert ["lenet", "1", "ok", "1"] == row(text, "lenet")[:4]
    assert ["spare", "1", "ok", "no"] == row(text, "spare")[:4]
    assert "served" not in documents("list", "--models", models)[0]


def test_a_model_that_is_served_from_elsewhere_is_listed_too(models: Path, served: str) -> None:
    (models / "lenet").rename(models / "other")

    listed = {one["name"]: one for one in documents("list", "--models", models, "--redis", served)}

    assert ([], [1]) == (listed["lenet"]["versions"], listed["lenet"]["served"]["versions"])
    assert "not in this repository" in screen("list", "--models", models, "--redis", served)


def test_list_is_not_kept_from_its_work_by_the_variable_of_a_server_that_is_away(models: Path) -> None:
    away = "redis://127.0.0.1:1/0"

    assert ["lenet"] == [one["name"] for one in documents("list", "--models", models, CONVQ_REDIS_URL=away)]
    assert 4 == convq("list", "--models", models, "--redis", away).returncode
