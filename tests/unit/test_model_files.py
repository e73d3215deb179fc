"""Model folders from strangers: links, pipes, devices, gigabytes, and texts in every encoding."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convq.cli.models.folder import Budget, versions_of
from convq.engine.engine import Engine
from convq.errors import ConvqError, ModelBroken
from convq.repository.external_data import External
from convq.repository.files import labels_of, open_inside, read_given, read_inside, repeated, text_of
from convq.repository.manifest import Manifest
from convq.repository.model_folders import ModelRepository, default_root
from convq.repository.onnx_metadata import read_whole
from onnx_models import graph, identity, model_folder

CLASSES = "[[outputs]]\nname = 'y'\nmeaning = 'classes'\nlabels = 'labels.txt'\n"
TENSORS = "[input]\ncolor = 'none'\n" + CLASSES + "[warmup]\nsample = 'row.npy'\n"
WITHIN_S = 20
"""What is a moment here; a pipe that is waited for takes for ever."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of tensors with labels and a sample, in a folder of models, and a secret beside that."""
    folder = model_folder(tmp_path / "models" / "mine", TENSORS, identity(["n", 2]))
    (folder / "labels.txt").write_text("cat\ndog\n")
    np.save(folder / "row.npy", np.ones(2, dtype=np.float32))
    (tmp_path / "secret").write_text("password\nhunter2\n")
    return folder


def loaded(folder: Path) -> Engine:
    engine = Engine.load(folder, 1)
    engine.warm_up()
    return engine


def ended(work: Callable[[], Any]) -> ConvqError | None:
    """What `work` raised; fails where it is still waiting."""
    found: list[ConvqError | None] = []

    def run() -> None:
        try:
            work()
            found.append(None)
        except ConvqError as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(WITHIN_S)
    assert not thread.is_alive(), "it hangs"
    return found[0]


def as_link(file: Path) -> None:
    file.symlink_to(file.parents[len(file.parts) - 1 - file.parts.index("models")] / "secret")


def as_socket(file: Path) -> None:
    here = Path.cwd()
    os.chdir(file.parent)  # the path of a socket is at most a hundred bytes long
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(file.name)
    os.chdir(here)


def as_gigabytes(file: Path) -> None:
    """A hole, which takes no room on the disk."""
    with file.open("wb") as made:
        made.truncate(3 << 30)


STRANGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a link out": (as_link, "is a link that leads out of the folder of models"),
    "a link to a device": (lambda file: file.symlink_to("/dev/zero"), "is a link that leads out"),
    "a pipe": (os.mkfifo, "is a pipe (FIFO); expected a regular file"),
    "a folder": (Path.mkdir, "is a folder; expected a regular file"),
    "a socket": (as_socket, "is a socket; expected a regular file"),
    "gigabytes": (as_gigabytes, "has 3221225472 bytes; at most"),
    "a circle": (lambda file: file.symlink_to(file.name), "cannot be read"),
    "a link to nothing": (lambda file: file.symlink_to("nowhere"), "cannot be read: No such file"),
}


@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("name", ["manifest.toml", "labels.txt", "row.npy", "1/model.onnx", "1/report.json"])
def test_nothing_but_a_regular_file_of_the_model_is_read(model: Path, name: str, kind: str) -> None:
    make, expected = STRANGE[kind]
    (model / name).unlink()
    make(model / name)

    error = ended(lambda: loaded(model))

    assert isinstance(error, ModelBroken)
    assert str(model / name) in str(error)
    assert expected in str(error)
    assert "hunter2" not in str(error)


@pytest.mark.parametrize("kind", STRANGE)
def test_a_strange_features_file_is_refused_too(model: Path, kind: str) -> None:
    make, expected = STRANGE[kind]
    manifest = model / "manifest.toml"
    manifest.write_text(manifest.read_text() + "[feature_maps]\nmap = 'y2'\n")
    report = json.loads((model / "1" / "report.json").read_text())
    (model / "1" / "report.json").write_text(json.dumps(report | {"features_sha256": "0" * 64}))
    make(model / "1" / "features.onnx")

    error = ended(lambda: loaded(model))

    assert isinstance(error, ModelBroken)
    if kind not in ("a circle", "a link to nothing"):  # those count as no file
        assert expected in str(error)


@pytest.mark.skipif(sys.platform != "linux", reason="the devices of Linux")
def test_a_device_is_not_even_opened(tmp_path: Path) -> None:
    with pytest.raises(ModelBroken, match="is a device; expected a regular file"):
        read_given(Path("/dev/zero"), 10)
    (tmp_path / "model").mkdir()
    with pytest.raises(ModelBroken, match="leads out of the folder of models"):
        open_inside(Path("/dev/null"), tmp_path / "model", 10)


def test_a_file_whose_size_nobody_knows_is_bounded_all_the_same() -> None:
    if not Path("/proc/self/maps").exists():
        pytest.skip("no /proc here")
    with pytest.raises(ModelBroken, match="at most 5 are read"):
        read_given(Path("/proc/self/maps"), 5)


def test_links_as_kubernetes_makes_them_are_followed(model: Path) -> None:
    """A mounted ConfigMap: every file is a link to ..data/file, and ..data one to the folder of the day."""
    day = model / "..2026_11_30"
    day.mkdir()
    for name in ("manifest.toml", "labels.txt", "row.npy"):
        (model / name).rename(day / name)
        (model / name).symlink_to(f"..data/{name}")
    (model / "..data").symlink_to(day.name)

    assert ("cat", "dog") == loaded(model).labels


def test_links_into_a_cache_inside_the_folder_of_models_are_followed(model: Path) -> None:
    """As tools do that keep each content once: a version's graph is a link to it."""
    cache = model.parent / ".cache"
    cache.mkdir()
    (model / "1" / "model.onnx").rename(cache / "4f2a")
    (model / "1" / "model.onnx").symlink_to("../../.cache/4f2a")

    assert ("cat", "dog") == loaded(model).labels


def test_the_folder_of_a_model_may_be_a_link_and_keeps_its_own_name(model: Path, tmp_path: Path) -> None:
    """Whoever runs the service has placed it there; what is in it must stay in it."""
    (tmp_path / "elsewhere").mkdir()
    model.rename(tmp_path / "elsewhere" / "build-17")
    model.symlink_to(tmp_path / "elsewhere" / "build-17")

    assert "mine" == loaded(model).name
    (model / "labels.txt").unlink()
    (model / "labels.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelBroken, match="leads out of the folder of models"):
        loaded(model)


def test_a_version_that_is_a_link_out_of_the_models_is_refused(model: Path, tmp_path: Path) -> None:
    (model / "1").rename(tmp_path / "graph")
    (model / "1").symlink_to(tmp_path / "graph")

    with pytest.raises(ModelBroken, match="leads out of the folder of models"):
        loaded(model)


def test_a_sample_whose_name_is_none_is_an_error_of_the_model(model: Path) -> None:
    (model / "manifest.toml").write_text(TENSORS.replace("row.npy", "row\\u0000.npy").replace("'", '"'))

    with pytest.raises(ModelBroken, match="its name is that of no file"):
        loaded(model)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = " + "[" * 100_000, "is nested too deeply"),
        ("x = " + "{a = " * 100_000, "is nested too deeply"),
        ("x = " + "9" * 5000, "is not TOML"),
        ("x = " + "[" * 300, "is not TOML|nested too deeply"),
        (f"[{'.'.join(['a'] * 500_000)}]", "is nested too deeply"),
        ("x = {" + "'a b' . " * 100_000 + "b = 1}", "is nested too deeply"),
        (
            "\n".join(f"[{'.'.join(['a'] * 15)}.b{number}]" for number in range(20_000)),
            "a: unknown key",
        ),
        ("#" * 2_000_000, "has 2000000 bytes; at most 1048576 are read"),
    ],
)
def test_a_manifest_that_is_made_to_hurt_is_an_error_of_the_model(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "manifest.toml").write_text(text)

    with pytest.raises(ModelBroken, match=rf"manifest\.toml:(?:\d+:)? ({expected})"):
        Manifest.read(tmp_path)


def test_a_deeply_nested_report_is_an_error_of_the_model(model: Path) -> None:
    (model / "1" / "report.json").write_text('{"sha256": ' + "[" * 200_000)

    with pytest.raises(ModelBroken, match="is not a JSON object with the sha256"):
        loaded(model)


# -- texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"cat\ndog\n",
        b"cat\ndog",
        b"\xef\xbb\xbfcat\ndog\n",
        b"cat\r\ndog\r\n",
        b"\xef\xbb\xbfcat\r\ndog\r\n\r\n",
        b"cat\rdog\r",
        b"cat \n\tdog\n\n \n\n",
        b"\xef\xbb\xbfcat\n\xef\xbb\xbfdog\n",  # two files put together
    ],
)
def test_labels_are_the_same_however_an_editor_saves_them(model: Path, content: bytes) -> None:
    (model / "labels.txt").write_bytes(content)

    assert ("cat", "dog") == loaded(model).labels


def test_only_line_ends_end_a_label() -> None:
    assert ("a\u2028b", "c\x0bd", "e\x85f") == labels_of("a\u2028b\nc\x0bd\r\ne\x85f\n".encode(), Path("labels.txt"))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["labels.txt", "manifest.toml"])
def test_text_in_another_encoding_is_said_to_be(model: Path, name: str, encoding: str) -> None:
    (model / name).write_bytes((model / name).read_text().encode(encoding))

    with pytest.raises(ModelBroken, match=rf"{name}: is not UTF-8 text but UTF-16 or binary; save it as UTF-8"):
        loaded(model)


def test_a_manifest_with_a_mark_and_line_ends_of_windows_is_read(model: Path) -> None:
    (model / "manifest.toml").write_bytes(b"\xef\xbb\xbf" + TENSORS.replace("\n", "\r\n").encode())

    assert ("cat", "dog") == loaded(model).labels


def test_latin_1_is_refused_with_the_place() -> None:
    with pytest.raises(ModelBroken, match=r"a\.txt:1: is not UTF-8 text \(byte 3\); save it as UTF-8"):
        text_of("caf\xe9".encode("latin-1"), Path("a.txt"))


def test_a_label_as_long_as_a_book_is_refused() -> None:
    with pytest.raises(ModelBroken, match=r"labels\.txt:2: has 1001 characters; a class name has at most 1000"):
        labels_of(b"cat\n" + b"x" * 1001 + b"\ndog", Path("labels.txt"))


# -- weights beside a graph -------------------------------------------------------------------------------------------


def external(*places: External) -> bytes:
    """A graph whose weights are said to lie in files."""
    onnx = pytest.importorskip("onnx")
    weights = {f"w{number}": np.zeros(4, dtype=np.float32) for number in range(len(places))}
    model = onnx.ModelProto.FromString(graph([("Identity", ["x"], ["y"])], [("x", 1, [1])], [("y", 1, [1])], weights))
    for tensor, place in zip(model.graph.initializer, places, strict=True):
        tensor.ClearField("raw_data")
        tensor.data_location = 1
        length = {} if place.length is None else {"length": place.length}
        for key, value in {"location": place.location, "offset": place.offset, **length}.items():
            tensor.external_data.add(key=key, value=str(value))
    return bytes(model.SerializeToString())


def test_thousands_of_tensors_of_one_file_are_summed_before_they_are_copied(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(10 << 20))
    (tmp_path / "m.onnx").write_bytes(external(*[External("w.bin", 0, None)] * 3000))

    with pytest.raises(ModelBroken, match="its weights have more than 2147483647 bytes"):
        read_whole(tmp_path / "m.onnx")


@pytest.mark.parametrize("kind", ["a pipe", "a folder", "gigabytes"])
def test_weights_in_what_is_no_file_are_refused(tmp_path: Path, kind: str) -> None:
    make, expected = STRANGE[kind]
    make(tmp_path / "w.bin")
    (tmp_path / "m.onnx").write_bytes(external(External("w.bin", 0, 16)))

    error = ended(lambda: read_whole(tmp_path / "m.onnx"))

    assert expected in str(error)


def test_files_of_weights_are_summed_before_one_is_read(tmp_path: Path) -> None:
    for name in "abc":
        with (tmp_path / name).open("wb") as file:
            file.truncate(1 << 30)
    (tmp_path / "m.onnx").write_bytes(external(*(External(name, 0, 1 << 30) for name in "abc")))

    with pytest.raises(ModelBroken, match="its weights have more than 2147483647 bytes"):
        read_whole(tmp_path / "m.onnx")


@pytest.mark.parametrize("lead", ["w.bin", "../outside", "/etc/hostname", "w\0x"])
def test_weights_that_lie_nowhere_in_the_folder_of_their_model_are_refused(tmp_path: Path, lead: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "outside").write_bytes(bytes(64))
    if "\0" not in lead:
        (folder / "w.bin").symlink_to(lead)
    (folder / "m.onnx").write_bytes(external(External("w\0x" if "\0" in lead else "w.bin", 0, 16)))

    with pytest.raises(ModelBroken, match=r"expected a file beside the model|links"):
        read_whole(folder / "m.onnx")


def test_a_listing_compares_the_newest_graphs_first_and_says_which_it_did_not(tmp_path: Path) -> None:
    root = tmp_path / "models"
    shutil.copytree(default_root() / "lenet", root / "lenet", ignore=shutil.ignore_patterns("t10k*"))
    for number in (2, 3):
        shutil.copytree(root / "lenet" / "1", root / "lenet" / str(number))
    size_bytes = sum(file.stat().st_size for file in (root / "lenet" / "1").glob("*.onnx"))
    budget = Budget(2 * size_bytes + 10)

    states = [one.state for one in versions_of(ModelRepository.open(root)["lenet"], budget)]

    assert ["ok", "ok"] == states[1:]
    assert states[0].startswith("not checked: ")
    assert 10 >= budget.left_bytes


def test_what_a_person_names_may_lie_anywhere(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"x")
    (tmp_path / "here").symlink_to(tmp_path / "there")

    assert b"x" == read_given(tmp_path / "here", 1)
    with pytest.raises(ModelBroken, match="leads out"):
        read_inside(tmp_path / "here", tmp_path / "here" / "a" / "b", 1)


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
def test_labels_of_another_encoding_are_named_with_their_line(encoding: str) -> None:
    with pytest.raises(ModelBroken, match=r"a\.txt:3: is not UTF-8 text \(byte \d+\); save it as UTF-8"):
        labels_of("ant\nbee\nKäse\n".encode(encoding), Path("a.txt"))


def test_names_that_stand_for_several_classes_are_named() -> None:
    assert "" == repeated(["ant", "bee"])
    assert "'ant' (lines 1, 3), 'bee' (lines 2, 4)" == repeated(["ant", "bee", "ant", "bee", "cow"])
